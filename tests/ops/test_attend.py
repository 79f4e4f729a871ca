"""Every backend against loops over targets: values and gradients, on every graph family."""

import math

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.conftest import DEVICES
from tests.families import BIPARTITE, SQUARE
from tests.oracle import attend_oracle
from tokennet import Causal, Disjoint, Edges, Full, Window, attend, from_networkx
from tokennet.ops import attention_weights
from tokennet.testing.strategies import listed_graphs

FAMILIES = {**SQUARE, **{f"bipartite_{name}": make for name, make in BIPARTITE.items()}}
HEADS, CHANNELS, VALUES = 2, 3, 4
BATCHES = {"one": (), "batch": (2,), "two_batches": (2, 2)}


def slope(h, i, j):
    return 0.3 * (h + 1) * (i - j)


def qkv(graph, batch=(), device="cpu", dtype=torch.float64):
    shapes = (
        (graph.num_targets, CHANNELS),
        (graph.num_sources, CHANNELS),
        (graph.num_sources, VALUES),
    )
    return [
        torch.randn(*batch, n, HEADS, c, dtype=dtype, device=device, requires_grad=True)
        for n, c in shapes
    ]


def make_bias(kind, graph, batch=(), device="cpu"):
    n, m = graph.num_targets, graph.num_sources
    shapes = {"edge": (graph.num_edges, HEADS), "pairs": (*batch, HEADS, n, m), "shared": (1, n, m)}
    if kind in shapes:
        return torch.randn(shapes[kind], dtype=torch.float64, device=device, requires_grad=True)
    return {"none": None, "function": slope}[kind]


def gradients(out, inputs):
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device)
    loss = (out * weight.view_as(out)).sum()
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    # Where nothing depends on an input, autograd may say None instead of 0.
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def run_or_reason(backend, *args, **options):
    """The backend's result, or the reason it states for declining; nothing else may happen."""
    try:
        return attend(*args, backend=backend, **options), None
    except RuntimeError as error:
        assert f"backend '{backend}' cannot run this call: " in str(error)
        return None, str(error)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["none", "edge", "pairs", "shared", "function"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_the_oracle(family, batch, kind, device):
    graph = FAMILIES[family]()
    q, k, v = qkv(graph, batch, device)
    bias = make_bias(kind, graph, batch, device)
    inputs = [q, k, v, *([bias] if isinstance(bias, torch.Tensor) else [])]
    expected = attend_oracle(q, k, v, graph, bias)
    slopes = gradients(expected, inputs)
    for backend in ("reference", "dense", "ragged", "banded", "fused", "sparse", "auto"):
        out, reason = run_or_reason(backend, q, k, v, graph, bias)
        if reason:
            assert backend in ("ragged", "banded") or (backend, graph.has_multi_edges) == (
                "dense",
                True,
            )
            continue
        torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-10)
        for got, want in zip(gradients(out, inputs), slopes, strict=True):
            torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("kind", ["none", "edge", "pairs", "shared", "function"])
@pytest.mark.parametrize("family", FAMILIES)
def test_flex_gives_the_values_of_the_oracle_or_says_why_not(family, kind):
    graph = FAMILIES[family]()
    q, k, v = qkv(graph, (2,))
    bias = make_bias(kind, graph, (2,))
    with torch.no_grad():
        out, reason = run_or_reason("flex", q, k, v, graph, bias)
        if reason:
            assert graph.has_multi_edges or 0 in (graph.num_targets, graph.num_sources)
        else:
            expected = attend_oracle(q, k, v, graph, bias)
            torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-10)


def test_flex_states_its_limits_on_a_cpu():
    q, k, v = qkv(Full(4))
    with pytest.raises(RuntimeError, match="FlexAttention has no backward on a CPU"):
        attend(q, k, v, Full(4), backend="flex")


@given(graph=listed_graphs(), seed=st.integers(0, 1000), biased=st.booleans())
@settings(max_examples=120, deadline=None)
def test_any_listed_graph(graph, seed, biased):
    torch.manual_seed(seed)
    q, k, v = qkv(graph, (2,))
    bias = make_bias("edge" if biased else "none", graph)
    inputs = [q, k, v, *([bias] if biased else [])]
    expected = attend_oracle(q, k, v, graph, bias)
    slopes = gradients(expected, inputs)
    for backend in ("reference", "fused", "sparse", "auto"):
        out = attend(q, k, v, graph, bias, backend=backend)
        torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-10)
        for got, want in zip(gradients(out, inputs), slopes, strict=True):
            torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)


ATLAS = [from_networkx(graph) for graph in nx.graph_atlas_g()]


def test_the_whole_atlas_of_graphs_on_every_backend():
    """All 1,253 graphs of up to 7 nodes, one by one and in ragged batches."""
    assert len(ATLAS) == 1253
    compared = dict.fromkeys(("reference", "dense", "fused", "sparse", "flex"), 0)
    for start in range(0, len(ATLAS), 50):
        part = ATLAS[start : start + 50]
        ragged = Disjoint(part)
        q, k, v = qkv(ragged)
        expected = attend_oracle(q, k, v, ragged)
        slopes = gradients(expected, [q, k, v])
        for backend in ("reference", "dense", "fused", "sparse"):
            out = attend(q, k, v, ragged, backend=backend)
            torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-10)
            for got, want in zip(gradients(out, [q, k, v]), slopes, strict=True):
                torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)
        with torch.no_grad():
            torch.testing.assert_close(attend(q, k, v, ragged, backend="flex"), expected)
            compared["flex"] += len(part)
            rows = torch.arange(ragged.num_targets).split(ragged.sizes)
            for graph, row in zip(part, rows, strict=True):
                for backend in ("reference", "dense", "fused", "sparse"):
                    out = attend(q[row], k[row], v[row], graph, backend=backend)
                    torch.testing.assert_close(out, expected[row], atol=1e-12, rtol=1e-10)
                    compared[backend] += 1
    assert compared == dict.fromkeys(compared, 1253)


@pytest.mark.parametrize("backend", ["reference", "dense", "fused", "sparse"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradcheck_on_every_family(backend, family):
    graph = FAMILIES[family]()
    if backend == "dense" and graph.has_multi_edges:
        backend = "auto"
    inputs = (*qkv(graph), make_bias("edge", graph))

    def function(q, k, v, bias):
        return attend(q, k, v, graph, bias, backend=backend)

    assert gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("backend", ["reference", "dense", "fused", "sparse"])
@pytest.mark.parametrize("family", ["causal", "mask", "ragged", "bipartite_mask", "full"])
def test_gradcheck_and_gradgradcheck(backend, family):
    graph = FAMILIES[family]()
    inputs = (*qkv(graph), make_bias("pairs", graph))

    def function(q, k, v, bias):
        return attend(q, k, v, graph, bias, backend=backend)

    # Fused SDPA on a CPU has no second derivative; the plain kernel has.
    with sdpa_kernel(SDPBackend.MATH):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("backend", ["reference", "dense", "fused", "sparse"])
@pytest.mark.parametrize("kind", ["edge", "pairs"])
def test_a_row_of_minus_infinity_gets_zero_and_finite_gradients(backend, kind):
    graph = Causal(4)
    q, k, v = qkv(graph)
    bias = torch.zeros(graph.num_edges, HEADS) if kind == "edge" else torch.zeros(HEADS, 4, 4)
    with torch.no_grad():
        if kind == "edge":
            bias[graph.edge_index()[1] == 2] = -math.inf
            bias[0, 0] = -math.inf  # target 0, head 0: its only edge
        else:
            bias[:, 2] = -math.inf
            bias[0, 0] = -math.inf
    bias = bias.double().requires_grad_()
    out = attend(q, k, v, graph, bias, backend=backend)
    assert (out[2] == 0).all()
    assert (out[0, 0] == 0).all()
    assert (out[0, 1] != 0).any()
    for gradient in gradients(out, [q, k, v, bias]):
        assert gradient.isfinite().all()
    torch.testing.assert_close(out, attend_oracle(q, k, v, graph, bias))


@pytest.mark.parametrize("backend", ["reference", "dense", "fused", "sparse"])
def test_who_has_no_neighbors_gets_exactly_zero(backend):
    graph = Edges(torch.tensor([[0, 1], [1, 1]]), 3)
    q, k, v = qkv(graph)
    out = attend(q, k, v, graph, backend=backend)
    assert (out[[0, 2]] == 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients(out, [q, k, v]))


@pytest.mark.parametrize("backend", ["reference", "dense", "fused", "sparse"])
def test_huge_scores_do_not_overflow(backend):
    graph = Causal(5)
    q, k, v = (tensor.detach() * 1e3 for tensor in qkv(graph, dtype=torch.float32))
    out = attend(q, k, v, graph, backend=backend)
    torch.testing.assert_close(out, attend_oracle(q, k, v, graph), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["reference", "dense", "fused", "sparse"])
def test_smaller_types_come_back_in_kind_and_near(backend, dtype):
    graph = Window(9, 2)
    q, k, v = qkv(graph, (2,), dtype=dtype)
    out = attend(q, k, v, graph, backend=backend)
    assert out.dtype == dtype
    exact = attend_oracle(q.double(), k.double(), v.double(), graph)
    assert (out.double() - exact).abs().max() < 8 * torch.finfo(dtype).eps * v.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_come_in_the_callers_edge_order_and_give_the_output(family):
    graph = FAMILIES[family]()
    q, k, v = qkv(graph, (2,))
    bias = make_bias("edge", graph)
    weights = attention_weights(q, k, graph, bias)
    assert weights.shape == (2, graph.num_edges, HEADS)
    source, target = graph.edge_index()
    messages = weights[..., None] * v[:, source]
    out = torch.zeros(2, graph.num_targets, HEADS, VALUES, dtype=torch.float64)
    out = out.index_add(1, target, messages)
    torch.testing.assert_close(out, attend_oracle(q, k, v, graph, bias))


def test_weights_are_differentiable():
    graph = SQUARE["edges"]()
    q, k, _ = qkv(graph)
    assert gradcheck(lambda q, k: attention_weights(q, k, graph), (q, k))


def test_leading_dimensions_broadcast():
    graph = Full(3, 5)
    q = torch.randn(3, HEADS, CHANNELS, dtype=torch.float64)
    k = torch.randn(2, 4, 5, HEADS, CHANNELS, dtype=torch.float64)
    out = attend(q, k, k, graph)
    assert out.shape == (2, 4, 3, HEADS, CHANNELS)
    torch.testing.assert_close(out, attend_oracle(q, k, k, graph))


@pytest.mark.parametrize("backend", ["reference", "dense", "fused", "sparse"])
def test_memory_layout_does_not_matter(backend):
    graph = Window(5, 1)
    q, k, v = (torch.randn(HEADS, 4, 5, dtype=torch.float64).permute(2, 0, 1) for _ in range(3))
    expected = attend(q.contiguous(), k.contiguous(), v.contiguous(), graph, backend=backend)
    torch.testing.assert_close(attend(q, k, v, graph, backend=backend), expected)


def test_forward_mode_is_right_or_refused():
    graph = Window(6, 1)
    q, t = torch.randn(2, 6, HEADS, CHANNELS, dtype=torch.float64)
    step = 1e-6

    def function(q, backend="auto"):
        return attend(q, q, q, graph, backend=backend)

    _, tangent = torch.func.jvp(function, (q,), (t,))
    difference = (function(q + step * t) - function(q - step * t)) / (2 * step)
    torch.testing.assert_close(tangent, difference, atol=1e-7, rtol=1e-6)
    for backend in ("fused", "sparse", "dense", "flex"):
        with pytest.raises(RuntimeError, match="forward-mode derivative"):
            torch.func.jvp(lambda q, b=backend: function(q, b), (q,), (t,))
    with sdpa_kernel(SDPBackend.MATH):
        _, dense = torch.func.jvp(lambda q: function(q, "dense"), (q,), (t,))
    torch.testing.assert_close(dense, tangent)
