"""The kernels in Triton against loops over targets; run by `test_kernels.py`, not collected.

In one process by the interpreter on a CPU (TRITON_INTERPRET=1), in another on a device.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter

from tests.families import BIPARTITE, SQUARE
from tests.ops.gpu.problems import DEVICE, as_problem, hubs, run, tensors
from tests.oracle import attend_oracle
from tokennet import Full, TokenGraph
from tokennet.ops import attend_with_lse
from tokennet.ops.backends import fused
from tokennet.ops.call import make_call
from tokennet.ops.edge_plans import edge_plan
from tokennet.ops.kernels import fused_op
from tokennet.ops.kernels.cpu import edges as cpu
from tokennet.ops.kernels.cuda import launch, segments, tune

FAMILIES = {**SQUARE, **{f"bipartite_{name}": make for name, make in BIPARTITE.items()}}
SHAPES = [(1, 1, 3), (2, 4, 4), (3, 5, 2), (5, 3, 3)]
"""Heads, channels, channels of values."""
KINDS = ["dot", "dot_features", "additive", "additive_features"]
BIASED = [f"{kind}_bias" for kind in KINDS]


def _let_ranges_be_counted() -> None:
    """Triton 3.6 takes `int` of an array of one entry, which NumPy 2.4 no longer does."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


_let_ranges_be_counted()


@pytest.fixture(autouse=True)
def _poisoned():
    """Memory that nothing was written to holds NaN."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _as_on_a_device(monkeypatch):
    """The operator takes the kernels in Triton, with the types they know, for all tensors."""
    monkeypatch.setattr(fused_op, "_kernels", lambda device: launch)
    monkeypatch.setattr(fused, "_computed", lambda q: q.dtype)


def attend(q, k, v, graph, bias=None, *, scale=None, score=None, edges=None):
    out = fused.run(make_call(q, k, v, graph, bias, scale, score, edges))
    return out.reshape(*torch.broadcast_shapes(q.shape[:-3], k.shape[:-3]), *out.shape[1:])


def compare(graph: TokenGraph, given: dict[str, Tensor], scale: float | None = None) -> None:
    """Values and gradients with those of the oracle."""
    found, right = run(attend, graph, given, scale), run(attend_oracle, graph, given, scale)
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(right)
    leaves = list(given.values())
    ours = torch.autograd.grad(found, leaves, grad, allow_unused=True)
    theirs = torch.autograd.grad(right, leaves, grad, allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        other = torch.zeros_like(mine) if other is None else other
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=list(FAMILIES))
def test_families(number):
    """Each with one of all kinds, in turns."""
    graph = list(FAMILIES.values())[number]()
    kind, shape = BIASED[number % len(BIASED)], SHAPES[number // 4 % len(SHAPES)]
    compare(graph, tensors(graph, kind, shape, (2,) if number % 3 == 0 else ()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [(1,), (2, 2)], ids=str)
def test_batches(kind, batch):
    graph = SQUARE["more_edges_than_pairs"]()
    compare(graph, tensors(graph, kind, (3, 5, 4), batch), scale=-1.7)


def test_a_bias_of_each_entry_of_the_batch():
    graph = SQUARE["edges"]()
    compare(graph, tensors(graph, "dot_pairs", (2, 3, 3), (3,)))
    compare(graph, tensors(graph, "additive_pairs", (2, 3, 3), (3,)))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("dot", (1, 64, 64)),
        ("dot_bias_features", (7, 20, 1)),
        ("dot_bias_features", (2, 130, 3)),
        ("additive_bias_features", (5, 16, 33)),
    ],
)
def test_heads_in_groups(kind, shape):
    """More channels than a program takes, with heads left over."""
    graph = SQUARE["multi_edges"]()
    compare(graph, tensors(graph, kind, shape))


@pytest.fixture
def short(monkeypatch):
    """Segments of 8 edges."""
    monkeypatch.setattr(segments, "STEPS", 1)


def assert_in_parts(graph: TokenGraph) -> None:
    for made in segments.tables(edge_plan(graph, DEVICE))[:2]:
        assert made.hub_indptr.diff().max() > 3


@pytest.mark.parametrize("kind", BIASED)
def test_rows_in_parts(kind, short):
    graph = hubs()
    assert_in_parts(graph)
    compare(graph, tensors(graph, kind, (3, 5, 6), (2,)))


def test_hubs():
    graph = hubs(260, tokens=70)
    assert_in_parts(graph)
    compare(graph, tensors(graph, "dot", (3, 5, 6)))


def test_high_degrees():
    """16 edges at once, and rows of several steps."""
    graph = Full(3, 70)
    assert segments.tables(edge_plan(graph, DEVICE)).by_target.at_once == 16
    compare(graph, tensors(graph, "dot_bias", (2, 3, 3)))


def test_parameters_summed_by_few_programs(short, monkeypatch):
    monkeypatch.setattr(launch, "_PROGRAMS", 2)
    monkeypatch.setattr(tune, "ENTRIES", (256,))
    graph = hubs()
    compare(graph, tensors(graph, "additive_features", (2, 5, 6), (2,)))


def test_keys_that_are_values():
    graph = SQUARE["edges"]()
    for kind in KINDS:
        given = tensors(graph, kind, (2, 4, 4))
        del given["v"]
        found = run(attend, graph, {**given, "v": given["k"]})
        right = run(attend_oracle, graph, {**given, "v": given["k"]})
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
        found = torch.autograd.grad(found.sin().sum(), given["k"])
        right = torch.autograd.grad(right.sin().sum(), given["k"])
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "family"),
    [("dot_bias_features", "bipartite_mask"), ("additive_bias_features", "multi_edges")],
)
def test_gradcheck(kind, family):
    graph = FAMILIES[family]()
    given = tensors(graph, kind, (2, 3, 2), (2,))
    names = list(given)

    def function(*values):
        return run(attend, graph, dict(zip(names, values, strict=True)))

    torch.autograd.gradcheck(function, list(given.values()), fast_mode=True)


@pytest.mark.parametrize("kind", ["dot_bias", "additive_bias"])
def test_rows_of_infinite_bias_give_zero(kind, short):
    graph = hubs()
    given = tensors(graph, kind, (2, 3, 3))
    target = graph.edge_index()[1].to(DEVICE)
    bias = given["bias"].detach().masked_fill((target < 5)[:, None], -torch.inf)
    bias[::3, 0] = -torch.inf
    given["bias"] = bias.requires_grad_()
    out = run(attend, graph, given)
    assert torch.equal(out[:5], torch.zeros_like(out[:5]))
    torch.testing.assert_close(out, run(attend_oracle, graph, given), rtol=1e-10, atol=1e-10)
    for gradient in torch.autograd.grad(out.sin().sum(), list(given.values())):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *((kind, torch.bfloat16) for kind in KINDS),
        ("dot_bias", torch.float16),
        ("additive", torch.float16),
        ("dot_bias", torch.float32),
    ],
)
def test_low_precision(dtype, kind, short):
    """As exact as the numbers given and kept: sums are float32."""
    graph = hubs()
    given = tensors(graph, kind, (4, 16, 8), dtype=dtype)
    exact = {name: x.detach().double().requires_grad_() for name, x in given.items()}
    found, right = run(attend, graph, given), run(attend_oracle, graph, exact)
    assert found.dtype == dtype
    grad = torch.randn_like(found)
    ours = [found, *torch.autograd.grad(found, list(given.values()), grad)]
    theirs = [right, *torch.autograd.grad(right, list(exact.values()), grad.double())]
    for mine, other in zip(ours, theirs, strict=True):
        error = (mine.double() - other).norm() / other.norm()
        assert error < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("shape", [(4, 4, 4), (6, 3, 5), (12, 32, 32)])
def test_heads_that_share_keys_and_values(shape, short):
    """Values, log-sum-exp and their gradients."""
    graph = hubs()
    given = tensors(graph, "dot_bias_shared", shape, (2,))
    found = run(partial(attend_with_lse, backend="fused"), graph, given)
    expected = run(partial(attend_with_lse, backend="reference"), graph, given)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    ours, theirs = (
        torch.autograd.grad(
            out.sin().sum() + lse.nan_to_num(neginf=0).cos().sum(), list(given.values())
        )
        for out, lse in (found, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["dot_features_bias", "additive_features_bias"])
def test_the_same_as_the_kernel_for_cpus(kind, short):
    """All outputs and gradients, of the same types and shapes."""
    graph = hubs()
    given = {name: x.detach() for name, x in tensors(graph, kind, (2, 4, 4), (2,)).items()}
    found = []
    for function, device in ((launch, DEVICE), (cpu, "cpu")):
        here = {name: x.to(device) for name, x in given.items()}
        problem = run(as_problem, graph, here)
        out = function.forward(problem)
        grads = [torch.sin(torch.arange(x.numel())).view(x.shape) for x in out]
        back = function.backward(problem, [x.to(out[0]) for x in grads], out)
        found.append([x.cpu() for x in (*out, *back)])
    given = [*out, *problem[:3], *problem.terms]
    for mine, other, what in zip(*found, given, strict=True):
        if what is None:
            assert mine.numel() == 0
        else:
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["dot_features_bias", "additive_features_bias"])
def test_gradients_of_edges_are_written_only_where_they_are_wanted(kind, monkeypatch):
    graph = SQUARE["multi_edges"]()
    given = tensors(graph, kind, (2, 4, 4), (2,))
    for name in ("attr", "bias"):
        given[name].requires_grad_(False)
    found, real = [], launch.backward
    monkeypatch.setattr(launch, "backward", lambda *x: found.append(real(*x)) or found[-1])
    out, right = run(attend, graph, given), run(attend_oracle, graph, given)
    wanted = [x for x in given.values() if x.requires_grad]
    ours, theirs = (torch.autograd.grad(x.sin().sum(), wanted) for x in (out, right))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert found[0].bias.numel() == found[0].edge_attr.numel() == 0


def test_second_derivatives():
    graph = SQUARE["multi_edges"]()
    given = tensors(graph, "dot_bias", (1, 2, 2))
    names = list(given)

    def function(*values):
        return run(attend, graph, dict(zip(names, values, strict=True)))

    torch.autograd.gradgradcheck(function, list(given.values()), fast_mode=True)


@pytest.mark.parametrize("kind", ["dot_features", "additive_features_bias"])
def test_both_operators_are_what_they_are_registered_as(kind):
    graph = SQUARE["multi_edges"]()
    problem = run(as_problem, graph, tensors(graph, kind, (2, 3, 4)))
    inputs = problem.flat()
    ops = torch.ops.tokennet
    with torch.no_grad():
        outputs = ops.edge_attention(*inputs)
    upstream = [torch.randn_like(x) for x in outputs]
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(ops.edge_attention.default, inputs, test_utils=checks)
    given = (*upstream, *outputs, *inputs, True, True)
    torch.library.opcheck(ops.edge_attention_backward.default, given, test_utils=checks)


def test_tables_are_made_once_for_both_passes_of_every_step(monkeypatch):
    made = []
    build = segments.build_tables
    monkeypatch.setattr(segments, "build_tables", lambda plan: made.append(1) or build(plan))
    graph = SQUARE["edges"]()
    for _ in range(2):
        run(attend, graph, tensors(graph, "dot", (1, 2, 2))).sum().backward()
    assert len(made) == 1
