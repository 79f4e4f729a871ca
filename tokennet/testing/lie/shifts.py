"""`shift_table`: errors under exact circular shifts of series and images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokennet.testing.lie.pushforward import Map, in_float64, measuring, value_of


@dataclass(frozen=True)
class ShiftTable:
    """Errors of a map under circular shifts of its input, a table. Made by `shift_table`.

    Attributes:
        shifts: in samples of the input, one number for each of `dims`.
        errors: for each shift; None where the output cannot follow it by whole samples.
        dims: the dimensions shifted.
        invariant: the output was expected to stay, not to move with the input.
        out_shape: shape of the output.
    """

    shifts: tuple[tuple[int, ...], ...]
    errors: tuple[float | None, ...]
    dims: tuple[int, ...]
    invariant: bool
    out_shape: tuple[int, ...]

    @property
    def max_error(self) -> float | None:
        """The largest error; None if no shift could be compared."""
        errors = [error for error in self.errors if error is not None]
        # Python's `max` may ignore a NaN; that of torch returns it.
        return float(torch.tensor(errors, dtype=torch.float64).max()) if errors else None

    def __str__(self) -> str:
        aim = "invariance" if self.invariant else "equivariance"
        shifts = [", ".join(map(str, shift)) for shift in self.shifts]
        width = max(5, *map(len, shifts))
        lines = [f"{aim} under shifts along {self.dims} (output {self.out_shape})"]
        lines.append(f"{'shift':>{width}}  error")
        for shift, error in zip(shifts, self.errors, strict=True):
            shown = "-  (no whole shift of the output)" if error is None else f"{error:.2e}"
            lines.append(f"{shift:>{width}}  {shown}")
        return "\n".join(lines)


def shift_table(
    f: Map,
    x: Tensor,
    shifts: Iterable[int | tuple[int, ...]],
    *,
    dims: int | tuple[int, ...] = -1,
    invariant: bool | None = None,
) -> ShiftTable:
    r"""Errors of f under exact circular shifts S_s of x, without any interpolation.

    For use with strided layers, which no derivative describes.

        max |f(S_s x) - S_(s / stride) f(x)| / max |f(x)|,    stride = size of x / size of f(x)

    or against f(x) itself for an invariant output. Where s / stride is no whole number
    there is nothing on the grid of the output to compare with, and the error is None.
    f runs in float64 and eval mode, and its state is restored.

    Args:
        x: floating-point, shape (..., C, T), (..., C, H, W), ...
        shifts: in samples; an integer, or one for each of `dims`.
        dims: the dimensions to shift, the same in x and in f(x), counted from the end.
        invariant: whether the output should stay; None: where it has another
            number of dimensions than x.

    Raises:
        TypeError: x is not floating-point, or f does not return one floating-point tensor.
        ValueError: a shift and dims differ in length, dims are not negative dimensions of x
            and f(x), or there are no shifts.

    >>> from torch import nn
    >>> strided = nn.Conv1d(1, 1, 3, stride=2, padding=1, padding_mode="circular")
    >>> table = shift_table(strided, torch.randn(1, 1, 8), [1, 2])
    >>> table.errors[0], table.max_error < 1e-12
    (None, True)
    """
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    pairs = [(shift,) if isinstance(shift, int) else tuple(shift) for shift in shifts]
    if not pairs or any(len(shift) != len(dims) for shift in pairs):
        raise ValueError(f"shifts must have {len(dims)} numbers each, as dims has, got {pairs}")
    with measuring(f):
        x = in_float64(x)
        _check(dims, x, "x")
        aim = value_of(f(x.clone()))
        if invariant is None:
            invariant = aim.dim() != x.dim()
        if not invariant:
            _check(dims, aim, "the output")
        errors = [_error(f, x, aim, shift, dims, invariant) for shift in pairs]
    return ShiftTable(tuple(pairs), tuple(errors), dims, invariant, tuple(aim.shape))


def _error(
    f: Map, x: Tensor, aim: Tensor, shift: tuple[int, ...], dims: tuple[int, ...], invariant: bool
) -> float | None:
    expected = aim
    if not invariant:
        pairs = zip(shift, dims, strict=True)
        follow = [divmod(s * aim.shape[dim], x.shape[dim]) for s, dim in pairs]
        if any(rest for _, rest in follow):
            return None
        expected = aim.roll([whole for whole, _ in follow], dims)
    error = float((value_of(f(x.roll(shift, dims))) - expected).abs().max())
    scale = float(aim.abs().max())
    return error / scale if scale else error


def _check(dims: tuple[int, ...], values: Tensor, name: str) -> None:
    if not dims or any(not -values.dim() <= dim < 0 for dim in dims):
        raise ValueError(
            f"dims must be negative and dimensions of {name} of shape {tuple(values.shape)}, "
            f"got {dims}"
        )
