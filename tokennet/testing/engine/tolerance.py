"""The precision in which a law is decided, and the tolerance that rounding of the model needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.checks import lookup
from tokennet.testing.engine.channels import largest
from tokennet.testing.engine.intervention import Outputs
from tokennet.testing.engine.precision import lowest_precision
from tokennet.testing.engine.run import Measured, Runner
from tokennet.testing.engine.sandbox import LOW_PRECISION
from tokennet.testing.example.values import features

MARGIN = {torch.float64: 64, torch.float32: 64, torch.float16: 8, torch.bfloat16: 4}
"""Rounding errors of one epsilon that a symmetric model may collect."""
UNDECIDED = {torch.float64: 1e3, torch.float32: 32, torch.float16: 16, torch.bfloat16: 4}
"""How many times the tolerance an error may be before it is called a break."""
PRECISIONS = {str(dtype).removeprefix("torch."): dtype for dtype in MARGIN}


def tolerance(dtype: torch.dtype, rounding: float, rounding_dtype: torch.dtype) -> float:
    r"""How large an error a symmetric model can show.

        m eps max(1, r / eps_r)

    with m = 64 in float64 and float32, 8 in float16 and 4 in bfloat16. r is the measured
    relative rounding of the model at a precision eps_r, so that r / eps_r is how much the
    model amplifies rounding, whatever the precision.

    >>> print(f"{tolerance(torch.float64, 1.2e-5, torch.float32):.1e}")  # amplifies 100 times
    1.4e-12
    """
    amplification = rounding / torch.finfo(rounding_dtype).eps
    return MARGIN[dtype] * torch.finfo(dtype).eps * max(1.0, amplification)


def precision_of(dtype: str | torch.dtype) -> torch.dtype | None:
    """The precision that is to decide, None for "auto".

    Raises:
        ValueError: it is unknown.
    """
    if dtype == "auto":
        return None
    return lookup("dtype", name_of_dtype(dtype), PRECISIONS, also="or 'auto'")


def name_of_dtype(dtype: str | torch.dtype) -> str:
    """`float64` for torch.float64."""
    return str(dtype).removeprefix("torch.")


def runnable(runner: Runner, dtype: str | torch.dtype) -> tuple[torch.dtype, list[str]]:
    """The precision to decide in, for "auto" float64 where the model runs in it; and notes.

    Raises:
        whatever the model raises in the precision of its input too.
    """
    given = precision_of(dtype)
    if given is not None:
        return given, []
    precision, notes = runner.remembered("auto", lambda: _runnable(runner))
    return precision, list(notes)


def _runnable(runner: Runner) -> tuple[torch.dtype, list[str]]:
    try:
        with runner.at(torch.float64) as x:
            outputs = runner.reference(x, torch.float64).outputs  # runs that all laws need
            lower = [y.dtype for y in outputs if y.dtype in LOW_PRECISION]
        if not lower:
            return torch.float64, []
        text = f"the output is {name_of_dtype(lower[0])} for an input in float64"
    except Exception as error:  # whatever a model of other people raises in float64
        text = first_line(error)
    own = features(runner.inputs[0]).dtype
    decided = own if own in LOW_PRECISION else torch.float32
    with runner.at(decided) as x:
        runner.run(x)
    return decided, [f"cannot run in float64 ({text}); decided in {name_of_dtype(decided)}"]


def first_line(error: Exception) -> str:
    """What an error says, in one line.

    >>> first_line(ValueError("no tokens\\nbut 3")), first_line(KeyError())
    ('no tokens', 'KeyError')
    """
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@dataclass
class Errors:
    """Errors against the tolerance that was measured; that of the worst channel is shown.

    Attributes:
        excess: for each intervention, how many tolerances the worst channel is off.
        noisy: two runs on the same input differ.
        float32: the error in float32 by attention kernel.
        diagnosed: the number of the intervention of which that is.
        rounds_in: the lowest precision that the model computes in.
    """

    excess: list[float]
    error: float
    tolerance: float
    rounding: float
    noise: float
    noisy: bool
    float32: dict[str, float]
    diagnosed: int = 0
    rounds_in: torch.dtype = torch.float64

    @property
    def worst(self) -> int:
        """The number of the intervention that is furthest off."""
        return self.excess.index(max(self.excess))


class _Channel(NamedTuple):
    excess: float
    rounding: float
    error: float
    tolerance: float


def errors_against_tolerance(runner: Runner, measured: Measured, notes: list[str]) -> Errors:
    """Hold errors against 64 eps max(1, r / eps32), r being a channel's rounding in float32.

    r is at least half an epsilon of the channel: an output that is exact in float32 by chance,
    such as a sum of a softmax, is still rounded in float64.
    """
    dtype = _rounds_in(runner, measured.dtype)
    numbers = range(len(measured.interventions))
    first = max(numbers, key=lambda number: largest(measured.error(number)))
    float32, off, eps = _rounding(runner, measured, first, dtype, notes)
    least = MARGIN[dtype] * torch.finfo(dtype).eps
    channels, nothing = [], _Channel(0.0, 0.0, 0.0, least)
    for number in numbers:
        pairs = zip(measured.error(number), measured.rounding(number, off, eps), strict=True)
        by_output = (_worst_channel(*pair, least, eps) for pair in pairs)
        channels.append(max(by_output, default=nothing))
    worst = max([nothing, *channels])
    noise = largest(measured.noise)
    noisy = noise > (worst.tolerance if dtype == torch.float64 else least)
    excess = [channel.excess for channel in channels]
    return Errors(
        excess, worst.error, worst.tolerance, worst.rounding, noise, noisy, float32, first, dtype
    )


def _rounds_in(runner: Runner, dtype: torch.dtype) -> torch.dtype:
    """The precision that rounds; in float64 what a lower one does shows elsewhere."""
    return dtype if dtype == torch.float64 else lowest_precision(runner, dtype)


def _worst_channel(error: Tensor, rounding: Tensor, least: float, eps: float) -> _Channel:
    limit = least * (rounding / eps).clamp(min=1.0)
    excess = error / limit
    worst = int(excess.nan_to_num(float("inf"), float("inf")).argmax())
    return _Channel(*(float(values[worst]) for values in (excess, rounding, error, limit)))


def _rounding(
    runner: Runner, measured: Measured, number: int, dtype: torch.dtype, notes: list[str]
) -> tuple[dict[str, float], Outputs, float]:
    """Errors in float32, how far rounding moves each entry, and the epsilon of that."""
    single = torch.finfo(torch.float32).eps
    if dtype != torch.float64:
        eps = torch.finfo(dtype).eps
        if largest(measured.noise) > MARGIN[dtype] * eps:  # noise would pass for rounding
            return {}, [torch.zeros_like(y, dtype=torch.float64) for y in measured.outputs], eps
        return {}, runner.sensitivity(measured.dtype, eps), eps
    try:
        float32, off = runner.float32(measured, number)
        if off is not None:
            return float32, off, single
        notes.append("float32 gives no finite output where float64 does")
    except Exception as error:  # whatever a model of other people raises in float32
        notes.append(f"cannot run in float32 ({first_line(error)})")
    return {}, runner.sensitivity(torch.float64, single), single
