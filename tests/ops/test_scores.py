"""Additive scores and features of edges: against loops over targets, and against layers of PyG."""

import functools

import pytest
import torch
from torch_geometric.nn import GATv2Conv, TransformerConv

from tests.contracts.backends import NAMES, attempt
from tests.ops.kinds import FAMILIES, assert_all_close, call, derivatives, make_inputs
from tests.oracle import attend_oracle
from tokennet import Attention, Causal, Edges, Full, GraphAttention, Tokens, Window, attend
from tokennet.ops import Additive, EdgeFeatures, attention_weights
from tokennet.ops import edge_products as edge_attention

EXACT = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture(params=NAMES)
def backend(request):
    """Each that knows additive scores and features of edges."""
    inputs = make_inputs("additive_edges", Full(2))
    run = functools.partial(call, "additive_edges", inputs, Full(2), backend=request.param)
    if attempt(request.param, run)[0] is None:
        pytest.skip("it knows dot products only")
    return request.param


@pytest.mark.parametrize("backend", ["fused", "sparse"])
@pytest.mark.parametrize("kind", ["edge_both", "additive_edges"])
def test_a_single_input_may_need_a_gradient(kind, backend):
    graph = FAMILIES["multi_edges"]()
    inputs = make_inputs(kind, graph, (2,))
    firsts = derivatives(call(kind, inputs, graph, backend="reference"), inputs)
    for first, name in zip(firsts, inputs, strict=True):
        alone = {other: tensor.detach() for other, tensor in inputs.items()}
        leaf = {name: alone[name].requires_grad_()}
        got = derivatives(call(kind, alone, graph, backend=backend), leaf, order=2)
        want = derivatives(call(kind, alone, graph, backend="reference"), leaf, order=2)
        assert_all_close(got, want, **EXACT)
        torch.testing.assert_close(got[0], first, **EXACT)


@pytest.mark.parametrize("negative_slope", [0, 1, -0.5, 0.2])
def test_negative_slopes_and_scales(negative_slope, backend):
    graph = Window(6, 1)
    inputs = make_inputs("additive", graph)
    inputs["k"].data[2] = -inputs["q"].data[2]  # within the LeakyReLU exactly 0
    q, k, v, weight = inputs.values()
    score = Additive(weight, negative_slope)
    for scale in (None, 0.7, -1):
        expected = attend_oracle(q, k, v, graph, score=score, scale=scale)
        out = attend(q, k, v, graph, score=score, scale=scale, backend=backend)
        torch.testing.assert_close(out, expected, **EXACT)
        assert_all_close(derivatives(out, inputs), derivatives(expected, inputs), **EXACT)


def test_additive_scores_are_walked_in_parts_with_the_same_derivatives(monkeypatch):
    """What is computed for some edges at a time, with 3 edges at a time."""
    graph = FAMILIES["edges"]()
    inputs = make_inputs("additive_edges", graph, (2,))
    expected = call("additive_edges", inputs, graph, backend="reference")
    wanted = derivatives(expected, inputs, order=2)
    monkeypatch.setattr(edge_attention, "_EDGES_AT_ONCE", 3)
    for backend in ("sparse", "fused"):  # fused: in its second derivative
        out = call("additive_edges", inputs, graph, backend=backend)
        torch.testing.assert_close(out, expected, **EXACT)
        assert_all_close(derivatives(out, inputs, order=2), wanted, **EXACT)


@pytest.mark.parametrize("kind", ["edge_key", "additive", "additive_edges"])
@pytest.mark.parametrize("family", ["multi_edges", "bipartite_mask", "ragged"])
def test_weights_give_the_output(family, kind):
    graph = FAMILIES[family]()
    inputs = make_inputs(kind, graph, (2,))

    def weights(q, k, v, *rest, **options):
        return attention_weights(q, k, *rest, **options)

    p = call(kind, inputs, graph, weights)
    source, target = graph.edge_index()
    out = torch.zeros(2, graph.num_targets, 2, 4, dtype=torch.float64)
    out = out.index_add(1, target, p[..., None] * inputs["v"][:, source])
    expected = call(kind, inputs, graph, backend="reference")
    torch.testing.assert_close(out, expected, **EXACT)
    assert_all_close(derivatives(out, inputs), derivatives(expected, inputs), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["edge_both", "additive_edges"])
def test_smaller_types_come_back_in_kind_and_close(kind, backend, dtype):
    graph = Window(9, 2)
    inputs = make_inputs(kind, graph, dtype=dtype)
    wide = {name: tensor.detach().double() for name, tensor in inputs.items()}
    exact = call(kind, wide, graph, attend_oracle)
    out = call(kind, inputs, graph, backend=backend)
    assert out.dtype == dtype
    # Scores of size 10 are rounded to eps of themselves, and weights are off by as much.
    assert (out.double() - exact).abs().max() < 32 * torch.finfo(dtype).eps * exact.abs().max()
    for tensor, gradient in zip(inputs.values(), derivatives(out, inputs), strict=True):
        assert gradient.dtype == dtype
        assert gradient.shape == tensor.shape
        assert gradient.isfinite().all()


def copy(mine: torch.nn.Linear, other: torch.nn.Linear) -> list:
    """Give `mine` the weights of `other`; the pairs whose gradients are to be equal."""
    mine.load_state_dict(other.state_dict())
    return list(zip(mine.parameters(), other.parameters(), strict=True))


def compare(ours, theirs, pairs):
    torch.testing.assert_close(ours, theirs, **EXACT)
    mine, other = ({str(n): pair[side] for n, pair in enumerate(pairs)} for side in (0, 1))
    wanted = [x.view_as(y) for x, y in zip(derivatives(theirs, other), mine.values(), strict=True)]
    assert_all_close(derivatives(ours, mine), wanted, **EXACT)


def graph_with_features() -> tuple[Edges, torch.Tensor]:
    """With parallel edges and self-loops, and the tensor of features to differentiate by."""
    attr = torch.randn(90, 3, dtype=torch.float64, requires_grad=True)
    return Edges(torch.randint(0, 20, (2, 90)), 20, edge_attr=attr), attr


def test_attention_with_edge_features_is_pyg_transformer_conv(backend):
    graph, attr = graph_with_features()
    ours = Attention(8, 2, edge_dim=3, backend=backend).double()
    theirs = TransformerConv(8, 4, 2, edge_dim=3, root_weight=False).double()
    ours.out = torch.nn.Identity()
    z = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    pairs = [(z, z), (attr, attr)]
    for mine, other in (
        (ours.query, theirs.lin_query), (ours.key, theirs.lin_key),
        (ours.value, theirs.lin_value), (ours.edge, theirs.lin_edge),
    ):  # fmt: skip
        pairs += copy(mine, other)
    compare(ours(Tokens(z, graph)).z, theirs(z, graph.edge_index(), attr), pairs)


def test_graph_attention_with_edge_features_is_pyg_gatv2(backend):
    graph, attr = graph_with_features()
    ours = GraphAttention(8, 2, edge_dim=3, backend=backend).double()
    theirs = GATv2Conv(8, 4, 2, add_self_loops=False, edge_dim=3).double()
    z = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    pairs = [(z, z), (attr, attr), (ours.attention, theirs.att), (ours.bias, theirs.bias)]
    with torch.no_grad():
        ours.attention.copy_(theirs.att[0])
        ours.bias.copy_(theirs.bias.normal_())
    for mine, other in (
        (ours.source, theirs.lin_l), (ours.target, theirs.lin_r), (ours.edge, theirs.lin_edge),
    ):  # fmt: skip
        pairs += copy(mine, other)
    compare(ours(Tokens(z, graph)).z, theirs(z, graph.edge_index(), attr), pairs)


def test_features_that_enter_nowhere_change_nothing(backend):
    q, k, v = make_inputs("dot", Full(4)).values()
    edges = EdgeFeatures(torch.randn(16, 2, dtype=torch.float64))
    for score in (None, Additive(torch.ones(2, 3, dtype=torch.float64))):
        plain = attend(q, k, v, Full(4), score=score, backend=backend)
        out = attend(q, k, v, Full(4), score=score, edges=edges, backend=backend)
        assert out.equal(plain)


def edges(**change):
    """Features that fit `Causal(3)`, 2 heads, 4 channels and 5 values, but for one."""
    good = {"attr": torch.ones(6, 3), "key": torch.ones(2, 4, 3), "value": torch.ones(2, 5, 3)}
    return {"edges": EdgeFeatures(**{**good, **change})}


def weight(*shape, **options):
    return {"score": Additive(torch.ones(*shape, **options))}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"score": "additive"}, TypeError, "score must be Additive or None, got str"),
        ({"score": Additive([1.0])}, TypeError, "score.weight must be a tensor, got list"),
        (weight(4, 2), ValueError, r"score.weight .* shape \(H, C\) = \(2, 4\), got .*\(4, 2\)"),
        (weight(2, 4, dtype=torch.long), ValueError, "score.weight must be floating.*int64"),
        (weight(2, 4, device="meta"), ValueError, "score.weight .* device of q, cpu, got meta"),
        ({"edges": torch.ones(6, 3)}, TypeError, "edges must be EdgeFeatures or None, got Tensor"),
        (edges(attr=[1.0]), TypeError, "edges.attr must be a tensor, got list"),
        (edges(attr=torch.ones(6)), ValueError, r"edges.attr .* shape \(E, D\), got \(6,\)"),
        (edges(attr=torch.ones(5, 3)), ValueError,
         r"edges.attr must .* shape \(E, D\) = \(6, 3\), got torch.float32 of shape \(5, 3\)"),
        (edges(attr=torch.ones(6, 3).int()), ValueError, "edges.attr must be floating.*int32"),
        (edges(attr=torch.ones(6, 3, device="meta")), ValueError, "edges.attr .* q, cpu, got meta"),
        (edges(key=1), TypeError, "edges.key must be a tensor, got int"),
        (edges(key=torch.ones(2, 5, 3)), ValueError,
         r"edges.key must .* shape \(H, C, D\) = \(2, 4, 3\), got .* \(2, 5, 3\)"),
        (edges(value=torch.ones(2, 4, 3)), ValueError,
         r"edges.value must .* = \(2, 5, 3\), got .* \(2, 4, 3\)"),
        (edges(value=torch.ones(2, 5, 3, device="meta")), ValueError, "edges.value .* got meta"),
        ({**weight(2, 4), **edges()}, ValueError,
         "edges.value must be None where the score is additive"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(options, error, message):
    q, v = torch.ones(3, 2, 4), torch.ones(3, 2, 5)
    with pytest.raises(error, match=message):
        attend(q, q, v, Causal(3), **options)
