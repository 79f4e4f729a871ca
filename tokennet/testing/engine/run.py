"""Running a model on an input and on changed inputs, in one precision, and measuring the errors.

Errors are measured channel by channel, in units of how far the tokens move a channel (an entry
of an output's last dimension), so that a constant beside the outputs, or one channel that is
much larger than the others, hides nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from tokennet.testing.engine.channels import Channels, gaps, largest, per_channel, relative, units
from tokennet.testing.engine.content import (
    content_of_example,
    is_of_example,
    new_content,
    replaced,
)
from tokennet.testing.engine.differences import difference
from tokennet.testing.engine.intervention import Inputs, Intervention, Outputs
from tokennet.testing.engine.nudge import nudged, nudged_parameters
from tokennet.testing.engine.sandbox import remembered_contents, sandboxed
from tokennet.testing.engine.wrapped import identity
from tokennet.testing.example.values import cast, features, map_tensors, tensors_of, with_features

KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
REPEATED = 16
"""How often a model that draws random numbers runs until two runs differ."""

_SHARED: ContextVar[dict[Any, tuple[Any, Any]] | None] = ContextVar("shared_runs", default=None)


@contextmanager
def shared_runs() -> Iterator[None]:
    """Within the context laws share the runs on one input in one precision.

    Nobody else may change the models, or those inputs, within it.
    """
    token = _SHARED.set({})
    try:
        with remembered_contents():
            yield
    finally:
        _SHARED.reset(token)


def call_model(model: Callable[..., Any], inputs: Inputs) -> Outputs:
    """The tensors that a model returns for copies of inputs, as it may write to them."""
    return [tensor.detach() for tensor in call_with_autograd(model, inputs)]


def call_with_autograd(model: Callable[..., Any], inputs: Inputs) -> Outputs:
    """The same with the autograd graph that gradients need."""
    return tensors_of(model(*map_tensors(torch.clone, inputs)))


class Reference(NamedTuple):
    """The runs that do not depend on a law; see `Measured`."""

    outputs: Outputs
    other: Outputs
    again: Outputs
    mixes: bool
    is_random: bool


@dataclass
class Measured:
    """What the runs in one precision gave.

    Attributes:
        outputs: f(x).
        other: f of other content, which shows how far tokens move each channel.
        again: f(x) once more.
        changed: f(apply(x)) of each intervention, where the law speaks of it.
        signal: how much the interventions alter the output at all.
        is_random: whether f draws random numbers, even where two runs agree by chance.
        mixes: whether some output depends on another token than its own, as far as was seen.
    """

    dtype: torch.dtype
    interventions: Sequence[Intervention]
    outputs: Outputs
    other: Outputs
    again: Outputs
    changed: list[Outputs]
    signal: float = 0.0
    mixes: bool = True
    is_random: bool = False

    @property
    def finite(self) -> bool:
        return all(bool(y.isfinite().all()) for y in self.outputs if y.is_floating_point())

    @property
    def noise(self) -> Channels:
        """The difference of two runs on one input."""
        unit = units(gaps(self.outputs, self.other), self.outputs, self.dtype)
        return relative(gaps(self.outputs, self.again), unit)

    def error(self, number: int) -> Channels:
        """How far an intervention is from what the law says, in units of the response."""
        intervention = self.interventions[number]
        off = gaps(intervention.expected(self.outputs), self.changed[number])
        return relative(off, self.units(intervention))

    def units(self, intervention: Intervention) -> Channels:
        """By how much tokens move each channel, where the law speaks of it."""
        moved = intervention.sizes(gaps(self.outputs, self.other))
        return units(moved, intervention.expected(self.outputs), self.dtype)

    def largest_units(self, intervention: Intervention) -> Channels:
        """One unit for each output: for float32, in which small channels are all rounding."""
        return [unit.amax(0, keepdim=True) for unit in self.units(intervention)]

    def rounding(
        self, number: int, off: Outputs, eps: float = 0.0, unit: Channels | None = None
    ) -> Channels:
        """Rounding errors `off` in units of `error`, at least `eps / 2` of a channel's size."""
        intervention = self.interventions[number]
        unit = self.units(intervention) if unit is None else unit
        sizes = per_channel(intervention.expected(self.outputs))
        found = [
            torch.maximum(by, eps / 2 * torch.where(size.isfinite(), size, 0.0))
            for by, size in zip(per_channel(intervention.sizes(off)), sizes, strict=True)
        ]
        return [by / size for by, size in zip(found, unit, strict=True)]

    @property
    def response(self) -> float:
        """How far tokens move the output, relative to its size."""
        size = [torch.where(size > 0, size, 1.0) for size in per_channel(self.outputs)]
        return largest(relative(gaps(self.outputs, self.other), size))


@dataclass(frozen=True)
class Runner:
    """Runs a model on an input and on the interventions of a law, in any precision.

    Args:
        jitter: seed of a small change of the parameters; None leaves them as they are.
        kernel: the attention kernel of torch, one of `KERNELS`.
    """

    model: Callable[..., Any]
    inputs: Inputs
    interventions: Sequence[Intervention] = ()
    jitter: int | None = None
    kernel: str = "default"

    def run(self, inputs: Inputs) -> Outputs:
        with torch.no_grad():
            return call_model(self.model, inputs)

    @contextmanager
    def at(self, dtype: torch.dtype) -> Iterator[Inputs]:
        """The model and its inputs in a precision."""
        kernel = nullcontext() if self.kernel == "default" else sdpa_kernel(KERNELS[self.kernel])
        with sandboxed(self.model, dtype=dtype, jitter=self.jitter), kernel:
            yield cast(self.inputs, dtype)

    def remembered(self, what: Any, make: Callable[[], Any]) -> Any:
        """What runs on the inputs alone give, made once within `shared_runs`."""
        shared = _SHARED.get()
        if shared is None:
            return make()
        numbers = tuple(map(id, self.inputs))
        key = what, identity(self.model), numbers, self.jitter, self.kernel
        if key not in shared:
            shared[key] = make(), self  # the runner, so that no identity is used twice
        return shared[key][0]

    def measure(self, dtype: torch.dtype) -> Measured:
        """Run everything in a precision.

        Raises:
            whatever the model raises in that precision.
        """
        with self.at(dtype) as x:
            y, other, again, mixes, is_random = self.reference(x, dtype)
            changed, signal = [], 0.0
            for intervention in self.interventions:
                outputs = self.run(intervention.apply(x))
                changed.append(intervention.compared(outputs))
                if [t.shape for t in outputs] == [t.shape for t in y]:
                    signal = max(signal, difference(y, outputs))
        return Measured(
            dtype, self.interventions, y, other, again, changed, signal, mixes, is_random
        )

    def reference(self, x: Inputs, dtype: torch.dtype) -> Reference:
        """The runs that do not depend on a law; to be called within `at`."""
        return self.remembered(dtype, lambda: self._reference(x))

    def _reference(self, x: Inputs) -> Reference:
        state = _random_state()
        y, again = self.run(x), self.run(x)
        is_random = _random_state() != state
        for _ in range(REPEATED if is_random else 0):
            if largest(per_channel(gaps(y, again))):
                break
            again = self.run(x)
        other = self.run(other_content(x))
        mixes = not _is_diagonal(y, self.run(_even_tokens_changed(x)), x)
        return Reference(y, other, again, mixes, is_random)

    def error(self, inputs: Inputs, intervention: Intervention) -> float:
        """The error of an intervention, in units of the response; to be called within `at`."""
        y, other = self.run(inputs), self.run(other_content(inputs))
        return error_of(intervention, y, other, self.run(intervention.apply(inputs)))

    def float32(self, exact: Measured, number: int) -> tuple[dict[str, float], Outputs | None]:
        """Errors in float32 by attention kernel; |f32 - f64| of the best kernel.

        A kernel whose output is not finite where that of float64 is says nothing; one that gives
        the same bits as the default is the default.
        """
        intervention = exact.interventions[number]
        unit = exact.largest_units(intervention)
        errors: dict[str, float] = {}
        off: dict[str, Outputs] = {}
        default: Outputs = []
        with self.at(torch.float32) as x:
            for name, kernel in _kernels(self.inputs).items():
                try:
                    with kernel:
                        y = self.remembered((torch.float32, name), lambda: self.run(x))
                        if default and all(map(torch.equal, default, y)):
                            continue  # no kernel of attention is called
                        default = default or y
                        changed = intervention.compared(self.run(intervention.apply(x)))
                except RuntimeError:  # the kernel does not support this call, or float32
                    continue
                moved = gaps(exact.outputs, y)
                if largest(per_channel(moved)) < float("inf"):
                    error = relative(gaps(intervention.expected(y), changed), unit)
                    errors[name], off[name] = largest(error), moved
        rounding = {name: largest(exact.rounding(number, by)) for name, by in off.items()}
        if len(set(errors.values())) == 1 and len(set(rounding.values())) == 1:
            errors = {"default": errors["default"]} if "default" in errors else errors
        return errors, off[min(rounding, key=rounding.__getitem__)] if rounding else None

    def sensitivity(self, dtype: torch.dtype, eps: float) -> Outputs:
        """How far each entry of the output moves when inputs and parameters move by `eps`."""
        return self.remembered(("moved", dtype, eps), lambda: self._sensitivity(dtype, eps))

    def _sensitivity(self, dtype: torch.dtype, eps: float) -> Outputs:
        with self.at(dtype) as x:
            y, moved = self.run(x), []
            for seed in range(2):
                with nudged_parameters(self.model, eps, seed):
                    moved.append(gaps(y, self.run(nudged(x, eps, seed))))
        return [torch.maximum(a, b) for a, b in zip(*moved, strict=True)]


def _kernels(inputs: Inputs) -> dict[str, Any]:
    on_cuda = any(leaf.is_cuda for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
    named = KERNELS if on_cuda else {"math": SDPBackend.MATH}
    return {"default": nullcontext(), **{name: sdpa_kernel(k) for name, k in named.items()}}


def _random_state() -> tuple[Any, ...]:
    """The states of the global generators of torch, NumPy and Python."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if on_cuda else [])]
    drawn = tuple(state.numpy().tobytes() for state in states)
    return (*drawn, bytes(numpy_state[1]), numpy_state[2], random.getstate())


def error_of(intervention: Intervention, y: Outputs, other: Outputs, changed: Outputs) -> float:
    """The error of an intervention, in units of the response.

    Args:
        y: f(x).
        other: f of other content.
        changed: f(apply(x)).
    """
    dtype = next((t.dtype for t in y if t.is_floating_point()), torch.float64)
    changed = intervention.compared(changed)
    return largest(Measured(dtype, [intervention], y, other, y, [changed]).error(0))


@contextmanager
def accepted_content(model: Callable[..., Any], inputs: Inputs) -> Iterator[None]:
    """Within the context new content is of the example's own tokens if the model needs that.

    That is where it raises, or gives no finite output, for normal numbers, and does not for its
    own tokens: as a model of probabilities or of lengths. What was found before is kept.
    """
    if is_of_example() is not None:
        yield
        return
    runner = Runner(model, inputs)
    needed = not _accepts(runner, other_content(inputs))
    if needed:
        with content_of_example(True):
            needed = _accepts(runner, inputs) and _accepts(runner, other_content(inputs))
    with content_of_example(needed):
        yield


def _accepts(runner: Runner, inputs: Inputs) -> bool:
    with sandboxed(runner.model, dtype=None):
        try:
            found = runner.run(inputs)
        except Exception:  # whatever a model of other people raises
            return False
    return all(bool(y.isfinite().all()) for y in found if y.is_floating_point())


def other_content(inputs: Inputs) -> Inputs:
    z = features(inputs[0])
    return (with_features(inputs[0], new_content(z, seed=0)), *inputs[1:])


def _even_tokens_changed(inputs: Inputs) -> Inputs:
    """Other content in every other token, the first included; of further sets too."""
    z = features(inputs[0])
    if z.dim() < 2:
        return inputs
    found = [*replaced(inputs, -2, range(0, z.shape[-2], 2), seed=0)]
    for number, value in enumerate(inputs[1:], 1):
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() == z.dim():
            found[number] = replaced((value,), -2, range(0, value.shape[-2], 2), seed=0)[0]
    return tuple(found)


def _is_diagonal(before: Outputs, after: Outputs, inputs: Inputs) -> bool:
    """Whether other content in the even tokens changed even outputs and no other."""
    tokens = features(inputs[0])
    if tokens.dim() < 2 or tokens.shape[-2] < 2 or not tokens.is_floating_point():
        return False
    n = tokens.shape[-2]
    if any(y.dim() < 2 or y.shape[-2] != n for y in before):
        return False
    pairs = zip(before, after, strict=True)
    rows = torch.stack([(a != b).any(-1).reshape(-1, n).any(0) for a, b in pairs]).any(0)
    return bool(rows[::2].any()) and not bool(rows[1::2].any())
