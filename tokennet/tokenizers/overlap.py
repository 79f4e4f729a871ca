"""Cut a signal or an image into pieces that may overlap, and join them: `pieces_of`, `join`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def cut(signal: Tensor, sizes: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Pieces of the last d dimensions: (..., *lengths) to (..., *counts, *sizes).

    >>> cut(torch.arange(5), [3], [2]).tolist()
    [[0, 1, 2], [2, 3, 4]]
    """
    for size, stride in zip(sizes, strides, strict=True):
        signal = signal.unfold(-len(sizes), size, stride)
    return signal


def join(
    pieces: Tensor, indices: Tensor, strides: Sequence[int], weight: Tensor | None = None
) -> Tensor:
    r"""Weighted mean of the pieces wherever they overlap.

        x_t = sum_k w_{t - ks} piece_{k, t - ks} / sum_k w_{t - ks}

    It inverts the cut for any weights: exactly for integers and for dtypes of single precision
    and below, as sums are in float64. The signal is 0 where there is no piece.

    Args:
        pieces: (..., N, *sizes).
        indices: (N, d) number of strides from the origin to each piece.
        strides: d steps.
        weight: (*sizes) positive; by default 1.

    Returns:
        (..., *lengths), as far as the pieces reach.
    """
    d = len(strides)
    sizes = pieces.shape[-d:]
    starts = indices * torch.tensor(strides, device=indices.device)  # (N, d)
    lengths = [int(starts[:, k].max()) + sizes[k] for k in range(d)]
    index = torch.zeros(len(indices), *sizes, dtype=torch.long, device=pieces.device)
    for k in range(d):
        along = starts[:, k, None].to(pieces.device) + torch.arange(sizes[k], device=pieces.device)
        shape = [len(indices), *(sizes[k] if axis == k else 1 for axis in range(d))]
        index = index * lengths[k] + along.view(shape)
    flat = index.flatten()  # (N * sizes)
    if weight is None:
        weight = torch.ones(sizes)
    weight = weight.to(pieces.device, torch.float64)
    weighted = (pieces.double() * weight).flatten(-d - 1)  # (..., N * sizes)
    covered = weight.expand(index.shape).flatten()
    total = weighted.new_zeros(*weighted.shape[:-1], math.prod(lengths))
    total = total.index_add(-1, flat, weighted)
    mass = covered.new_zeros(math.prod(lengths)).index_add(0, flat, covered)
    mean = (total / torch.where(mass > 0, mass, 1.0)).unflatten(-1, lengths)
    return (mean if pieces.is_floating_point() else mean.round()).to(pieces.dtype)


def pieces_of(
    name: str, signal: Tensor, sizes: Sequence[int], strides: Sequence[int], pad: bool
) -> Tensor:
    """Cut a signal, padded with zeros at the end of the last d dimensions if `pad`.

    Raises:
        ValueError: pieces do not fit, and `pad` is not set.
    """
    padding: list[int] = []
    for length, size, stride in zip(signal.shape[-len(sizes) :], sizes, strides, strict=True):
        missing = size - length if length < size else (size - length) % stride
        if missing and not pad:
            raise ValueError(
                f"{name} must be {size} + k x {stride} long in each cut dimension, so that "
                f"pieces of {size} every {stride} cover it, got {length}; pad=True pads it"
            )
        padding = [0, missing, *padding]  # `F.pad` counts dimensions from the last
    return cut(F.pad(signal, padding) if any(padding) else signal, sizes, strides)


def check_stride(size: int, stride: int) -> None:
    """Raise ValueError if pieces leave gaps."""
    if stride > size:
        raise ValueError(f"stride must be at most size = {size}, or gaps are left, got {stride}")
