"""What a comparison showed: a table, files, and learning curves."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tokennet.compare.store import write_text
from tokennet.compare.train import Run


@dataclass(frozen=True)
class Line:
    """One net over its seeds."""

    net: str
    seeds: int
    dim: int
    hidden: int
    parameters: int
    flops: int
    """Forward, for one example."""
    accuracy: float
    accuracy_sd: float | None
    """Over seeds; None for one seed."""
    seconds: float
    """Training of one seed."""
    tokens_per_second: float
    declared_relabelling: str
    declared_shuffling: str
    relabelling_error: float
    shuffling_error: float


def summarise(runs: Sequence[Run]) -> list[Line]:
    """One line for each net, in the order of the runs."""
    nets = list(dict.fromkeys(run.net for run in runs))
    return [_line([run for run in runs if run.net == net]) for net in nets]


def _line(runs: list[Run]) -> Line:
    accuracies = [run.accuracy for run in runs]
    first = runs[0]
    return Line(
        net=first.net,
        seeds=len(runs),
        dim=first.dim,
        hidden=first.hidden,
        parameters=first.parameters,
        flops=first.flops,
        accuracy=statistics.mean(accuracies),
        accuracy_sd=statistics.stdev(accuracies) if len(runs) > 1 else None,
        seconds=statistics.median(run.seconds for run in runs),
        tokens_per_second=statistics.median(run.tokens_per_second for run in runs),
        declared_relabelling=first.declared["relabelling"],
        declared_shuffling=first.declared["shuffling"],
        relabelling_error=max(run.relabelling_error for run in runs),
        shuffling_error=max(run.shuffling_error for run in runs),
    )


def tables(lines: Sequence[Line], title: str) -> list[Table]:
    """What the nets cost and reach; and what each is symmetric to, declared and measured."""
    cost = Table(title=title, title_justify="left")
    cost.add_column("net", no_wrap=True)
    for heading in ("parameters", "FLOPs", "accuracy %", "seconds", "tokens/s"):
        cost.add_column(heading, justify="right", no_wrap=True)
    symmetry = Table(title="declared symmetry, and measured error in float64", title_justify="left")
    symmetry.add_column("net", no_wrap=True)
    for action in ("relabelling", "shuffling"):
        symmetry.add_column(action, no_wrap=True)
        symmetry.add_column("error", justify="right", no_wrap=True)
    for line in lines:
        cost.add_row(
            line.net,
            f"{line.parameters:,}",
            _short(line.flops),
            percent(line.accuracy, line.accuracy_sd),
            f"{line.seconds:.1f}",
            _short(line.tokens_per_second),
        )
        symmetry.add_row(
            line.net,
            line.declared_relabelling,
            f"{line.relabelling_error:.0e}",
            line.declared_shuffling,
            f"{line.shuffling_error:.0e}",
        )
    return [cost, symmetry]


LEGEND = """\
FLOPs: forward, one example.  Accuracy: test, mean ± sd over seeds.
Relabelling moves tokens, graph and positions; shuffling moves the tokens alone.
S_n: any permutation; Aut(x): those that keep x, so that others show an error."""


def percent(mean: float, sd: float | None) -> str:
    return f"{100 * mean:.1f}" if sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f}"


def _short(value: float) -> str:
    for factor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"


def write_results(
    folder: Path, lines: Sequence[Line], runs: Sequence[Run], config: dict[str, Any]
) -> list[Path]:
    """Write results.json, results.csv, config.json and curves.png; return their paths."""
    rows = [vars(line) for line in lines]
    write_text(
        folder / "results.json",
        json.dumps(
            {"config": config, "nets": rows, "runs": [run.to_dict() for run in runs]}, indent=1
        ),
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "results.csv", text.getvalue())
    write_text(folder / "config.json", json.dumps(config, indent=1))
    plot_curves(runs, folder / "curves.png", config["task"])
    return [folder / name for name in ("results.json", "results.csv", "config.json", "curves.png")]


def plot_curves(runs: Sequence[Run], path: Path, title: str) -> None:
    """Loss and test accuracy by epoch: the mean over seeds, and their range as a band."""
    from matplotlib.figure import Figure  # heavy, and only drawing needs it

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, curve, label in zip(
        panels, ("loss", "test"), ("training loss", "test accuracy"), strict=True
    ):
        for net in dict.fromkeys(run.net for run in runs):
            by_epoch = list(
                zip(*(run.curves[curve] for run in runs if run.net == net), strict=True)
            )
            epochs = range(1, len(by_epoch) + 1)
            (line,) = panel.plot(epochs, [statistics.mean(e) for e in by_epoch], label=net)
            low, high = [min(e) for e in by_epoch], [max(e) for e in by_epoch]
            panel.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.set_xlabel("epoch")
        panel.set_title(label)
        panel.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[1].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
