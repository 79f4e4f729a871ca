"""The law that attention gives the same result on every backend and kernel."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokennet.ops import BACKENDS
from tokennet.testing.engine.intervention import ContentIntervention
from tokennet.testing.engine.reach import modules_of
from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.verdict import run_law
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.case import Case
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
    runner, watch = Runner(case.function, case.inputs), _Watch()
    try:
        with runner.at(torch.float64) as x, watch:
            runner.run(x)
    except Exception:  # models that cannot run in float64 have no such law
        return False
    return watch.called


def _check(case: Case, options: Options) -> SymmetryReport:
    """Whether the backends that support the example agree."""

    def on(way: str) -> ContentIntervention:
        return ContentIntervention(lambda inputs: (*inputs[:-1], way))

    ways, function = _ways(case), OnBackend(case.function)
    inputs, interventions = (*case.inputs, None), list(map(on, ways))
    report = run_law("backend_agreement", function, inputs, interventions, **options)
    return dataclasses.replace(report, reason=f"{report.reason}: {', '.join(ways)}")


def _has_backend(module: nn.Module) -> bool:
    return isinstance(getattr(module, "backend", None), str)


class _Watch(torch.overrides.TorchFunctionMode):
    """Notes whether the attention of torch is called."""

    called = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called = self.called or func is torch.nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


def _ways(case: Case) -> list[str]:
    """The backends on which the model runs; others raise."""
    if not any(_has_backend(module) for module in modules_of(case.function)):
        return [MATH]
    found = []
    for way in BACKENDS:
        runner = Runner(OnBackend(case.function), (*case.inputs, way))
        try:
            with runner.at(torch.float64) as x:
                runner.run(x)
        except RuntimeError:
            continue
        found.append(way)
    return found


@dataclass(frozen=True)
class OnBackend(Wrapped):
    """The model with a further argument: the way to compute attention, or None for its own."""

    imports = "from tokennet.testing.scripts import OnBackend"

    def __call__(self, *inputs: Any) -> Any:
        *given, way = inputs
        with ExitStack() as stack:
            if way == MATH:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            elif way is not None:
                for module in filter(_has_backend, modules_of(self.function)):
                    stack.callback(setattr, module, "backend", module.backend)
                    module.backend = way
            return self.function(*given)


BACKEND_AGREEMENT = Law(
    "every attention backend gives the same result",
    _has_backends,
    _check,
    """\
Says: attention gives the same result whichever backend or kernel computes it, in models that use
attention of torch or of this library.
Measured: the model runs on each backend that accepts the example (for torch: its math kernel
beside the one it chooses), and the outputs are compared.
Causes: a mask that one kernel drops; a bias or a scale that one path applies and the other does
not; rows without a visible token, which are 0 in one kernel and NaN in another.
Mend: give masks as an argument of the kernel and not as an edit of the scores; treat rows without
a visible token by hand.
""",
)
