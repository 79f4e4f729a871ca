"""Which backend is taken, how that is explained, and what is refused."""

import pytest
import torch

from tests.conftest import DEVICES
from tokennet import Causal, Edges, Full, Grid, Window, attend, explain
from tokennet.ops import BACKENDS, Softmax
from tokennet.ops.edge_plans import edge_plan
from tokennet.ops.edge_products import edge_combine, edge_dot, edge_softmax, edge_sum


def qkv(n, m=None, num_heads=2, channels=4):
    return [torch.randn(size, num_heads, channels) for size in (n, m or n, m or n)]


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (Full(256), "dense"),
        (Causal(256), "dense"),
        (Full(64, 1024), "dense"),
        (Window(4096, 8), "fused"),
        (Grid(48, 48), "fused"),
        (Grid(4, 4), "dense"),
    ],
)
def test_auto_takes_what_is_cheap(graph, expected):
    q, k, v = qkv(graph.num_targets, graph.num_sources)
    assert explain(q, k, v, graph).chosen == expected


def test_auto_never_needs_the_reference_on_a_cpu_or_gpu():
    graph = Edges(torch.tensor([[0, 0, 1], [1, 1, 0]]), 2)
    assert explain(*qkv(2), graph).chosen == "fused"


def test_explain_shows_every_backend_with_its_cost_or_a_reason():
    graph = Edges(torch.tensor([[0, 0, 1], [1, 1, 0]]), 2)
    explanation = explain(*qkv(2), graph)
    assert [prospect.backend for prospect in explanation.prospects] == list(BACKENDS)
    text = str(explanation)
    assert "fused: the least predicted time of fused, sparse" in text
    assert "-> fused" in text
    assert "dense      the graph has parallel edges, which a mask cannot hold" in text
    able = [prospect for prospect in explanation.prospects if prospect.reason is None]
    assert [prospect.backend for prospect in able] == ["fused", "sparse", "reference"]
    for prospect in able:
        assert prospect.work.bytes > 0 < prospect.work.flops == 2 * 3 * 2 * (4 + 4)
        assert 0 < prospect.seconds < 1
        assert f"{1e3 * prospect.seconds:,.3f} ms" in text
    for prospect in explanation.prospects:
        assert (prospect.work is None) == (prospect.reason is not None)


def test_explain_says_why_where_there_was_no_choice():
    q = torch.randn(8, 2, 4)
    assert explain(q, q, q, Full(8)).why.startswith("the graph is complete or causal")
    assert explain(q, q, q, Full(8), backend="sparse").why == "you named it"
    with torch.no_grad():
        assert explain(q, q, q, Window(8, 1), backend="flex").chosen == "flex"


def test_a_grid_is_no_window_though_its_edges_lie_in_a_band():
    """Most pairs of the band are none of its edges."""
    assert Grid(30, 30).band == (31, 31)
    with pytest.raises(RuntimeError, match="'banded' .* the graph is not a window"):
        attend(*qkv(900), Grid(30, 30), backend="banded")


def test_a_named_backend_never_falls_back():
    multi = Edges(torch.tensor([[0, 0], [1, 1]]), 2)
    with pytest.raises(RuntimeError, match="backend 'dense' cannot run this call: .* parallel"):
        attend(*qkv(2), multi, backend="dense")
    with pytest.raises(RuntimeError, match="'dense' cannot .* mask would have 400,000,000 entries"):
        attend(*qkv(20_000, num_heads=1, channels=1), Window(20_000, 1), backend="dense")


def good():
    return {**dict(zip("qkv", qkv(3), strict=True)), "graph": Causal(3)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"backend": "magic"}, ValueError, "backend must be one of auto, dense, .* got 'magic'"),
        ({"q": torch.zeros(4, 2, 4)}, ValueError, r"q has 4 tokens, the graph 3: Causal\(3\)"),
        ({"k": torch.zeros(4, 2, 4)}, ValueError, "k has 4 tokens, the graph 3"),
        ({"v": torch.zeros(2, 2, 4)}, ValueError, "v has 2 tokens, the graph 3"),
        ({"k": torch.zeros(3, 3, 4)}, ValueError, "k must have the 2 heads of q, or .* got 3"),
        ({"k": torch.zeros(3, 0, 4)}, ValueError, "k must have the 2 heads of q, or .* got 0"),
        ({"k": torch.zeros(3, 1, 4)}, ValueError, "v must have the 1 heads of k, got 2"),
        ({"softmax": 0.1}, TypeError, "softmax must be Softmax or None, got float"),
        (
            {"softmax": Softmax(sinks=torch.zeros(3))},
            ValueError,
            r"softmax.sinks must be .* of shape \(H,\) = \(2,\), got .*\(3,\)",
        ),
        ({"k": torch.zeros(3, 2, 5)}, ValueError, "k must have the 4 channels of q, got 5"),
        ({"q": torch.zeros(3, 4)}, ValueError, r"q must be .* shape \(\.\.\., tokens, heads"),
        ({"q": torch.zeros(3, 2, 4).long()}, ValueError, "q must be floating-point"),
        ({"q": [1.0]}, TypeError, "q must be a tensor, got list"),
        ({"v": torch.zeros(3, 2, 4).double()}, ValueError, "v must have the dtype and device"),
        ({"k": torch.zeros(3, 2, 4, device="meta")}, ValueError, "device of q, .* got .* on meta"),
        ({"graph": torch.ones(3, 3)}, TypeError, "graph must be a TokenGraph, got Tensor"),
        ({"graph": Full(4)}, ValueError, "q has 3 tokens, the graph 4"),
        ({"bias": torch.zeros(5, 2)}, ValueError, r"shape \(E, H\) = \(6, 2\), got \(5, 2\)"),
        ({"bias": torch.zeros(3, 3, 3)}, ValueError, r"broadcast to .* = \(2, 3, 3\), got"),
        ({"bias": torch.zeros(6)}, ValueError, "bias must have shape"),
        ({"bias": "alibi"}, TypeError, "bias must be a tensor, a function or None, got str"),
        ({"bias": torch.ones(6, 2).bool()}, TypeError, "got torch.bool; a boolean mask is a graph"),
        ({"bias": lambda h, i, j: i >= j}, TypeError, "function to numbers .* got torch.bool"),
        ({"bias": lambda h, i, j: 0.5}, TypeError, "function to numbers in a tensor, got float"),
        ({"scale": torch.tensor(2.0)}, TypeError, "scale must be a number or None, got Tensor"),
        ({"bias": torch.zeros(6, 2, device="meta")}, ValueError, "bias must be on the device of q"),
        ({"q": torch.zeros(3, 2, 0)}, ValueError, "q must have at least one channel"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        attend(**{**good(), **change})


@pytest.mark.parametrize("device", DEVICES)
def test_edge_operators_pass_opcheck(device):
    graph = Edges(torch.tensor([[0, 1, 1, 3, 3], [2, 2, 2, 0, 1]]), 3, 4)
    plan = edge_plan(graph, torch.device(device))
    x = torch.randn(3, 2, 5, device=device, requires_grad=True)
    y = torch.randn(4, 2, 5, device=device, requires_grad=True)
    weights = torch.randn(2, 5, device=device, requires_grad=True)
    ops = torch.ops.tokennet
    torch.library.opcheck(ops.edge_dot.default, (x, y, 0.5, *plan))
    torch.library.opcheck(ops.edge_combine.default, (weights, y, 0.5, False, *plan))
    torch.library.opcheck(ops.edge_combine.default, (weights, x, 0.5, True, *plan))
    torch.library.opcheck(ops.edge_softmax.default, (weights, *plan))
    torch.library.opcheck(ops.edge_softmax_backward.default, (weights, x.new_ones(2, 5), *plan))


def test_edge_operators_by_hand():
    graph = Edges(torch.tensor([[1, 0, 1], [0, 1, 1]]), 2)
    plan = edge_plan(graph, torch.device("cpu"))
    x = torch.tensor([[[1.0, 0.0]], [[2.0, 3.0]]])
    y = torch.tensor([[[1.0, 1.0]], [[10.0, 100.0]]])
    assert edge_dot(x, y, plan).tolist() == [[10.0, 5.0, 320.0]]
    combined = edge_combine(torch.tensor([[2.0, 3.0, 1.0]]), y, plan)
    assert combined.tolist() == [[[20.0, 200.0]], [[13.0, 103.0]]]
    assert edge_softmax(torch.zeros(1, 3), plan).tolist() == [[1.0, 0.5, 0.5]]
    assert edge_sum(torch.tensor([[1.0, 2.0, 4.0]]), plan).tolist() == [[1.0, 6.0]]


def test_sparse_gradients_never_allocate_an_array_of_all_pairs():
    """20,000 tokens: all pairs in float32 would take 1.6 GB, the edges take a few MB."""
    n = 20_000
    graph = Window(n, 2)
    q, k, v = (torch.randn(n, 1, 4, requires_grad=True) for _ in range(3))
    attend(q, k, v, graph, backend="sparse").sum().backward()
    with torch.profiler.profile(profile_memory=True) as profile:
        attend(q, k, v, graph, backend="sparse").sum().backward()
    largest = max(abs(event.cpu_memory_usage) for event in profile.events())
    assert 0 < largest < 20 * 4 * n * 5
