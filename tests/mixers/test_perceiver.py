"""Latents: Hugging Face's Perceiver, and set by set."""

import pytest
import torch
from torch import nn
from transformers import PerceiverConfig
from transformers.models.perceiver.modeling_perceiver import PerceiverEncoder

from tests.mixers.same_weights import compare, copy_linear
from tokennet import Causal, Cycle, Full, MeanReadout, TokenNet, Tokens
from tokennet.mixers import Latents, PerceiverMixer

DIM, HEADS, LATENTS = 16, 2, 5


def copy_perceiver(ours, theirs):
    """Weights of a `PerceiverLayer`, and the pairs whose gradients are to be compared."""
    attention, inner = ours.attention, theirs.attention.self
    linears = [
        (attention.query, inner.query),
        (attention.key, inner.key),
        (attention.value, inner.value),
        (attention.out, theirs.attention.output.dense),
        (ours.norm, inner.layernorm1),
        (ours.mlp_norm, theirs.layernorm),
        (ours.mlp[0], theirs.mlp.dense1),
        (ours.mlp[2], theirs.mlp.dense2),
    ]
    if ours.source_norm is not None:
        linears.append((ours.source_norm, inner.layernorm2))
    pairs = []
    for mine, other in linears:
        nn.init.normal_(other.weight, 0.5, 0.3)
        nn.init.normal_(other.bias, 0.0, 0.3)
        pairs += copy_linear(mine, other)
    # All weights of a softmax shift alike with the bias of the keys: its gradient is 0.
    return [(mine, other) for mine, other in pairs if mine is not attention.key.bias]


@pytest.mark.parametrize("depth", [0, 2])
def test_latents_are_those_of_hugging_face(depth):
    config = PerceiverConfig(
        d_latents=8,
        num_latents=LATENTS,
        num_blocks=1,
        num_self_attends_per_block=depth,
        num_self_attention_heads=HEADS,
        num_cross_attention_heads=HEADS,
        cross_attention_shape_for_attention="q",
        cross_attention_widening_factor=2,
        self_attention_widening_factor=2,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    theirs = PerceiverEncoder(config, kv_dim=DIM).double()
    ours = Latents(DIM, LATENTS, HEADS, depth=depth, latent_dim=8, widening=2).double()
    blocks = [(ours.cross, theirs.cross_attention)]
    blocks += zip(ours.blocks, theirs.self_attends, strict=True)
    pairs = [pair for mine, other in blocks for pair in copy_perceiver(mine, other)]
    with torch.no_grad():
        ours.latents.normal_()
    z = torch.randn(2, 9, DIM, dtype=torch.float64, requires_grad=True)
    start = ours.latents.detach().expand(2, -1, -1)
    expected = theirs(start, inputs=z).last_hidden_state
    compare(ours(z), expected, z, pairs)


def layers():
    return {
        "latents": Latents(DIM, LATENTS, HEADS, latent_dim=8).double(),
        "perceiver": PerceiverMixer(DIM, HEADS, LATENTS, latent_dim=8, depth=2).double(),
    }


@pytest.mark.parametrize("name", layers())
def test_ragged_is_one_by_one(name):
    layer = layers()[name]
    sets = [Tokens(torch.randn(2, n, DIM).double()) for n in (4, 0, 1, 6)]
    for part, alone in zip(layer(Tokens.batch(sets)).unbatch(), sets, strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)


def test_latents_are_invariant_and_tokens_read_them_back_equivariantly():
    z, order = torch.randn(2, 7, DIM).double(), torch.randperm(7)
    latents, perceiver = layers().values()
    torch.testing.assert_close(latents(z[:, order]), latents(z))
    torch.testing.assert_close(perceiver(z[:, order]), perceiver(z)[:, order])
    assert latents(Tokens(z)).graph.num_targets == LATENTS
    net = TokenNet([latents], MeanReadout(8, 2)).double()
    assert net(Tokens(z, Cycle(7, 1))).shape == (2, 2)


def test_another_set_is_heard_through_the_latents():
    layer = PerceiverMixer(DIM, HEADS, LATENTS, source_dim=6).double()
    z, source = torch.randn(2, 3, DIM).double(), torch.randn(2, 8, 6).double()
    out = layer(z, source)
    torch.testing.assert_close(layer(z, source.flip(1)), out)
    torch.testing.assert_close(layer(z[:, :1], source), out[:, :1])
    sets = [Tokens(z[0, :2]), Tokens(z[1, :1])], [Tokens(source[0, :5]), Tokens(source[1, :3])]
    ragged = layer(Tokens.batch(sets[0]), Tokens.batch(sets[1]))
    torch.testing.assert_close(ragged.unbatch()[1].z, layer(sets[0][1], sets[1][1]).z)


def test_latents_start_apart_and_learn():
    layer, z = PerceiverMixer(DIM, HEADS, LATENTS), torch.randn(6, DIM)
    layer(z).square().sum().backward()
    assert layer.latents.latents.grad.abs().sum(-1).min() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_what_needs_all_tokens_says_so():
    with pytest.raises(ValueError, match="graph must be complete, set by set, for Perceiver"):
        PerceiverMixer(DIM, HEADS)(Tokens(torch.zeros(4, DIM), Causal(4)))
    for layer in layers().values():
        with pytest.raises(TypeError, match="does not support incremental decoding"):
            layer.step(Tokens(torch.zeros(1, DIM)), Full(1, 4))
    with pytest.raises(ValueError, match="num_latents must be at least 1, got 0"):
        Latents(DIM, 0)


def test_flops_grow_with_tokens_times_latents():
    layer = Latents(DIM, LATENTS, HEADS, depth=0)
    more = layer.flops(Tokens(torch.zeros(2, 11, DIM))) - layer.flops(
        Tokens(torch.zeros(2, 10, DIM))
    )
    assert more == 2 * (2 * 2 * DIM * DIM + 4 * LATENTS * DIM)
