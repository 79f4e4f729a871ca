"""The token mixing of ResMLP, gMLP and PoolFormer is timm's, values and gradients."""

import pytest
import torch
from torch import nn

from tests.mixers.same_weights import compare_entries
from tests.peers_timm import timm
from tokennet import Edges, Grid, Tokens
from tokennet.mixers import CrossPatchLinear, GatedMLP, Pooling

DIM, HEIGHT, WIDTH = 6, 4, 5
N = HEIGHT * WIDTH


def tokens() -> torch.Tensor:
    return torch.randn(2, N, DIM, dtype=torch.float64, requires_grad=True)


def copied_linears(*layers: tuple[nn.Module, nn.Module]) -> list:
    """Pairs of parameters, after theirs have been filled and copied to ours."""
    pairs = [
        (getattr(mine, name), getattr(other, name))
        for mine, other in layers
        for name in ("weight", "bias")
    ]
    with torch.no_grad():
        for mine, other in pairs:
            mine.copy_(other.normal_())
    return pairs


def test_cross_patch_linear_mixes_as_resmlp():
    block = timm.models.mlp_mixer.ResBlock(DIM, N, init_values=1.0).double()
    with torch.no_grad():  # leaves the mixing: no MLP, and norms that change nothing
        block.ls2.zero_()
    ours, z = CrossPatchLinear(DIM, N).double(), tokens()
    pairs = copied_linears((ours.linear, block.linear_tokens))
    compare_entries(z + ours(z), block(z), z, pairs)


def test_gated_mlp_is_that_of_gmlp():
    gate = timm.models.mlp_mixer.SpatialGatingUnit
    theirs = timm.layers.GatedMlp(DIM, 8, gate_layer=lambda dim, **_: gate(dim, N)).double()
    ours, z = GatedMLP(DIM, N, hidden=8).double(), tokens()
    pairs = copied_linears(
        (ours.expand, theirs.fc1),
        (ours.norm, theirs.gate.norm),
        (ours.spatial, theirs.gate.proj),
        (ours.project, theirs.fc2),
    )
    compare_entries(ours(z), theirs(z), z, pairs)


def test_gated_mlp_starts_without_mixing():
    layer, z = GatedMLP(DIM, N), torch.randn(N, DIM, requires_grad=True)
    assert torch.autograd.grad(layer(z)[0].sum(), z)[0][1:].abs().max() < 1e-4
    u = layer.activation(layer.expand(z)).chunk(2, dim=-1)[0]
    torch.testing.assert_close(layer(z), layer.project(u), atol=1e-4, rtol=0)


@pytest.mark.parametrize("along_edges", [False, True], ids=["boxes", "edges"])
@pytest.mark.parametrize("size", [3, 5, 9])
def test_pooling_is_that_of_poolformer(size, along_edges):
    theirs, z = timm.models.metaformer.Pooling(size), tokens()
    image = z.unflatten(1, (HEIGHT, WIDTH)).permute(0, 3, 1, 2)
    expected = theirs(image).permute(0, 2, 3, 1).flatten(1, 2)
    graph = Grid(HEIGHT, WIDTH, radius=size // 2)
    if along_edges:
        graph = Edges(graph.edge_index(), N)
    compare_entries(Pooling(DIM)(Tokens(z, graph)).z, expected, z)
