"""The files of a comparison: finished runs, results, learning curves, artifacts of the best net."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokennet.checks import require
from tokennet.compare.report import Baseline, ResultRow
from tokennet.compare.task import new_figure
from tokennet.compare.train import Run


def run_key(settings: dict[str, Any]) -> str:
    """A hash of (task, net, widths, config, seed, version): equal if and only if they are."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RunStore:
    """Finished runs under `folder/runs`, each in a file named by a hash of all that determines it.

    A file is complete or absent, however a run ended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs"

    def load(self, settings: dict[str, Any]) -> Run | None:
        path = self._path(settings)
        if not path.exists():
            return None
        try:
            return Run(**json.loads(path.read_text())["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no run ({error}); delete it to run again") from error

    def artifacts(self, settings: dict[str, Any]) -> Path:
        """The folder of a run's artifacts, beside its file."""
        return self._path(settings).with_suffix("")

    def save(self, settings: dict[str, Any], run: Run) -> None:
        text = json.dumps({"config": settings, "run": asdict(run)}, indent=1)
        write_text(self._path(settings), text)

    def _path(self, settings: dict[str, Any]) -> Path:
        return self.folder / f"{run_key(settings)}.json"


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def write_results(
    folder: Path,
    rows: Sequence[ResultRow],
    runs: Sequence[Run],
    baselines: Sequence[Baseline],
    settings: dict[str, Any],
) -> list[Path]:
    """Write results.json, results.csv, config.json and curves.png; return their paths."""
    nets = [row.to_dict() for row in rows]
    results = {
        "config": settings,
        "nets": nets,
        "baselines": [{"name": baseline.name, **baseline.scores} for baseline in baselines],
        "runs": [asdict(run) for run in runs],
    }
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(nets[0]))
    writer.writeheader()
    writer.writerows(nets)
    texts = {
        "results.json": json.dumps(results, indent=1),
        "results.csv": table.getvalue(),
        "config.json": json.dumps(settings, indent=1),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    plot_curves(runs, baselines, folder / "curves.png", settings)
    return [folder / name for name in (*texts, "curves.png")]


def copy_artifacts(source: Path, folder: Path) -> list[Path]:
    """Copy the artifacts of a run into `folder`; return the paths, none if there are none."""
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else []
    return [Path(shutil.copyfile(path, folder / path.name)) for path in files]


def plot_curves(
    runs: Sequence[Run], baselines: Sequence[Baseline], path: Path, settings: dict[str, Any]
) -> None:
    """Loss and test metric by epoch: the mean over seeds, and their range as a band."""
    metric = settings["metrics"][0]["name"]
    figure = new_figure((10, 4))
    panels = figure.subplots(1, 2)
    curves = {"loss": "training loss", "test": f"test {metric}"}
    for panel, (curve, title) in zip(panels, curves.items(), strict=True):
        for net in dict.fromkeys(run.net for run in runs):
            by_epoch = [*zip(*(run.curves[curve] for run in runs if run.net == net), strict=True)]
            epochs = range(1, len(by_epoch) + 1)
            (line,) = panel.plot(epochs, [statistics.mean(e) for e in by_epoch], label=net)
            low, high = [min(e) for e in by_epoch], [max(e) for e in by_epoch]
            panel.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_title(title)
        panel.grid(alpha=0.3)
    for baseline in baselines:
        if metric in baseline.scores:
            score = baseline.scores[metric]
            panels[1].axhline(score, color="0.5", linestyle="--", label=baseline.name)
    if all(loss > 0 for run in runs for loss in run.curves["loss"]):
        formatter = require("matplotlib.ticker", "compare").LogFormatter
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_formatter(formatter())
        panels[0].yaxis.set_minor_formatter(formatter(minor_thresholds=(1, 0.4)))
    panels[1].legend()
    figure.suptitle(settings["task"])
    figure.savefig(path, dpi=120)
