"""`BackendContract`: what a backend of `attend` must do, whatever it is.

A backend runs a call and gives what the oracle gives, or it refuses the call plainly: with the
error that says why. A test class that inherits the contract is parametrized by `backend`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib import import_module
from itertools import product

import pytest
import torch
from torch import Tensor

from tests.families import BIPARTITE, RAGGED, SQUARE, by_default
from tests.ops.kinds import KINDS, assert_all_close, call, derivatives, make_inputs
from tests.oracle import attend_oracle
from tokennet import Causal, Disjoint, Edges, Full, Grid, TokenGraph, Window, attend
from tokennet.ops import BACKENDS

FAMILIES: dict[str, Callable[[], TokenGraph]] = {
    **SQUARE,
    **RAGGED,
    **{f"bipartite_{name}": make for name, make in BIPARTITE.items()},
    "long_window": lambda: Window(70, 3),
}
BATCHES: list[tuple[int, ...]] = [(), (2,), (2, 1)]
EXACT = {"rtol": 1e-9, "atol": 1e-11}
PLAIN = ["dot", "edge_bias", "pair_bias", "function_bias"]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
NONFINITE = [
    Full(1), Full(2), Full(4), Full(9), Causal(5), Causal(40), Window(70, 3), Grid(4, 4),
    Disjoint([Full(3), Causal(4)]), Disjoint([Window(3, 1), Window(4, 1)]),
]  # fmt: skip
"""Complete, causal, banded and ragged graphs, small ones and some of several vectors."""
NONFINITE_BY_KIND = [
    *((graph, "dot") for graph in (*NONFINITE, ~Causal(6))),
    *((graph, "softcap") for graph in (Causal(5), ~Causal(6))),
]
"""And one whose last target has no neighbors, but a query."""
_EMPTY = Edges(torch.tensor([[0, 1, 4, 4], [1, 1, 4, 4]]), 5)
"""Targets 0, 2 and 3 have no neighbors; an edge of target 4 is there twice."""


def attempt(backend: str, run: Callable[[], Tensor]) -> tuple[Tensor | None, str]:
    """The result, or None and the reason why the backend refused; nothing else may happen."""
    try:
        return run(), ""
    except RuntimeError as error:
        before, _, reason = str(error).partition(f"backend '{backend}' cannot run this call: ")
        assert (before, bool(reason)) == ("", True), error
        return None, reason


@cache
def _expected(family: str, kind: str, batch: tuple[int, ...], order: int):
    """A call, its result by the oracle, and derivatives up to an order: once for all backends."""
    torch.manual_seed(0)
    graph = FAMILIES[family]()
    inputs = make_inputs(kind, graph, batch)
    out = call(kind, inputs, graph, attend_oracle)
    return graph, inputs, out.detach(), derivatives(out, inputs, order)


def check(
    backend: str, family: str, kind: str, batch: tuple[int, ...], device: str = "cpu"
) -> bool:
    """Compare values and derivatives with the oracle; False where the backend refuses all."""
    order = 2 if batch == (2,) and family != "long_window" else 1
    graph, inputs, expected, wanted = _expected(family, kind, batch, order)
    if device != "cpu":
        inputs = {name: x.detach().to(device).requires_grad_() for name, x in inputs.items()}
        expected, wanted = expected.to(device), [x.to(device) for x in wanted]
    out, reason = attempt(backend, lambda: call(kind, inputs, graph, backend=backend))
    if out is not None:
        torch.testing.assert_close(out, expected, **EXACT)
        assert_all_close(derivatives(out, inputs, order), wanted, **EXACT)
        return True
    if "backward" not in reason:
        return False
    with torch.no_grad():
        out, _ = attempt(backend, lambda: call(kind, inputs, graph, backend=backend))
    if out is not None:
        torch.testing.assert_close(out, expected, **EXACT)
    return out is not None


def _default_cases(family: str) -> list[tuple[str, tuple[int, ...]]]:
    """Three kinds of calls for a family; neighboring families have others."""
    first, kinds = 3 * list(FAMILIES).index(family), list(KINDS)
    return [(kinds[(first + i) % len(kinds)], BATCHES[(first // 3 + i) % 3]) for i in range(3)]


class BackendContract:
    @pytest.fixture(autouse=True)
    def _untraced(self, monkeypatch):
        """FlexAttention as it is written, without a trace of each call, which takes a second."""
        name = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"
        monkeypatch.setattr(import_module("torch.nn.attention.flex_attention"), name, True)

    @pytest.mark.parametrize("family", by_default(FAMILIES))
    def test_values_and_derivatives_are_those_of_the_oracle(self, backend, family):
        for kind, batch in _default_cases(family):
            check(backend, family, kind, batch)

    @pytest.mark.sweep
    @pytest.mark.parametrize("family", FAMILIES)
    def test_values_and_derivatives_of_every_kind_of_call(self, backend, family):
        for kind, batch in product(KINDS, BATCHES):
            check(backend, family, kind, batch)

    @pytest.mark.gpu
    def test_values_and_derivatives_on_a_device(self, backend):
        for family, kind, batch in product(FAMILIES, KINDS, BATCHES):
            check(backend, family, kind, batch, "cuda")

    def test_it_runs_some_calls(self, backend):
        assert any(check(backend, family, "dot", ()) for family in FAMILIES)

    @pytest.mark.parametrize("dtype", TYPES, ids=str)
    def test_smaller_types_come_back_in_kind_and_close(self, backend, dtype):
        for kind, graphs in (
            ("dot", (Window(9, 2), Disjoint([Full(3), Causal(4)]), Window(70, 3))),
            ("edge_both", (Window(9, 2),)),
            ("additive_edges", (Window(9, 2),)),
        ):
            # Scores of size 10 are rounded to eps of themselves, weights by the same.
            limit = (8 if kind == "dot" else 32) * torch.finfo(dtype).eps
            for graph in graphs:
                inputs = {
                    name: x.detach() for name, x in make_inputs(kind, graph, dtype=dtype).items()
                }
                out, _ = attempt(
                    backend, lambda i=inputs, k=kind, g=graph: call(k, i, g, backend=backend)
                )
                if out is not None:
                    assert out.dtype == dtype
                    exact = {name: tensor.double() for name, tensor in inputs.items()}
                    expected = call(kind, exact, graph, attend_oracle)
                    assert (out.double() - expected).abs().max() < limit * expected.abs().max()

    @pytest.mark.parametrize("kind", ["dot", "edge_bias", "additive"])
    def test_targets_without_neighbors_get_exactly_zero(self, backend, kind):
        graphs = (_EMPTY, Edges(torch.tensor([[0, 1], [1, 1]]), 3), Disjoint([Full(2, 0), Full(1)]))
        for graph in graphs:
            inputs = make_inputs(kind, graph, (2,))
            out, _ = attempt(backend, lambda i=inputs, g=graph: call(kind, i, g, backend=backend))
            if out is None:
                continue
            empty = torch.bincount(graph.edge_index()[1], minlength=graph.num_targets) == 0
            assert (out[:, empty] == 0).all()
            for name, gradient in zip(inputs, derivatives(out, inputs), strict=True):
                assert gradient.isfinite().all()
                assert name != "q" or (gradient[:, empty] == 0).all()

    @pytest.mark.parametrize("kind", ["edge_bias", "pair_bias"])
    def test_biases_of_minus_infinity_give_zero_and_finite_gradients(self, backend, kind):
        graph = Causal(4)
        inputs = make_inputs(kind, graph)
        bias = inputs["bias" if kind == "edge_bias" else "pairs"]
        with torch.no_grad():
            if kind == "edge_bias":
                bias[graph.edge_index()[1] == 2] = -math.inf
                bias[0, 0] = -math.inf  # of target 0, head 0: its only edge
            else:
                bias[:, 2] = -math.inf
                bias[0, 0] = -math.inf
        out, _ = attempt(backend, lambda: call(kind, inputs, graph, backend=backend))
        if out is not None:
            assert (out[2] == 0).all()
            assert (out[0, 0] == 0).all()
            assert (out[0, 1] != 0).any()
            assert all(gradient.isfinite().all() for gradient in derivatives(out, inputs))
            torch.testing.assert_close(out, call(kind, inputs, graph, attend_oracle), **EXACT)

    def test_huge_scores_do_not_overflow(self, backend):
        for graph in (Causal(5), Window(70, 3), Disjoint([Full(3), Full(2)])):
            inputs = make_inputs("dot", graph, dtype=torch.float32)
            inputs = {name: 1e3 * tensor.detach() for name, tensor in inputs.items()}
            out, _ = attempt(backend, lambda i=inputs, g=graph: call("dot", i, g, backend=backend))
            if out is not None:
                expected = call("dot", inputs, graph, attend_oracle)
                torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("graph", NONFINITE, ids=repr)
    def test_nan_reaches_the_targets_that_attend_to_its_token_and_no_others(self, backend, graph):
        inputs = {name: x.detach() for name, x in make_inputs("dot", graph).items()}
        clean, _ = attempt(backend, lambda: call("dot", inputs, graph, backend=backend))
        if clean is None:
            return
        for name, token in product(inputs, {0, graph.num_targets // 2, graph.num_targets - 1}):
            sees = torch.arange(graph.num_targets) == token
            if name != "q":
                sees = graph.dense()[:, token]
            for bad in (math.nan, math.inf):
                spoiled = {**inputs, name: inputs[name].clone()}
                spoiled[name][token] = bad
                out = call("dot", spoiled, graph, backend=backend)
                torch.testing.assert_close(out[~sees], clean[~sees], **EXACT)
                if bad != math.inf:  # inf in a key may make a score of -inf, a weight of 0
                    assert not out[sees].isfinite().any()

    @pytest.mark.parametrize(("graph", "kind"), NONFINITE_BY_KIND, ids=repr)
    def test_gradients_are_other_only_through_targets_that_see_nan(self, backend, graph, kind):
        inputs, dense = make_inputs(kind, graph), graph.dense()
        clean = derivatives(call(kind, inputs, graph, attend_oracle), inputs)
        for name, token in product(inputs, {0, graph.num_targets // 2, graph.num_targets - 1}):
            sees = torch.arange(graph.num_targets) == token if name == "q" else dense[:, token]
            sources = dense[sees].any(0)  # whose gradient is a sum over targets, also over these
            for bad in (math.nan, math.inf):
                spoiled = {**inputs, name: inputs[name].detach().clone()}
                spoiled[name][token] = bad
                spoiled[name].requires_grad_()
                out, _ = attempt(backend, lambda x=spoiled: call(kind, x, graph, backend=backend))
                if out is None:
                    return
                found = derivatives(out, spoiled)
                for got, want, reached in zip(found, clean, (sees, sources, sources), strict=True):
                    torch.testing.assert_close(got[~reached], want[~reached], **EXACT)

    def test_gradients_of_a_set_are_those_without_nan_in_another(self, backend):
        graph = Disjoint([Full(3), Causal(4), Window(4, 1)])

        def gradients(bad: float) -> list[Tensor]:
            inputs = make_inputs("dot", graph)
            with torch.no_grad():
                for tensor in inputs.values():
                    tensor[:3] = bad
            out = call("dot", inputs, graph, backend=backend)
            return [x[3:] for x in derivatives(out[3:], inputs)]

        torch.manual_seed(0)
        wanted, _ = attempt(backend, lambda: gradients(1.0))
        if wanted is not None:
            torch.manual_seed(0)
            assert_all_close(gradients(math.nan), wanted, **EXACT)

    @pytest.mark.parametrize("kind", PLAIN)
    def test_the_same_call_gives_the_same_bits(self, backend, kind):
        graph = Edges(torch.randint(0, 40, (2, 300)).unique(dim=1), 40)
        inputs = make_inputs(kind, graph, (2,), dtype=torch.float32)
        results = []
        for _ in range(2):
            out, _ = attempt(backend, lambda: call(kind, inputs, graph, backend=backend))
            if out is None:
                return
            results.append([out, *derivatives(out, inputs)])
        assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))

    def test_layout_does_not_matter(self, backend):
        for graph in (Window(5, 1), Window(70, 3), Disjoint([Full(3), Full(2)])):
            shape = (2, 4, graph.num_targets)
            q, k, v = (torch.randn(shape, dtype=torch.float64).permute(2, 0, 1) for _ in range(3))
            out, _ = attempt(backend, lambda x=(q, k, v, graph): attend(*x, backend=backend))
            if out is not None:
                dense = [x.contiguous() for x in (q, k, v)]
                torch.testing.assert_close(out, attend(*dense, graph, backend=backend))

    def test_leading_dimensions_broadcast(self, backend):
        graph = Full(3, 5)
        q = torch.randn(3, 2, 4, dtype=torch.float64)
        k = torch.randn(2, 4, 5, 2, 4, dtype=torch.float64)
        one, two = k[:1, 0], k[:, 0]  # the same number of dimensions, but another batch
        for keys, values in ((k, k), (one, two), (two, one)):
            for queries in (q, q.expand(2, 3, 2, 4), q[None]):
                if keys is k and queries is not q:
                    continue
                out, _ = attempt(
                    backend, lambda x=(queries, keys, values): attend(*x, graph, backend=backend)
                )
                if out is not None:
                    expected = attend_oracle(queries, keys, values, graph)
                    torch.testing.assert_close(out, expected, **EXACT)

    def test_under_autocast_the_result_has_its_type(self, backend):
        for graph in (Window(70, 3), Full(5), Disjoint([Full(3), Full(3)])):
            inputs = make_inputs("dot", graph, dtype=torch.float32)
            inputs = {name: x.detach() for name, x in inputs.items()}
            expected, _ = attempt(
                backend, lambda i=inputs, g=graph: call("dot", i, g, backend=backend)
            )
            if expected is None:
                continue
            for name in inputs:  # what comes before may have made only some of them shorter
                mixed = {**inputs, name: inputs[name].bfloat16()}
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    out = call("dot", mixed, graph, backend=backend)
                assert out.dtype == torch.bfloat16
                torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
            doubles = {name: x.double() for name, x in inputs.items()}
            with torch.autocast("cpu", dtype=torch.bfloat16):  # as SDPA: not of float64
                assert call("dot", doubles, graph, backend=backend).dtype == torch.float64

    @pytest.mark.parametrize("kind", ["edge_bias", "pair_bias", "edge_both", "additive_edges"])
    def test_under_autocast_what_enters_scores_may_be_of_any_type(self, backend, kind):
        small = (torch.float16, torch.bfloat16)
        for graph in (Window(9, 2), Full(5), Disjoint([Full(3), Full(3)])):
            inputs = {name: x.detach().float() for name, x in make_inputs(kind, graph).items()}
            expected = call(kind, inputs, graph, attend_oracle)
            for of_tokens, of_others, dtype in product(small, (*small, torch.float32), small):
                mixed = {
                    name: x.to(of_tokens if name in "qkv" else of_others)
                    for name, x in inputs.items()
                }
                with torch.autocast("cpu", dtype=dtype):
                    out, _ = attempt(
                        backend, lambda x=mixed, g=graph: call(kind, x, g, backend=backend)
                    )
                if out is not None:
                    assert out.dtype == dtype
                    error = (out.float() - expected).abs().max()
                    assert error < 0.1 * expected.abs().max()

    @pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
    def test_transforms_of_functions_are_right_or_refused(self, backend):
        for graph in (Window(6, 1), Full(4), Window(70, 3), Disjoint([Full(3), Causal(2)])):
            x, step = torch.randn(2, 3, graph.num_targets, 2, 4, dtype=torch.float64)

            def function(x, graph=graph):
                return attend(x, x, x, graph, backend=backend)

            expected, _ = attempt(backend, lambda f=function, x=x: f(x))
            if expected is None:
                continue
            out, _ = attempt(backend, lambda f=function, x=x: torch.func.vmap(f)(x))
            if out is not None:
                torch.testing.assert_close(out, expected)
            loss = lambda x, f=function: f(x).square().sum()  # noqa: E731
            found, _ = attempt(backend, lambda g=loss, x=x: torch.func.grad(g)(x))
            leaf = x.clone().requires_grad_()
            wanted, _ = attempt(backend, lambda f=function, x=leaf: f(x))
            if found is not None and wanted is not None:
                (slope,) = torch.autograd.grad(wanted.square().sum(), leaf)
                torch.testing.assert_close(found, slope)
            tangent, _ = attempt(
                backend, lambda f=function, x=x, t=step: torch.func.jvp(f, (x,), (t,))[1]
            )
            if tangent is not None:
                moved = function(x + 1e-6 * step) - function(x - 1e-6 * step)
                torch.testing.assert_close(tangent, moved / 2e-6, atol=1e-7, rtol=1e-6)


NAMES = list(BACKENDS)
"""All that are registered."""
