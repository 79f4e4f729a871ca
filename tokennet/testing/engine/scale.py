"""How far outputs are apart, channel by channel, in units of how far the tokens move them.

A channel is an entry of an output's last dimension. A constant beside the outputs, or one
channel that is much larger than the others, then hides nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.testing.engine.intervention import Outputs

Channels = list[Tensor]
"""For each output the numbers (C,) of its channels."""
RESOLVED = 4096
"""A channel that moves by fewer epsilons of its size is measured as if it moved by these."""
LARGEST_FLOOR = 1e-3
"""But by no more than this part of its size, whatever the precision."""


def gaps(wanted: Outputs, got: Outputs) -> Outputs:
    """|got - wanted|, entry by entry; infinite where shapes, infinities or NaN disagree.

    Integers and truth values are 1 apart where they differ.
    """
    if len(wanted) != len(got):
        return [torch.full_like(a, float("inf"), dtype=torch.float64) for a in wanted]
    return [_gap(a, b) for a, b in zip(wanted, got, strict=True)]


def per_channel(tensors: Outputs) -> Channels:
    """The largest finite absolute value in each channel, or infinity if there is one."""
    return [_largest(tensor) for tensor in tensors]


def units(moved: Outputs, outputs: Outputs, dtype: torch.dtype) -> Channels:
    """By how much each channel moves with the tokens; its own size where it does not.

    Args:
        moved: |f(other content) - f(x)|.
        outputs: f(x), in the same places.
    """
    found = []
    for response, size in zip(per_channel(moved), per_channel(outputs), strict=True):
        size = torch.where(size.isfinite(), size, 0.0)
        floor = min(RESOLVED * torch.finfo(dtype).eps, LARGEST_FLOOR) * size
        unit = torch.where(response.isfinite(), torch.maximum(response, floor), 1.0)
        found.append(torch.where(response == 0, torch.where(size > 0, size, 1.0), unit))
    return found


def relative(sizes: Channels, unit: Channels) -> Channels:
    """Sizes in units, channel by channel."""
    return [size / one for size, one in zip(sizes, unit, strict=True)]


def largest(channels: Channels) -> float:
    """The largest number of all."""
    return max((float(part.max()) for part in channels if part.numel()), default=0.0)


def _gap(wanted: Tensor, got: Tensor) -> Tensor:
    if wanted.shape != got.shape:
        return torch.full(wanted.shape or (1,), float("inf"), dtype=torch.float64)
    same = (wanted == got) | (wanted.isnan() & got.isnan())
    if not wanted.is_floating_point() and not wanted.is_complex():
        return (~same).double()
    gap = (got - wanted).abs().double()
    return torch.where(same, 0.0, torch.where(gap.isnan(), float("inf"), gap))


def _largest(tensor: Tensor) -> Tensor:
    width = tensor.shape[-1] if tensor.dim() > 1 else 1
    if not tensor.numel():
        return torch.zeros(max(width, 1), dtype=torch.float64, device=tensor.device)
    if tensor.is_complex():
        tensor = tensor.abs()
    return tensor.double().abs().reshape(-1, width).nan_to_num(float("inf"), float("inf")).amax(0)
