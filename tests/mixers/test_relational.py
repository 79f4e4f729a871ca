"""Mixers that read types of edges: as PyG's, and as loops over edges."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric.nn import RGCNConv

from tokennet import Attention, Causal, CrossAttention, Disjoint, Edges, Tokens
from tokennet.mixers import RelationalAggregate
from tokennet.positional import ALiBi, T5Bias

DIM, HEADS, TYPES = 8, 2, 4


@pytest.fixture
def graph():
    """Of 4 types, of which the third has no edges; with parallel edges."""
    types = torch.tensor([0, 1, 3])[torch.randint(0, 3, (60,))]
    return Edges(torch.randint(0, 12, (2, 60)), 12, edge_type=types)


def pair(aggr="mean", num_bases=None, source_dim=DIM):
    theirs = RGCNConv(
        (source_dim, DIM), DIM, TYPES, num_bases, aggr={"mean": "mean", "sum": "add"}[aggr]
    )
    ours = RelationalAggregate(DIM, TYPES, aggr, num_bases=num_bases, source_dim=source_dim)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
        ours.root.weight.copy_(theirs.root.T)
        ours.root.bias.copy_(theirs.bias.normal_())
        if num_bases is not None:
            ours.coefficients.copy_(theirs.comp)
    return ours.double(), theirs.double()


@pytest.mark.parametrize("aggr", ["mean", "sum"])
@pytest.mark.parametrize("num_bases", [None, 2])
def test_relational_aggregation_is_pyg_rgcn(graph, aggr, num_bases):
    torch.set_default_dtype(torch.float64)  # in which `RGCNConv` makes its sums
    try:
        ours, theirs = pair(aggr, num_bases)
        z = torch.randn(3, 12, DIM, requires_grad=True)
        out = ours(Tokens(z, graph)).z
        wanted = torch.stack([theirs(each, graph.edge_index(), graph.edge_type) for each in z])
        torch.testing.assert_close(out, wanted)
        weight = torch.randn_like(out)
        mine = torch.autograd.grad((out * weight).sum(), [z, ours.weight, ours.root.weight])
        other = torch.autograd.grad((wanted * weight).sum(), [z, theirs.weight, theirs.root])
        for got, want in zip(mine, (*other[:2], other[2].T), strict=True):
            torch.testing.assert_close(got, want)
    finally:
        torch.set_default_dtype(torch.float32)


def test_relational_aggregation_from_another_set():
    graph = Edges([(4, 0), (4, 0), (0, 2), (1, 2)], 3, 5, edge_type=[1, 1, 0, 3])
    ours, theirs = pair(source_dim=5)
    z, source = torch.randn(3, DIM).double(), torch.randn(5, 5).double()
    wanted = theirs((source, z), graph.edge_index(), graph.edge_type)
    torch.testing.assert_close(ours(z, source=source, graph=graph), wanted)


def test_flops_of_a_relational_aggregation_are_counted(graph):
    layer, tokens = RelationalAggregate(DIM, TYPES), Tokens(torch.randn(12, DIM), graph)
    with FlopCounterMode(display=False) as counter:
        layer(tokens)
    assert layer.flops(tokens) == counter.get_total_flops() + 60 * DIM


@pytest.mark.parametrize("position", [None, ALiBi(HEADS), T5Bias(HEADS)], ids=str)
@pytest.mark.parametrize("score", [None, "additive"])
def test_attention_with_a_bias_of_types_is_loops_over_edges(graph, position, score):
    layer = Attention(DIM, HEADS, num_edge_types=TYPES, position=position, score=score).double()
    plain = Attention(DIM, HEADS, position=position, score=score).double()
    torch.nn.init.normal_(layer.type_bias)
    missing = plain.load_state_dict(layer.state_dict(), strict=False)
    assert missing == ([], ["type_bias"])
    tokens = Tokens(torch.randn(2, 12, DIM).double(), graph)
    weights = plain.attention_weights(tokens)  # (2, E, H), without the bias of types
    weights = weights * layer.type_bias[graph.edge_type].exp()
    value = layer.values(tokens.z)  # (2, N, H, C)
    out = torch.zeros_like(value)
    for target in range(12):
        mine = [e for e, i in enumerate(graph.edge_index()[1].tolist()) if i == target]
        total = weights[:, mine].sum(1, keepdim=True)
        for e in mine:
            share = weights[:, e] / total[:, 0]
            out[:, target] += share[..., None] * value[:, graph.edge_index()[0, e]]
            torch.testing.assert_close(layer.attention_weights(tokens)[:, e], share)
    torch.testing.assert_close(layer(tokens).z, layer.out(out.flatten(-2)))


def test_the_bias_of_types_is_learned_and_stepped(graph):
    layer = Attention(DIM, HEADS, num_edge_types=TYPES)
    layer(Tokens(torch.randn(12, DIM), graph)).z.square().sum().backward()
    used = layer.type_bias.grad.abs().sum(1) > 0
    assert used.tolist() == [True, True, False, True]
    causal = graph & Causal(12)
    z, state, steps = torch.randn(12, DIM), None, []
    for n in range(1, 13):
        sofar = causal.subgraph(range(n)).last(1)
        out, state = layer.step(Tokens(z[n - 1 : n]), sofar, state)
        steps.append(out.z)
    torch.testing.assert_close(torch.cat(steps), layer(Tokens(z, causal)).z)
    between = Edges([(0, 1), (2, 1)], 2, 3, edge_type=[2, 0])
    cross = CrossAttention(DIM, HEADS, num_edge_types=TYPES)
    assert cross(torch.randn(2, DIM), torch.randn(3, DIM), between).shape == (2, DIM)


@pytest.mark.parametrize(
    "layer", [RelationalAggregate(DIM, 2), Attention(DIM, HEADS, num_edge_types=2)]
)
def test_other_types_than_there_are_matrices_for_are_refused(layer, graph):
    for other, got in [
        (graph, "up to 3"),
        (graph.with_edge_type(None), "none"),
        (Disjoint([graph, graph]), "up to 3"),
    ]:
        message = rf"graph must be one with edge_type 0 .. 1 \(num_edge_types\).*got {got} on "
        with pytest.raises(ValueError, match=message):
            layer(Tokens(torch.randn(other.num_targets, DIM), other))
    with pytest.raises(ValueError, match="got none on Full"):
        layer(torch.randn(12, DIM))


def test_bad_numbers_of_types_are_named(graph):
    for make in (
        lambda: RelationalAggregate(DIM, 0),
        lambda: Attention(DIM, HEADS, num_edge_types=0),
    ):
        with pytest.raises(ValueError, match="num_edge_types must be at least 1, got 0"):
            make()
    with pytest.raises(ValueError, match="num_bases must be at least 1, got 0"):
        RelationalAggregate(DIM, 2, num_bases=0)
    with pytest.raises(ValueError, match="aggr must be one of"):
        RelationalAggregate(DIM, 2, "max")
    layer = Attention(DIM, HEADS, num_edge_types=TYPES, position=ALiBi(HEADS, by="pos"))
    tokens = Tokens(torch.randn(2, 12, DIM), graph, torch.randn(2, 12, 1))
    with pytest.raises(ValueError, match="go together only where all sets of a batch share"):
        layer(tokens)
