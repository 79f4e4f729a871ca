"""The files of a comparison: finished runs, results, learning curves, artifacts of the best net."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints
from uuid import uuid4

import numpy as np

from tokennet._files import to_json, write_bytes, write_text
from tokennet.checks import require
from tokennet.compare.report import Baseline, ResultRow, run_row
from tokennet.compare.task import RESULTS, new_figure
from tokennet.compare.train import Run

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def run_key(settings: dict[str, Any]) -> str:
    """A hash of (task, net, widths, config, seed, version): equal if and only if they are."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RunStore:
    """Finished runs under `folder/runs`, each in a file named by a hash of all that determines it.

    A file is complete or absent, however a run ended, and several processes may share a folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs"

    def prepare(self) -> None:
        """Make the folders, and write to them once: not after an hour of training.

        Raises:
            OSError: results cannot be written there.
        """
        out = self.folder.parent
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (out, self.folder):
                probe = folder / f".probe.{uuid4().hex}"
                write_bytes(probe, bytes(4096))
                probe.unlink()
            for name in RESULTS:
                if (out / name).is_dir():
                    raise IsADirectoryError(f"{name} is a folder")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            told = f"out must be a folder that can be written to, got {str(out)!r}: {reason}"
            raise OSError(told) from error

    def load(self, settings: dict[str, Any]) -> Run | None:
        """The run of these settings, or None. A file that holds no such run is set aside.

        Warns:
            RuntimeWarning: a file was set aside, with the reason.
        """
        path = self._path(settings)
        if not path.exists():
            return None
        try:
            return read_run(json.loads(path.read_text(encoding="utf-8")), settings)
        except (ValueError, OSError, OverflowError, RecursionError) as error:
            spoiled = _set_aside(path)
            told = f"{path} holds no such run: {error}; it is now {spoiled.name}, and is run again"
            warnings.warn(told, RuntimeWarning, stacklevel=2)
            return None

    def artifacts(self, settings: dict[str, Any]) -> Path:
        """The folder of a run's artifacts, beside its file."""
        return self._path(settings).with_suffix("")

    def kept(self, settings: dict[str, Any]) -> Path:
        """The folder of a run's parameters and answers."""
        return self.folder.parent / "kept" / run_key(settings)

    def save(self, settings: dict[str, Any], run: Run) -> None:
        write_text(self._path(settings), to_json({"config": settings, "run": asdict(run)}))

    def _path(self, settings: dict[str, Any]) -> Path:
        return self.folder / f"{run_key(settings)}.json"


def _set_aside(path: Path) -> Path:
    """Give a file a name that no other has; return it."""
    names = (path.with_suffix(f".bad{number}") for number in itertools.count())
    spoiled = next(name for name in names if not name.exists())
    with suppress(FileNotFoundError):  # another comparison was first
        path.rename(spoiled)
    return spoiled


def read_run(stored: Any, settings: dict[str, Any]) -> Run:
    """The run in a file, if it is one of these settings.

    Raises:
        ValueError: it is not, and why.
    """
    if not isinstance(stored, dict) or not {"config", "run"} <= set(stored):
        raise ValueError("it must have the keys config and run")
    if stored["config"] != json.loads(to_json(settings)):
        raise ValueError("its config is another one")
    hints, values = get_type_hints(Run), stored["run"]
    if not isinstance(values, dict) or set(values) != set(hints):
        raise ValueError(f"run must have the keys {', '.join(hints)}")
    for name, hint in hints.items():
        if not _is_a(values[name], hint):
            kind = getattr(hint, "__name__", hint)
            raise ValueError(f"{name} must be {kind}, got {str(values[name])[:40]!r}")
    run = Run(**values)
    _check_belongs(run, settings)
    return run


def _check_belongs(run: Run, settings: dict[str, Any]) -> None:
    """Refuse numbers that a run of these settings does not have, though their types are right."""
    expected = {name: settings[name] for name in ("net", "seed") if name in settings}
    for name, value in {**expected, **settings.get("width", {})}.items():
        if getattr(run, name) != value:
            raise ValueError(f"{name} must be {value!r}, got {getattr(run, name)!r}")
    names = [metric["name"] for metric in settings.get("metrics", [])] or list(run.scores)
    if names != list(run.scores):
        raise ValueError(f"scores must be of {', '.join(names)}, got {', '.join(run.scores)}")
    if run.diverged is None and (run.best_epoch is None or run.scores[names[0]] is None):
        raise ValueError("a run that did not diverge must have scores and a best epoch")
    if "loss" not in run.curves:
        raise ValueError(f"curves must have loss, got {', '.join(run.curves) or 'none'}")
    lengths = {len(curve) for curve in run.curves.values()}
    epochs = settings.get("training", {}).get("epochs", len(run.curves["loss"]))
    if len(lengths) > 1 or not lengths <= {epochs, run.diverged}:
        raise ValueError(f"curves must have {epochs} numbers, got {sorted(lengths)}")


def _is_a(value: Any, hint: Any) -> bool:
    """Whether what was read from JSON is of this type: a class, a union, a dict or a list."""
    if isinstance(hint, UnionType):
        return any(_is_a(value, each) for each in get_args(hint))
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_is_a(v, get_args(hint)[1]) for v in value.values())
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_is_a(v, get_args(hint)[0]) for v in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def write_results(
    folder: Path,
    rows: Sequence[ResultRow],
    runs: Sequence[Run],
    baselines: Sequence[Baseline],
    settings: dict[str, Any],
    artifacts: Path,
    keys: Sequence[str],
    more: Mapping[str, Any],
) -> list[Path]:
    """Write results.json, results.csv, config.json, curves.png and the files of a folder.

    results.csv has a row for each run; `keys` are the names of their files. `more` is added to
    results.json.

    Returns their paths. All are of one comparison, though another one may write at once.
    """
    nets = [row.to_dict() for row in rows]
    results = {
        "config": settings,
        "nets": nets,
        "baselines": [{"name": baseline.name, **baseline.scores} for baseline in baselines],
        "runs": [{"key": key, **asdict(run)} for key, run in zip(keys, runs, strict=True)],
        **more,
    }
    table, flat = io.StringIO(newline=""), [run_row(run) for run in runs]
    writer = csv.DictWriter(table, fieldnames=list(flat[0]))
    writer.writeheader()
    writer.writerows(flat)
    texts = {
        "results.json": to_json(results),
        "results.csv": table.getvalue(),
        "config.json": to_json(settings),
    }
    with _alone_in(folder):
        for name, text in texts.items():
            write_text(folder / name, text)
        write_bytes(folder / "curves.png", draw_curves(runs, baselines, settings))
        found = copy_artifacts(artifacts, folder)
    return [*(folder / name for name in RESULTS), *found]


def copy_artifacts(source: Path, folder: Path) -> list[Path]:
    """Copy the artifacts of a run into `folder`; return the paths, none if there are none."""
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else []
    for path in files:
        write_bytes(folder / path.name, path.read_bytes())
    return [folder / path.name for path in files]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here with this folder, where the system can do that."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def draw_curves(
    runs: Sequence[Run], baselines: Sequence[Baseline], settings: dict[str, Any]
) -> bytes:
    """Loss and validation metric by epoch, a PNG: the mean over seeds, and their range as a band.

    The curve of a net ends where one of its seeds diverged, and the legend says so.
    """
    metric = settings["metrics"][0]["name"]
    figure = new_figure((10, 4))
    panels = figure.subplots(1, 2)
    curves = {"loss": "training loss", "val": f"validation {metric}"}
    for panel, (curve, title) in zip(panels, curves.items(), strict=True):
        for net in dict.fromkeys(run.net for run in runs):
            of_net = [run for run in runs if run.net == net and curve in run.curves]
            if not of_net:
                continue
            label = f"{net} (diverged)" if any(run.diverged for run in of_net) else net
            # Epochs that all seeds have; None becomes NaN, which is not drawn.
            by_epoch = np.array([*zip(*(run.curves[curve] for run in of_net), strict=False)], float)
            epochs = range(1, len(by_epoch) + 1)
            (line,) = panel.plot(epochs, by_epoch.mean(1), label=label)
            low, high = by_epoch.min(1), by_epoch.max(1)
            panel.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_title(title)
        panel.grid(alpha=0.3)
    for baseline in baselines:
        if math.isfinite(score := baseline.scores.get(metric, math.nan)):
            panels[1].axhline(score, color="0.5", linestyle="--", label=baseline.name)
    losses = [loss for run in runs for loss in run.curves["loss"] if loss is not None]
    if losses and min(losses) > 0:
        formatter = require("matplotlib.ticker", "compare").LogFormatter
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_formatter(formatter())
        panels[0].yaxis.set_minor_formatter(formatter(minor_thresholds=(1, 0.4)))
    if panels[1].get_legend_handles_labels()[0]:
        panels[1].legend()
    figure.suptitle(settings["task"])
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    return picture.getvalue()
