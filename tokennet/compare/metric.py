"""Metrics, losses, and the scores of trivial models: what a task measures of the answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tokennet.checks import checked


def mean(values: Tensor) -> float:
    """The mean over examples and over the entries of each."""
    return float(values.double().mean())


@checked()
@dataclass(frozen=True)
class Metric:
    """A score of answers on a split; use it where a task measures something else than accuracy.

    `values(answer, target)` returns a row of numbers for each example, (n,) or (n, ...), and
    `reduce` computes the score from the rows of all examples. So a score that is no mean over
    examples, such as mean average precision, is exact on any number of batches and devices.

    >>> import torch
    >>> distances = error.values(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 3.0]))
    >>> error.reduce(distances)
    0.5
    """

    name: str
    values: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool = True
    unit: str = ""
    """Shown behind the name. "%" shows the score times 100; files have it as it is."""
    reduce: Callable[[Tensor], float] = mean

    @property
    def heading(self) -> str:
        return f"{self.name} {self.unit}".strip()

    def best(self, scores: Sequence[float | None]) -> int:
        """The index of the best score; of equal scores, the last.

        None, of a run that diverged, and what is not finite are worse than every number.
        """
        sign = 1 if self.higher_is_better else -1
        numbers = [math.nan if score is None else score for score in scores]
        ranks = [
            (True, sign * score, i) if math.isfinite(score) else (False, 0.0, i)
            for i, score in enumerate(numbers)
        ]
        return max(range(len(scores)), key=ranks.__getitem__)

    def text(self, score: float, sd: float | None = None) -> str:
        """The score to three digits (percent: one decimal), with its standard deviation.

        >>> accuracy.text(0.5, 0.125), error.text(12.34, 0.5), error.text(0.01234)
        ('50.0 ± 12.5', '12.3 ± 0.5', '0.0123')
        """
        factor, decimals = (100, 1) if self.unit == "%" else (1, 3)
        if factor == 1 and math.isfinite(score) and score != 0:
            decimals = max(0, 2 - math.floor(math.log10(abs(score))))
        numbers = [score] if sd is None else [score, sd]
        return " ± ".join(f"{factor * number:.{decimals}f}" for number in numbers)


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
    losses = cross_entropy(output.flatten(0, -2), target.flatten(), reduction="none")
    return losses.view(len(target), -1).mean(1)


def squares(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, (n,): over the numbers of each example.

    >>> squares(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
    tensor([0., 4.])
    """
    return (output.reshape(target.shape) - target).square().view(len(target), -1).mean(1)


Splits = Mapping[str, Tensor]
"""Numbers of the examples in "train", "test" and perhaps "val"."""


def majority(labels: Tensor, splits: Splits) -> dict[str, dict[str, float]]:
    """The accuracy on the test of always answering the most frequent class of the training.

    >>> splits = {"train": torch.tensor([0, 1, 2]), "test": torch.tensor([3, 4])}
    >>> majority(torch.tensor([1, 1, 0, 0, 1]), splits)
    {'majority': {'accuracy': 0.5}}
    """
    most_frequent = int(torch.bincount(labels[splits["train"]].flatten()).argmax())
    return {"majority": {"accuracy": mean(labels[splits["test"]] == most_frequent)}}


def median(numbers: Tensor, splits: Splits) -> dict[str, dict[str, float]]:
    """The error on the test of always answering the median of the training.

    No other constant has a smaller mean absolute error.

    >>> splits = {"train": torch.tensor([0, 1, 2]), "test": torch.tensor([3, 4])}
    >>> median(torch.tensor([1.0, 2.0, 9.0, 2.0, 4.0]), splits)
    {'median': {'mean absolute error': 1.0}}
    """
    distances = (numbers[splits["test"]] - numbers[splits["train"]].median()).abs()
    return {"median": {error.name: mean(distances)}}
