"""What a comparison showed: a line for each net and each trivial model, and tables of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Column, Table

from tokennet.compare.metric import Metric
from tokennet.compare.task import Task
from tokennet.compare.train import Run


@dataclass(frozen=True)
class ResultRow:
    """One net over its seeds."""

    net: str
    seeds: int
    dim: int
    hidden: int
    parameters: int
    flops: int
    """Forward, for one example."""
    scores: dict[str, float]
    """Mean of each metric on the test split; the task's first metric comes first."""
    scores_sd: dict[str, float | None]
    """Over seeds; None for one seed."""
    seconds: float
    """Training of one seed."""
    tokens_per_second: float
    declared_relabeling: str | None
    declared_shuffling: str | None
    relabeling_error: float | None
    shuffling_error: float | None

    @property
    def score(self) -> float:
        """Of the task's first metric."""
        return next(iter(self.scores.values()))

    @property
    def score_sd(self) -> float | None:
        return next(iter(self.scores_sd.values()))

    def row(self) -> dict[str, Any]:
        """Flat, as in results.json and results.csv: a metric is a column, and its sd another."""
        row: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name == "scores":
                for metric, figure in self.scores.items():
                    row[metric], row[f"{metric} sd"] = figure, self.scores_sd[metric]
            elif name != "scores_sd":
                row[name] = value
        return row


@dataclass(frozen=True)
class Baseline:
    """What a trivial model gets: the mean over the same seeds."""

    name: str
    scores: dict[str, float]

    @staticmethod
    def of(task: Task, seeds: int) -> list[Baseline]:
        found = [task.baselines(seed) for seed in range(seeds)]
        return [
            Baseline(
                name,
                {m: statistics.mean(figures[name][m] for figures in found) for m in first},
            )
            for name, first in found[0].items()
        ]


def summarize(runs: Sequence[Run]) -> list[ResultRow]:
    """One line for each net, in the order of the runs."""
    nets = list(dict.fromkeys(run.net for run in runs))
    return [_line([run for run in runs if run.net == net]) for net in nets]


def _line(runs: list[Run]) -> ResultRow:
    first, by_metric, declared = runs[0], _by_metric(runs), runs[0].declared or {}
    return ResultRow(
        net=first.net,
        seeds=len(runs),
        dim=first.dim,
        hidden=first.hidden,
        parameters=first.parameters,
        flops=first.flops,
        scores={name: statistics.mean(figures) for name, figures in by_metric.items()},
        scores_sd={
            name: statistics.stdev(figures) if len(runs) > 1 else None
            for name, figures in by_metric.items()
        },
        seconds=statistics.median(run.seconds for run in runs),
        tokens_per_second=statistics.median(run.tokens_per_second for run in runs),
        declared_relabeling=declared.get("relabeling"),
        declared_shuffling=declared.get("shuffling"),
        relabeling_error=_largest([run.relabeling_error for run in runs]),
        shuffling_error=_largest([run.shuffling_error for run in runs]),
    )


def _by_metric(runs: list[Run]) -> dict[str, list[float]]:
    return {name: [run.scores[name] for run in runs] for name in runs[0].scores}


def _largest(errors: list[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return max(known) if known else None


def best_line(lines: Sequence[ResultRow], metric: Metric) -> ResultRow:
    """The line with the best mean of this metric; of equal ones, the first."""
    turned = list(reversed(lines))
    return turned[metric.best([line.scores[metric.name] for line in turned])]


def tables(
    lines: Sequence[ResultRow], baselines: Sequence[Baseline], metrics: Sequence[Metric], title: str
) -> list[Table]:
    """What the nets cost and reach, beside trivial models; and what each is symmetric to."""
    shown = [_costs(lines, baselines, metrics[0], title)]
    if len(metrics) > 1:
        shown.append(_further(lines, baselines, metrics[1:]))
    if any(line.declared_relabeling for line in lines):
        shown.append(_symmetries(lines))
    return shown


def _costs(
    lines: Sequence[ResultRow], baselines: Sequence[Baseline], metric: Metric, title: str
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("net", no_wrap=True)
    for heading in ("parameters", "FLOPs", metric.heading, "seconds", "tokens/s"):
        table.add_column(heading, justify="right", no_wrap=heading != metric.heading)
    for line in lines:
        table.add_row(
            line.net,
            f"{line.parameters:,}",
            _short(line.flops),
            metric.text(line.score, line.score_sd),
            f"{line.seconds:.1f}",
            _short(line.tokens_per_second),
        )
    table.add_section()
    for baseline in baselines:
        figure = baseline.scores.get(metric.name)
        table.add_row(baseline.name, "", "", "-" if figure is None else metric.text(figure))
    return table


def _further(
    lines: Sequence[ResultRow], baselines: Sequence[Baseline], metrics: Sequence[Metric]
) -> Table:
    table = Table(title="further figures", title_justify="left")
    table.add_column("net", no_wrap=True)
    for metric in metrics:
        table.add_column(metric.heading, justify="right")
    for line in lines:
        texts = [m.text(line.scores[m.name], line.scores_sd[m.name]) for m in metrics]
        table.add_row(line.net, *texts)
    table.add_section()
    for baseline in baselines:
        figures = [(m, baseline.scores.get(m.name)) for m in metrics]
        table.add_row(baseline.name, *("-" if f is None else m.text(f) for m, f in figures))
    return table


def _symmetries(lines: Sequence[ResultRow]) -> Table:
    table = Table(title="declared symmetry, and measured error in float64", title_justify="left")
    table.add_column("net", no_wrap=True)
    for action in ("relabeling", "shuffling"):
        table.add_column(action, no_wrap=True)
        table.add_column("error", justify="right", no_wrap=True)
    for line in lines:
        table.add_row(
            line.net,
            line.declared_relabeling or "-",
            _error(line.relabeling_error),
            line.declared_shuffling or "-",
            _error(line.shuffling_error),
        )
    return table


def task_table(registry: Mapping[str, type[Task]]) -> Table:
    """The tasks that there are."""
    nets = Column("nets by default", no_wrap=True)
    table = Table("task", "data", "metric", "graphs", nets)
    for task in registry.values():
        row = task.name, task.summary, task.metrics[0].heading, " ".join(task.graphs)
        table.add_row(*row, "\n".join(task.nets))
    return table


LEGEND = """\
FLOPs: forward, one example.  Scores: test, mean ± sd over seeds; last, trivial models.
Relabeling moves tokens, graph and positions; shuffling moves the tokens alone.
S_n: any permutation; Aut(x): those that keep x, so that others show an error."""


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.0e}"


def _short(value: float) -> str:
    for factor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"
