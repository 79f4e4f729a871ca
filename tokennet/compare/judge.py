"""Whether two nets differ: paired over the same test examples and seeds, with honest intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, variance

import torch
from scipy import optimize, stats
from torch import Tensor

from tokennet.compare import metric as metrics
from tokennet.compare.metric import Metric

LEVEL = 0.05
RESAMPLES = 500
BINS = 15
"""Of the confidence, for the calibration error."""
Answers = Mapping[str, Tensor]
"""What `read_answers` reads of one run."""


@dataclass(frozen=True)
class Pair:
    """The difference of two nets in the first metric: `first` minus `second`. Made by `judge`."""

    first: str
    second: str
    difference: float
    low: float | None
    """The 95 % interval of this difference alone; None for one seed."""
    high: float | None
    p: float | None
    """Two-sided, of no difference; corrected for all pairs of the comparison (Holm, 1979)."""
    seeds: int
    examples: int
    kappa: float | None
    """Agreement of the classes that both answer (Cohen, 1960), the mean over seeds; 1 where they
    always agree, 0 where no more than by chance. None where answers are no classes."""

    @property
    def is_told(self) -> bool:
        """Whether the nets can be told apart, at 5 % for all pairs together."""
        return self.p is not None and self.p <= LEVEL


@dataclass(frozen=True)
class Verdicts:
    """What can be said of nets, beside their scores. Made by `compare`.

    Nets of which a seed diverged are left out.
    """

    pairs: list[Pair]
    """All pairs of nets, and whether they can be told apart."""
    calibration: dict[str, float]
    """The calibration error of each net that answers by logits of classes."""
    no_better: dict[str, list[str]]
    """The nets that are not better than a trivial model, by its name."""


def verdicts_of(
    answers: Mapping[str, Sequence[Answers]], models: Mapping[str, Mapping[str, float]],
    metric: Metric,
) -> Verdicts:  # fmt: skip
    """Compare all pairs of nets, and each net with each trivial model.

    Args:
        answers: of each net those of each seed.
        models: the scores of trivial models.
    """
    errors = {net: calibration_error(runs) for net, runs in answers.items()}
    no_better = {}
    for model, scores in models.items():
        score = scores.get(metric.name, math.nan)
        if math.isfinite(score):
            nets = [net for net, runs in answers.items() if not is_better(runs, score, metric)]
            no_better.update({model: nets} if nets else {})
    known = {net: error for net, error in errors.items() if error is not None}
    return Verdicts(judge(answers, metric), known, no_better)


def judge(answers: Mapping[str, Sequence[Answers]], metric: Metric) -> list[Pair]:
    """Compare all pairs of nets.

    With d_s the difference of the scores with seed s = 1 .. S, and E the variance of their mean
    that is due to the choice of test examples, which are the same for both nets and all seeds,

        D = mean_s d_s,    var D = var_s(d_s) / S + E.

    E = (S V - W) / (S - 1), at least 0: V is the variance of D over resamples of the examples, W
    the mean over seeds of that of d_s. The quantile is that of Cochran and Cox (1950): the mean of
    t with S - 1 and with n - 1 degrees of freedom, weighted by the two variances. Resampling two
    or three seeds would make intervals too narrow; these were tried on nets that are equal. Where
    seeds have test examples of their own, only the first term counts.

    Args:
        answers: of each net those of each seed.
    """
    found = []
    for (first, ours), (second, theirs) in itertools.combinations(answers.items(), 2):
        found.append((first, second, _difference(ours, theirs, metric), _kappa(ours, theirs)))
    corrected = holm([p for _, _, (*_, p), _ in found])
    return [
        Pair(
            first, second, difference, low, high, p, len(answers[first]),
            len(answers[first][0]["index"]), agreement,
        )
        for (first, second, (difference, low, high, _), agreement), p in zip(
            found, corrected, strict=True
        )
    ]  # fmt: skip


Interval = tuple[float, float | None, float | None, float | None]
"""The difference, its interval and p."""


def _difference(ours: Sequence[Answers], theirs: Sequence[Answers], metric: Metric) -> Interval:
    a, b = ([run[metric.name].double() for run in runs] for runs in (ours, theirs))
    by_seed = [metric.reduce(x) - metric.reduce(y) for x, y in zip(a, b, strict=True)]
    shared = all(torch.equal(run["index"], ours[0]["index"]) for run in [*ours, *theirs])
    seeds, of_examples = len(a), 0.0
    if shared and seeds > 1:
        if metric.reduce is metrics.mean:
            apart = torch.stack([x - y for x, y in zip(a, b, strict=True)])  # (seeds, n, ...)
            apart = apart.flatten(2).mean(2) if apart.dim() > 2 else apart
            together, single = apart.mean(0).var(), apart.var(1).mean()
            of_both, of_each = (float(v) / apart.shape[1] for v in (together, single))
        else:
            of_both, of_each = _resampled(a, b, metric.reduce)
        of_examples = max(0.0, (seeds * of_both - of_each) / (seeds - 1))
    return interval(by_seed, of_examples, len(a[0]))


def is_better(runs: Sequence[Answers], score: float, metric: Metric) -> bool:
    """Whether a net is better than a model of this score, at 5 %; of one seed, with that seed."""
    sign = 1 if metric.higher_is_better else -1
    rows = [run[metric.name].double() for run in runs]
    by_seed = [sign * (metric.reduce(each) - score) for each in rows]
    # The other model answers the same examples: nothing of it varies with them.
    of_both, of_each = _resampled(rows, [each[:0] for each in rows], metric.reduce)
    if len(rows) == 1:
        return by_seed[0] > float(stats.norm.isf(LEVEL / 2)) * math.sqrt(of_both)
    of_examples = max(0.0, (len(rows) * of_both - of_each) / (len(rows) - 1))
    _, low, _, _ = interval(by_seed, of_examples, len(rows[0]))
    return low is not None and low > 0


def _resampled(
    a: list[Tensor], b: list[Tensor], reduce: Callable[[Tensor], float]
) -> tuple[float, float]:
    """Variances over resamples of the examples: of the mean over seeds, and their mean of each."""
    generator, n = torch.Generator().manual_seed(0), len(a[0])
    rows = []
    for _ in range(RESAMPLES):
        index = torch.randint(n, (n,), generator=generator)
        rows.append([
            reduce(x[index]) - (reduce(y[index]) if len(y) else 0.0)
            for x, y in zip(a, b, strict=True)
        ])  # fmt: skip
    found = torch.tensor(rows, dtype=torch.float64)  # (resamples, seeds)
    found = found[found.isfinite().all(1)]
    if len(found) < 2:
        return 0.0, 0.0
    return float(found.mean(1).var()), float(found.var(0).mean())


def interval(by_seed: Sequence[float], of_examples: float, examples: int) -> Interval:
    """The mean of differences, its 95 % interval, and p of no difference; None for one seed.

    Args:
        of_examples: variance of the mean that is due to the test examples.
        examples: their number.

    >>> [round(number, 3) for number in interval([0.1, 0.2, 0.3], 0.0, 1_000)]
    [0.2, -0.048, 0.448, 0.074]
    """
    difference, seeds = mean(by_seed), len(by_seed)
    if seeds < 2:
        return difference, None, None, None
    of_seeds = variance(by_seed) / seeds
    total = of_seeds + of_examples
    if total == 0:
        return difference, difference, difference, float(difference == 0)
    error, share = math.sqrt(total), of_seeds / total
    freedom = seeds - 1, max(1, examples - 1)

    def quantile(p: float) -> float:
        of_seed, of_example = (float(stats.t.isf(p / 2, each)) for each in freedom)
        return share * of_seed + (1 - share) * of_example

    half, size = error * quantile(LEVEL), abs(difference) / error
    smallest = 1e-12
    if quantile(smallest) <= size:
        p = smallest
    else:
        p = optimize.brentq(lambda each: quantile(each) - size, smallest, 1.0) if size else 1.0
    return difference, difference - half, difference + half, float(p)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Corrected for being several (Holm, 1979); None stays.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    found: list[float | None] = [None] * len(p)
    known = sorted((value, number) for number, value in enumerate(p) if value is not None)
    largest = 0.0
    for rank, (value, number) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        found[number] = largest
    return found


def _kappa(ours: Sequence[Answers], theirs: Sequence[Answers]) -> float | None:
    found = [kappa(_classes(x), _classes(y)) for x, y in zip(ours, theirs, strict=True)]
    known = [each for each in found if each is not None]
    return mean(known) if known and len(known) == len(found) else None


def _classes(run: Answers) -> Tensor | None:
    """The classes that were answered, where answers are logits of classes."""
    target, answer = run.get("target"), run.get("answer")
    if target is None or answer is None or target.is_floating_point():
        return None
    return answer.argmax(-1).flatten() if answer.dim() > 1 and answer.shape[-1] > 1 else None


def kappa(a: Tensor | None, b: Tensor | None) -> float | None:
    """Cohen's kappa of two lists of classes; None where both always answer one and the same.

    >>> kappa(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 0]))
    0.5
    """
    if a is None or b is None or a.shape != b.shape:
        return None
    size = int(max(a.max(), b.max())) + 1
    agree = float((a == b).double().mean())
    shares = [torch.bincount(each, minlength=size).double() / len(each) for each in (a, b)]
    chance = float((shares[0] * shares[1]).sum())
    return None if chance == 1 else (agree - chance) / (1 - chance)


def calibration_error(runs: Sequence[Answers]) -> float | None:
    """Mean distance of confidence and accuracy in 15 bins, weighted by their size; over seeds.

    The expected calibration error of Naeini et al., 2015, and Guo et al., 2017 (arXiv 1706.04599),
    of the softmax of the answers. None where they are no logits of the target's classes.
    """
    found = []
    for run in runs:
        if _classes(run) is None or run["answer"].shape[:-1] != run["target"].shape:
            return None
        confidence, answer = run["answer"].softmax(-1).flatten(0, -2).max(-1)
        right = (answer == run["target"].flatten()).double()
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        gaps = torch.zeros(BINS, dtype=torch.float64)
        gaps.index_add_(0, bins, confidence.double() - right)
        found.append(float(gaps.abs().sum()) / len(right))
    return mean(found) if found else None
