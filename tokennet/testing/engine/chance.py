"""Models that draw random numbers: the same numbers in both runs, or the same distribution.

Where each token draws numbers of its own, as in dropout, f(P x) is P f(x) once the numbers are
permuted too. As they are independent and identically distributed, this shows that the two have
the same distribution. Where it fails, `p_value` compares samples of the two.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tokennet.testing.engine.actions import Action, Invariant
from tokennet.testing.engine.intervention import (
    Inputs,
    Intervention,
    Outputs,
    PermutationIntervention,
)
from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.wrapped import Wrapped

PERMUTATIONS = 9999
"""Random relabelings of two samples that a p-value counts."""
COLUMNS = 1024
"""Entries of the outputs that are compared at most."""


@dataclass(frozen=True)
class Noise:
    """What a model draws: numbers from a seed, moved by `perm` in dimensions of its length."""

    seed: int = 0
    perm: tuple[int, ...] | None = None


@dataclass(frozen=True)
class MoveNoise(Action):
    """Moves the random numbers of each token with it.

    >>> MoveNoise().apply(Noise(3), torch.tensor([1, 0]))
    Noise(seed=3, perm=(1, 0))
    """

    def degree(self, value: Any) -> None:
        return None

    def apply(self, value: Noise, perm: Tensor) -> Noise:
        return dataclasses.replace(value, perm=tuple(perm.tolist()))

    def restrict(self, value: Noise, index: Tensor) -> Noise:
        return value


@dataclass(frozen=True)
class WithNoise(Wrapped):
    """The model with a further argument: the `Noise` that it draws.

    >>> f = WithNoise(lambda x: torch.dropout(x, 0.5, True))
    >>> x = torch.ones(4)
    >>> bool((f(x, Noise(1)) == f(x, Noise(1))).all())
    True
    """

    imports = "from tokennet.testing.scripts import MoveNoise, Noise, WithNoise"

    def __call__(self, *inputs: Any) -> Any:
        *given, noise = inputs
        seed_all(noise.seed)
        with _Drawn(noise):
            return self.function(*given)


@dataclass(frozen=True)
class _Beside(Intervention):
    """An intervention on all inputs but the last, which is the noise."""

    inner: Intervention

    def apply(self, inputs: Inputs) -> Inputs:
        return (*self.inner.apply(inputs[:-1]), inputs[-1])

    def expected(self, outputs: Outputs) -> Outputs:
        return self.inner.expected(outputs)

    def compared(self, outputs: Outputs) -> Outputs:
        return self.inner.compared(outputs)

    def sizes(self, sizes: Outputs) -> Outputs:
        return self.inner.sizes(sizes)

    @property
    def can_be_followed(self) -> bool:
        return self.inner.can_be_followed

    def alignments(self, before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        return self.inner.alignments(before, after)


def with_noise(intervention: Intervention, *, moved: bool) -> Intervention:
    """The intervention on inputs with a `Noise` beside them, which is moved or held."""
    if not isinstance(intervention, PermutationIntervention):
        return _Beside(intervention)
    action = MoveNoise() if moved else Invariant()
    return dataclasses.replace(intervention, in_actions=(*intervention.in_actions, action))


def seed_all(seed: int) -> None:
    """Seed torch, NumPy and Python; to be called in a sandbox, which restores them."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


class _Drawn(TorchDispatchMode):
    """Draws in float32 whatever the precision, so that it is the same in each, and moves it."""

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(noise.seed)
        self._perm = None if noise.perm is None else torch.tensor(noise.perm)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else ""
        if name == "native_dropout":
            x, p, train = (*args, True)[:3]
            kept = (self._moved(torch.rand, x) >= p) if train is not False else torch.ones_like(x)
            return x * kept / max(1 - p, 1e-30) if p < 1 else x * 0, kept.bool()
        if name == "multinomial":
            return self._multinomial(*args, **kwargs)
        result = func(*args, **kwargs)
        if name in _DRAWS:
            # torch.normal(mean, std) and torch.bernoulli(p) have no tensor that they fill
            by_parameters = name == "normal" or (name == "bernoulli" and len(args) == 1)
            result.copy_(_DRAWS[name](self, result, *args[0 if by_parameters else 1 :]))
        return result

    def _moved(self, draw: Callable[..., Tensor], like: Tensor) -> Tensor:
        values = draw(like.shape, generator=self._generator, dtype=torch.float32)
        for dim, size in enumerate(values.shape):
            if self._perm is not None and size == len(self._perm):
                values = values.index_select(dim, self._perm)
        return values.to(like.device, torch.float64)

    def _multinomial(self, p: Tensor, count: int, replacement: bool = False, **_: Any) -> Tensor:
        """The first of exponential clocks that run at rates p, again for each replacement."""
        shape = (*p.shape[:-1], count, p.shape[-1]) if replacement else p.shape
        clocks = -torch.log1p(-self._moved(torch.rand, p.new_empty(shape)))
        if replacement:
            return (p[..., None, :] / clocks).argmax(-1)
        return (p / clocks).topk(count).indices


def _uniform(mode: _Drawn, like: Tensor, low: Any = 0.0, high: Any = 1.0) -> Tensor:
    return low + (high - low) * mode._moved(torch.rand, like)


def _normal(mode: _Drawn, like: Tensor, mean: Any = 0.0, std: Any = 1.0, *_: Any) -> Tensor:
    return mean + std * mode._moved(torch.randn, like)


def _bernoulli(mode: _Drawn, like: Tensor, p: Any = 0.5) -> Tensor:
    return mode._moved(torch.rand, like) < p


def _exponential(mode: _Drawn, like: Tensor, rate: float = 1.0) -> Tensor:
    return -torch.log1p(-mode._moved(torch.rand, like)) / rate


def _permutation(mode: _Drawn, like: Tensor) -> Tensor:
    order = torch.randperm(len(like), generator=mode._generator)
    if mode._perm is None or len(mode._perm) != len(like):
        return order
    return torch.argsort(mode._perm)[order]  # of the same tokens at other indices


_DRAWS: dict[str, Callable[..., Tensor]] = {
    "rand": lambda mode, like, *_: mode._moved(torch.rand, like),
    "rand_like": lambda mode, like, *_: mode._moved(torch.rand, like),
    "randn": lambda mode, like, *_: mode._moved(torch.randn, like),
    "randn_like": lambda mode, like, *_: mode._moved(torch.randn, like),
    "uniform_": _uniform,
    "normal_": _normal,
    "normal": _normal,
    "bernoulli_": _bernoulli,
    "bernoulli": _bernoulli,
    "exponential_": _exponential,
    "randperm": _permutation,
}
"""Operations that draw independent numbers, or an order, and how to draw what they do."""


def p_value(runner: Runner, dtype: torch.dtype, number: int, count: int, seed: int) -> float:
    """How likely outputs that obey the law in distribution differ as much as these.

    A permutation test of `count` runs on x against `count` runs on the changed x, all with
    other seeds: of the largest difference of a mean or a second moment, in units of the
    standard deviation, and of the sum of their squares. The smaller p-value counts twice.

    Args:
        number: of the intervention.
    """
    intervention = runner.interventions[number]
    first, second = [], []
    with runner.at(dtype) as x:
        changed = intervention.apply(x)
        for run in range(count):
            seed_all(seed + 2 * run)
            first.append(_flat(intervention.expected(runner.run(x))))
            seed_all(seed + 2 * run + 1)
            second.append(_flat(intervention.compared(runner.run(changed))))
    if first[0].shape != second[0].shape:
        return 0.0
    sample = torch.stack([*first, *second])  # (2 count, entries)
    return _permutation_test(sample, seed)


def _flat(outputs: Outputs) -> Tensor:
    flat = torch.cat([_real(y).flatten() for y in outputs])
    if len(flat) <= COLUMNS:
        return flat
    chosen = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:COLUMNS]
    return flat[chosen.to(flat.device)]


def _real(y: Tensor) -> Tensor:
    return (torch.view_as_real(y) if y.is_complex() else y).double().nan_to_num()


def _permutation_test(sample: Tensor, seed: int) -> float:
    """The p-value of two samples of the same size, one after the other along dimension 0."""
    count = len(sample) // 2
    centered = sample - sample.mean(0)
    columns = torch.cat([centered, centered.square()], 1)
    columns = columns - columns.mean(0)
    spread = columns.square().mean(0).sqrt()
    varies = spread > 1e-12 * sample.abs().amax().clamp(min=1e-300)
    if not bool(varies.any()):
        return 1.0
    generator = torch.Generator().manual_seed(seed)
    sides = torch.ones(1 + PERMUTATIONS, 2 * count, dtype=torch.float64)
    sides[0, count:] = -1
    order = torch.rand(PERMUTATIONS, 2 * count, generator=generator).argsort(1)
    sides[1:].scatter_(1, order[:, count:], -1.0)
    largest = total = torch.zeros(len(sides), dtype=torch.float64, device=sample.device)
    for part in (columns[:, varies] / spread[varies]).split(256, 1):
        gaps = (sides.to(part) @ part / count).abs()  # (1 + PERMUTATIONS, columns)
        largest, total = torch.maximum(largest, gaps.amax(1)), total + gaps.square().sum(1)
    statistics = torch.stack([largest, total], 1)
    at_least = (statistics[1:] >= statistics[0] * (1 - 1e-12)).sum(0)
    return min(1.0, 2 * float(1 + at_least.min()) / (1 + PERMUTATIONS))
