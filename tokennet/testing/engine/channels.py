"""Differences of outputs, channel by channel, and in units of how far tokens move a channel."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.testing.engine.differences import gap
from tokennet.testing.engine.intervention import Outputs

RESOLVED = 4096
"""A channel that moves by fewer epsilons of its size is measured as if it moved by these."""
LARGEST_FLOOR = 1e-3
"""But by no more than this part of its size, whatever the precision."""

Channels = list[Tensor]
"""For each output the numbers (C,) of its channels."""


def gaps(wanted: Outputs, got: Outputs) -> Outputs:
    """|got - wanted|, entry by entry; infinite where shapes, infinities or NaN disagree.

    Integers and truth values are 1 apart where they differ.

    >>> gaps([torch.tensor([1.0, torch.inf])], [torch.tensor([3.0, torch.inf])])[0].tolist()
    [2.0, 0.0]
    """
    if len(wanted) != len(got):
        return [torch.full_like(a, float("inf"), dtype=torch.float64) for a in wanted]
    return [_gap(a, b) for a, b in zip(wanted, got, strict=True)]


def _gap(wanted: Tensor, got: Tensor) -> Tensor:
    if wanted.shape != got.shape:
        return torch.full(wanted.shape or (1,), float("inf"), dtype=torch.float64)
    if not wanted.is_floating_point() and not wanted.is_complex():
        return (wanted != got).double()
    return gap(wanted, got)


def per_channel(tensors: Outputs) -> Channels:
    """The largest finite absolute value in each channel, or infinity if there is one.

    >>> per_channel([torch.tensor([[1.0, -2.0], [-3.0, 0.5]])])[0].tolist()
    [3.0, 2.0]
    """
    return [_largest_of_channels(tensor) for tensor in tensors]


def _largest_of_channels(tensor: Tensor) -> Tensor:
    width = tensor.shape[-1] if tensor.dim() > 1 else 1
    if not tensor.numel():
        return torch.zeros(max(width, 1), dtype=torch.float64, device=tensor.device)
    sizes = (tensor.abs() if tensor.is_complex() else tensor).double().abs()
    return sizes.reshape(-1, width).nan_to_num(float("inf"), float("inf")).amax(0)


def units(moved: Outputs, outputs: Outputs, dtype: torch.dtype) -> Channels:
    """By how much each channel moves with the tokens; its own size where it does not.

    Args:
        moved: |f(other content) - f(x)|.
        outputs: f(x), the same entries.
    """
    found = []
    for response, size in zip(per_channel(moved), per_channel(outputs), strict=True):
        size = torch.where(size.isfinite(), size, 0.0)
        floor = min(RESOLVED * torch.finfo(dtype).eps, LARGEST_FLOOR) * size
        unit = torch.where(response.isfinite(), torch.maximum(response, floor), 1.0)
        found.append(torch.where(response == 0, torch.where(size > 0, size, 1.0), unit))
    return found


def relative(tensors: Outputs, unit: Channels) -> Channels:
    """The largest value in each channel, in units."""
    return [size / by for size, by in zip(per_channel(tensors), unit, strict=True)]


def largest(channels: Channels) -> float:
    """The largest number of all.

    >>> largest([torch.tensor([1.0, 3.0]), torch.zeros(0)])
    3.0
    """
    return max((float(part.max()) for part in channels if part.numel()), default=0.0)
