"""The law that attention gives the same result on every backend and kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokennet.ops import BACKENDS
from tokennet.testing.engine.intervention import ContentIntervention, Inputs
from tokennet.testing.engine.reach import modules_of
from tokennet.testing.engine.run import Runner, call_model
from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.engine.verdict import run_law
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.case import Case
from tokennet.testing.example.values import cast
from tokennet.testing.laws.law import Law, Options
from tokennet.testing.report import SymmetryReport

MATH = "SDPA math"


def _has_backends(case: Case, causal: bool) -> bool:
    """Whether the model has attention that can be computed in several ways."""
    if not isinstance(case.model, nn.Module):
        return False
    modules = modules_of(case.function)
    if any(_has_backend(m) or isinstance(m, nn.MultiheadAttention) for m in modules):
        return True
    watch = _Watch(torch.nn.functional.scaled_dot_product_attention)
    try:
        with Runner(case.function, case.inputs).at(torch.float64) as x, watch, torch.no_grad():
            call_model(case.function, x)
    except Exception:  # models that cannot run in float64 have no such law
        return False
    return watch.called


def _check(case: Case, options: Options) -> SymmetryReport:
    """Whether the backends that support the example agree."""
    ways = _ways(case)
    interventions = [ContentIntervention(_on(way)) for way in ways]
    function = OnBackend(case.function)
    inputs = (*case.inputs, None)
    report = run_law("backend_agreement", function, inputs, interventions, **options)
    return dataclasses.replace(report, reason=f"{report.reason}: {', '.join(ways)}")


def _on(way: str) -> Callable[[Inputs], Inputs]:
    return lambda inputs: (*inputs[:-1], way)


def _has_backend(module: nn.Module) -> bool:
    return isinstance(getattr(module, "backend", None), str)


class _Watch(torch.overrides.TorchFunctionMode):
    """Notes whether a function is called."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.called = function, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called = self.called or func is self.function
        return func(*args, **(kwargs or {}))


def _ways(case: Case) -> list[str]:
    """The backends on which the model runs; others raise."""
    if not any(_has_backend(module) for module in modules_of(case.function)):
        return [MATH]
    found = []
    for way in BACKENDS:
        try:
            with sandboxed(case.function), torch.no_grad():
                call_model(OnBackend(case.function), (*cast(case.inputs, torch.float64), way))
        except RuntimeError:
            continue
        found.append(way)
    return found


@dataclass(frozen=True)
class OnBackend(Wrapped):
    """The model with a further argument: the way to compute attention, or None for its own."""

    def expression(self, inner: str) -> tuple[str, str]:
        """The import and the expression that make this of `inner` in a script."""
        return "from tokennet.testing.laws.backends import OnBackend", f"OnBackend({inner})"

    def __call__(self, *inputs: Any) -> Any:
        *given, way = inputs
        context = sdpa_kernel(SDPBackend.MATH) if way == MATH else nullcontext()
        with context, _backend(self.function, way):
            return self.function(*given)


@contextmanager
def _backend(function: Any, way: str | None) -> Iterator[None]:
    modules = [module for module in modules_of(function) if _has_backend(module)]
    before = [module.backend for module in modules]
    try:
        if way is not None and way != MATH:
            for module in modules:
                module.backend = way  # type: ignore[assignment]
        yield
    finally:
        for module, backend in zip(modules, before, strict=True):
            module.backend = backend


BACKEND_AGREEMENT = Law("every attention backend gives the same result", _has_backends, _check)
