"""Running a model on inputs and on changed inputs, in one precision, and measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from tokennet.testing.engine.content import new_content, replaced
from tokennet.testing.engine.intervention import Change, Inputs, Outputs, difference
from tokennet.testing.engine.sandbox import borrowed
from tokennet.testing.engine.scale import (
    Channels,
    gaps,
    largest,
    per_channel,
    relative,
    units,
)
from tokennet.testing.example.values import cast, features, map_tensors, tensors_of, with_features

KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


@dataclass
class Measured:
    """What the runs in one precision gave.

    Attributes:
        outputs: f(x).
        other: f of other content, which shows how far tokens move each channel.
        again: f(x) once more.
        moved: f(move(x)) for each change, where the law speaks of it.
    """

    dtype: torch.dtype
    changes: Sequence[Change]
    outputs: Outputs
    other: Outputs
    again: Outputs
    moved: list[Outputs]
    signal: float
    """How much the changes alter the output at all."""
    mixes: bool
    """Whether some output depends on another token than its own, as far as was seen."""

    @property
    def finite(self) -> bool:
        return all(bool(y.isfinite().all()) for y in self.outputs if y.is_floating_point())

    @property
    def noise(self) -> Channels:
        """The difference of two runs on one input."""
        unit = units(gaps(self.outputs, self.other), self.outputs, self.dtype)
        return relative(per_channel(gaps(self.outputs, self.again)), unit)

    def error(self, number: int) -> Channels:
        """How far a change is from what the law says, in units of the response."""
        change = self.changes[number]
        gap = per_channel(gaps(change.expected(self.outputs), self.moved[number]))
        return relative(gap, self.units(change))

    def units(self, change: Change) -> Channels:
        """By how much tokens move each channel, where the law speaks of it."""
        moved = change.expected(gaps(self.outputs, self.other))
        return units(moved, change.expected(self.outputs), self.dtype)

    def largest_units(self, change: Change) -> Channels:
        """One unit for each output: for float32, in which small channels are all rounding."""
        return [unit.amax(0, keepdim=True) for unit in self.units(change)]

    def rounding(self, number: int, off: Outputs) -> Channels:
        """Rounding errors |f32 - f64| of every entry in the same units."""
        change = self.changes[number]
        return relative(per_channel(change.expected(off)), self.units(change))

    @property
    def response(self) -> float:
        """How far tokens move the output, relative to its size."""
        size = per_channel(self.outputs)
        moved = per_channel(gaps(self.outputs, self.other))
        return largest([m / torch.where(s > 0, s, 1.0) for m, s in zip(moved, size, strict=True)])


def called(model: Callable[..., Any], inputs: Inputs) -> Outputs:
    """The tensors that a model gives for copies of inputs, as it may write to them."""
    copies = map_tensors(torch.clone, inputs)
    return [tensor.detach() for tensor in tensors_of(model(*copies))]


def called_with_graph(model: Callable[..., Any], inputs: Inputs) -> Outputs:
    """The same with the graph that gradients need."""
    return tensors_of(model(*map_tensors(torch.clone, inputs)))


class Experiment:
    """A model, an input, and the changes of it that a law speaks of."""

    def __init__(
        self,
        model: Callable[..., Any],
        inputs: Inputs,
        changes: Sequence[Change],
        *,
        jitter: int | None,
    ) -> None:
        self.model, self.inputs, self.changes, self.jitter = model, inputs, changes, jitter

    def run(self, inputs: Inputs) -> Outputs:
        with torch.no_grad():
            return called(self.model, inputs)

    @contextmanager
    def at(self, dtype: torch.dtype) -> Iterator[Inputs]:
        """The model and its inputs in a precision."""
        with borrowed(self.model, dtype=dtype, jitter=self.jitter):
            yield cast(self.inputs, dtype)

    def measure(self, dtype: torch.dtype) -> Measured:
        """Run everything in a precision.

        Raises:
            whatever the model raises in that precision.
        """
        with self.at(dtype) as x:
            y = self.run(x)
            again, other = self.run(x), self.run(_other_content(x))
            mixes = not _is_diagonal(y, self.run(_even_ones_changed(x)), x)
            moved, signal = [], 0.0
            for change in self.changes:
                outputs = self.run(change.move(x))
                moved.append(change.compared(outputs))
                if [t.shape for t in outputs] == [t.shape for t in y]:
                    signal = max(signal, difference(y, outputs))
        return Measured(dtype, self.changes, y, other, again, moved, signal, mixes)

    def error(self, inputs: Inputs, change: Change) -> float:
        """The error of one change, in units of the response; to be called within `at`."""
        y, other = self.run(inputs), self.run(_other_content(inputs))
        moved = change.compared(self.run(change.move(inputs)))
        dtype = next((t.dtype for t in y if t.is_floating_point()), torch.float64)
        measured = Measured(dtype, [change], y, other, y, [moved], 0.0, True)
        return largest(measured.error(0))

    def float32(self, exact: Measured, number: int) -> tuple[dict[str, float], Outputs | None]:
        """Errors of a change in float32 by attention kernel; |f32 - f64| of the best one.

        A kernel whose output is not finite where that of float64 is says nothing.
        """
        change = self.changes[number]
        unit = exact.largest_units(change)
        errors: dict[str, float] = {}
        off: dict[str, Outputs] = {}
        with self.at(torch.float32) as x:
            for name, kernel in _kernels(self.inputs).items():
                try:
                    with kernel:
                        y = self.run(x)
                        moved = change.compared(self.run(change.move(x)))
                except RuntimeError:  # the kernel does not take this call, or float32
                    continue
                gap = gaps(exact.outputs, y)
                if largest(per_channel(gap)) < float("inf"):
                    errors[name] = largest(
                        relative(per_channel(gaps(change.expected(y), moved)), unit)
                    )
                    off[name] = gap
        rounding = {name: largest(exact.rounding(number, gap)) for name, gap in off.items()}
        if len(set(errors.values())) == 1 and len(set(rounding.values())) == 1:
            errors = {"default": errors["default"]} if "default" in errors else errors
        return errors, off[min(rounding, key=rounding.__getitem__)] if rounding else None

    def sensitivity(self, dtype: torch.dtype, eps: float) -> Outputs:
        """How far each entry of the output moves when inputs move by a relative `eps`."""
        with self.at(dtype) as x:
            y = self.run(x)
            moved = [gaps(y, self.run(_nudged(x, eps, seed))) for seed in range(2)]
        return [torch.maximum(a, b) for a, b in zip(*moved, strict=True)]


def _kernels(inputs: Inputs) -> dict[str, Any]:
    on_cuda = any(leaf.is_cuda for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
    named = KERNELS if on_cuda else {"math": SDPBackend.MATH}
    return {"default": nullcontext(), **{name: sdpa_kernel(k) for name, k in named.items()}}


def _other_content(inputs: Inputs) -> Inputs:
    z = features(inputs[0])
    return (with_features(inputs[0], new_content(z, seed=0)), *inputs[1:])


def _even_ones_changed(inputs: Inputs) -> Inputs:
    """Other content in every other token, the first included."""
    z = features(inputs[0])
    if z.dim() < 2:
        return inputs
    return replaced(inputs, new_content(z, seed=0), -2, range(0, z.shape[-2], 2))


def _is_diagonal(before: Outputs, after: Outputs, inputs: Inputs) -> bool:
    """Whether a change of the even tokens changed even outputs and no other."""
    tokens = features(inputs[0])
    if tokens.dim() < 2 or tokens.shape[-2] < 2 or not tokens.is_floating_point():
        return False
    n = tokens.shape[-2]
    if any(y.dim() < 2 or y.shape[-2] != n for y in before):
        return False
    changed = [
        (a != b).any(-1).flatten(0, -2) if a.dim() > 2 else (a != b).any(-1)
        for a, b in zip(before, after, strict=True)
    ]
    rows = torch.stack([c.reshape(-1, n).any(0) for c in changed]).any(0)
    return bool(rows[::2].any()) and not bool(rows[1::2].any())


def _nudged(inputs: Inputs, eps: float, seed: int) -> Inputs:
    old = features(inputs[0])
    if not old.is_floating_point():
        return inputs
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, old.shape, generator=generator).to(old) * 2 - 1
    return (with_features(inputs[0], old * (1 + eps * signs)), *inputs[1:])
