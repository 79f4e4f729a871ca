"""Memory tokens: put before the tokens on any graph, and taken off again."""

import pytest
import torch
from torch import nn

from tests.axes import pairwise
from tests.contracts import mixers as laws
from tests.families import BIPARTITE, SQUARE, by_default
from tokennet import (
    Attention,
    Causal,
    CrossAttention,
    Cycle,
    Disjoint,
    Edges,
    Full,
    GraphAttention,
    Grid,
    MeanReadout,
    Residual,
    TokenLayer,
    TokenNet,
    Tokens,
    TokenWise,
    Window,
)
from tokennet.graphs.prefix import prefixed, without_prefix
from tokennet.nets import MemoryTokens, mlp
from tokennet.positional import Rotary

DIM, HEADS, COUNT = 8, 2, 3
EXACT = {"rtol": 1e-10, "atol": 1e-12}
LAWS = (
    "relabeling",
    "edge_order",
    "batch_is_one_by_one",
    "ragged_is_one_by_one",
    "finite",
    "symmetry_is_declared",
)
FAMILIES = {**SQUARE, **{f"bipartite_{name}": make for name, make in BIPARTITE.items()}}


def by_hand(graph, count, attend_to_all, visible_to_all, as_targets):
    """Number of edges between each pair."""
    n, m = graph.num_targets, graph.num_sources
    first = count if as_targets else 0
    wanted = torch.zeros(n + first, m + count, dtype=torch.long)
    wanted[first:, :count] = visible_to_all
    if as_targets:
        wanted[:count] = 1 if attend_to_all else torch.ones(count, m + count).tril()
    for j, i in graph.edge_index().t().tolist():
        wanted[first + i, count + j] += 1
    return wanted


@pairwise(
    family=by_default(name for name in FAMILIES if "ragged" not in name),
    visible_to_all=[True, False],
    attend_to_all=[True, False],
    as_targets=[True, False],
)
def test_graphs_with_tokens_before_them(family, visible_to_all, attend_to_all, as_targets):
    graph = FAMILIES[family]()
    flags = {"attend_to_all": attend_to_all, "visible_to_all": visible_to_all}
    flags["as_targets"] = as_targets
    longer, wanted = prefixed(graph, 2, **flags), by_hand(graph, 2, **flags)
    j, i = longer.edge_index()
    counts = torch.zeros_like(wanted).index_put((i, j), torch.ones_like(i), accumulate=True)
    assert torch.equal(counts, wanted)
    assert longer.num_edges == wanted.sum()
    pairs = torch.meshgrid(*(torch.arange(size) for size in wanted.shape), indexing="ij")
    assert torch.equal(longer.attends(*pairs), wanted > 0)
    assert torch.equal(longer.dense(), wanted > 0)
    if not longer.is_explicit:
        assert torch.equal(j + len(wanted.T) * i, (j + len(wanted.T) * i).sort().values)


def test_each_set_of_a_ragged_batch_has_its_own():
    graph = prefixed(Disjoint([Full(2), Causal(3)]), 1, attend_to_all=False)
    assert isinstance(graph, Disjoint)
    assert graph.sizes == [3, 4]
    assert isinstance(graph.graphs[1], Causal)


def net(depth=2, **options):
    layers = []
    for _ in range(depth):
        layers += [Residual(Attention(DIM, HEADS, **options), nn.LayerNorm(DIM))]
        layers += [Residual(TokenWise(mlp(DIM)), nn.LayerNorm(DIM))]
    return TokenNet(layers)


@pytest.mark.parametrize("family", ["full", "window", "multi_edges", "no_edges", "ragged"])
def test_it_is_the_net_on_more_tokens(family):
    graph = SQUARE[family]()
    graph = Disjoint([Full(2), Window(3, 1)]) if family == "ragged" else graph
    layer = MemoryTokens(net(), DIM, COUNT).double()
    tokens = laws.tokens_on(graph, DIM, torch.float64, (2,))
    outputs = []
    for part in tokens.unbatch():
        memory = layer.memory.vectors.expand(2, -1, -1)
        longer = Tokens(torch.cat([memory, part.z], 1), prefixed(part.graph, COUNT))
        outputs.append(layer.layers(longer).z[:, COUNT:])
    out = layer(tokens)
    torch.testing.assert_close(out.z, torch.cat(outputs, 1), **EXACT)
    assert out.graph is graph
    (gradient,) = torch.autograd.grad(out.z.sum(), layer.memory.vectors)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("family", ["full", "cycle", "multi_edges"])
def test_laws(family, law):
    layer = MemoryTokens(net(1), DIM, COUNT).double()
    getattr(laws, law)(layer, laws.tokens_on(SQUARE[family](), DIM, torch.float64))


def test_memory_takes_anything_anywhere_in_two_layers():
    z = torch.randn(9, DIM, dtype=torch.float64, requires_grad=True)
    for count, reaches in ((0, False), (1, True)):
        layer = MemoryTokens(net(), DIM, count).double()
        out = layer(Tokens(z, Window(9, 1))).z
        (gradient,) = torch.autograd.grad(out[0].sum(), z)
        assert (gradient[8].abs().max() > 0) == reaches


def test_causal_graphs_stay_causal_or_are_refused():
    z = torch.randn(6, DIM, dtype=torch.float64, requires_grad=True)
    listed = Edges((Causal(6) & Window(6, 2)).edge_index(), 6)
    for graph in (Causal(6), Causal(6) & Window(6, 2), listed, Disjoint([Full(2), Causal(4)])):
        with pytest.raises(ValueError, match="graph must not be causal where prepended tokens"):
            MemoryTokens(net(), DIM, COUNT).double()(Tokens(z, graph))
    silent = MemoryTokens(net(), DIM, COUNT, attend_to_all=False).double()
    out = silent(Tokens(z, Causal(6))).z
    (gradient,) = torch.autograd.grad(out[2].sum(), z)
    assert gradient[3:].abs().max() == 0
    assert gradient[2].abs().max() > 0


@pytest.mark.parametrize("sizes", [(7,), (1,) * 7, (3, 1, 3)], ids=str)
def test_steps_are_the_whole(sizes):
    layer = MemoryTokens(net(position=Rotary()), DIM, COUNT, attend_to_all=False)
    model = TokenNet([layer]).double()
    z, state, outputs, done = torch.randn(2, 7, DIM).double(), None, [], 0
    for size in sizes:
        new, done = Tokens(z[:, done : done + size]), done + size
        graph = (Causal(done) & Window(done, 2)).last(size)
        out, state = model.step(new, graph, state)
        outputs.append(out.z)
    whole = model(Tokens(z, Causal(7) & Window(7, 2))).z
    torch.testing.assert_close(torch.cat(outputs, 1), whole, **EXACT)
    with pytest.raises(TypeError, match="the memory attends to all"):
        MemoryTokens(net(), DIM, COUNT).step(Tokens(z), Full(7))


def test_positions_are_those_of_the_tokens_and_their_center():
    seen = []

    class Look(TokenLayer):
        def transform(self, tokens):
            seen.append(tokens.pos)
            return tokens

    tokens = [Tokens(torch.zeros(n, DIM), pos=torch.arange(2.0 * n).view(n, 2)) for n in (2, 3)]
    layer = MemoryTokens(Look(), DIM, 1)
    layer(Tokens.batch(tokens))
    assert seen[0][[0, 3]].tolist() == [[1.0, 2.0], [2.0, 3.0]]
    assert torch.equal(seen[0][4:], tokens[1].pos)
    layer(Tokens(torch.zeros(4, DIM), pos=torch.tensor([[0], [1], [2], [4]])))
    assert seen[1].tolist() == [[2], [0], [1], [2], [4]]  # 7 / 4, rounded


def test_layers_that_listen_to_a_source():
    layer = MemoryTokens(CrossAttention(DIM, HEADS), DIM, COUNT)
    z, source = torch.randn(2, 5, DIM), torch.randn(2, 4, DIM)
    model = TokenNet([layer])
    assert model.needs_source
    torch.testing.assert_close(model(z, source), layer.layers(z, source))
    assert model.flops(Tokens(z), source) > layer.layers.flops(Tokens(z), source)


def test_no_sets_and_no_tokens():
    layer = MemoryTokens(net(1), DIM, COUNT)
    assert layer(torch.zeros(0, DIM)).shape == (0, DIM)
    assert layer(Tokens(torch.zeros(0, DIM), Disjoint([]))).z.shape == (0, DIM)


def test_what_does_not_go_together_is_named():
    with pytest.raises(ValueError, match="layers must give tokens: the net has a readout"):
        MemoryTokens(TokenNet([Attention(DIM, HEADS)], MeanReadout(DIM, 2)), DIM, COUNT)
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        MemoryTokens(net(1), DIM, -1)


@pytest.mark.parametrize("family", ["window", "multi_edges", "ragged"])
def test_it_is_tokens_put_before_layers_and_taken_off(family):
    layer = MemoryTokens(net(), DIM, COUNT).double()
    graph = SQUARE[family]()
    graph = Disjoint([Full(2), Window(3, 1)]) if family == "ragged" else graph
    tokens = laws.tokens_on(graph, DIM, torch.float64, (2,))
    one_by_one = TokenNet([layer.memory, layer.layers, layer.drop])
    torch.testing.assert_close(one_by_one(tokens).z, layer(tokens).z, rtol=0, atol=0)


def test_edges_of_the_memory_have_features_of_0():
    attr = torch.randn(3, 3).double()
    graph = Edges(torch.tensor([[0, 1, 2], [1, 2, 0]]), 3, edge_attr=attr)
    layer = MemoryTokens(GraphAttention(DIM, HEADS, edge_dim=3), DIM, COUNT).double()
    z = torch.randn(3, DIM).double()
    by_hand = prefixed(graph.with_edge_attr(None), COUNT)
    assert torch.equal(by_hand.edge_index()[:, :3], graph.edge_index() + COUNT)
    features = torch.cat([attr, torch.zeros(by_hand.num_edges - 3, 3).double()])
    longer = Tokens(torch.cat([layer.memory.vectors, z]), by_hand.with_edge_attr(features))
    torch.testing.assert_close(layer(Tokens(z, graph)).z, layer.layers(longer).z[COUNT:])


@pytest.mark.parametrize("make", [Window, Cycle, lambda n, r: Grid(r, n // r)])
def test_formulas_stay_formulas_with_tokens_before_them(make):
    graph = make(6, 2)
    longer = prefixed(graph, 2, visible_to_all=False)
    assert not longer.is_explicit
    assert without_prefix(longer, 2) is graph
    for count in (1, 4):
        less, left = without_prefix(longer, count), 8 - count
        assert torch.equal(less.dense(), longer.dense()[-left:, -left:])
        assert less.is_explicit == (count == 4 and not isinstance(graph, Window))
    twice = prefixed(longer, 1)
    assert torch.equal(without_prefix(twice, 2).dense(), longer.dense()[1:, 1:])
