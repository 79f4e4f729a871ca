"""Running a model on inputs and on changed inputs, in one precision, and measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from tokennet.symmetry.borrow import LOW_PRECISION, borrowed
from tokennet.symmetry.trial.change import Change, Inputs, Outputs, difference
from tokennet.symmetry.trial.content import new_content, replaced
from tokennet.symmetry.values import cast, features, map_tensors, tensors_of, with_features

KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


@dataclass
class Measured:
    """What the runs in one precision gave; errors are relative to the largest output."""

    dtype: torch.dtype
    outputs: Outputs
    errors: list[float]
    noise: float
    signal: float
    response: float
    """How much the output changes when all tokens change."""
    notes: list[str] = field(default_factory=list)

    @property
    def error(self) -> float:
        return max(self.errors, default=0.0)

    @property
    def finite(self) -> bool:
        return all(bool(y.isfinite().all()) for y in self.outputs if y.is_floating_point())


def called(model: Callable[..., Any], inputs: Inputs) -> Outputs:
    """The tensors that a model gives for copies of inputs, as it may write to them."""
    copies = map_tensors(torch.clone, inputs)
    return [tensor.detach() for tensor in tensors_of(model(*copies))]


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
            if dtype == torch.float64 and any(t.dtype in LOW_PRECISION for t in y):
                raise TypeError(f"the output is {y[0].dtype} for an input in float64")
            noise = difference(y, self.run(x))
            errors, signal = [], 0.0
            for change in self.changes:
                moved = self.run(change.move(x))
                errors.append(difference(change.expected(y), change.compared(moved)))
                if [t.shape for t in moved] == [t.shape for t in y]:
                    signal = max(signal, difference(y, moved))
            response = difference(y, self.run(_other_content(x)))
            measured = Measured(dtype, y, errors, noise, signal, response)
            if _is_diagonal(y, self.run(_one_changed(x)), x):
                measured.notes.append(
                    "each output depends on its own token alone: nothing mixes tokens"
                )
        return measured

    def error(self, inputs: Inputs, change: Change) -> float:
        """The relative error of one change; to be called within `at`."""
        y, moved = self.run(inputs), self.run(change.move(inputs))
        return difference(change.expected(y), change.compared(moved))

    def float32(self, exact: Outputs, worst: Change) -> tuple[dict[str, float], float]:
        """Errors in float32 by attention kernel, and the rounding |f32 - f64| of the best."""
        errors, rounding = {}, {}
        with self.at(torch.float32) as x:
            for name, kernel in _kernels(self.inputs).items():
                try:
                    with kernel:
                        y = self.run(x)
                        errors[name] = difference(
                            worst.expected(y), worst.compared(self.run(worst.move(x)))
                        )
                except RuntimeError:  # the kernel does not take this call, or float32
                    continue
                rounding[name] = difference(exact, [t.to(e) for t, e in zip(y, exact, strict=True)])
        if len(set(errors.values())) == 1 and len(set(rounding.values())) == 1:
            errors = {"default": errors["default"]} if "default" in errors else errors
        return errors, min(rounding.values(), default=0.0)

    def sensitivity(self, dtype: torch.dtype, eps: float) -> float:
        """Relative change of the output when inputs move by a relative `eps`."""
        with self.at(dtype) as x:
            y = self.run(x)
            return max(difference(y, self.run(_nudged(x, eps, seed))) for seed in range(2))


def _kernels(inputs: Inputs) -> dict[str, Any]:
    on_cuda = any(leaf.is_cuda for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
    named = KERNELS if on_cuda else {"math": SDPBackend.MATH}
    return {"default": nullcontext(), **{name: sdpa_kernel(k) for name, k in named.items()}}


def _other_content(inputs: Inputs) -> Inputs:
    z = features(inputs[0])
    return (with_features(inputs[0], new_content(z, seed=0)), *inputs[1:])


def _one_changed(inputs: Inputs) -> Inputs:
    z = features(inputs[0])
    return inputs if z.dim() < 2 else replaced(inputs, new_content(z, seed=0), -2, [0])


def _is_diagonal(before: Outputs, after: Outputs, inputs: Inputs) -> bool:
    """Whether a change of token 0 changed output 0 and no other."""
    tokens = features(inputs[0])
    if tokens.dim() < 2 or tokens.shape[-2] < 2:
        return False
    n = tokens.shape[-2]
    if any(y.dim() < 2 or y.shape[-2] != n for y in before):
        return False
    changed = [
        (a != b).any(-1).flatten(0, -2) if a.dim() > 2 else (a != b).any(-1)
        for a, b in zip(before, after, strict=True)
    ]
    rows = torch.stack([c.reshape(-1, n).any(0) for c in changed]).any(0)
    return bool(rows[0]) and not bool(rows[1:].any())


def _nudged(inputs: Inputs, eps: float, seed: int) -> Inputs:
    old = features(inputs[0])
    if not old.is_floating_point():
        return inputs
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, old.shape, generator=generator).to(old) * 2 - 1
    return (with_features(inputs[0], old * (1 + eps * signs)), *inputs[1:])
