"""The kernel's arithmetic: channels, types, chunks of edges, threads, NaN and inf."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.axes import pairwise
from tests.ops.kinds import KINDS, assert_all_close, call, derivatives, make_inputs
from tests.oracle import attend_oracle
from tokennet import Edges, attend, from_mask
from tokennet.ops import Additive

EXACT = {"rtol": 1e-9, "atol": 1e-11}
F64, F32, BF16 = torch.float64, torch.float32, torch.bfloat16
VALUES = {1: 5, 8: 8, 12: 7, 40: 16, 64: 64, 128: 40}
HEADS = {1: 8, 8: 3, 12: 1, 40: 3, 64: 8, 128: 1}


def random_edges(n, m, count):
    ends = torch.randint(0, m, (count,)), torch.randint(0, n, (count,))
    return Edges(torch.stack(ends), n, m)


def worst(got, want):
    """Largest error relative to the largest entry."""
    return float((got.double() - want).detach().abs().max() / want.detach().abs().max())


@pytest.mark.parametrize(
    ("kind", "dtype", "channels"),
    [
        ("dot", F32, 40), ("dot", F64, 12), ("dot", BF16, 64), ("additive", F64, 128),
        *(pytest.param(*case, marks=pytest.mark.sweep) for case in (
            ("dot", F32, 1), ("dot", F32, 128), ("dot", BF16, 8), ("additive", F32, 8),
            ("additive", F32, 64), ("additive", F64, 1), ("additive", BF16, 12),
            ("additive", BF16, 40),
        )),
    ],
)  # fmt: skip
def test_channels_heads_and_types(kind, dtype, channels):
    heads, values = HEADS[channels], VALUES[channels]
    graph = from_mask(torch.rand(30, 30) < 0.3)
    sizes = {"num_heads": heads, "channels": channels, "values": values}
    inputs = make_inputs(kind, graph, **sizes, dtype=dtype)
    if kind == "additive":
        inputs["weight"].data /= channels**0.5
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    expected = call(kind, exact, graph, attend_oracle)
    out = call(kind, inputs, graph, backend="fused")
    # Computed with in float32 at least, and rounded once. Gradients know the rounded output.
    eps = torch.finfo(dtype).eps
    once = 0.5 * eps + 8 * torch.finfo(F32).eps if dtype == BF16 else 8 * eps
    assert worst(out, expected) <= once
    for got, want in zip(derivatives(out, inputs), derivatives(expected, exact), strict=True):
        assert worst(got, want) <= (1 if dtype == BF16 else 16) * eps


def test_bfloat16_is_no_worse_than_in_dense_attention():
    graph = from_mask(torch.rand(200, 200) < 0.3)
    inputs = make_inputs("dot", graph, num_heads=8, channels=64, values=64, dtype=BF16)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in inputs.values())
    dense = scaled_dot_product_attention(q, k, v, graph.dense())[0].transpose(0, 1)
    results = []
    for out, given in (
        (call("dot", exact, graph, backend="reference"), exact),
        (call("dot", inputs, graph, backend="fused"), inputs),
        (dense, inputs),
    ):
        results.append([out, *derivatives(out, given)])
    for want, fused, plain in zip(*results, strict=True):
        assert worst(fused, want) <= 1.5 * worst(plain, want)


COUNTS = [0, 1, 31, 32, 33, 0, 64, 65, 1000, 10_000]


@pytest.mark.parametrize("by", ["target", "source"])
@pytest.mark.parametrize("kind", ["dot", "edge_both", "additive_edges"])
def test_rows_of_all_lengths(kind, by):
    rows = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    rows = rows[torch.randperm(len(rows))]
    ends = torch.stack([torch.randint(0, 700, rows.shape), rows])
    sizes = (len(COUNTS), 700)
    graph = Edges(ends, *sizes) if by == "target" else Edges(ends.flip(0), *sizes[::-1])
    inputs = make_inputs(kind, graph)
    expected = call(kind, inputs, graph, backend="reference")
    out = call(kind, inputs, graph, backend="fused")
    torch.testing.assert_close(out, expected, **EXACT)
    assert_all_close(derivatives(out, inputs), derivatives(expected, inputs), **EXACT)


@pytest.fixture
def threads():
    number = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(number)


@pytest.mark.parametrize("kind", ["edge_both", "pair_bias", "additive_edges"])
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(kind, threads):
    graph = random_edges(300, 400, 40_000)  # several blocks of work
    inputs = make_inputs(kind, graph, (2,), dtype=F64)
    results = []
    for number in (1, 2, 3, 3):
        threads(number)
        out = call(kind, inputs, graph, backend="fused")
        results.append([out, *derivatives(out, inputs)])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
    expected = call(kind, inputs, graph, backend="reference")
    wanted = [expected, *derivatives(expected, inputs)]
    assert_all_close(results[0], wanted, rtol=1e-8, atol=1e-9)


def test_calls_from_several_threads_do_not_meet():
    graph = random_edges(50, 60, 2000)
    inputs = [make_inputs("additive_edges", graph) for _ in range(8)]

    def both(given):
        out = call("additive_edges", given, graph, backend="fused")
        return [out, *derivatives(out, given)]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(both, inputs))
    for got, given in zip(together, inputs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(got, both(given), strict=True))


@pytest.mark.parametrize("kind", [kind for kind, terms in KINDS.items() if "softcap" not in terms])
def test_targets_without_neighbors_get_exactly_zero(kind):
    graph = Edges(torch.tensor([[0, 0, 3, 0, 2], [1, 1, 1, 4, 2]]), 6, 5)
    inputs = make_inputs(kind, graph, (2,))
    out = call(kind, inputs, graph, backend="fused")
    assert (out[:, [0, 3, 5]] == 0).all()
    found = dict(zip(inputs, derivatives(out, inputs), strict=True))
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert (found["q"][:, [0, 3, 5]] == 0).all()
    assert (found["k"][:, [1, 4]] == 0).all()
    assert (found["v"][:, [1, 4]] == 0).all()


@pytest.mark.parametrize("kind", ["edge_both", "additive_edges"])
def test_biases_of_minus_infinity(kind):
    graph = random_edges(4, 50, 400)
    inputs = make_inputs(kind, graph)
    target = graph.edge_index()[1]
    bias = inputs["bias"].detach()
    bias[target == 1] = -math.inf
    bias[(target == 2).nonzero()[:40], 0] = -math.inf  # head 0: all of a first chunk
    bias[(target == 3).nonzero()[40:], 1] = -math.inf
    out = call(kind, inputs, graph, backend="fused")
    assert (out[1] == 0).all()
    expected = call(kind, inputs, graph, attend_oracle)
    torch.testing.assert_close(out, expected, **EXACT)
    found = derivatives(out, inputs)
    assert all(gradient.isfinite().all() for gradient in found)
    assert_all_close(found, derivatives(expected, inputs), **EXACT)


@pairwise(kind=["edge_both", "additive_edges"], level=[1e4, -1e4], dtype=[F32, F64])
def test_huge_scores(kind, level, dtype):
    graph = random_edges(5, 20, 300)
    inputs = make_inputs(kind, graph, dtype=dtype)
    inputs["bias"].data += level
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    out, expected = (
        call(kind, inputs, graph, backend="fused"),
        call(kind, exact, graph, attend_oracle),
    )
    # A score is rounded by its size times eps, its weight relatively by as much; so in any order.
    limit = 4 * abs(level) * torch.finfo(dtype).eps
    assert worst(out, expected) <= limit
    for got, want in zip(derivatives(out, inputs), derivatives(expected, exact), strict=True):
        assert worst(got, want) <= limit


def test_far_scores_vanish_and_overflow_nothing():
    graph = Edges(torch.stack([torch.arange(100), torch.zeros(100, dtype=torch.long)]), 1, 100)
    for dtype in (F32, F64):
        inputs = make_inputs("edge_bias", graph, dtype=dtype)
        inputs["bias"].data[:] = torch.linspace(-3000, 3000, 100, dtype=dtype)[:, None]
        for _ in range(2):
            out = call("edge_bias", inputs, graph, backend="fused")
            best = inputs["bias"][:, 0].argmax()
            torch.testing.assert_close(out[0], inputs["v"][best])
            assert all(g.isfinite().all() for g in derivatives(out, inputs))
            inputs["bias"].data[:] = inputs["bias"].data.flip(0)


def poisoned(name, graph):
    """Where to put a bad number, and which entries (N, 2, 4) of the output it reaches."""
    source, target = graph.edge_index()
    place = {
        "q": (2, 1, 0), "k": (5, 1, 2), "v": (5, 1, 3), "bias": (7, 1), "attr": (7, 0),
        "weight": (1, 2), "key": (1, 2, 0), "value": (1, 3, 0),
    }[name]  # fmt: skip
    reached = torch.ones_like(target).bool()
    if name in ("k", "v"):
        reached = source == 5
    elif name in ("bias", "attr"):
        reached = torch.arange(len(target)) == 7
    elif name == "q":
        reached = target == 2
    rows = torch.bincount(target[reached], minlength=graph.num_targets) > 0
    heads = torch.tensor([name == "attr", True])
    channels = torch.tensor([name not in ("v", "value")] * 3 + [True])
    return place, rows[:, None, None] & heads[:, None] & channels


@pytest.mark.parametrize("dtype", [F32, F64, BF16])
@pytest.mark.parametrize("kind", ["edge_both", "additive_edges"])
def test_nan_and_inf_reach_those_that_attend_to_them_and_no_others(kind, dtype):
    graph = random_edges(9, 30, 60)
    assert 0 < graph.csr().indptr.diff().bool().sum() < 30
    for name in make_inputs(kind, graph):
        for bad in (math.nan, math.inf) if name in ("v", "bias", "value") else (math.nan,):
            inputs = make_inputs(kind, graph, dtype=dtype)
            place, expected = poisoned(name, graph)
            inputs[name].data[place] = bad
            for backend in ("fused", "sparse", "reference"):
                out = call(kind, inputs, graph, backend=backend)
                assert torch.equal(~out.isfinite(), expected), (name, bad, backend)
            if (name, bad) == ("v", math.inf):
                assert (call(kind, inputs, graph, backend="fused")[expected] == bad).all()


def test_a_hub_loses_no_bad_number_in_any_of_its_chunks():
    graph = Edges(torch.stack([torch.arange(100), torch.zeros(100, dtype=torch.long)]), 1, 100)
    for place in range(100):
        inputs = make_inputs("edge_bias", graph)
        inputs["bias"].data[:40, 1] = -math.inf
        inputs["bias"].data[place, 1] = math.nan
        out = call("edge_bias", inputs, graph, backend="fused")
        assert out[0, 1].isnan().all()
        assert out[0, 0].isfinite().all()


@pytest.mark.parametrize(
    ("channels", "additive"),
    [
        pytest.param(channels, additive, marks=() if named else pytest.mark.sweep)
        for channels in VALUES
        for additive in (False, True)
        for named in [(channels, additive) in ((1, False), (40, False), (8, True), (12, True))]
    ],
)
def test_scores_of_a_single_neighbor_have_no_gradient(channels, additive):
    """Its weight is 1 whatever the score, and in float32 too that is seen exactly."""
    graph = Edges(torch.stack([torch.randint(50, (40,)), torch.arange(40)]), 40, 50)
    heads, values = HEADS[channels], VALUES[channels]
    shapes = (40, heads, channels), (50, heads, channels), (50, heads, values)
    q, k, v = (torch.randn(shape, requires_grad=True) for shape in shapes)
    score = Additive(torch.randn(heads, channels)) if additive else None
    out = attend(q, k, v, graph, score=score, backend="fused")
    dq, dk = torch.autograd.grad(out, (q, k), torch.randn(out.shape))
    assert dq.abs().max() == 0.0
    assert dk.abs().max() == 0.0
