"""From runs to a verdict, and from a break to its place in the code and smallest example."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from tokennet.testing.diagnose.localize import localize, lowered_at
from tokennet.testing.diagnose.script import script_of_two_runs
from tokennet.testing.diagnose.shrink import smallest_counterexample
from tokennet.testing.diagnose.source import is_internal, location_at
from tokennet.testing.engine.intervention import Inputs, Intervention
from tokennet.testing.engine.run import Measured, Runner, largest, relative
from tokennet.testing.engine.tolerance import (
    MARGIN,
    UNDECIDED,
    Errors,
    errors_against_tolerance,
    first_line,
    name_of_dtype,
    runnable,
    tolerance,
)
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.report import Counterexample, Location, SymmetryReport, Verdict

CALLS = ("call_model", "call_with_autograd")
"""Functions of `engine.run` below which an error is the model's."""


def run_law(
    law: str,
    model: Callable[..., Any],
    inputs: Inputs,
    interventions: Sequence[Intervention],
    *,
    dtype: str | torch.dtype = "auto",
    jitter: bool = True,
    seed: int = 0,
    swaps: bool = True,
    noise_breaks: bool = False,
) -> SymmetryReport:
    """Run a law's interventions and say what they show.

    float64 decides where the model can run in it, else the precision of the input; see
    `tolerance` and `Verdict`.

    Args:
        swaps: transpositions are in the group, so that a permutation may be reduced to one.
        noise_breaks: the law is that two runs agree, so that a random model breaks it.

    Raises:
        whatever the model raises on the inputs as they were given.
    """
    started = time.perf_counter()
    runner = Runner(model, inputs, interventions, jitter=seed if jitter else None)
    precision, notes = runnable(runner, dtype)
    measured = runner.measure(precision)
    errors = errors_against_tolerance(runner, measured, notes)
    verdict, reason = _verdict(measured, errors, noise_breaks)
    small = measured.dtype == torch.float64 and errors.error < 1e-2
    if verdict is Verdict.BROKEN and small and (line := lowered_at(runner)):
        notes.append(f"computes in less than float64 at {line}; decided in float32")
        measured = runner.measure(torch.float32)
        errors = errors_against_tolerance(runner, measured, notes)
        verdict, reason = _verdict(measured, errors, noise_breaks)
    if verdict is Verdict.PASS:
        verdict, reason = _verdict_in_float32(runner, measured, errors, reason)
    counterexample, location = None, None
    if verdict is Verdict.BROKEN or errors.noisy:
        location = _localized(runner, measured, errors, notes)
        counterexample = _counterexample(runner, measured, errors, swaps, notes)
    if not measured.mixes:
        notes.append("each output depends on its own token alone: nothing mixes tokens")
    return SymmetryReport(
        law=law,
        subject=name_of(model),
        verdict=verdict,
        reason=reason,
        error=errors.noise if noise_breaks else errors.error,
        tolerance=errors.tolerance,
        dtype=name_of_dtype(measured.dtype),
        rounding=errors.rounding,
        signal=measured.signal,
        noise=errors.noise,
        float32=errors.float32,
        runs=len(interventions),
        seconds=time.perf_counter() - started,
        notes=tuple(dict.fromkeys(notes)),
        counterexample=counterexample,
        location=location,
    )


def verdict_on_error(error: Exception) -> SymmetryReport:
    """BROKEN: the model runs on the example, and raises on what should be the same.

    Raises:
        the error itself, if it is not the model's.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not any(frame.name in CALLS for frame in frames):
        raise error
    name = f"raises {type(error).__name__}"
    own = [frame for frame in reversed(frames) if not is_internal(frame.filename)]
    lines = [(frame.filename, frame.lineno or 0) for frame in own]
    return SymmetryReport(
        law="",
        subject="",
        verdict=Verdict.BROKEN,
        reason=f"{name}: {first_line(error)}",
        error=float("inf"),
        tolerance=0.0,
        dtype="float64",
        location=location_at(name, lines, error_out=1.0),
    )


def name_of(model: Any) -> str:
    """The name of a model for messages."""
    if isinstance(model, nn.Module):
        return type(model).__name__
    if isinstance(model, functools.partial):
        return name_of(model.func)
    if isinstance(model, Wrapped):
        return name_of(model.function)
    return getattr(model, "__name__", type(model).__name__)


def _verdict(measured: Measured, errors: Errors, noise_breaks: bool) -> tuple[Verdict, str]:
    if not measured.finite:
        return Verdict.INCONCLUSIVE, "the output is not finite on the example itself"
    if errors.noisy:
        reason = f"two runs on the same input differ by {errors.noise:.2g}"
        verdict = Verdict.BROKEN if noise_breaks else Verdict.INCONCLUSIVE
        return verdict, f"{reason}: it is random, or keeps a state"
    if noise_breaks:
        return Verdict.PASS, "two runs on the same input agree"
    excess = max(errors.excess)
    if excess > UNDECIDED[measured.dtype]:
        return Verdict.BROKEN, f"off by {errors.error:.2g} of what tokens do to the output"
    if excess > 1:
        return Verdict.INCONCLUSIVE, f"an error of {errors.error:.2g} may be rounding"
    if measured.response <= MARGIN[measured.dtype] * torch.finfo(measured.dtype).eps:
        return Verdict.VACUOUS, "the output does not depend on the tokens"
    return Verdict.PASS, "holds up to rounding"


def _verdict_in_float32(
    runner: Runner, measured: Measured, errors: Errors, reason: str
) -> tuple[Verdict, str]:
    """A law that holds in float64 may be broken by a kernel that runs in float32 only."""
    name, error = max(errors.float32.items(), key=lambda item: item[1], default=("", 0.0))
    if error <= tolerance(torch.float32, 0.0, torch.float32):
        return Verdict.PASS, reason
    off = runner.sensitivity(torch.float64, torch.finfo(torch.float32).eps)
    intervention = measured.interventions[errors.worst]
    unit = measured.largest_units(intervention)
    rounding = largest(relative(intervention.sizes(off), unit))
    limit = tolerance(torch.float32, rounding, torch.float32)
    if error <= limit * UNDECIDED[torch.float32]:
        return Verdict.PASS, reason
    return Verdict.BROKEN, f"holds in float64, but is off by {error:.2g} in float32 ({name})"


def _localized(
    runner: Runner, measured: Measured, errors: Errors, notes: list[str]
) -> Location | None:
    """Where it breaks; the verdict stands where this fails."""
    followed = [
        (excess, number)
        for number, excess in enumerate(errors.excess)
        if measured.interventions[number].can_be_followed
        and (errors.noisy or excess > UNDECIDED[measured.dtype])
    ]
    number = max(followed, key=lambda pair: pair[0])[1] if followed else errors.worst
    size = errors.noise if errors.noisy else errors.error
    # Between rounding and the break, so that neither hides the other.
    between = max(errors.tolerance, min(1e-3, (errors.tolerance * min(size, 1.0)) ** 0.5))
    try:
        with runner.at(measured.dtype) as x:
            return localize(runner, x, measured.interventions[number], between)
    except Exception as error:  # operations that cannot be watched
        notes.append(f"not localized: {first_line(error)}")
        return None


def _counterexample(
    runner: Runner, measured: Measured, errors: Errors, swaps: bool, notes: list[str]
) -> Counterexample | None:
    """The smallest example that shows the break; the verdict stands where this fails."""
    if errors.noisy:
        text = script_of_two_runs(runner.model, runner.inputs)
        return Counterexample(None, errors.noise, text, runner.inputs)
    worst = measured.interventions[errors.worst]
    hidden = False
    if runner.jitter is not None:
        given = Runner(runner.model, runner.inputs)
        with given.at(torch.float64 if errors.tolerance < 1e-6 else torch.float32) as x:
            hidden = given.error(x, worst) <= errors.tolerance
    if hidden:
        notes.append(
            "holds for the parameters as given, and breaks once they are changed a little: "
            "values such as zeros hide the break"
        )
    threshold = errors.tolerance * UNDECIDED[measured.dtype]
    try:
        with runner.at(measured.dtype) as x:
            return smallest_counterexample(
                runner, x, worst, threshold=threshold, swaps=swaps, jittered=hidden
            )
    except Exception as error:  # sizes and content that the model refuses
        notes.append(f"no smaller example: {first_line(error)}")
        return None
