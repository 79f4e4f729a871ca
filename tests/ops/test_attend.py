"""`attend` on any listed graph and on the atlas of graphs, its derivatives, and its weights."""

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.contracts.backends import FAMILIES, NAMES, attempt
from tests.families import SQUARE, by_default
from tests.ops.kinds import KINDS, call, gradients, make_inputs, qkv
from tests.oracle import attend_oracle
from tokennet import Disjoint, Window, attend, from_networkx
from tokennet.ops import attention_weights
from tokennet.testing.strategies import listed_graphs

HEADS, CHANNELS = 2, 3
EXACT = {"atol": 1e-12, "rtol": 1e-10}


def check_any_listed_graph(graph, seed, biased):
    torch.manual_seed(seed)
    kind = "edge_bias" if biased else "dot"
    inputs = make_inputs(kind, graph, (2,))
    leaves = list(inputs.values())
    expected = call(kind, inputs, graph, attend_oracle)
    slopes = gradients(expected, leaves)
    for backend in ("reference", "fused", "sparse", "auto"):
        out = call(kind, inputs, graph, backend=backend)
        torch.testing.assert_close(out, expected, **EXACT)
        for got, want in zip(gradients(out, leaves), slopes, strict=True):
            torch.testing.assert_close(got, want, **EXACT)


ANY = {"graph": listed_graphs(), "seed": st.integers(0, 1000), "biased": st.booleans()}
test_any_listed_graph = settings(max_examples=25, deadline=None)(
    given(**ANY)(check_any_listed_graph)
)
test_more_listed_graphs = pytest.mark.sweep(
    settings(max_examples=120, deadline=None)(given(**ANY)(check_any_listed_graph))
)

ATLAS = nx.graph_atlas_g()


def check_atlas(graphs, one_by_one):
    """Graphs in ragged batches, and one by one; the number of comparisons of each backend."""
    compared = dict.fromkeys(("reference", "dense", "fused", "sparse", "flex"), 0)
    for start in range(0, len(graphs), 50):
        part = [from_networkx(graph) for graph in graphs[start : start + 50]]
        ragged = Disjoint(part)
        q, k, v = qkv(ragged)
        expected = attend(q, k, v, ragged, backend="reference")
        slopes = gradients(expected, [q, k, v])
        for backend in ("dense", "fused", "sparse"):
            out = attend(q, k, v, ragged, backend=backend)
            torch.testing.assert_close(out, expected, **EXACT)
            for got, want in zip(gradients(out, [q, k, v]), slopes, strict=True):
                torch.testing.assert_close(got, want, **EXACT)
        with torch.no_grad():
            torch.testing.assert_close(attend(q, k, v, ragged, backend="flex"), expected)
            compared["flex"] += len(part)
            rows = torch.arange(ragged.num_targets).split(ragged.sizes)
            for graph, row in zip(part, rows, strict=True) if one_by_one else ():
                for backend in ("reference", "dense", "fused", "sparse"):
                    out = attend(q[row], k[row], v[row], graph, backend=backend)
                    torch.testing.assert_close(out, expected[row], **EXACT)
                    compared[backend] += 1
    return compared


def test_graphs_of_the_atlas_in_ragged_batches():
    """Every eighth of the 1,253 graphs of up to 7 nodes."""
    assert check_atlas(ATLAS[::8], one_by_one=False)["flex"] == 157


@pytest.mark.sweep
def test_the_whole_atlas_of_graphs_on_every_backend():
    """All 1,253 graphs of up to 7 nodes, one by one and in ragged batches."""
    compared = check_atlas(ATLAS, one_by_one=True)
    assert compared == dict.fromkeys(compared, 1253)


@pytest.mark.sweep
@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradcheck_on_every_family(backend, family):
    graph = FAMILIES[family]()
    inputs = make_inputs("edge_bias", graph)

    def function(*tensors):
        given = dict(zip(inputs, tensors, strict=True))
        return call("edge_bias", given, graph, backend=backend)

    if attempt(backend, lambda: function(*inputs.values()))[0] is not None:
        assert gradcheck(function, tuple(inputs.values()), fast_mode=True)


def check_derivatives(backend, family, kind, fast):
    graph = FAMILIES[family]()
    inputs = make_inputs(kind, graph, (2,))

    def function(*tensors):
        return call(kind, dict(zip(inputs, tensors, strict=True)), graph, backend=backend)

    if attempt(backend, lambda: function(*inputs.values()))[0] is not None:
        assert gradcheck(function, tuple(inputs.values()), fast_mode=fast)
        assert gradgradcheck(function, tuple(inputs.values()), fast_mode=fast)


@pytest.mark.parametrize("backend", NAMES)
def test_gradcheck_and_gradgradcheck(backend):
    """By differences, which know nothing of autograd."""
    for family, kind in (("mask", "pair_bias"), ("multi_edges", "edge_both"), ("ragged", "dot")):
        check_derivatives(backend, family, kind, fast=True)


@pytest.mark.sweep
@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["causal", "mask", "ragged", "bipartite_mask", "multi_edges"])
def test_gradcheck_and_gradgradcheck_of_every_kind(backend, family, kind):
    check_derivatives(backend, family, kind, fast=kind != "pair_bias")


@pytest.mark.parametrize("family", by_default(FAMILIES))
def test_weights_come_in_the_callers_edge_order_and_give_the_output(family):
    graph = FAMILIES[family]()
    inputs = make_inputs("edge_bias", graph, (2,))
    q, k, v, bias = inputs.values()
    weights = attention_weights(q, k, graph, bias)
    assert weights.shape == (2, graph.num_edges, HEADS)
    source, target = graph.edge_index()
    messages = weights[..., None] * v[:, source]
    out = torch.zeros(2, graph.num_targets, HEADS, v.shape[-1], dtype=torch.float64)
    out = out.index_add(1, target, messages)
    torch.testing.assert_close(out, call("edge_bias", inputs, graph, backend="reference"))


def test_weights_are_differentiable():
    graph = SQUARE["edges"]()
    q, k, _ = qkv(graph)
    assert gradcheck(lambda q, k: attention_weights(q, k, graph), (q, k))


def test_forward_mode_is_right_or_refused():
    graph = Window(6, 1)
    q, t = torch.randn(2, 6, HEADS, 4, dtype=torch.float64)
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
