"""The same weights in other libraries give the same values and gradients, in float32."""

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATv2Conv, GCNConv, SAGEConv, TransformerConv
from torch_geometric.nn.aggr import Set2Set, SortAggregation

from tokennet import Aggregate, Attention, Causal, Edges, Full, GraphAttention, PyGMixer, Tokens

DIM, HEADS = 8, 2
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


def copy_linear(target: nn.Linear, weight, bias) -> None:
    with torch.no_grad():
        target.weight.copy_(weight)
        target.bias.copy_(torch.zeros_like(target.bias) if bias is None else bias)


def compare(ours, theirs, z, pairs):
    """Outputs, and gradients of z and of pairs of parameters, of a common loss."""
    weight = torch.randn(ours.shape)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    mine = torch.autograd.grad((ours * weight).sum(), [z, *(a for a, _ in pairs)])
    other = torch.autograd.grad((theirs * weight).sum(), [z, *(b for _, b in pairs)])
    for got, want in zip(mine, other, strict=True):
        scale = want.abs().max()
        torch.testing.assert_close(got / scale, want.view_as(got) / scale, **TOLERANCE)


@pytest.fixture
def sparse_graph():
    return Edges(torch.randint(0, 20, (2, 90)), 20)


def multihead_pair(causal=False, dim=DIM, num_heads=HEADS):
    ours, theirs = (
        Attention(dim, num_heads),
        nn.MultiheadAttention(dim, num_heads, batch_first=True),
    )
    for linear, weight, bias in zip(
        (ours.query, ours.key, ours.value),
        theirs.in_proj_weight.chunk(3),
        theirs.in_proj_bias.chunk(3),
        strict=True,
    ):
        copy_linear(linear, weight, bias)
    copy_linear(ours.out, theirs.out_proj.weight, theirs.out_proj.bias)
    return ours, theirs


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_torch_multihead_attention(causal):
    ours, theirs = multihead_pair()
    z = torch.randn(2, 20, DIM, requires_grad=True)
    graph = Causal(20) if causal else Full(20)
    mask = ~Causal(20).dense() if causal else None  # nn.MultiheadAttention masks where True
    expected, _ = theirs(z, z, z, attn_mask=mask, need_weights=False)
    pairs = [(ours.out.weight, theirs.out_proj.weight), (ours.out.bias, theirs.out_proj.bias)]
    compare(ours(Tokens(z, graph)).z, expected, z, pairs)
    got = torch.autograd.grad(ours(Tokens(z, graph)).z.square().sum(), ours.value.weight)[0]
    again, _ = theirs(z, z, z, attn_mask=mask, need_weights=False)
    want = torch.autograd.grad(again.square().sum(), theirs.in_proj_weight)[0][-DIM:]
    torch.testing.assert_close(got / want.abs().max(), want / want.abs().max(), **TOLERANCE)


def test_cross_attention_is_torch_multihead_attention():
    ours, theirs = multihead_pair()
    z = torch.randn(2, 5, DIM, requires_grad=True)
    source = torch.randn(2, 9, DIM)
    expected, _ = theirs(z, source, source, need_weights=False)
    compare(ours(z, source=source), expected, z, [(ours.out.weight, theirs.out_proj.weight)])


@pytest.mark.parametrize("backend", ["reference", "sparse", "auto"])
def test_attention_is_pyg_transformer_conv(sparse_graph, backend):
    ours = Attention(DIM, HEADS, backend=backend)
    theirs = TransformerConv(DIM, DIM // HEADS, HEADS, root_weight=False)
    for mine, other in (
        (ours.query, theirs.lin_query),
        (ours.key, theirs.lin_key),
        (ours.value, theirs.lin_value),
    ):
        copy_linear(mine, other.weight, other.bias)
    copy_linear(ours.out, torch.eye(DIM), None)
    z = torch.randn(20, DIM, requires_grad=True)
    pairs = [
        (ours.query.weight, theirs.lin_query.weight),
        (ours.key.weight, theirs.lin_key.weight),
        (ours.value.bias, theirs.lin_value.bias),
    ]
    expected = theirs(z, sparse_graph.edge_index())
    compare(ours(Tokens(z, sparse_graph)).z, expected, z, pairs)


def gat_pair(edge_dim=None):
    ours = GraphAttention(DIM, HEADS, edge_dim=edge_dim)
    theirs = GATv2Conv(DIM, DIM // HEADS, HEADS, add_self_loops=False, edge_dim=edge_dim)
    copy_linear(ours.source, theirs.lin_l.weight, theirs.lin_l.bias)
    copy_linear(ours.target, theirs.lin_r.weight, theirs.lin_r.bias)
    with torch.no_grad():
        ours.attention.copy_(theirs.att[0])
        ours.bias.copy_(theirs.bias.normal_())
        if edge_dim:
            ours.edge.weight.copy_(theirs.lin_edge.weight)
    pairs = [
        (ours.source.weight, theirs.lin_l.weight),
        (ours.target.weight, theirs.lin_r.weight),
        (ours.attention, theirs.att),
        (ours.bias, theirs.bias),
    ]
    return ours, theirs, pairs + ([(ours.edge.weight, theirs.lin_edge.weight)] if edge_dim else [])


def test_graph_attention_is_pyg_gatv2(sparse_graph):
    ours, theirs, pairs = gat_pair()
    z = torch.randn(20, DIM, requires_grad=True)
    compare(ours(Tokens(z, sparse_graph)).z, theirs(z, sparse_graph.edge_index()), z, pairs)


def test_graph_attention_with_edge_features_is_pyg_gatv2(sparse_graph):
    ours, theirs, pairs = gat_pair(edge_dim=3)
    attr = torch.randn(90, 3)
    graph = Edges(sparse_graph.edge_index(), 20, edge_attr=attr)
    z = torch.randn(20, DIM, requires_grad=True)
    compare(ours(Tokens(z, graph)).z, theirs(z, graph.edge_index(), attr), z, pairs)
    with pytest.raises(ValueError, match=r"edge_attr must have shape .* = \(90, 3\), got None"):
        ours(Tokens(z, sparse_graph))


def test_graph_attention_between_two_sets_is_pyg_gatv2():
    ours, theirs, pairs = gat_pair()
    graph = Edges(torch.tensor([[6, 0, 6, 3], [0, 1, 1, 3]]), 4, 7)
    z, source = torch.randn(4, DIM, requires_grad=True), torch.randn(7, DIM)
    expected = theirs((source, z), graph.edge_index())
    compare(ours(z, source=source, graph=graph), expected, z, pairs)


@pytest.mark.parametrize("aggr", ["mean", "sum", "max"])
def test_aggregate_is_pyg_sage_without_root(sparse_graph, aggr):
    ours = Aggregate(DIM, aggr)
    theirs = SAGEConv(DIM, DIM, aggr=aggr, root_weight=False)
    copy_linear(ours.linear, theirs.lin_l.weight, theirs.lin_l.bias)
    z = torch.randn(20, DIM, requires_grad=True)
    pairs = [(ours.linear.weight, theirs.lin_l.weight)]
    compare(ours(Tokens(z, sparse_graph)).z, theirs(z, sparse_graph.edge_index()), z, pairs)


def test_pyg_mixer_is_the_convolution_also_in_a_batch(sparse_graph):
    conv = GCNConv(DIM, DIM)
    z = torch.randn(3, 20, DIM)
    out = PyGMixer(conv)(Tokens(z, sparse_graph)).z
    for number in range(3):
        expected = conv(z[number], sparse_graph.edge_index())
        torch.testing.assert_close(out[number], expected, **TOLERANCE)


def test_pyg_mixer_hands_on_edge_features_and_weights(sparse_graph):
    weight = torch.rand(90)
    graph = Edges(sparse_graph.edge_index(), 20, edge_attr=weight)
    z = torch.randn(2, 20, DIM)
    gcn = GCNConv(DIM, DIM)
    transformer = TransformerConv(DIM, DIM, edge_dim=1)
    weighted, featured = (
        PyGMixer(gcn)(Tokens(z, graph)).z,
        PyGMixer(transformer)(Tokens(z, graph)).z,
    )
    for number in range(2):
        expected = gcn(z[number], graph.edge_index(), weight)
        torch.testing.assert_close(weighted[number], expected, **TOLERANCE)
        expected = transformer(z[number], graph.edge_index(), weight[:, None])
        torch.testing.assert_close(featured[number], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("aggr", ["softmax", "var", "median", Set2Set(DIM, 2), SortAggregation(3)])
def test_aggregations_of_any_width(sparse_graph, aggr):
    assert Aggregate(DIM, aggr)(Tokens(torch.randn(2, 20, DIM), sparse_graph)).z.shape == (
        2,
        20,
        DIM,
    )


@pytest.mark.parametrize("kind", [Attention, GraphAttention])
def test_weights_of_a_call_add_up_to_its_output(kind):
    layer = kind(DIM, HEADS)
    z, source = torch.randn(2, 4, DIM), torch.randn(2, 7, DIM)
    graph = Edges(torch.tensor([[6, 0, 6, 3], [0, 1, 1, 3]]), 4, 7)
    weights = layer.attention_weights(z, source, graph)
    assert weights.shape == (2, 4, HEADS)
    value = (layer.value if kind is Attention else layer.source)(source).unflatten(-1, (HEADS, -1))
    j, i = graph.edge_index()
    out = torch.zeros(2, 4, HEADS, DIM // HEADS).index_add(1, i, weights[..., None] * value[:, j])
    out = layer.out(out.flatten(-2)) if kind is Attention else out.flatten(-2) + layer.bias
    torch.testing.assert_close(out, layer(z, source, graph))


def test_weights_of_graph_attention_are_those_of_gatv2(sparse_graph):
    ours, theirs, _ = gat_pair()
    z = torch.randn(20, DIM)
    _, (_, expected) = theirs(z, sparse_graph.edge_index(), return_attention_weights=True)
    torch.testing.assert_close(ours.attention_weights(z, graph=sparse_graph), expected, **TOLERANCE)
