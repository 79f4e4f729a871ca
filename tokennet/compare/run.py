"""`compare`: several nets on one task, at the same budget, over several seeds."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokennet.checks import check_size, checked, require
from tokennet.compare.budget import Match, find_widths
from tokennet.compare.check import check_attributes, check_task
from tokennet.compare.fingerprint import code_of, fingerprint
from tokennet.compare.judge import Answers, Verdicts, verdicts_of
from tokennet.compare.kept import read_answers
from tokennet.compare.named import Named, specs_of
from tokennet.compare.report import Baseline, ResultRow, best_row, run_row, summarize
from tokennet.compare.store import RunStore, run_key, write_results
from tokennet.compare.task import Task, TrainConfig
from tokennet.compare.train import Job, Run
from tokennet.compare.workers import Folders, train_all
from tokennet.version import __version__

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from pandas import DataFrame


@checked(depth=0)
@dataclass(frozen=True)
class Budget:
    """What the compared nets have in common; None leaves it to the task's `config`.

    >>> from tokennet.compare import TASKS
    >>> Budget(match="flops", size=100_000, epochs=2).config_for(TASKS["digits"]()).epochs
    2
    """

    match: Match = "params"
    size: int | None = None
    """Parameters, forward FLOPs for an example, or the token width, according to `match`."""
    epochs: int | None = None
    positions: str | None = None
    depth: int | None = None
    """Number of blocks."""
    lr: float | None = None
    """The largest learning rate."""
    full: bool = False
    """Train for the task's `full_epochs`, until nothing improves, instead of quickly."""

    def config_for(self, task: Task) -> TrainConfig:
        if self.full and self.epochs is not None:
            raise ValueError(f"epochs must be left out with full, got {self.epochs}")
        full = (task.full_epochs or 4 * task.config.epochs) if self.full else self.epochs
        given = {
            "epochs": full, "positions": self.positions, "depth": self.depth, "lr": self.lr,
        }  # fmt: skip
        return replace(task.config, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Comparison:
    """A row for each net, the single runs, and the files written. Made by `compare`."""

    rows: list[ResultRow]
    runs: list[Run]
    baselines: list[Baseline]
    files: list[Path]
    reused: int
    """Number of runs that were not trained but read from the folder."""
    config: TrainConfig
    """How all nets were trained."""
    verdicts: Verdicts
    """Which nets can be told apart, and which are no better than a trivial model."""

    def frame(self) -> DataFrame:
        """A `DataFrame` of pandas with a row for each run, as results.csv."""
        pandas = require("pandas", "compare")
        return pandas.DataFrame([run_row(run) for run in self.runs])


Progress = Callable[[str, int, int], None]
"""Called with (run, epochs done, total epochs) after each epoch; epochs are those of all runs."""


def compare(
    task: Task,
    *,
    nets: Sequence[Named] | None = None,
    seeds: int | None = None,
    budget: Budget | None = None,
    fabric: Fabric | None = None,
    workers: int = 1,
    out: Path | str = "tokennet-results",
    on_progress: Progress = lambda run, done, total: None,
) -> Comparison:
    """Train each net with each seed, or read the run where it is in `out` already.

    Args:
        task: where the data come from.
        nets: nets as "mixer@graph" or "mixer@graph/readout"; the task's own by default. And nets
            of yours: a module, a class, a function of the size, an `OwnNet`, or one by name as
            "module:Class", "timm:resnet18", "pyg:GCN@grid".
        seeds: their number, 0 .. seeds - 1; the task's own by default.
        budget: what the nets have in common.
        fabric: where to train; a launched `Fabric`, by default one CPU. Its loggers, such as that
            of TensorBoard, receive the curves of runs as they are trained.
        workers: processes that train runs at the same time, each on one thread. Scores do not
            depend on it. A script that asks for more than 1 needs `if __name__ == "__main__":`.
        out: folder for runs, results.json, results.csv, config.json, curves.png, and the
            artifacts of the best net.
        on_progress: called after each epoch.

    A run that diverges has no scores, and the row of its net has none: see `Run.diverged`. A
    stored file that is not the run asked for is set aside with a warning.

    Raises:
        ValueError: a net, graph or size that does not exist.
        OSError: `out` cannot be written to; known before anything is trained, unless the disk is
            full later. Runs that were finished before are stored.
        ImportError: lightning-fabric or matplotlib is not installed.

    >>> import tempfile
    >>> from tokennet.compare import TASKS
    >>> quick = Budget(size=4_000, epochs=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = compare(
    ...         TASKS["digits"](), nets=["mean@grid"], seeds=1, budget=quick, out=folder
    ...     )
    >>> [row.net for row in result.rows], [row.name for row in result.baselines]
    (['mean@grid'], ['majority', '3 nearest neighbors'])
    """
    check_attributes(task)
    budget, out = budget or Budget(), Path(out)
    seeds = check_size("seeds", task.seeds if seeds is None else seeds, 1)
    workers = check_size("workers", workers, 1)
    lightning = require("lightning_fabric", "compare")
    for package in ("matplotlib", "safetensors"):  # for curves and parameters: not an hour later
        require(package, "compare")
    fabric = fabric or lightning.Fabric(accelerator="cpu", devices=1)
    config = budget.config_for(task)
    specs = specs_of(task, [*(nets or task.nets)], seeds)
    check_task(task, specs)
    widths = find_widths(task, specs, config, budget.match, budget.size)
    store = RunStore(out)
    if fabric.is_global_zero:
        store.prepare()
    each = itertools.product(widths.items(), range(seeds))
    jobs = [Job(task, net, net.config_of(config), width, seed) for (net, width), seed in each]
    if workers > 1 and (fabric.world_size > 1 or fabric.loggers):
        where = "with loggers" if fabric.loggers else f"on {fabric.world_size} devices"
        raise ValueError(f"workers must be 1 {where}, got {workers}")
    common = _environment(fabric, task)
    settings = [_settings(job, common) for job in jobs]
    folders = [(store.artifacts(each), store.kept(each)) for each in settings]
    runs, reused = _train(fabric, store, jobs, settings, folders, workers, on_progress)
    baselines = Baseline.of(task, seeds)
    answers = _answers(runs, [kept for _, kept in folders])
    verdicts = verdicts_of(answers, {b.name: b.scores for b in baselines}, task.metrics[0])
    each_run = [*zip(runs, folders, strict=True)]
    artifacts = {run.net: folder for run, (folder, _) in reversed(each_run)}
    rows, files = summarize(runs), []
    if fabric.is_global_zero:
        training = {"training": asdict(config)}
        asked = {"budget": asdict(budget), "seeds": seeds, **common, **training}
        best = artifacts[best_row(rows, task.metrics[0]).net]  # of the first seed
        keys = [run_key(each) for each in settings]
        files = write_results(out, rows, runs, baselines, asked, best, keys, asdict(verdicts))
    return Comparison(rows, runs, baselines, files, reused, config, verdicts)


def _train(
    fabric: Fabric, store: RunStore, jobs: list[Job], settings: list[dict[str, Any]],
    folders: list[Folders], workers: int, on_progress: Progress,
) -> tuple[list[Run], int]:  # fmt: skip
    """Each run, and how many were read."""
    # The first process alone decides, so that none waits for another that loaded.
    found = [fabric.broadcast(store.load(s) if fabric.is_global_zero else None) for s in settings]
    total = sum(job.config.epochs for job in jobs)
    done = [0 if run is None else job.config.epochs for run, job in zip(found, jobs, strict=True)]

    def on_epoch(number: int, epochs: int) -> None:
        done[number] = epochs
        on_progress(str(jobs[number]), sum(done), total)

    waiting = [(n, jobs[n], folders[n]) for n, run in enumerate(found) if run is None]
    for number, run in train_all(fabric, waiting, workers, on_epoch):
        found[number] = run
        if fabric.is_global_zero:
            store.save(settings[number], run)
        on_epoch(number, jobs[number].config.epochs)
    return [run for run in found if run is not None], len(jobs) - len(waiting)


def _answers(runs: Sequence[Run], folders: Sequence[Path]) -> dict[str, list[Answers]]:
    """The answers of each net with each seed; of nets all of whose runs kept theirs."""
    found: dict[str, list[Answers]] = {}
    for run, folder in zip(runs, folders, strict=True):
        found.setdefault(run.net, []).append({} if run.diverged else read_answers(folder))
    return {net: each for net, each in found.items() if all(each)}


def _settings(job: Job, common: dict[str, Any]) -> dict[str, Any]:
    """All that determines a run."""
    return {
        "net": str(job.net), "net_name": job.net.name, "net_code": job.net.code(job.width),
        "width": asdict(job.width),
        "seed": job.seed, "data": fingerprint(job.task, job.net.graph, job.seed),
        "training": asdict(job.config), **common,
    }  # fmt: skip


def _environment(fabric: Fabric, task: Task) -> dict[str, Any]:
    """What a result depends on besides net, widths, seed and data."""
    packages = ("torch", "torch_geometric", "networkx", "lightning_fabric")
    return {
        "task": task.name,
        "task_class": f"{type(task).__module__}:{type(task).__qualname__}",
        "arguments": None if task.arguments is None else dict(task.arguments),
        "source": None if task.source is None else dict(task.source),
        "code": code_of(task),
        "metrics": [
            {"name": m.name, "unit": m.unit, "higher_is_better": m.higher_is_better}
            for m in task.metrics
        ],
        "interface": asdict(task.interface),
        "device": fabric.device.type,
        "precision": fabric._precision.precision,
        "versions": {
            "tokennet": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }
