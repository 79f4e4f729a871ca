"""The backends for ragged batches and for windows, on graphs large enough for them."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.ops.kinds import gradients, qkv
from tests.oracle import attend_oracle
from tokennet import Causal, Cycle, Disjoint, Edges, Full, Self, Window, attend, explain
from tokennet.ops import BACKENDS, EdgeFeatures, attention_weights

SETS = {
    "in order": lambda: Disjoint([Full(2), Full(2), Full(5)]),
    "out of order": lambda: Disjoint([Full(3), Full(1), Full(4), Full(1), Full(3)]),
    "causal among them": lambda: Disjoint([Causal(3), Full(3), Causal(3), Full(2)]),
    "bipartite": lambda: Disjoint([Full(2, 3), Full(1, 4), Full(2, 3)]),
    "an empty set": lambda: Disjoint([Full(2), Full(0), Full(1)]),
    "targets without sources": lambda: Disjoint([Full(2, 0), Full(3, 2), Full(0, 2)]),
    "all alike": lambda: Disjoint([Full(4)] * 3),
}
BANDS = {
    "window": lambda: Window(70, 5),
    "window of full blocks": lambda: Window(192, 40),
    "one token over": lambda: Window(129, 32),
    "long window": lambda: Window(150, 40),
    "causal": lambda: Causal(75) & Window(75, 9),
    "anticausal": lambda: Causal(75).T & Window(75, 9),
    "self": lambda: Self(70),
    "with holes": lambda: Window(70, 6) & (Cycle(70, 3) | Self(70)),
}
CASES = [("ragged", name, make) for name, make in SETS.items()]
CASES += [("banded", name, make) for name, make in BANDS.items()]
IDS = [f"{backend}-{name}" for backend, name, _ in CASES]


@pytest.mark.parametrize("batch", [(), (2,), (2, 2)], ids=str)
@pytest.mark.parametrize(("backend", "name", "make"), CASES, ids=IDS)
def test_values_and_gradients_are_those_of_the_oracle(backend, name, make, batch):
    graph = make()
    if backend == "banded" and graph.band is None:
        pytest.fail("the graph ought to be a window by its formula")
    q, k, v = qkv(graph, batch)
    expected = attend_oracle(q, k, v, graph)
    out = attend(q, k, v, graph, backend=backend)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-10)
    found = zip(gradients(out, [q, k, v]), gradients(expected, [q, k, v]), strict=True)
    for got, want in found:
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize(
    ("backend", "make"), [("ragged", SETS["causal among them"]), ("banded", lambda: Window(66, 2))]
)
def test_derivatives_of_both_orders(backend, make):
    graph = make()

    def function(q, k, v):
        return attend(q, k, v, graph, backend=backend)

    with sdpa_kernel(SDPBackend.MATH):
        assert gradcheck(function, qkv(graph), fast_mode=True)
        assert gradgradcheck(function, qkv(graph), fast_mode=True)


@pytest.mark.parametrize(
    ("backend", "graph", "bias", "reason"),
    [
        ("ragged", Full(4), None, "the graph is not a ragged batch"),
        ("ragged", Disjoint([Full(2), Window(3, 1)]), None, "not all complete, or causal"),
        ("ragged", Disjoint([Full(2)]), torch.zeros(4, 2), "there is a bias"),
        ("ragged", Disjoint([]), None, "no set has an edge"),
        ("banded", Cycle(70, 2), None, "not a window, by its formula"),
        ("banded", Causal(70), None, "not a window, by its formula"),
        ("banded", Window(20, 2), None, "no longer than one block"),
        ("banded", Window(70, 2), torch.zeros(2, 70, 70), "there is a bias"),
        ("banded", Window(70, 2) & ~Self(70) & Self(70), None, "attends to no other"),
    ],
)
def test_what_they_do_not_support(backend, graph, bias, reason):
    q, k, v = (torch.randn(graph.num_targets, 2, 4) for _ in range(3))
    with pytest.raises(RuntimeError, match=f"backend '{backend}' cannot run this call: .*{reason}"):
        attend(q, k, v, graph, bias, backend=backend)


def test_an_edge_list_that_looks_like_a_window_is_no_window():
    graph = Edges(Window(70, 2).edge_index(), 70)
    q = torch.randn(70, 2, 4)
    prospects = {p.backend: p for p in explain(q, q, q, graph).prospects}
    assert prospects["banded"].reason == "the graph is not a window, by its formula"


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (Window(8, 2), (2, 2)),
        (Causal(8), (7, 0)),
        (Self(8), (0, 0)),
        (Causal(8) & Window(8, 3), (3, 0)),
        (Cycle(8, 1) & Window(8, 3), (3, 3)),
        (Cycle(8, 1), None),
        (Window(8, 1) | Window(8, 2), None),
    ],
)
def test_band(graph, expected):
    assert graph.band == expected
    if expected:
        source, target = graph.edge_index()
        assert (target - source).max() <= expected[0]
        assert (source - target).max() <= expected[1]


def test_every_backend_is_tried_somewhere():
    assert set(BACKENDS) == {"dense", "ragged", "banded", "fused", "sparse", "flex", "reference"}


@pytest.mark.parametrize(
    ("backend", "graph", "shape"),
    [
        ("banded", Window(256, 8), (0, 256, 2, 4)),
        ("ragged", Disjoint([Full(8), Full(8)]), (0, 16, 2, 4)),
        ("ragged", Disjoint([Full(8), Full(8)]), (16, 0, 4)),
    ],
)
def test_batches_of_nothing_and_no_heads(backend, graph, shape):
    q = torch.randn(shape)
    assert attend(q, q, q, graph, backend=backend).shape == shape


def test_a_choice_lists_no_edges_that_a_formula_knows():
    graphs = [Full(600), Window(4096, 512), Disjoint([Full(500)] * 4)]
    for graph in graphs:
        q = torch.randn(graph.num_targets, 2, 4)
        explain(q, q, q, graph)
        attend(q, q, q, graph)
        listed = {"_build_edge_index", "_build_csr"}
        assert not [key for key in graph._cache if key[0].__name__ in listed], graph


def test_kernels_compute_in_float32_under_autocast():
    torch.manual_seed(0)
    graph = Edges(torch.randint(0, 20, (2, 80)), 20)
    q, attr, key = torch.randn(20, 2, 4), torch.randn(80, 3), torch.randn(2, 4, 3)
    edges = EdgeFeatures(attr, key=key, value=key)
    rounded = q.bfloat16().float()
    expected = attend(rounded, rounded, rounded, graph, edges=edges).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(q, q, q, graph, edges=edges, backend="sparse")
        assert torch.equal(out, expected)
        out = attend(q, q, q, graph, edges=edges, backend="fused")  # rounds sums with features
        torch.testing.assert_close(out, expected, rtol=2**-6, atol=2**-7)


def test_weights_do_not_care_how_wide_values_are():
    graph, q = Window(6, 1), torch.randn(6, 2, 4)
    attr = torch.randn(graph.num_edges, 3)
    wide = EdgeFeatures(attr, key=torch.randn(2, 4, 3), value=torch.randn(2, 7, 3))
    weights = attention_weights(q, q, graph, edges=wide)
    assert torch.equal(weights, attention_weights(q, q, graph, edges=EdgeFeatures(attr, wide.key)))
