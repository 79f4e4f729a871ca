"""The files of a comparison: results, learning curves, and what the best net has to show."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokennet.compare.report import Baseline, ResultRow
from tokennet.compare.store import write_text
from tokennet.compare.train import Run


def write_results(
    folder: Path,
    lines: Sequence[ResultRow],
    runs: Sequence[Run],
    baselines: Sequence[Baseline],
    config: dict[str, Any],
) -> list[Path]:
    """Write results.json, results.csv, config.json and curves.png; return their paths."""
    rows = [line.row() for line in lines]
    results = {
        "config": config,
        "nets": rows,
        "baselines": [{"name": baseline.name, **baseline.scores} for baseline in baselines],
        "runs": [run.to_dict() for run in runs],
    }
    write_text(folder / "results.json", json.dumps(results, indent=1))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "results.csv", text.getvalue())
    write_text(folder / "config.json", json.dumps(config, indent=1))
    plot_curves(runs, baselines, folder / "curves.png", config)
    return [folder / name for name in ("results.json", "results.csv", "config.json", "curves.png")]


def write_shown(shown: Path, folder: Path) -> list[Path]:
    """Copy what a run has to show into `folder`; return the paths, none if it shows nothing."""
    files = sorted(path for path in shown.iterdir() if path.is_file()) if shown.is_dir() else []
    return [Path(shutil.copyfile(path, folder / path.name)) for path in files]


def plot_curves(
    runs: Sequence[Run], baselines: Sequence[Baseline], path: Path, config: dict[str, Any]
) -> None:
    """Loss and test metric by epoch: the mean over seeds, and their range as a band."""
    from matplotlib.figure import Figure  # heavy, and only drawing needs it
    from matplotlib.ticker import LogFormatter

    metric = config["metrics"][0]["name"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, curve, label in zip(
        panels, ("loss", "test"), ("training loss", f"test {metric}"), strict=True
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
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_title(label)
        panel.grid(alpha=0.3)
    for baseline in baselines:
        if metric in baseline.scores:
            panels[1].axhline(
                baseline.scores[metric], color="0.5", linestyle="--", label=baseline.name
            )
    if all(loss > 0 for run in runs for loss in run.curves["loss"]):
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_formatter(LogFormatter())
        panels[0].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    panels[1].legend()
    figure.suptitle(config["task"])
    figure.savefig(path, dpi=120)
