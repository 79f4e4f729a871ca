"""How far outputs are from what they should be, where numbers may stand for infinity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Outputs = list[Tensor]
OUTLIER = 1e6
"""Numbers this many times the median stand for infinity, as in masks."""


def difference(wanted: Outputs, got: Outputs) -> float:
    """max |got - wanted| / max |wanted|; infinite where shapes or infinities disagree.

    >>> difference([torch.tensor([4.0, 2.0])], [torch.tensor([4.0, 1.0])])
    0.25
    """
    if [tensor.shape for tensor in wanted] != [tensor.shape for tensor in got]:
        return float("inf")
    errors = [_difference(a, b) for a, b in zip(wanted, got, strict=True)]
    return max(errors, default=0.0)


def _difference(wanted: Tensor, got: Tensor) -> float:
    if not wanted.numel() or torch.equal(wanted, got):
        return 0.0
    if torch.bool in (wanted.dtype, got.dtype):
        return 1.0
    error = float((got - wanted).abs().max())
    if not math.isfinite(error):
        error = float(gap(wanted, got).max())
    scale = _scale(wanted)
    return error / scale if scale else error


def _scale(wanted: Tensor) -> float:
    """The largest absolute value that does not stand for infinity; 0 where there is none."""
    sizes = wanted.abs()
    largest = float(sizes.max())
    if math.isfinite(largest) and (
        not sizes.is_floating_point() or 2 * int((sizes * OUTLIER >= largest).sum()) > sizes.numel()
    ):
        return largest  # the median is not that much smaller
    sizes = sizes[sizes.isfinite()]
    if not sizes.numel():
        return 0.0
    usual = sizes[sizes <= OUTLIER * sizes.median()] if sizes.is_floating_point() else sizes
    return float(usual.max()) if usual.numel() else float(sizes.max())


def gap(wanted: Tensor, got: Tensor) -> Tensor:
    """|got - wanted|, entry by entry; infinite where infinities or NaN disagree."""
    same = (wanted == got) | (wanted.isnan() & got.isnan())
    found = (got - wanted).abs().double()
    return torch.where(same, 0.0, torch.where(found.isnan(), float("inf"), found))
