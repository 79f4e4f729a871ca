"""The short way of plain attention on a CPU: what goes it, the same numbers, and few calls."""

import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

import tokennet
from tests.axes import pairwise
from tokennet import Attention, Causal, Edges, Full, Tokens, Window, attend
from tokennet.ops import _attend

GRAPHS = [Full(6), Causal(6), Full(130), Causal(130)]


@pytest.fixture
def general(monkeypatch):
    """Every call that goes the general way."""
    found, real = [], _attend.make_call

    def spy(*given):
        found.append(given)
        return real(*given)

    monkeypatch.setattr(_attend, "make_call", spy)
    return found


def inputs(n, *lead, channels=16, dtype=torch.float32):
    return [torch.randn(*lead, n, 2, channels, dtype=dtype, requires_grad=True) for _ in range(3)]


@pairwise(
    graph=GRAPHS,
    lead=[(), (1,), (3,)],
    channels=[1, 9, 16],
    dtype=[torch.float64, torch.float32, torch.bfloat16],
)
def test_the_short_way_gives_what_the_general_way_gives(graph, lead, channels, dtype, general):
    given = inputs(graph.num_targets, *lead, channels=channels, dtype=dtype)
    out = attend(*given, graph)
    assert not general
    wanted = attend(*given, graph, backend="dense")
    assert len(general) == 1
    assert torch.equal(out, wanted)
    assert out.stride() == wanted.stride()
    grad = torch.randn_like(out)
    found, expected = (torch.autograd.grad(x, given, grad) for x in (out, wanted))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("graph", "options"),
    [
        (Window(6, 1), {}),
        (Edges(torch.tensor([[0], [1]]), 6), {}),
        (Full(6), {"scale": 1}),
        (Full(6), {"backend": "reference"}),
        (Full(6), {"bias": torch.zeros(2, 6, 6)}),
        (Causal(6), {"bias": torch.zeros(2, 6, 6)}),
    ],
    ids=str,
)
def test_calls_with_more_go_the_general_way(graph, options, general):
    attend(*inputs(6), graph, **options)
    assert len(general) == 1


@pytest.mark.parametrize("graph", [Full(6), Causal(6)], ids=repr)
def test_other_tensors_go_the_general_way(graph, general):
    q, k, v = inputs(6)
    wide = torch.randn(6, 2, 20)
    batch = torch.randn(2, 3, 6, 2, 16)
    assert attend(q, k, wide, graph).shape == wide.shape
    assert attend(batch, batch, batch, graph).shape == batch.shape
    assert attend(batch[0], k, v, graph).shape == batch[0].shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attend(q, k, v, graph).dtype == torch.bfloat16
    assert len(general) == 4


def test_zeros_of_finite_numbers_are_not_computed_twice(general):
    q, k, v = inputs(6)
    assert not attend(q, k, 0 * v, Full(6)).any()
    assert not general


@pytest.mark.parametrize("graph", [Full(6), Causal(6)], ids=repr)
def test_forward_mode_has_the_derivative_of_the_reference(graph, general):
    q, k, v = (x.detach() for x in inputs(6, dtype=torch.float64))
    slopes = []
    for backend in ("auto", "reference"):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(q, torch.ones_like(q))
            out = attend(dual, k, v, graph, backend=backend)
            slopes.append(forward_ad.unpack_dual(out).tangent)
    torch.testing.assert_close(*slopes)
    assert len(general) == 2


@pytest.mark.parametrize(
    ("q", "error", "message"),
    [
        ([1.0], TypeError, "q must be a tensor"),
        (torch.zeros(6, 2, 4, dtype=torch.long), ValueError, "q must be floating-point"),
        (torch.zeros(6, 2, 0), ValueError, "q must have at least one channel"),
        (torch.zeros(5, 2, 4), ValueError, "q has 5 tokens, the graph 6"),
        (torch.zeros(6, 4), ValueError, "q must be floating-point with shape"),
    ],
    ids=lambda x: str(getattr(x, "shape", x)),
)
def test_what_is_wrong_is_named(q, error, message):
    with pytest.raises(error, match=message):
        attend(q, q, q, Full(6))


def test_a_graph_must_be_a_graph():
    with pytest.raises(TypeError, match="graph must be a TokenGraph, got str"):
        attend(*inputs(6), "full")


def test_a_small_layer_makes_few_calls_of_python():
    """The time of a layer of 16 tokens is that of Python: each call takes half a percent of it."""
    package = str(Path(tokennet.__file__).parent)
    layer, tokens = Attention(64, 4), Tokens(torch.randn(16, 64), Full(16))
    calls = []

    def count(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(package):
            calls.append(frame.f_code.co_qualname)

    with torch.no_grad():
        layer(tokens)
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            layer(tokens)
        finally:
            sys.setprofile(before)
    assert 10 < len(calls) <= 21, calls
