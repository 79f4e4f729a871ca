"""What the runs of a law on one content show: the errors, and a verdict on them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tokennet.testing.engine.channels import largest
from tokennet.testing.engine.precision import lowest_precision
from tokennet.testing.engine.run import Measured, Runner
from tokennet.testing.engine.tolerance import (
    MARGIN,
    UNDECIDED,
    Errors,
    errors_against_tolerance,
    tolerance,
)
from tokennet.testing.report import Verdict


@dataclass(frozen=True)
class Finding:
    """The verdict on one content, and the precision in which a break shows.

    Attributes:
        runner: in the attention kernel in which a break shows.
        dtype: float32 where it shows in float32 only.
        rounds_in: the lowest precision that the model computes in then.
        error: in that precision, and how far off rounding may be.
    """

    runner: Runner
    measured: Measured
    errors: Errors
    verdict: Verdict
    reason: str
    dtype: torch.dtype
    rounds_in: torch.dtype
    error: float
    tolerance: float

    @property
    def in_float32_only(self) -> bool:
        return self.dtype != self.measured.dtype

    @property
    def broken(self) -> list[int]:
        """The numbers of the interventions that are off, the worst first; or of the worst."""
        if self.in_float32_only:
            return [self.errors.diagnosed]
        excess = self.errors.excess
        limit = UNDECIDED[self.errors.rounds_in]
        found = [n for n, by in enumerate(excess) if by > limit] or [self.errors.worst]
        return sorted(found, key=lambda number: -excess[number])


def find(
    runner: Runner, precision: torch.dtype, notes: list[str], *, noise_breaks: bool = False
) -> Finding:
    """Run the interventions in a precision, and compare.

    Args:
        notes: are added to.
        noise_breaks: the law is that two runs agree.
    """
    measured = runner.measure(precision)
    errors = errors_against_tolerance(runner, measured, notes)
    verdict, reason = _verdict(measured, errors, noise_breaks)
    found = Finding(
        runner,
        measured,
        errors,
        verdict,
        reason,
        dtype=precision,
        rounds_in=errors.rounds_in,
        error=errors.error,
        tolerance=errors.tolerance,
    )
    return _in_float32(found) if verdict is Verdict.PASS else found


def _verdict(measured: Measured, errors: Errors, noise_breaks: bool) -> tuple[Verdict, str]:
    if not any(measured.changed):
        return Verdict.INCONCLUSIVE, "no output has an entry that the law speaks of"
    if not measured.finite:
        return Verdict.INCONCLUSIVE, "the output is not finite on the example itself"
    if errors.noisy:
        reason = f"two runs on the same input differ by {errors.noise:.2g}"
        verdict = Verdict.BROKEN if noise_breaks else Verdict.INCONCLUSIVE
        return verdict, f"{reason}: it is random, or keeps a state"
    if noise_breaks:
        return Verdict.PASS, "two runs on the same input agree"
    excess, dtype = max(errors.excess), errors.rounds_in
    if excess > UNDECIDED[dtype]:
        return Verdict.BROKEN, f"off by {errors.error:.2g} of what tokens do to the output"
    if excess > 1:
        return Verdict.INCONCLUSIVE, f"an error of {errors.error:.2g} may be rounding"
    if measured.response <= MARGIN[dtype] * torch.finfo(dtype).eps:
        return Verdict.VACUOUS, "the output does not depend on the tokens"
    return Verdict.PASS, "holds up to rounding"


def _in_float32(found: Finding) -> Finding:
    """A law that holds in float64 may be broken by a kernel that runs in float32 only."""
    runner, measured, errors = found.runner, found.measured, found.errors
    name, error = max(errors.float32.items(), key=lambda item: item[1], default=("", 0.0))
    if error <= tolerance(torch.float32, 0.0, torch.float32):
        return found
    runner = replace(runner, kernel=name)
    rounds_in = lowest_precision(runner, torch.float32)
    eps = torch.finfo(rounds_in).eps
    off = runner.sensitivity(torch.float64, eps)
    unit = measured.largest_units(measured.interventions[errors.diagnosed])
    rounding = largest(measured.rounding(errors.diagnosed, off, eps, unit))
    limit = tolerance(rounds_in, rounding, rounds_in)
    if error <= limit * UNDECIDED[rounds_in]:
        return found
    return replace(
        found,
        runner=runner,
        verdict=Verdict.BROKEN,
        reason=f"holds in float64, but is off by {error:.2g} in float32 ({name})",
        dtype=torch.float32,
        rounds_in=rounds_in,
        error=error,
        tolerance=limit,
    )
