"""Attention with positions of published models, with their weights: values and gradients."""

import pytest
import torch

from tokennet import Attention, Causal, Full, Tokens
from tokennet.mixers.scores import DotProduct
from tokennet.positional import ALiBi, Rotary, T5Bias

transformers = pytest.importorskip("transformers")
from transformers.models.bloom.modeling_bloom import (  # noqa: E402
    BloomAttention,
    build_alibi_tensor,
)
from transformers.models.gptj.modeling_gptj import GPTJAttention  # noqa: E402
from transformers.models.llama.modeling_llama import (  # noqa: E402
    LlamaAttention,
    LlamaRotaryEmbedding,
)
from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

DIM, HEADS, N = 24, 3, 40
# Theirs compute angles, or the softmax, in float32 even where all else is in float64.
TOLERANCE = {"rtol": 2e-6, "atol": 2e-6}
MASK = torch.zeros(N, N, dtype=torch.float64).masked_fill(~Causal(N).dense(), -1e30)[None, None]


def copied(ours, theirs, names):
    """Our attention with their linear maps, as pairs of weights."""
    pairs = []
    for mine, other in zip(("query", "key", "value", "out"), names, strict=True):
        pairs.append((getattr(ours, mine).weight, getattr(theirs, other).weight))
        pairs[-1][0].data.copy_(pairs[-1][1].data)
    return pairs


def compare(ours, theirs, z, pairs):
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    weight = torch.randn_like(ours)
    mine = torch.autograd.grad((ours * weight).sum(), [z, *(a for a, _ in pairs)])
    other = torch.autograd.grad((theirs * weight).sum(), [z, *(b for _, b in pairs)])
    for got, want in zip(mine, other, strict=True):
        scale = want.abs().max()
        torch.testing.assert_close(got / scale, want.view_as(got) / scale, **TOLERANCE)


@pytest.fixture
def z():
    return torch.randn(2, N, DIM, dtype=torch.float64, requires_grad=True)


def test_rotary_is_that_of_llama(z):
    config = transformers.LlamaConfig(
        hidden_size=DIM, num_attention_heads=HEADS, attn_implementation="eager"
    )
    theirs = LlamaAttention(config, layer_idx=0).double()
    ours = Attention(DIM, HEADS, bias=False, position=Rotary(interleaved=False)).double()
    pairs = copied(ours, theirs, ("q_proj", "k_proj", "v_proj", "o_proj"))
    angles = LlamaRotaryEmbedding(config)(z, torch.arange(N)[None])
    expected = theirs(z, position_embeddings=angles, attention_mask=MASK)[0]
    compare(ours(Tokens(z, Causal(N))).z, expected, z, pairs)


@pytest.mark.parametrize("channels", [4, 8])
def test_rotary_is_that_of_gptj(z, channels):
    config = transformers.GPTJConfig(
        n_embd=DIM,
        n_head=HEADS,
        rotary_dim=channels,
        n_positions=N,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
    )
    theirs = GPTJAttention(config, layer_idx=0).double()
    ours = Attention(DIM, HEADS, bias=False, position=Rotary(channels=channels)).double()
    pairs = copied(ours, theirs, ("q_proj", "k_proj", "v_proj", "out_proj"))
    places = torch.arange(N).expand(2, N)
    expected = theirs(z, attention_mask=MASK, position_ids=places)[0]
    compare(ours(Tokens(z, Causal(N))).z, expected, z, pairs)


@pytest.mark.parametrize("num_heads", [2, 3, 8])
def test_alibi_is_that_of_bloom(z, num_heads):
    config = transformers.BloomConfig(
        hidden_size=DIM, n_head=num_heads, hidden_dropout=0.0, attention_dropout=0.0
    )
    theirs = BloomAttention(config, layer_idx=0).double()
    ours = Attention(DIM, num_heads, position=ALiBi(num_heads), backend="reference").double()
    joined = theirs.query_key_value.weight.unflatten(0, (num_heads, 3, -1))
    biases = theirs.query_key_value.bias.unflatten(0, (num_heads, 3, -1))
    for number, linear in enumerate((ours.query, ours.key, ours.value)):
        linear.weight.data.copy_(joined[:, number].flatten(0, 1).data)
        linear.bias.data.copy_(biases[:, number].flatten().data)
    ours.out.load_state_dict(theirs.dense.state_dict())
    alibi = build_alibi_tensor(torch.ones(2, N), num_heads, torch.float64)
    expected = theirs(z, torch.zeros_like(z), alibi, MASK)[0]
    pairs = [(ours.out.weight, theirs.dense.weight)]
    compare(ours(Tokens(z, Causal(N))).z, expected, z, pairs)


@pytest.mark.parametrize("decoder", [False, True])
def test_buckets_are_those_of_t5(z, decoder):
    config = transformers.T5Config(
        d_model=DIM, num_heads=HEADS, d_kv=DIM // HEADS, is_decoder=decoder, dropout_rate=0.0,
        relative_attention_num_buckets=16, relative_attention_max_distance=30,
        attn_implementation="eager",
    )  # fmt: skip
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).double()
    bias = T5Bias(HEADS, num_buckets=16, max_distance=30, bidirectional=not decoder)
    ours = Attention(DIM, HEADS, bias=False, score=DotProduct(), position=bias).double()
    pairs = copied(ours, theirs, ("q", "k", "v", "o"))
    pairs.append((bias.table, theirs.relative_attention_bias.weight))
    bias.table.data.copy_(pairs[-1][1].data)
    expected = theirs(z, mask=MASK if decoder else None)[0]
    compare(ours(Tokens(z, Causal(N) if decoder else Full(N))).z, expected, z, pairs)


@pytest.mark.parametrize(("count", "furthest", "both"), [(32, 128, True), (32, 128, False)])
def test_every_bucket_is_that_of_t5(count, furthest, both):
    offset = torch.arange(-600, 601)
    ours = T5Bias(2, num_buckets=count, max_distance=furthest, bidirectional=both).bucket(offset)
    theirs = T5Attention._relative_position_bucket(offset, both, count, furthest)
    assert torch.equal(ours, theirs)
