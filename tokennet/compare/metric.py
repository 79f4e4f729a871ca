"""`Metric`: what a task measures of the answers, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def mean(values: Tensor) -> float:
    """The mean over examples and over the entries of each."""
    return float(values.double().mean())


@dataclass(frozen=True)
class Metric:
    """A figure of answers on a split.

    `values(answer, target)` gives a row of numbers for each example, (n,) or (n, ...), and
    `reduce` makes the figure from the rows of all examples. So a figure that is no mean over
    examples, such as mean average precision, is exact on any number of batches and devices.

    >>> import torch
    >>> score = error.values(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 3.0]))
    >>> error.reduce(score)
    0.5
    """

    name: str
    values: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool = True
    unit: str = ""
    """Shown behind the name. "%" shows the figure times 100; files have it as it is."""
    reduce: Callable[[Tensor], float] = mean

    @property
    def heading(self) -> str:
        return f"{self.name} {self.unit}".strip()

    def best(self, figures: list[float]) -> int:
        """The place of the best figure; of equal ones, the last."""
        sign = 1 if self.higher_is_better else -1
        # A figure that is no number (a run that diverged) is never the best.
        return max(
            range(len(figures)),
            key=lambda place: (not math.isnan(figures[place]), sign * figures[place], place),
        )

    def text(self, figure: float, sd: float | None = None) -> str:
        """The figure to three digits (percent: one decimal), with its standard deviation.

        >>> accuracy.text(0.5, 0.125), error.text(12.34, 0.5), error.text(0.01234)
        ('50.0 ± 12.5', '12.3 ± 0.5', '0.0123')
        """
        factor, decimals = (100, 1) if self.unit == "%" else (1, _decimals(figure))
        numbers = [figure] if sd is None else [figure, sd]
        return " ± ".join(f"{factor * number:.{decimals}f}" for number in numbers)


def _decimals(figure: float) -> int:
    if not math.isfinite(figure) or figure == 0:
        return 3
    return max(0, 2 - math.floor(math.log10(abs(figure))))


def _hits(answer: Tensor, target: Tensor) -> Tensor:
    return answer.argmax(-1) == target


def _distance(answer: Tensor, target: Tensor) -> Tensor:
    return (answer.reshape(target.shape) - target).abs()


accuracy = Metric("accuracy", _hits, unit="%")
"""Share of the targets, one or several for each example, whose class has the largest logit."""

exact_match = Metric(
    "exact match", lambda answer, target: _hits(answer, target).flatten(1).all(1), unit="%"
)
"""Share of the examples all of whose targets have the largest logit."""

error = Metric("mean absolute error", _distance, higher_is_better=False)
"""Mean absolute error of numbers, in the units of the target."""


def classes(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy in nats, (n,): the mean over the targets of each example.

    >>> classes(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)).exp().round()
    tensor([4., 4.])
    """
    losses = torch.nn.functional.cross_entropy(
        output.flatten(0, -2), target.flatten(), reduction="none"
    )
    return losses.view(len(target), -1).mean(1)


def squares(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, (n,): over the numbers of each example.

    >>> squares(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
    tensor([0., 4.])
    """
    return (output.reshape(target.shape) - target).square().view(len(target), -1).mean(1)
