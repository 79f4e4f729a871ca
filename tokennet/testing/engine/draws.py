"""Other content that a law is tried on, beside that of the example, as rare branches need.

A finite mask leaks only where a score is large, and `if x.max() > 3` is taken only for some
inputs. Each draw has a seed and a scale, and costs two forward runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from tokennet.checks import check_type
from tokennet.testing.engine.content import new_content
from tokennet.testing.engine.intervention import Inputs
from tokennet.testing.example.values import features, with_features

COUNT = 8
"""Draws by default: a mask of -100 on scores of size 1 is found in more than 99 % of seeds."""
SCALES = (1.0, 30.0, 1e3, 0.1)
"""Sizes of the content, in units of that of the example."""


@dataclass(frozen=True)
class Draw:
    """Content of normal numbers, of `scale` times the size of the example's.

    >>> import torch
    >>> (z,) = Draw(seed=1, scale=100.0).content((torch.ones(3, 2),))
    >>> bool(z.abs().max() > 10)
    True
    """

    seed: int
    scale: float = 1.0

    def content(self, inputs: Inputs) -> Inputs:
        """The inputs with other token vectors; ids of tokens are those of the example, shuffled."""
        z = features(inputs[0])
        new = new_content(z, 100 + self.seed, self.scale)
        return (with_features(inputs[0], new), *inputs[1:])


class Draws:
    """Up to `count` draws, one after the other. A subclass may search in another way.

    >>> Draws(6).first(lambda draw: draw.scale > 1.0)
    Draw(seed=1, scale=30.0)
    """

    def __init__(self, count: int = COUNT, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def __bool__(self) -> bool:
        return self.count > 0

    def first(self, fails: Callable[[Draw], bool]) -> Draw | None:
        """The first draw on which the law fails, or None."""
        scales = itertools.cycle(SCALES)
        drawn = (Draw(self.seed + number, next(scales)) for number in range(self.count))
        return next(filter(fails, drawn), None)


def as_draws(given: int | Draws, seed: int) -> Draws:
    """`Draws` of a number.

    Raises:
        TypeError, ValueError: it is no number of draws.

    >>> as_draws(3, seed=0).count
    3
    """
    if isinstance(given, Draws):
        return given
    check_type("draws", given, int, "a number of draws")
    if given < 0:
        raise ValueError(f"draws must be at least 0, got {given}")
    return Draws(given, seed)
