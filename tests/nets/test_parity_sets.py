"""Nets of sets and those made of layers of PyG and Hugging Face: the same weights throughout."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch_geometric.nn.aggr import DeepSetsAggregation
from torch_geometric.nn.aggr.utils import InducedSetAttentionBlock, PoolingByMultiheadAttention
from torch_geometric.nn.aggr.utils import MultiheadAttentionBlock as PyGBlock
from torch_geometric.nn.attention import PerformerAttention
from transformers import PerceiverConfig
from transformers.models.perceiver.modeling_perceiver import PerceiverEncoder

from tests.peers import parity, randomized
from tokennet import Tokens
from tokennet.interop.copy import Copier
from tokennet.mixers import ReLUFeatures
from tokennet.models import create_model

IN, OUT, DIM, HEADS, DEPTH, FEW = 5, 3, 16, 2, 2, 4
TIGHT = 1e-11
SIZES = {"in_features": IN, "out_features": OUT, "dim": DIM, "depth": DEPTH}
copy = Copier()


class Peer(nn.Module):
    """Linear, layers of the other library, the mean over what is left, norm, linear."""

    def __init__(self, layers):
        super().__init__()
        self.embed, self.layers = nn.Linear(IN, DIM), nn.ModuleList(layers)
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, OUT)

    def forward(self, z):
        z = self.embed(z)
        for layer in self.layers:
            z = layer(z)
        return self.head(self.norm(z).mean(-2))


def copy_ends(ours, theirs, first=0):
    copy.linear(ours.layers[first].fn, theirs.embed)
    copy.norm(ours.readout.norm, theirs.norm)
    copy.linear(ours.readout.head, theirs.head)
    return ours.double()


def sets(n=7):
    return torch.randn(3, n, IN, dtype=torch.float64)


def compare(hold, net, peer, convert, theirs):
    z = sets()
    found = parity(convert, theirs, lambda net: net(z), lambda net: net(z))
    hold(net, peer, found, TIGHT, of="layers")


@pytest.mark.parametrize("ragged", [False, True], ids=["batch", "ragged"])
def test_deep_sets(ragged, hold):
    """Theirs takes a list of all elements and the set of each."""
    widths = [IN, *[DIM] * DEPTH]
    phi = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    rho = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, OUT))
    theirs = randomized(DeepSetsAggregation(nn.Sequential(*phi), rho))

    def convert(theirs):
        ours = create_model("deep_sets", **SIZES).double()
        for layer, part in zip(ours.layers, theirs.local_nn, strict=True):
            copy.linear(layer.fn[0], part[0])
        for place in (0, 2):
            copy.linear(ours.readout.head[place], theirs.global_nn[place])
        return ours

    sizes = (6, 1, 4) if ragged else (5, 5, 5)
    z = torch.randn(sum(sizes), IN, dtype=torch.float64)
    of_set = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    parts = z.split(sizes)
    tokens = Tokens.batch([Tokens(part) for part in parts]) if ragged else torch.stack(parts)
    found = parity(convert, theirs, lambda net: net(tokens), lambda net: net(z, of_set))
    hold("deep_sets", "PyG DeepSetsAggregation", found, TIGHT)


def copy_block(to, block):
    attention = block.attn
    weights = [*attention.in_proj_weight.chunk(3), attention.out_proj.weight]
    copy.attention(
        to.attention, weights, [*attention.in_proj_bias.chunk(3), attention.out_proj.bias]
    )
    copy.linear(to.linear, block.lin)
    copy.norm(to.norms[0], block.layer_norm1)
    copy.norm(to.norms[1], block.layer_norm2)


class Itself(PyGBlock):
    """A set that listens to itself."""

    def forward(self, z):
        return super().forward(z, z)


def test_set_transformer(hold):
    theirs = [InducedSetAttentionBlock(DIM, FEW, HEADS) for _ in range(DEPTH)]
    theirs += [PoolingByMultiheadAttention(DIM, 3, HEADS), Itself(DIM, HEADS)]

    def convert(theirs):
        ours = create_model(
            "set_transformer", **SIZES, num_heads=HEADS, num_points=FEW, num_seeds=3
        ).double()
        *induced, pool, last = ours.layers[2:]
        for layer, other in zip(induced, theirs.layers, strict=False):
            copy_block(layer.gather, other.mab1)
            copy_block(layer.spread, other.mab2)
            copy.parameter(layer.points, other.ind[0])
        *_, other, after = theirs.layers
        copy_block(pool.block, other.mab)
        copy.linear(pool.linear, other.lin)
        copy.parameter(pool.seeds, other.seed[0])
        copy_block(last, after)
        return copy_ends(ours, theirs, first=1)

    peer = "PyG InducedSetAttentionBlock, PoolingByMultiheadAttention"
    compare(hold, "set_transformer", peer, convert, randomized(Peer(theirs)))


class Perceiving(nn.Module):
    """Their encoder, with latents of its own."""

    def __init__(self):
        super().__init__()
        config = PerceiverConfig(
            d_latents=DIM,
            num_latents=FEW,
            num_blocks=1,
            num_self_attends_per_block=DEPTH,
            num_self_attention_heads=HEADS,
            num_cross_attention_heads=HEADS,
            cross_attention_shape_for_attention="q",
            cross_attention_widening_factor=1,
            self_attention_widening_factor=1,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
        )
        self.encoder = PerceiverEncoder(config, kv_dim=DIM)
        self.latents = nn.Parameter(torch.randn(FEW, DIM))

    def forward(self, z):
        return self.encoder(self.latents.expand(len(z), -1, -1), inputs=z).last_hidden_state


def copy_latent_block(to, layer):
    inner, after = layer.attention.self, layer.attention.output.dense
    linears = [inner.query, inner.key, inner.value, after]
    weights, biases = [one.weight for one in linears], [one.bias for one in linears]
    copy.attention(to.attention, weights, biases)
    copy.norm(to.norm, inner.layernorm1)
    copy.norm(to.mlp_norm, layer.layernorm)
    copy.linear(to.mlp[0], layer.mlp.dense1)
    copy.linear(to.mlp[2], layer.mlp.dense2)
    if to.source_norm is not None:
        copy.norm(to.source_norm, inner.layernorm2)


def test_perceiver(hold):
    def convert(theirs):
        ours = create_model("perceiver", **SIZES, num_heads=HEADS, num_latents=FEW).double()
        latents, other = ours.layers[-1], theirs.layers[0]
        copy.parameter(latents.latents, other.latents)
        copy_latent_block(latents.cross, other.encoder.cross_attention)
        for block, layer in zip(latents.blocks, other.encoder.self_attends, strict=True):
            copy_latent_block(block, layer)
        return copy_ends(ours, theirs)

    theirs = randomized(Peer([Perceiving()]))
    compare(hold, "perceiver", "transformers PerceiverEncoder", convert, theirs)


class PerformerBlock(nn.Module):
    """Their attention, pre-norm, and an MLP."""

    def __init__(self):
        super().__init__()
        self.attention = PerformerAttention(DIM, HEADS, DIM // HEADS, qkv_bias=True)
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.linear1, self.linear2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, z):
        z = z + self.attention(self.norm1(z))
        return z + self.linear2(nn.functional.gelu(self.linear1(self.norm2(z))))


def test_performer(hold):
    """Theirs has no features for softmax: both have those of the generalized attention."""

    def convert(theirs):
        ours = create_model("performer", **SIZES, num_heads=HEADS)
        pairs = zip(ours.layers[1::2], ours.layers[2::2], theirs.layers, strict=True)
        for mixing, function, block in pairs:
            other, mixer = block.attention, mixing.layer
            mixer.features = ReLUFeatures(DIM // HEADS)
            mixer.features.projection = other.fast_attn.projection_matrix
            for name, linear in zip(
                ("query", "key", "value", "out"),
                (other.q, other.k, other.v, other.attn_out),
                strict=True,
            ):
                copy.linear(getattr(mixer, name), linear)
            copy.norm(mixing.norm, block.norm1)
            copy.norm(function.norm, block.norm2)
            copy.mlp(function.layer.fn, block.linear1, block.linear2)
        return copy_ends(ours, theirs)

    theirs = randomized(Peer([PerformerBlock() for _ in range(DEPTH)]))
    compare(hold, "performer", "PyG PerformerAttention (ReLU features)", convert, theirs)
