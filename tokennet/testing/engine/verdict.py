"""From measurements to a verdict, and from a break to its place and smallest example."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from tokennet.testing.diagnose.localize import localize
from tokennet.testing.diagnose.lowered import lowered_at
from tokennet.testing.diagnose.script import twice
from tokennet.testing.diagnose.shrink import smallest_witness
from tokennet.testing.diagnose.source import blamed, is_internal, statement_at
from tokennet.testing.engine.intervention import Change, Inputs
from tokennet.testing.engine.precision import first_line, name_of_dtype, precision_of, runnable
from tokennet.testing.engine.run import Experiment, Measured
from tokennet.testing.engine.scale import largest, per_channel, relative
from tokennet.testing.engine.tolerance import Weighed, weighed
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.report import (
    MARGIN,
    UNDECIDED,
    Location,
    SymmetryReport,
    Verdict,
    Witness,
    tolerance,
)


def raised(error: Exception) -> SymmetryReport:
    """BROKEN: the model runs on the example, and raises on what should be the same.

    Raises:
        the error itself, if it is not the model's.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not any(frame.name.startswith("called") for frame in frames):
        raise error
    lines = [
        (frame.filename, frame.lineno or 0)
        for frame in reversed(frames)
        if not is_internal(frame.filename)
    ]
    place = None
    if lines:
        file, line = blamed(lines)
        start, end, source = statement_at(file, line)
        place = Location(f"raises {type(error).__name__}", "", file, start, end, source, 0.0, 1.0)
    nothing = float("nan")
    return SymmetryReport(
        law="",
        subject="",
        verdict=Verdict.BROKEN,
        reason=f"raises {type(error).__name__}: {first_line(error)}",
        error=float("inf"),
        tolerance=0.0,
        dtype="float64",
        rounding=nothing,
        signal=nothing,
        noise=nothing,
        location=place,
    )


def judge(
    law: str,
    model: Callable[..., Any],
    inputs: Inputs,
    changes: Sequence[Change],
    *,
    dtype: str | torch.dtype = "auto",
    jitter: bool = True,
    seed: int = 0,
    swaps: bool = True,
    noise_breaks: bool = False,
) -> SymmetryReport:
    """Run a law's changes and say what they show.

    float64 decides where the model can run in it, else the precision of the input; see
    `tolerance` and `Verdict`.

    Args:
        swaps: transpositions are in the group, so that a permutation may be reduced to one.
        noise_breaks: the law is that two runs agree, so that a random model breaks it.

    Raises:
        whatever the model raises on the inputs as they were given.
    """
    started = time.perf_counter()
    experiment = Experiment(model, inputs, changes, jitter=seed if jitter else None)
    measured, notes = _measure(experiment, precision_of(dtype))
    found = weighed(experiment, measured, notes)
    verdict, reason = _verdict(measured, found, noise_breaks)
    if verdict is Verdict.BROKEN and measured.dtype == torch.float64 and found.error < 1e-2:
        place = lowered_at(experiment)
        if place:
            notes.append(f"computes in less than float64 at {place}; decided in float32")
            measured = experiment.measure(torch.float32)
            found = weighed(experiment, measured, notes)
            verdict, reason = _verdict(measured, found, noise_breaks)
    verdict, reason = _kernels_agree(experiment, found, measured, verdict, reason)
    witness, location = None, None
    if verdict is Verdict.BROKEN or found.noisy:
        witness, location = _diagnose(experiment, measured, found, swaps, notes)
    if not measured.mixes:
        notes.append("each output depends on its own token alone: nothing mixes tokens")
    return SymmetryReport(
        law=law,
        subject=name_of(model),
        verdict=verdict,
        reason=reason,
        error=found.noise if noise_breaks else found.error,
        tolerance=found.limit,
        dtype=name_of_dtype(measured.dtype),
        rounding=found.rounding,
        signal=measured.signal,
        noise=found.noise,
        float32=found.float32,
        trials=len(changes),
        seconds=time.perf_counter() - started,
        notes=tuple(dict.fromkeys(notes)),
        witness=witness,
        location=location,
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


def _measure(experiment: Experiment, dtype: torch.dtype | None) -> tuple[Measured, list[str]]:
    precision, notes = runnable(experiment, dtype)
    return experiment.measure(precision), notes


def _verdict(measured: Measured, found: Weighed, noise_breaks: bool) -> tuple[Verdict, str]:
    if not measured.finite:
        return Verdict.INCONCLUSIVE, "the output is not finite on the example itself"
    if found.noisy:
        reason = f"two runs on the same input differ by {found.noise:.2g}"
        verdict = Verdict.BROKEN if noise_breaks else Verdict.INCONCLUSIVE
        return verdict, f"{reason}: it is random, or keeps a state"
    if noise_breaks:
        return Verdict.PASS, "two runs on the same input agree"
    excess = max(found.excess)
    if excess > UNDECIDED[measured.dtype]:
        return Verdict.BROKEN, f"off by {found.error:.2g} of what tokens do to the output"
    if excess > 1:
        return Verdict.INCONCLUSIVE, f"an error of {found.error:.2g} may be rounding"
    if measured.response <= MARGIN[measured.dtype] * torch.finfo(measured.dtype).eps:
        return Verdict.VACUOUS, "the output does not depend on the tokens"
    return Verdict.PASS, "holds up to rounding"


def _kernels_agree(
    experiment: Experiment,
    found: Weighed,
    measured: Measured,
    verdict: Verdict,
    reason: str,
) -> tuple[Verdict, str]:
    """A law that holds in float64 may be broken by a kernel that runs in float32 only."""
    if verdict is not Verdict.PASS or not found.float32:
        return verdict, reason
    eps = torch.finfo(torch.float32).eps
    name, error = max(found.float32.items(), key=lambda item: item[1])
    if error <= tolerance(torch.float32, 0.0, torch.float32):
        return verdict, reason
    off = experiment.sensitivity(torch.float64, eps)
    change = measured.changes[found.worst]
    moved = per_channel(change.expected(off))
    rounding = largest(relative(moved, measured.largest_units(change)))
    limit = tolerance(torch.float32, rounding, torch.float32)
    if error <= limit * UNDECIDED[torch.float32]:
        return verdict, reason
    return Verdict.BROKEN, f"holds in float64, but is off by {error:.2g} in float32 ({name})"


def _diagnose(
    experiment: Experiment,
    measured: Measured,
    found: Weighed,
    swaps: bool,
    notes: list[str],
) -> tuple[Witness | None, Location | None]:
    """Where it breaks and the smallest example; the verdict stands where these fail."""
    location, witness = None, None
    try:
        location = _locate(experiment, measured, found)
    except Exception as error:  # operations that cannot be watched
        notes.append(f"not located: {first_line(error)}")
    if found.noisy:
        text = twice(experiment.model, experiment.inputs)
        return Witness(None, found.noise, text, experiment.inputs), location
    worst = measured.changes[found.worst]
    hidden = experiment.jitter is not None and _holds_as_given(experiment, worst, found)
    if hidden:
        notes.append(
            "holds for the parameters as given, and breaks once they are changed a little: "
            "values such as zeros hide the break"
        )
    try:
        with experiment.at(measured.dtype) as x:
            threshold = found.limit * UNDECIDED[measured.dtype]
            witness = smallest_witness(
                experiment, x, worst, threshold=threshold, swaps=swaps, jittered=hidden
            )
    except Exception as error:  # sizes and content that the model refuses
        notes.append(f"no smaller example: {first_line(error)}")
    return witness, location


def _locate(experiment: Experiment, measured: Measured, found: Weighed) -> Location | None:
    broken = [
        (excess, change)
        for excess, change in zip(found.excess, measured.changes, strict=True)
        if change.can_be_followed and (found.noisy or excess > UNDECIDED[measured.dtype])
    ]
    change = max(broken, key=lambda two: two[0])[1] if broken else measured.changes[found.worst]
    size = found.noise if found.noisy else found.error
    # Between rounding and the break, so that neither hides the other.
    between = max(found.limit, min(1e-3, (found.limit * min(size, 1.0)) ** 0.5))
    with experiment.at(measured.dtype) as x:
        return localize(experiment, x, change, between)


def _holds_as_given(experiment: Experiment, worst: Change, found: Weighed) -> bool:
    given = Experiment(experiment.model, experiment.inputs, experiment.changes, jitter=None)
    dtype = torch.float64 if found.limit < 1e-6 else torch.float32
    with given.at(dtype) as x:
        return given.error(x, worst) <= found.limit
