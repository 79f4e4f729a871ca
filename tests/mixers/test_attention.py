"""`Attention` with what models of today add: against their own modules."""

import copy

import pytest
import torch
from torch import nn

from tokennet import Attention, Causal, Edges, Full, Tokens, Window, check
from tokennet.mixers import CrossAttention, scores
from tokennet.nets import Residual
from tokennet.positional import ALiBi, Rotary

DIM, HEADS, KV = 16, 4, 2
EXACT = {"rtol": 1e-9, "atol": 1e-11}


def model_of(name, **options):
    """An attention module of Hugging Face by the name of its model."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        hidden_size=DIM, num_attention_heads=HEADS, num_key_value_heads=KV,
        attn_implementation="eager", attention_dropout=0.0, num_hidden_layers=1,
        **{"head_dim": DIM // HEADS, **options},
    )  # fmt: skip
    module = transformers.models
    files = {"GptOss": "gpt_oss", "Qwen3Next": "qwen3_next"}
    file = getattr(module, files.get(name, name.lower()))
    kind = getattr(getattr(file, f"modeling_{file.__name__.split('.')[-1]}"), f"{name}Attention")
    torch.manual_seed(0)
    theirs = kind(config, layer_idx=0).double().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    return theirs


def as_ours(theirs, **options):
    bias = theirs.q_proj.bias is not None
    ours = Attention(DIM, HEADS, bias=bias, num_kv_heads=KV, **options).double().eval()
    pairs = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    pairs |= {name: name for name in ("q_norm", "k_norm") if "qk_norm" in options}
    if "gate" in options:  # half of each head's rows, and norms by 1 + weight
        theirs = copy.deepcopy(theirs)
        rows = theirs.q_proj.weight.unflatten(0, (HEADS, 2, -1))
        theirs.q_proj.weight, gate = (nn.Parameter(rows[:, k].flatten(0, 1)) for k in range(2))
        ours.gate.load_state_dict({"weight": gate})
        for norm in (theirs.q_norm, theirs.k_norm):
            norm.weight.data += 1
    for mine, other in pairs.items():
        getattr(ours, mine).load_state_dict(getattr(theirs, other).state_dict(), strict=False)
    if "sinks" in options:
        with torch.no_grad():
            ours.sinks.copy_(theirs.sinks)
    return ours


@pytest.mark.parametrize(
    ("name", "options", "given"),
    [
        ("Llama", {}, {}),
        ("Qwen3", {}, {"qk_norm": True}),
        ("Qwen3", {"head_dim": 6}, {"qk_norm": True, "head_dim": 6}),
        ("Gemma2", {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 4}, {"softcap": 2.0}),
        ("GptOss", {}, {"sinks": True}),
        ("Qwen3Next", {}, {"qk_norm": True, "gate": True}),
    ],
)
def test_it_is_the_attention_of_hugging_face(name, options, given):
    theirs = model_of(name, **options)
    ours = as_ours(theirs, **given)
    z = torch.randn(2, 6, DIM, dtype=torch.float64, requires_grad=True)
    half = theirs.head_dim // (2 if name == "GptOss" else 1)
    unrotated = torch.ones(2, 6, half).double(), torch.zeros(2, 6, half).double()
    mask = torch.zeros(6, 6).double().masked_fill(~Causal(6).dense(), -torch.inf)[None, None]
    expected = theirs(z, position_embeddings=unrotated, attention_mask=mask)[0]
    out = ours(Tokens(z, Causal(6))).z
    close = {"rtol": 1e-4, "atol": 1e-5}  # their softmax is in float32
    torch.testing.assert_close(out, expected, **close)
    slopes = (torch.autograd.grad(x.sin().sum(), z)[0] for x in (out, expected))
    torch.testing.assert_close(*slopes, **close)


def test_weights_are_dropped_in_training_only():
    layer = Attention(DIM, HEADS, dropout=0.5)
    tokens = Tokens(torch.randn(70, DIM), Window(70, 3))
    layer.eval()
    assert torch.equal(layer(tokens).z, layer(tokens).z)
    plain = Attention(DIM, HEADS).eval()
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(tokens).z, plain(tokens).z)
    layer.train()
    assert not torch.equal(layer(tokens).z, layer(tokens).z)
    mean = torch.stack([layer(tokens).z for _ in range(400)]).mean(0)
    assert (mean - plain(tokens).z).abs().max() < 0.2 * plain(tokens).z.abs().max()
    assert torch.equal(layer.attention_weights(tokens), plain.attention_weights(tokens))


def test_dropout_of_weights_that_are_made_edge_by_edge():
    layer = Attention(DIM, HEADS, score=scores.ScaledDotProduct("sigmoid"), dropout=1.0)
    out = layer(torch.randn(5, DIM))
    torch.testing.assert_close(out, layer.out.bias.expand(5, DIM))


def test_decoding_step_by_step_is_the_whole():
    """The state holds keys and values of `num_kv_heads` heads."""
    layer = (
        Attention(
            DIM, HEADS, num_kv_heads=1, sinks=True, qk_norm=True, gate=True, position=Rotary()
        )
        .double()
        .eval()
    )
    nn.init.normal_(layer.sinks)
    z, state = torch.randn(5, DIM, dtype=torch.float64), None
    whole = layer(Tokens(z, Causal(5))).z
    for i in range(5):
        out, state = layer.step(Tokens(z[i : i + 1]), Causal(i + 1).last(1), state)
        torch.testing.assert_close(out.z[0], whole[i], **EXACT)
    assert state[0].shape == (5, 1, DIM // HEADS)


@pytest.mark.parametrize("score", ["dot_product", "cosine", scores.ScaledDotProduct("hard")])
def test_shared_keys_are_those_of_repeated_maps(score):
    """Of scores, positions and features of edges of every kind."""
    layer = Attention(DIM, HEADS, score=score, num_kv_heads=KV, position=ALiBi(HEADS)).double()
    score = score if isinstance(score, str) else scores.ScaledDotProduct("hard")
    wide = Attention(DIM, HEADS, score=score, position=ALiBi(HEADS)).double()
    state = layer.state_dict()
    for name in ("key.weight", "key.bias", "value.weight", "value.bias"):
        rows = state[name].unflatten(0, (KV, -1))
        state[name] = rows.repeat_interleave(HEADS // KV, 0).flatten(0, 1)
    wide.load_state_dict(state)
    for graph in (Full(6), Window(6, 1)):
        tokens = Tokens(torch.randn(3, 6, DIM, dtype=torch.float64), graph)
        torch.testing.assert_close(layer(tokens).z, wide(tokens).z, **EXACT)
        weights = layer.attention_weights(tokens), wide.attention_weights(tokens)
        torch.testing.assert_close(*weights, **EXACT)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"num_kv_heads": 3}, ValueError, "num_kv_heads must divide num_heads = 4, got 3"),
        ({"num_kv_heads": 0}, ValueError, "num_kv_heads must be at least 1"),
        ({"num_kv_heads": 2, "score": "additive"}, ValueError, "num_kv_heads must be None"),
        ({"num_kv_heads": 2, "score": "general"}, ValueError, "num_kv_heads must be None"),
        ({"dropout": 1.5}, ValueError, "dropout must be from 0 to 1, got 1.5"),
        ({"softcap": 0.0}, ValueError, "softcap must be positive"),
        ({"softcap": "x"}, TypeError, "softcap must be"),
        ({"sinks": 1.5}, TypeError, "sinks must be"),
        ({"gate": "swish"}, TypeError, "gate must be"),
        ({"qk_norm": "rms"}, TypeError, "qk_norm must be a bool or a norm"),
        ({"head_dim": 0}, ValueError, "head_dim must be at least 1, got 0"),
        ({"head_dim": 6, "score": "general"}, ValueError, "head_dim must be None with General"),
        ({"dropuot": 0.1}, TypeError, "'dropuot'; did you mean dropout"),
        (
            {"sinks": True, "score": scores.ScaledDotProduct("none")},
            ValueError,
            "sinks must be False with the normalizer 'none'",
        ),
    ],
)
def test_options_that_do_not_fit_are_named(given, error, message):
    with pytest.raises(error, match=message):
        Attention(DIM, HEADS, **given)


def test_a_gate_is_of_the_target():
    """Also where keys and values are of another set, and of another width than the tokens."""
    layer = CrossAttention(DIM, HEADS, head_dim=3, gate=True, source_dim=5)
    z, source = torch.randn(4, DIM), torch.randn(6, 5)
    plain = CrossAttention(DIM, HEADS, head_dim=3, source_dim=5)
    plain.load_state_dict(layer.state_dict(), strict=False)
    plain.out = nn.Identity()
    gated = layer.gate(z).sigmoid() * plain(z, source)
    torch.testing.assert_close(layer(z, source), layer.out(gated))
    tokens = Tokens(z)
    with_gate, without = Attention(DIM, HEADS, gate=True), Attention(DIM, HEADS)
    assert with_gate.flops(tokens) - without.flops(tokens) == 2 * 4 * DIM * DIM


def test_laws_hold_with_all_of_them():
    options = {"num_kv_heads": KV, "softcap": 2.0, "sinks": True, "qk_norm": nn.LayerNorm}
    layer = Attention(DIM, HEADS, head_dim=3, gate=True, **options)
    assert check(Residual(layer), Tokens(torch.randn(6, DIM), Window(6, 1))).broken == ()


def test_heads_of_another_width():
    """Features and types of edges, operations and state follow the channels of the heads."""
    graph = Edges(Causal(5).edge_index(), 5, edge_attr=torch.randn(15, 2))
    tokens = Tokens(torch.randn(5, DIM), graph)
    layer = Attention(DIM, HEADS, head_dim=3, edge_dim=2)
    assert layer(tokens).z.shape == (5, DIM)
    plain = Attention(DIM, HEADS, head_dim=3)
    assert plain.flops(Tokens(tokens.z, Causal(5))) == 4 * 15 * 12 + 5 * 8 * DIM * 12
