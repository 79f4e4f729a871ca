"""The results of a comparison: a row for each net and each trivial model, and tables of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tokennet.checks import require
from tokennet.compare.judge import Pair
from tokennet.compare.metric import Metric
from tokennet.compare.task import Task, TrainConfig
from tokennet.compare.train import Run

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ResultRow:
    """One net over its seeds. Made by `compare`."""

    net: str
    seeds: int
    dim: int
    hidden: int
    parameters: int
    flops: int | None
    """Forward, for one example; None where they cannot be counted."""
    own: str | None
    """Of a net of your own: how it is called, made and trained."""
    diverged: int
    """How many of the seeds diverged, see `Run.diverged`."""
    scores: dict[str, float | None]
    """Mean of each metric on the test split; the task's first metric comes first. None if a seed
    diverged: the mean over the others would be that of another experiment."""
    scores_sd: dict[str, float | None]
    """Over seeds; None for one seed."""
    steps: int
    """Of the optimizer, the most of a seed."""
    converged: bool | None
    """Whether all seeds did, see `Run.converged`; None where that is not known of all."""
    seconds: float
    """Training of one seed."""
    tokens_per_second: float
    declared_relabeling: str | None
    declared_shuffling: str | None
    relabeling_error: float | None
    shuffling_error: float | None

    @property
    def score(self) -> float | None:
        """Of the task's first metric; None if a seed diverged."""
        return next(iter(self.scores.values()))

    def to_dict(self) -> dict[str, Any]:
        """Flat, as in results.json and results.csv: a metric is a column, and its sd another."""
        row: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name == "scores":
                for metric, score in self.scores.items():
                    row[metric], row[f"{metric} sd"] = score, self.scores_sd[metric]
            elif name != "scores_sd":
                row[name] = value
        return row


def run_row(run: Run) -> dict[str, Any]:
    """One run flat, as in results.csv and `Comparison.frame()`: a metric is a column."""
    kept = {name: value for name, value in vars(run).items() if name != "curves"}
    declared = kept.pop("declared") or {}
    first = {"net": kept.pop("net"), "seed": kept.pop("seed"), **kept.pop("scores")}
    named = {f"declared_{name}": declared.get(name) for name in ("relabeling", "shuffling")}
    return {**first, **kept, **named}


@dataclass(frozen=True)
class Baseline:
    """The scores of a trivial model: the mean over the same seeds. Made by `compare`."""

    name: str
    scores: dict[str, float]

    @staticmethod
    def of(task: Task, seeds: int) -> list[Baseline]:
        by_seed = [task.baselines(seed) for seed in range(seeds)]
        return [
            Baseline(name, {m: statistics.mean(each[name][m] for each in by_seed) for m in scores})
            for name, scores in by_seed[0].items()
        ]


def summarize(runs: Sequence[Run]) -> list[ResultRow]:
    """A row for each net, in the order of the runs."""
    nets = list(dict.fromkeys(run.net for run in runs))
    return [_row([run for run in runs if run.net == net]) for net in nets]


def _row(runs: list[Run]) -> ResultRow:
    first, declared = runs[0], runs[0].declared or {}
    found = {name: _over_seeds([run.scores[name] for run in runs]) for name in first.scores}
    same = ("net", "dim", "hidden", "parameters", "flops", "own")
    return ResultRow(
        **{name: getattr(first, name) for name in same},
        seeds=len(runs),
        diverged=sum(run.diverged is not None for run in runs),
        scores={name: mean for name, (mean, _) in found.items()},
        scores_sd={name: sd for name, (_, sd) in found.items()},
        steps=max(run.steps for run in runs),
        converged=_all([run.converged for run in runs]),
        seconds=statistics.median(run.seconds for run in runs),
        tokens_per_second=statistics.median(run.tokens_per_second for run in runs),
        declared_relabeling=declared.get("relabeling"),
        declared_shuffling=declared.get("shuffling"),
        relabeling_error=_largest([run.relabeling_error for run in runs]),
        shuffling_error=_largest([run.shuffling_error for run in runs]),
    )


def _all(answers: list[bool | None]) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True


def _over_seeds(scores: list[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation, None where a seed has no score."""
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return None, None
    return statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None


def _largest(errors: list[float | None]) -> float | None:
    return max((error for error in errors if error is not None), default=None)


def best_row(rows: Sequence[ResultRow], metric: Metric) -> ResultRow:
    """The row with the best mean of this metric; of equal rows, the first.

    A net of which a seed diverged is the best only where that is so of all nets.
    """
    backwards = list(reversed(rows))
    return backwards[metric.best([row.scores[metric.name] for row in backwards])]


def tables(
    rows: Sequence[ResultRow], baselines: Sequence[Baseline], metrics: Sequence[Metric], title: str
) -> list[Table]:
    """What the nets cost and reach, beside trivial models; and what each is symmetric to."""
    column = require("rich.table", "compare").Column
    number = partial(column, justify="right", no_wrap=True)
    first, *further = metrics
    shown = _table(
        title, number("parameters"), number("FLOPs"), column(first.heading, justify="right"),
        number("seconds"), number("tokens/s"),
    )  # fmt: skip
    for row in rows:
        shown.add_row(
            row.net, f"{row.parameters:,}", _short(row.flops), _score(first, row),
            f"{row.seconds:.1f}", _short(row.tokens_per_second),
        )  # fmt: skip
    shown.add_section()
    for baseline in baselines:
        shown.add_row(baseline.name, "", "", _score(first, baseline))
    shown.caption = _unconverged(rows)
    found = [shown]
    if further:
        shown = _table("further metrics", *(column(m.heading, justify="right") for m in further))
        for row in rows:
            # Many columns with their sd are wider than a terminal; the results have them.
            shown.add_row(row.net, *(_score(m, row, sd=len(further) < 5) for m in further))
        shown.add_section()
        for baseline in baselines:
            shown.add_row(baseline.name, *(_score(metric, baseline) for metric in further))
        shown.caption = _unconverged(rows)
        found.append(shown)
    if any(row.own for row in rows):
        shown = _table("nets of your own", column("called with; size; own training"))
        for row in rows:
            if row.own:
                shown.add_row(row.net, row.own)
        found.append(shown)
    if any(row.declared_relabeling for row in rows):
        shown = _table(
            "declared symmetry, and measured error in float64", column("relabeling", no_wrap=True),
            number("error"), column("shuffling", no_wrap=True), number("error"),
        )  # fmt: skip
        for row in rows:
            shown.add_row(
                row.net, row.declared_relabeling or "-", _error(row.relabeling_error),
                row.declared_shuffling or "-", _error(row.shuffling_error),
            )  # fmt: skip
        found.append(shown)
    return found


def judged(
    pairs: Sequence[Pair], rows: Sequence[ResultRow], metric: Metric, errors: Mapping[str, float]
) -> list[Any]:
    """A table of differences to the best net, and which pairs cannot be told apart."""
    if not pairs:
        return []
    seeds, examples = pairs[0].seeds, pairs[0].examples
    if seeds == 1:
        return [f"One seed: which net is better cannot be told (n = {examples:,} test examples)."]
    best = best_row([r for r in rows if any(r.net in (p.first, p.second) for p in pairs)], metric)
    number = partial(require("rich.table", "compare").Column, justify="right")
    title = f"minus {best.net}: n = {examples:,} test examples, {seeds} seeds, {len(pairs)} pairs"
    columns = [number(f"{metric.heading}, 95 %"), "told apart", number("kappa")]
    shown = _table(title, *columns, *([number("ECE %")] if errors else []))
    for row in rows:
        cells = ["", "", ""] if row is best else _difference(best.net, row.net, pairs, metric)
        error = errors.get(row.net)
        calibration = ["-" if error is None else f"{100 * error:.1f}"] if errors else []
        shown.add_row(row.net, *cells, *calibration)
    untold = [f"{pair.first} and {pair.second}" for pair in pairs if not pair.is_told]
    if not untold:
        return [shown, "All pairs are told apart."]
    more = f"; {len(untold) - 6} more pairs" if len(untold) > 6 else ""
    said = f"With {seeds} seeds these cannot be told apart: {'; '.join(untold[:6])}{more}."
    return [shown, said]


def _difference(best: str, net: str, pairs: Sequence[Pair], metric: Metric) -> list[str]:
    found = next((p for p in pairs if {p.first, p.second} == {best, net}), None)
    if found is None or found.low is None or found.high is None or found.p is None:
        return ["-", "-", "-"]
    sign = 1 if found.first == net else -1
    low, high = sorted((sign * found.low, sign * found.high))
    factor = 100 if metric.unit == "%" else 1
    middle = factor * sign * found.difference
    shown = f"{middle:+.3g} [{factor * low:+.3g}, {factor * high:+.3g}]"
    told = f"p = {found.p:.2g}" if found.is_told else "cannot be told"
    return [shown, told, "-" if found.kappa is None else f"{found.kappa:.2f}"]


def _table(title: str, *columns: Any) -> Table:
    rich = require("rich.table", "compare")
    net = rich.Column("net", no_wrap=True)
    return rich.Table(net, *columns, title=title, title_justify="left", caption_justify="left")


def _score(metric: Metric, of: ResultRow | Baseline, sd: bool = True) -> str:
    if isinstance(of, ResultRow) and of.diverged:
        return "diverged" if of.seeds == 1 else f"diverged, {of.diverged} of {of.seeds}"
    score = of.scores.get(metric.name)
    if score is None:
        return "-"
    if isinstance(of, Baseline):
        return metric.text(score)
    shown = metric.text(score, of.scores_sd[metric.name] if sd else None)
    return shown + (" *" if of.converged is False else "")


def _unconverged(rows: Sequence[ResultRow]) -> str | None:
    """The line below a table that says what its asterisks mean; None if it has none."""
    steps = [row.steps for row in rows if row.converged is False and not row.diverged]
    if not steps:
        return None
    counts = " to ".join(f"{count:,}" for count in sorted({min(steps), max(steps)}))
    return f"* not converged after {counts} steps"


def task_table(registry: Mapping[str, type[Task]]) -> Table:
    """The tasks of a registry: data, metric, graphs, and the nets compared by default."""
    rich = require("rich.table", "compare")
    nets = rich.Column("nets by default", no_wrap=True)
    table = rich.Table("task", "data", "metric", "graphs", nets)
    for task in registry.values():
        row = task.name, task.summary, task.metrics[0].heading, " ".join(task.graphs)
        table.add_row(*row, "\n".join(task.nets))
    return table


def recipe(config: TrainConfig) -> str:
    """How all nets were trained, in a line."""
    size = f"batches of {config.batch_size}" if config.batch_size else "full batches"
    return (
        f"One recipe for all nets, not tuned for each: {config.epochs} epochs, {size}, Adam with "
        f"learning rate {config.lr:g}, warm-up {config.warmup:g}, weight decay "
        f"{config.weight_decay:g}, dropout {config.dropout:g}, depth {config.depth}."
    )


JUDGED = """\
Differences are paired over test examples and seeds; p corrected for all pairs.
kappa: agreement with the best net, 1 always, 0 by chance. ECE: calibration error."""
LEGEND = """\
FLOPs: forward, one example.  Scores: test, mean ± sd over seeds; last, trivial models.
Not converged: validation loss still fell by 1 % in the last fifth (see --full).
Relabeling moves tokens, graph and positions; shuffling moves the tokens alone.
S_n: any permutation; Aut(x): those that keep x, so that others show an error."""


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.0e}"


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    for factor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"
