"""Errors against the tolerance that the model's own rounding gives, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.testing.engine.intervention import Outputs
from tokennet.testing.engine.precision import first_line
from tokennet.testing.engine.run import Experiment, Measured
from tokennet.testing.engine.scale import largest
from tokennet.testing.report import MARGIN


@dataclass
class Weighed:
    """Errors against the tolerance that was measured; that of the worst channel is shown."""

    excess: list[float]
    """For each change, how many tolerances the worst channel is off."""
    error: float
    limit: float
    rounding: float
    noise: float
    noisy: bool
    float32: dict[str, float]

    @property
    def worst(self) -> int:
        """The number of the change that is furthest off."""
        return self.excess.index(max(self.excess))


def weighed(experiment: Experiment, measured: Measured, notes: list[str]) -> Weighed:
    """Hold errors against 64 eps max(1, r / eps32), r being a channel's rounding in float32."""
    dtype = measured.dtype
    trials = range(len(measured.changes))
    first = max(trials, key=lambda number: largest(measured.error(number)))
    float32, off, eps = _rounding(experiment, measured, first, notes)
    least = MARGIN[dtype] * torch.finfo(dtype).eps
    worst, excess = _Channel(0.0, least, 0.0), []
    for number in trials:
        pairs = zip(measured.error(number), measured.rounding(number, off), strict=True)
        found = [_worst_channel(error, rounding, least, eps) for error, rounding in pairs]
        here = max(found, key=_by_excess)
        worst = max(worst, here, key=_by_excess)
        excess.append(here.excess)
    noise = largest(measured.noise)
    allowed = worst.limit if dtype == torch.float64 else least
    return Weighed(
        excess, worst.error, worst.limit, worst.rounding, noise, noise > allowed, float32
    )


class _Channel(NamedTuple):
    error: float
    limit: float
    rounding: float

    @property
    def excess(self) -> float:
        return self.error / self.limit


def _by_excess(channel: _Channel) -> tuple[float, float]:
    return channel.excess, channel.rounding


def _worst_channel(error: Tensor, rounding: Tensor, least: float, eps: float) -> _Channel:
    limit = least * (rounding / eps).clamp(min=1.0)
    number = int((error / limit).nan_to_num(float("inf"), float("inf")).argmax())
    return _Channel(float(error[number]), float(limit[number]), float(rounding[number]))


def _rounding(
    experiment: Experiment, measured: Measured, number: int, notes: list[str]
) -> tuple[dict[str, float], Outputs, float]:
    """Errors in float32, how far rounding moves each entry, and the epsilon of that."""
    dtype, single = measured.dtype, torch.finfo(torch.float32).eps
    nothing = [torch.zeros(y.shape, dtype=torch.float64, device=y.device) for y in measured.outputs]
    if dtype != torch.float64:
        eps = torch.finfo(dtype).eps
        if largest(measured.noise) > MARGIN[dtype] * eps:  # noise would pass for rounding
            return {}, nothing, eps
        return {}, experiment.sensitivity(dtype, eps), eps
    try:
        float32, off = experiment.float32(measured, number)
        if off is not None:
            return float32, off, single
        notes.append("float32 gives no finite output where float64 does")
    except Exception as error:  # whatever a model of other people raises in float32
        notes.append(f"cannot run in float32 ({first_line(error)})")
    return {}, experiment.sensitivity(torch.float64, single), single
