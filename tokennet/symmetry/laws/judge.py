"""From measurements to a verdict, and from a break to its place and smallest example."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from tokennet.symmetry.locate.localise import localise
from tokennet.symmetry.locate.precision import lowered_at
from tokennet.symmetry.locate.script import twice
from tokennet.symmetry.locate.source import blamed, is_internal, statement_at
from tokennet.symmetry.locate.witness import smallest_witness
from tokennet.symmetry.report import (
    UNDECIDED,
    Location,
    SymmetryReport,
    Verdict,
    Witness,
    tolerance,
)
from tokennet.symmetry.trial.change import Change, Inputs
from tokennet.symmetry.trial.experiment import Experiment, Measured
from tokennet.symmetry.values import features


def raised(error: Exception) -> SymmetryReport:
    """BROKEN: the model runs on the example, and raises on what should be the same."""
    frames = traceback.extract_tb(error.__traceback__)
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
    text = str(error).splitlines()[0] if str(error) else ""
    nothing = float("nan")
    return SymmetryReport(
        law="",
        subject="",
        verdict=Verdict.BROKEN,
        reason=f"raises {type(error).__name__}: {text}",
        error=float("inf"),
        tolerance=0.0,
        dtype="float64",
        rounding=nothing,
        signal=nothing,
        noise=nothing,
        location=place,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


PRECISIONS = {
    _name(dtype): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}


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
    notes += measured.notes
    float32, rounding, limit = _tolerance(experiment, measured, notes)
    verdict, reason = _verdict(measured, limit, noise_breaks)
    if verdict is Verdict.BROKEN and measured.dtype == torch.float64:
        place = lowered_at(experiment) if measured.error < 64 * max(rounding, 1e-6) else ""
        if place:
            notes.append(f"computes in less than float64 at {place}; decided in float32")
            measured = experiment.measure(torch.float32)
            _, rounding, limit = _tolerance(experiment, measured, notes)
            verdict, reason = _verdict(measured, limit, noise_breaks)
    verdict, reason = _kernels_agree(experiment, float32, measured, verdict, reason)
    witness, location = None, None
    if verdict is Verdict.BROKEN or measured.noise > limit:
        witness, location = _diagnose(experiment, measured, limit, swaps, notes)
    return SymmetryReport(
        law=law,
        subject=name_of(model),
        verdict=verdict,
        reason=reason,
        error=measured.noise if noise_breaks else measured.error,
        tolerance=limit,
        dtype=_name(measured.dtype),
        rounding=rounding,
        signal=measured.signal,
        noise=measured.noise,
        float32=float32,
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
    if hasattr(model, "expression"):  # a wrapper of the checker's own
        return name_of(model.function)
    return getattr(model, "__name__", type(model).__name__)


def precision_of(dtype: str | torch.dtype) -> torch.dtype | None:
    """The precision that is to decide, None for "auto".

    Raises:
        ValueError: it is none that is known.
    """
    if dtype == "auto":
        return None
    found = PRECISIONS.get(dtype) if isinstance(dtype, str) else dtype
    if found not in PRECISIONS.values():
        raise ValueError(f"dtype must be 'auto' or among {sorted(PRECISIONS)}, got {dtype!r}")
    return found


def _measure(experiment: Experiment, dtype: torch.dtype | None) -> tuple[Measured, list[str]]:
    if dtype is not None:
        return experiment.measure(dtype), []
    try:
        return experiment.measure(torch.float64), []
    except Exception as error:  # whatever a model of other people raises in float64
        given = features(experiment.inputs[0]).dtype
        lower = given if given.is_floating_point and given != torch.float64 else torch.float32
        measured = experiment.measure(lower)
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        return measured, [f"cannot run in float64 ({text}); decided in {_name(lower)}"]


def _tolerance(
    experiment: Experiment, measured: Measured, notes: list[str]
) -> tuple[dict[str, float], float, float]:
    """Errors in float32, rounding, and the tolerance that follows."""
    dtype = measured.dtype
    least = tolerance(dtype, 0.0, dtype)
    if measured.noise > least:  # would pass for rounding
        return {}, 0.0, least
    if dtype != torch.float64:
        rounding = experiment.sensitivity(dtype, torch.finfo(dtype).eps)
        return {}, rounding, tolerance(dtype, rounding, dtype)
    worst = experiment.changes[measured.errors.index(measured.error)]
    try:
        float32, rounding = experiment.float32(measured.outputs, worst)
    except Exception as error:  # whatever a model of other people raises in float32
        notes.append(f"cannot run in float32 ({str(error).splitlines()[0]})")
        float32, rounding = {}, 0.0
    if not float32:
        eps = torch.finfo(torch.float32).eps
        rounding = experiment.sensitivity(torch.float64, eps)
    return float32, rounding, tolerance(dtype, rounding, torch.float32)


def _verdict(measured: Measured, limit: float, noise_breaks: bool) -> tuple[Verdict, str]:
    if not measured.finite:
        return Verdict.INCONCLUSIVE, "the output is not finite on the example itself"
    if measured.noise > limit:
        reason = f"two runs on the same input differ by {measured.noise:.2g}: it is random"
        if noise_breaks:
            return Verdict.BROKEN, reason
        return Verdict.INCONCLUSIVE, f"{reason}, or keeps a state"
    if noise_breaks:
        return Verdict.PASS, "two runs on the same input agree"
    if measured.error > limit * UNDECIDED[measured.dtype]:
        return Verdict.BROKEN, f"off by {measured.error:.2g} of the largest output"
    if measured.error > limit:
        return Verdict.INCONCLUSIVE, f"an error of {measured.error:.2g} may be rounding"
    if measured.response <= limit:
        return Verdict.VACUOUS, "the output does not depend on the tokens"
    return Verdict.PASS, "holds up to rounding"


def _kernels_agree(
    experiment: Experiment,
    float32: dict[str, float],
    measured: Measured,
    verdict: Verdict,
    reason: str,
) -> tuple[Verdict, str]:
    """A law that holds in float64 may be broken by a kernel that runs in float32 only."""
    if verdict is not Verdict.PASS or not float32:
        return verdict, reason
    eps = torch.finfo(torch.float32).eps
    name, error = max(float32.items(), key=lambda item: item[1])
    if error <= tolerance(torch.float32, 0.0, torch.float32):
        return verdict, reason
    limit = tolerance(torch.float32, experiment.sensitivity(torch.float64, eps), torch.float32)
    if error <= limit * UNDECIDED[torch.float32]:
        return verdict, reason
    return Verdict.BROKEN, f"holds in float64, but is off by {error:.2g} in float32 ({name})"


def _diagnose(
    experiment: Experiment, measured: Measured, limit: float, swaps: bool, notes: list[str]
) -> tuple[Witness | None, Location | None]:
    threshold = limit * UNDECIDED[measured.dtype]
    ranked = sorted(zip(measured.errors, experiment.changes, strict=True), key=lambda two: -two[0])
    worst = ranked[0][1]
    followed = [c for error, c in ranked if c.can_be_followed and error > threshold] or [worst]
    noisy = measured.noise > limit
    size = measured.noise if noisy else measured.error
    witness = None
    with experiment.at(measured.dtype) as x:
        # Between rounding and the break, so that neither hides the other.
        between = max(limit, min(1e-3, (limit * min(size, 1.0)) ** 0.5))
        location = localise(experiment, x, followed[0], between)
    if noisy:
        text = twice(experiment.model, experiment.inputs)
        return Witness(None, measured.noise, text, experiment.inputs), location
    hidden = experiment.jitter is not None and _holds_as_given(experiment, worst, measured, limit)
    if hidden:
        notes.append(
            "holds for the parameters as given, and breaks once they are changed a little: "
            "values such as zeros hide the break"
        )
    with experiment.at(measured.dtype) as x:
        witness = smallest_witness(
            experiment,
            x,
            worst,
            threshold=threshold,
            swaps=swaps,
            jittered=hidden,
        )
    return witness, location


def _holds_as_given(
    experiment: Experiment, worst: Change, measured: Measured, limit: float
) -> bool:
    given = Experiment(experiment.model, experiment.inputs, experiment.changes, jitter=None)
    with given.at(measured.dtype) as x:
        return given.error(x, worst) <= limit
