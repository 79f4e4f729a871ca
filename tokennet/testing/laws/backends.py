"""The law that attention gives the same result on every backend and kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends.mha import get_fastpath_enabled, set_fastpath_enabled
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokennet.graphs.cache import without_function_modes
from tokennet.ops import BACKENDS
from tokennet.testing.diagnose.localize import Recorder, location_of
from tokennet.testing.diagnose.script import HAVE_FAST_PATH
from tokennet.testing.engine.intervention import Code, Inputs, Intervention, Outputs
from tokennet.testing.engine.reach import module_names, modules_of
from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.verdict import run_law
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.case import Case
from tokennet.testing.laws.law import Law, Options
from tokennet.testing.report import Location, SymmetryReport

MATH = "SDPA math"
FAST_PATH = "the fast path of torch.nn"
"""Fused layers that torch takes in eval mode without gradients; off in all other checks."""
FUSED = ("_transformer_encoder_layer_fwd", "_native_multi_head_attention")


def _has_backends(case: Case, causal: bool) -> bool:
    """Whether the model has attention that can be computed in several ways."""
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


@dataclass(frozen=True)
class BackendIntervention(Intervention):
    """The same output where attention is computed in another way."""

    way: str

    @property
    def words(self) -> str:
        return f"computing by {self.way}"

    def apply(self, inputs: Inputs) -> Inputs:
        return (*inputs[:-1], self.way)

    def code(self, names: list[str], inputs: Inputs, outputs: Outputs, worst: int) -> Code:
        return Code([], [], [*names[:-1], repr(self.way)], "y", "moved")

    def alignments(self, before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        if before.shape == after.shape:
            yield before, after


def _check(case: Case, options: Options) -> SymmetryReport:
    """Whether the backends that support the example agree."""
    ways, function = _ways(case), OnBackend(case.function)
    inputs = (*case.inputs, None)
    interventions = [BackendIntervention(way) for way in ways]
    report = run_law("backend_agreement", function, inputs, interventions, **options)
    location = report.location
    if report.counterexample is not None and FAST_PATH in report.counterexample.words:
        location = location or _fast_path_at(function, inputs)
    reason = f"{report.reason}: {', '.join(ways)}"
    return dataclasses.replace(report, reason=reason, location=location)


def _fast_path_at(function: OnBackend, inputs: Inputs) -> Location | None:
    """The statement that takes the fast path, of which no operation inside is seen."""
    recorder, runner = Recorder(module_names(function)), Runner(function, (*inputs[:-1], FAST_PATH))
    # What was seen before an operation that cannot be watched counts.
    with runner.at(torch.float32) as x, suppress(Exception), recorder:
        runner.run(x)
    fast = [call for call in recorder.calls if call.operation in FUSED]
    return location_of(fast[0], 0.0) if fast else None


def _has_backend(module: nn.Module) -> bool:
    return isinstance(getattr(module, "backend", None), str)


class _Watch(torch.overrides.TorchFunctionMode):
    """Notes whether the attention of torch is called."""

    called = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called = self.called or func is torch.nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


def _ways(case: Case) -> list[str]:
    """The ways to compute attention in which the model runs; other backends raise."""
    modules = modules_of(case.function)
    found = [FAST_PATH] if any(isinstance(m, HAVE_FAST_PATH) for m in modules) else []
    if not any(map(_has_backend, modules)):
        return [MATH, *found]
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
            elif way == FAST_PATH:  # which is not taken under function modes
                stack.callback(set_fastpath_enabled, get_fastpath_enabled())
                set_fastpath_enabled(True)
                stack.enter_context(without_function_modes())
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
beside the one it chooses, and the fast path of nn.TransformerEncoderLayer and its like), and the
outputs are compared.
Causes: a mask that one kernel drops; a bias or a scale that one path applies and the other does
not; rows without a visible token, which are 0 in one kernel and NaN in another; a subclass of a
layer of torch.nn whose own methods the fast path does not call; outputs of padding that are read
later, which the fast path makes 0.
Mend: give masks as an argument of the kernel and not as an edit of the scores; treat rows without
a visible token by hand; override forward, or torch.backends.mha.set_fastpath_enabled(False).
""",
)
