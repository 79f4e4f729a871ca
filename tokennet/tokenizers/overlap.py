"""Cutting a signal or an image into pieces that may overlap, and joining them again."""

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
    pieces: Tensor, places: Tensor, strides: Sequence[int], weight: Tensor | None = None
) -> Tensor:
    r"""Weighted mean of the pieces wherever they overlap.

        x_t = sum_k w_{t - ks} piece_{k, t - ks} / sum_k w_{t - ks}

    What was cut comes back whatever the weights: exactly for integers and for types of
    single precision and below, as sums are taken in float64. Where no piece lies there is 0.

    Args:
        pieces: (..., N, *sizes).
        places: (N, d) number of strides from the origin to each piece.
        strides: d steps.
        weight: (*sizes) positive; by default all pieces count alike.

    Returns:
        (..., *lengths), as far as the pieces reach.
    """
    d = len(strides)
    sizes = pieces.shape[-d:]
    starts = places * torch.tensor(strides, device=places.device)  # (N, d)
    lengths = [int(starts[:, k].max()) + sizes[k] for k in range(d)]
    index = torch.zeros(len(places), *sizes, dtype=torch.long, device=pieces.device)
    for k in range(d):
        along = starts[:, k, None].to(pieces.device) + torch.arange(sizes[k], device=pieces.device)
        shape = [len(places), *(sizes[k] if axis == k else 1 for axis in range(d))]
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


def check_cut(
    name: str, lengths: Sequence[int], sizes: Sequence[int], strides: Sequence[int]
) -> None:
    """Raise ValueError unless the pieces cover the lengths without a rest."""
    for length, size, stride in zip(lengths, sizes, strides, strict=True):
        if length < size or (length - size) % stride:
            raise ValueError(
                f"{name} must be {size} + k x {stride} long in each cut dimension, so that "
                f"pieces of {size} every {stride} cover it, got {length}; pad=True fills it up"
            )


def fill_up(signal: Tensor, sizes: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Zeros at the end of the last d dimensions, until pieces cover them without a rest."""
    missing: list[int] = []
    lengths = signal.shape[-len(sizes) :]
    for length, size, stride in zip(lengths, sizes, strides, strict=True):
        more = size - length if length < size else (size - length) % stride
        missing = [0, more, *missing]  # `F.pad` counts dimensions from the last
    return F.pad(signal, missing)


def pieces_of(
    name: str, signal: Tensor, sizes: Sequence[int], strides: Sequence[int], pad: bool
) -> Tensor:
    """Cut, after filling up or checking that nothing is left over."""
    if pad:
        signal = fill_up(signal, sizes, strides)
    check_cut(name, signal.shape[-len(sizes) :], sizes, strides)
    return cut(signal, sizes, strides)


def check_stride(size: int, stride: int) -> None:
    """Raise ValueError if pieces leave gaps."""
    if stride > size:
        raise ValueError(f"stride must be at most size = {size}, or gaps are left, got {stride}")
