"""The main job: several nets on one task, at the same budget, over several seeds."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning_fabric
import networkx
import torch
import torch_geometric
from lightning_fabric import Fabric

from tokennet.compare.budget import Match, find_widths
from tokennet.compare.check import check_task, code_of, fingerprint
from tokennet.compare.net import NetSpec
from tokennet.compare.report import Baseline, ResultRow, best_line, summarize
from tokennet.compare.store import RunStore
from tokennet.compare.task import Task, TrainConfig
from tokennet.compare.train import Job, Run, train
from tokennet.compare.write import write_results, write_shown
from tokennet.mixers import MIXERS
from tokennet.version import __version__


@dataclass(frozen=True)
class Budget:
    """What the nets are to have in common; None leaves it to the task's recipe.

    >>> from tokennet.compare import TASKS
    >>> Budget(match="flops", size=100_000, epochs=2).recipe_of(TASKS["digits"]()).epochs
    2
    """

    match: Match = "params"
    size: int | None = None
    """Parameters, forward FLOPs for an example, or the token width, according to `match`."""
    epochs: int | None = None
    positions: str | None = None

    def recipe_of(self, task: Task) -> TrainConfig:
        given = {"epochs": self.epochs, "positions": self.positions}
        return replace(task.recipe, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Comparison:
    """The outcome: a line for each net, the single runs, and the files written."""

    lines: list[ResultRow]
    runs: list[Run]
    baselines: list[Baseline]
    files: list[Path]
    reused: int
    """How many of the runs were there already."""


Progress = Callable[[str, int, int], None]
"""Told (run, epochs done, epochs in all) after each epoch, over all runs."""


def compare(
    task: Task,
    *,
    nets: Sequence[str] | None = None,
    seeds: int | None = None,
    budget: Budget | None = None,
    fabric: Fabric | None = None,
    out: Path | str = "tokennet-results",
    on_progress: Progress = lambda run, done, total: None,
) -> Comparison:
    """Train each net with each seed, or read the run where it is already in `out`.

    Args:
        task: where the data come from.
        nets: nets as "mixer@graph" or "mixer@graph/readout"; the task's own by default.
        seeds: how many, 0 .. seeds - 1; the task's own number by default.
        budget: what the nets have in common.
        fabric: where to train; a launched `Fabric`, by default one CPU.
        out: folder for runs, results.json, results.csv, config.json, curves.png, and what
            the best net has to show.
        on_progress: told after each epoch.

    Raises:
        ValueError: a net, graph or size that does not exist.

    >>> import tempfile
    >>> from tokennet.compare import TASKS
    >>> quick = Budget(size=4_000, epochs=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = compare(
    ...         TASKS["digits"](), nets=["mean@grid"], seeds=1, budget=quick, out=folder
    ...     )
    >>> [line.net for line in result.lines], [line.name for line in result.baselines]
    (['mean@grid'], ['majority'])
    """
    budget, out = budget or Budget(), Path(out)
    seeds = task.seeds if seeds is None else seeds
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    known = {**MIXERS, **dict.fromkeys(task.forms)}
    parsed = [NetSpec.parse(text, known, task.graphs, task.readouts) for text in nets or task.nets]
    recipe = budget.recipe_of(task)
    check_task(task, parsed)
    widths = find_widths(task, parsed, recipe, budget.match, budget.size)
    jobs = [
        Job(task, net, recipe, width, seed)
        for net, width in widths.items()
        for seed in range(seeds)
    ]
    store, runs, reused = RunStore(out), [], 0
    for number, job in enumerate(jobs):
        report = partial(_report, on_progress, job, number, len(jobs))
        run, was_there = _run_or_load(fabric, store, job, report)
        runs.append(run)
        reused += was_there
        report(recipe.epochs)
    lines, files = summarize(runs), []
    baselines = Baseline.of(task, seeds)
    if fabric.is_global_zero:
        config = {"budget": asdict(budget), "seeds": seeds, **_surroundings(fabric, task, recipe)}
        files = write_results(out, lines, runs, baselines, config)
        best = best_line(lines, task.metrics[0])
        shown = next(job for job in jobs if str(job.net) == best.net)
        files += write_shown(store.shown(_config(fabric, shown)), out)
    return Comparison(lines, runs, baselines, files, reused)


def _report(on_progress: Progress, job: Job, number: int, jobs: int, epoch: int) -> None:
    epochs = job.recipe.epochs
    on_progress(str(job), number * epochs + epoch, jobs * epochs)


def _run_or_load(
    fabric: Fabric, store: RunStore, job: Job, report: Callable[[int], None]
) -> tuple[Run, bool]:
    """The run, and whether it was there already."""
    config = _config(fabric, job)
    # The first process alone decides, so that none waits for another that loaded.
    found = fabric.broadcast(store.load(config) if fabric.is_global_zero else None)
    if found is not None:
        return found, True
    epochs = itertools.count(1)
    run = train(fabric, job, lambda: report(next(epochs)), store.shown(config))
    if fabric.is_global_zero:
        store.save(config, run)
    return run, False


def _config(fabric: Fabric, job: Job) -> dict[str, Any]:
    """All that determines a run."""
    return {
        "net": str(job.net), "width": asdict(job.width), "seed": job.seed,
        "data": fingerprint(job.task, job.net.graph, job.seed),
        **_surroundings(fabric, job.task, job.recipe),
    }  # fmt: skip


def _surroundings(fabric: Fabric, task: Task, recipe: TrainConfig) -> dict[str, Any]:
    """What a result depends on besides net, widths, seed and data."""
    return {
        "task": task.name,
        "code": code_of(task),
        "metrics": [
            {"name": m.name, "unit": m.unit, "higher_is_better": m.higher_is_better}
            for m in task.metrics
        ],
        "interface": asdict(task.interface),
        "recipe": asdict(recipe),
        "device": fabric.device.type,
        "precision": fabric._precision.precision,
        "versions": {
            "tokennet": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torch_geometric": torch_geometric.__version__,
            "networkx": networkx.__version__,
            "lightning_fabric": lightning_fabric.__version__,
        },
    }
