"""Frequencies of rotary positions beyond the length that a model was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _linear(steps: Tensor, base: float, factor: float, length: int) -> tuple[Tensor, float]:
    return base**-steps / factor, 1.0


def _ntk(steps: Tensor, base: float, factor: float, length: int) -> tuple[Tensor, float]:
    last = float(steps[-1]) if len(steps) > 1 else 1.0  # the slowest is slowed by the factor
    return (base * factor ** (1 / last)) ** -steps, 1.0


def _yarn(steps: Tensor, base: float, factor: float, length: int) -> tuple[Tensor, float]:
    """Fast pairs as they are, slow ones slowed; between 32 and 1 rotations in the length, both."""
    plain, count = base**-steps, 2 * len(steps)

    def pair_of(rotations: float) -> float:
        return count * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(pair_of(32)), 0), min(math.ceil(pair_of(1)), count - 1)
    each = torch.arange(len(steps), dtype=steps.dtype, device=steps.device)
    slowed = ((each - low) / max(high - low, 1e-3)).clamp(0, 1)
    return plain * (1 - slowed) + plain / factor * slowed, 0.1 * math.log(factor) + 1


def _llama3(steps: Tensor, base: float, factor: float, length: int) -> tuple[Tensor, float]:
    """Between 4 rotations and 1 over the length, from as it is to slowed."""
    plain = base**-steps
    rotations = length * plain / (2 * math.pi)
    kept = ((rotations - 1) / (4 - 1)).clamp(0, 1)
    return plain * kept + plain / factor * (1 - kept), 1.0


SCALINGS: dict[str, Callable[[Tensor, float, float, int], tuple[Tensor, float]]] = {
    "linear": _linear,
    "ntk": _ntk,
    "yarn": _yarn,
    "llama3": _llama3,
}
"""From steps 2i / d, base, factor and trained length to the frequencies, and a factor of both
queries and keys."""
