"""Weights of edges of every layer that attends: on the graphs it makes, and those of its output."""

import pytest
import torch
from torch import nn

from tests.families import SQUARE
from tests.interop.architectures import build, inputs_of
from tokennet import (
    Attention,
    Causal,
    CrossAttention,
    Cycle,
    Edges,
    Full,
    GraphAttention,
    LinearAttention,
    Residual,
    TokenNet,
    Tokens,
    Window,
)
from tokennet.graphs import PerHead
from tokennet.interop import on_graph
from tokennet.interpret import record_attention, trace_attention
from tokennet.mixers import (
    InducedSetAttentionBlock,
    Latents,
    LearnedMixing,
    PerceiverMixer,
    PoolingByAttention,
    RecurrentAttention,
    SetAttentionBlock,
)
from tokennet.nets import AttentionReadout, MemoryTokens
from tokennet.ops import BACKENDS, combine

DIM, HEADS, K = 8, 2, 3
EXACT = {"rtol": 1e-9, "atol": 1e-11}
NETS = {
    "sab": (lambda: SetAttentionBlock(DIM, HEADS), [""]),
    "isab": (lambda: InducedSetAttentionBlock(DIM, HEADS, K), ["gather", "spread"]),
    "pma": (lambda: PoolingByAttention(DIM, HEADS, K), ["block"]),
    "latents": (
        lambda: Latents(DIM, K, HEADS, depth=2),
        ["cross.attention", "blocks.0.attention", "blocks.1.attention"],
    ),
    "perceiver": (
        lambda: PerceiverMixer(DIM, HEADS, K),
        ["latents.cross.attention", "latents.blocks.0.attention", "read"],
    ),
    "readout": (
        lambda: TokenNet([], AttentionReadout(DIM, 5, HEADS)),
        ["readout.attention"],
    ),
    "memory": (
        lambda: MemoryTokens(Residual(Attention(DIM, HEADS), nn.LayerNorm(DIM)), DIM, K),
        ["layers.layer"],
    ),
    "recurrent": (lambda: RecurrentAttention(DIM, HEADS, memory=K), [""]),
}
HEARD = {  # num_targets, num_sources of the graphs, for sets of n tokens
    "sab": lambda n: [(n, n)],
    "isab": lambda n: [(K, n), (n, K)],
    "pma": lambda n: [(K, n)],
    "latents": lambda n: [(K, n), (K, K), (K, K)],
    "perceiver": lambda n: [(K, n), (K, K), (n, K)],
    "readout": lambda n: [(1, n)],
    "memory": lambda n: [(n + K, n + K)],
    "recurrent": lambda n: [(n, n)],
}
GIVEN = {
    "one": [6],
    "ragged": [4, 1, 2],
}


def watched(net, tokens, *source):
    """Weights by name, and what each `Attention` within was called with and gave."""
    calls = {}

    def keep(layer, args, given, output):
        calls[layer] = layer.inputs(*args, **given), output

    handles = [
        part.register_forward_hook(keep, with_kwargs=True)
        for part in net.modules()
        if isinstance(part, Attention)
    ]
    found = trace_attention(net, tokens, *source)
    for handle in handles:
        handle.remove()
    return found, calls


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("name", NETS)
def test_weights_are_those_of_the_output(name, given):
    make, names = NETS[name]
    net, sizes = make().double(), GIVEN[given]
    sets = [Tokens(torch.randn(2, n, DIM).double()) for n in sizes]
    tokens = sets[0] if given == "one" else Tokens.batch(sets)
    found, calls = watched(net, tokens)
    assert list(found) == names
    for at, name_of_layer in enumerate(names):
        graph, weights = found[name_of_layer]
        parts = [(part.num_targets, part.num_sources) for part in graph.parts]
        assert parts == [HEARD[name](n)[at] for n in sizes]
        assert weights.shape == (2, graph.num_edges, HEADS)
        layer = net.get_submodule(name_of_layer)
        attention = layer.attention if isinstance(layer, SetAttentionBlock) else layer
        (_, source, _), output = calls[attention]
        v = attention.value(source.z).unflatten(-1, (HEADS, -1))
        out = attention.out(combine(weights, v, graph).flatten(-2))
        expected = output.z if isinstance(output, Tokens) else output
        torch.testing.assert_close(out, expected, **EXACT)


def test_other_layers_and_their_graphs():
    graph = Edges(Cycle(6, 1).edge_index().flip(1), 6)  # in an order of its own
    net = TokenNet(
        [
            Residual(Attention(DIM, HEADS), nn.LayerNorm(DIM)),
            GraphAttention(DIM, HEADS),
            LearnedMixing(DIM, Cycle(6, 1), HEADS),
            Residual(CrossAttention(DIM, HEADS)),
        ]
    ).double()
    z, source = torch.randn(6, DIM).double(), torch.randn(4, DIM).double()
    found = trace_attention(net, Tokens(z, graph), source)
    assert list(found) == ["layers.0.layer", "layers.1", "layers.2", "layers.3.layer"]
    assert [each.graph is graph for each in found.values()] == [True, True, True, False]
    target = graph.edge_index()[1]
    for each in list(found.values())[:3]:
        sums = torch.zeros(6, HEADS).double().index_add(0, target, each.weights)
        torch.testing.assert_close(sums, torch.ones_like(sums))
    across = found["layers.3.layer"]
    assert (across.graph.num_targets, across.graph.num_sources) == (6, 4)
    sums = across.weights.unflatten(0, (6, 4)).sum(1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    normed = net.layers[0].norm(z)
    torch.testing.assert_close(
        found["layers.0.layer"].weights,
        net.layers[0].layer.attention_weights(Tokens(normed, graph)),
        **EXACT,
    )
    linear = LinearAttention(DIM, HEADS)
    (each,) = trace_attention(linear, z.float()).values()
    torch.testing.assert_close(each.weights, linear.attention_weights(z.float()))


def test_a_set_block_gives_the_weights_of_its_attention():
    block, z = SetAttentionBlock(DIM, HEADS), torch.randn(5, DIM)
    tokens = Tokens(z, Causal(5))
    assert torch.equal(block.attention_weights(tokens), block.attention.attention_weights(tokens))
    source = torch.randn(3, DIM)
    assert torch.equal(
        block.attention_weights(z, source), block.attention.attention_weights(z, source)
    )


def test_each_call_is_kept_and_hooks_are_taken_off():
    layer, z = Attention(DIM, HEADS), torch.randn(5, DIM)
    with record_attention(layer) as found:
        out = layer(z, graph=Causal(5))
        layer(out)
    assert {name: each.graph.num_edges for name, each in found.items()} == {"": 15, "[1]": 25}
    torch.testing.assert_close(found["[1]"].weights, layer.attention_weights(out))
    gradient = torch.autograd.grad(found[""].weights.square().sum(), layer.query.weight)[0]
    assert gradient.abs().max() > 0
    with pytest.raises(ValueError, match="tokens must have 8 channels"):
        trace_attention(layer, torch.zeros(5, 3))
    layer(z)
    assert len(found) == 2
    assert not layer._forward_hooks


@pytest.mark.parametrize("family", ["full", "causal", "multi_edges", "ragged"])
def test_names_and_order_are_those_of_the_run(family):
    graph = SQUARE[family]()
    first, second = Attention(DIM, HEADS), GraphAttention(DIM, HEADS)
    net = TokenNet([TokenNet([first]), TokenNet([second])]).double()
    tokens = Tokens(torch.randn(graph.num_targets, DIM).double(), graph)
    found = trace_attention(net, tokens)
    assert list(found) == ["layers.0.layers.0", "layers.1.layers.0"]
    torch.testing.assert_close(
        found["layers.0.layers.0"].weights, first.attention_weights(tokens), **EXACT
    )
    torch.testing.assert_close(
        found["layers.1.layers.0"].weights, second.attention_weights(first(tokens)), **EXACT
    )


FOREIGN = {
    "llama": ["Causal(9)"],
    "mistral": ["Causal(9) & Window(9, radius=3)"],
    "bert": ["Disjoint([Full(9), Full(6)])"],
    "t5": ["Full(9)", "Causal(5)", "Full(5, 9)"],
    "vit": ["Full(17)"],
    "bart": ["Disjoint([Full(9), Full(6)])", "Causal(5)", "Disjoint([Full(5, 9), Full(5, 6)])"],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_graphs_of_transformers_of_others_are_what_their_masks_say(name):
    pytest.importorskip("transformers")
    model, inputs = build(name), inputs_of(name, padded=name in ("bert", "t5", "bart"))
    if name in ("llama", "mistral"):
        inputs["use_cache"] = False
    expected = model(**inputs, output_attentions=True)
    trace = trace_attention(model, **inputs)
    graphs = [str(edges.graph).split(":")[0] for edges in trace.values()]
    assert list(dict.fromkeys(graphs)) == FOREIGN[name]
    assert {explained.chosen for explained in trace.explanations.values()} <= set(BACKENDS)
    assert list(trace.explanations) == list(trace)
    eager = expected.attentions if "attentions" in expected else expected.encoder_attentions
    if name == "bart":
        eager += expected.decoder_attentions[:1] + expected.cross_attentions[:1]
    for edges, weights in zip(trace.values(), eager, strict=False):
        (source, target), (n, m) = edges.graph.edge_index(), weights.shape[-2:]
        if edges.graph.is_ragged:
            entry = (target >= n).long()
            wanted = weights[entry, :, target - n * entry, source - m * entry]  # (E, H)
        else:
            wanted = weights[..., target, source].transpose(1, 2)  # (B, E, H)
        torch.testing.assert_close(edges.weights, wanted, rtol=1e-5, atol=1e-6)
    bare = trace_attention(model, weights=False, **inputs)
    assert [edges.weights for edges in bare.values()] == [None] * len(trace)
    assert [str(edges.graph) for edges in bare.values()] == [
        str(edges.graph) for edges in trace.values()
    ]


def test_a_model_that_is_on_a_graph_is_traced_there():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    graph = Window(5, 1)
    with on_graph(layer, graph):
        trace = trace_attention(layer, torch.randn(2, 5, 8))
    assert list(trace) == ["self_attn"]
    assert trace["self_attn"].graph is graph
    heads = PerHead([graph, Full(5)])
    with on_graph(layer, heads):
        edges = trace_attention(layer, torch.randn(2, 5, 8))["self_attn"]
    assert edges.weights.shape == (2, 25, 2)
    assert (edges.weights[..., 0] == 0).sum() == 2 * (25 - graph.num_edges)
