"""What `tokennet compare` does with its options, and what it prints."""

from __future__ import annotations

import ast
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from tokennet._files import write_text
from tokennet.checks import require
from tokennet.compare.loaded import load_run
from tokennet.compare.named_tasks import load_task
from tokennet.compare.report import JUDGED, LEGEND, judged, recipe, tables
from tokennet.compare.run import Budget, Comparison
from tokennet.compare.run import compare as run_comparison
from tokennet.compare.task import Task
from tokennet.compare.tasks import TASKS

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DIVERGED, INTERRUPTED = 1, 130
"""Exit codes; after Ctrl-C as in shells, 128 + SIGINT."""


class Where(NamedTuple):
    """Where runs are trained, and in how many processes; None for the number that suits it."""

    accelerator: str
    devices: int
    precision: str
    workers: int | None

    def launch(self) -> Fabric:
        fabric = require("lightning_fabric", "compare").Fabric(
            accelerator=self.accelerator,
            # Under torchrun the processes exist already; their number is in the environment.
            devices=int(os.environ.get("LOCAL_WORLD_SIZE", self.devices)),
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
            precision=self.precision,
        )
        fabric.launch()
        return fabric


def compare(
    name: str, settings: Sequence[str], nets: str | None, seeds: int | None,
    budget: dict[str, Any], where: Where, out: Path | None,
) -> int:  # fmt: skip
    """Compare, print the tables, and return the exit code."""
    fabric = where.launch()
    with fabric.rank_zero_first():  # so that one process downloads for all
        task = load_task(name, TASKS, arguments_of(settings))
    console = Console(quiet=not fabric.is_global_zero)
    folder = out or Path("tokennet-results") / task.name
    try:
        with _progress(console) as on_progress:
            result = run_comparison(
                task, nets=split_names(nets) if nets else None, seeds=seeds,
                budget=Budget(**budget), fabric=fabric,
                workers=where.workers or _workers(fabric, task), out=folder,
                on_progress=on_progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        stored = f"finished runs are stored in {folder / 'runs'} and will be reused"
        print(f"tokennet: interrupted; {stored}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    return _report(console, task, result, folder)


def predict(
    folder: Path, net: str | None, seed: int, data: Path | None, out: Path | None
) -> None:  # fmt: skip
    """Print the scores of a stored net, and write its answers as CSV."""
    run = load_run(folder, net, seed)
    if data is None:
        answers, splits = run.predict(), run.task.splits(seed)
        index = splits["test"].tolist()
        print(f"{run.run}: " + ", ".join(f"{n} {v:.4g}" for n, v in run.metrics.items() if v))
    else:
        answers = run.predict(_array(data))
        index = [*range(len(answers))]
    lines = ["index,answer", *map(_line, index, _shown(run.task, answers).tolist())]
    text = "\n".join(lines) + "\n"
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
        print(f"Wrote {out}")


def _shown(task: Task, answers: Tensor) -> Tensor:
    """The most probable classes where the task classifies, and the numbers otherwise."""
    classifies = type(task).loss is Task.loss or task.metrics[0].name in ("accuracy", "exact match")
    return answers.argmax(-1) if classifies and answers.dim() > 1 else answers


def _line(number: int, answer: Any) -> str:
    values = torch.tensor(answer).flatten().tolist()
    return f"{number}," + " ".join(f"{value:g}" for value in values)


def _array(file: Path) -> Tensor:
    """Tokens (n, N, C) of a file of numpy or torch."""
    try:
        if file.suffix == ".npy":
            return torch.from_numpy(np.load(file, allow_pickle=False))
        found = torch.load(file, weights_only=True)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"--data must be a .npy or .pt file of an array: {error}") from error
    if not isinstance(found, Tensor):
        raise ValueError(f"--data must hold a tensor, got {type(found).__name__}")
    return found


def _report(console: Console, task: Task, result: Comparison, folder: Path) -> int:
    title = f"{task.name}: {task.summary}"
    shown = judged(result.verdicts.pairs, result.rows, task.metrics[0], result.verdicts.calibration)
    found = tables(result.rows, result.baselines, task.metrics, title)
    shown += [f"No better than {m}: {', '.join(n)}." for m, n in result.verdicts.no_better.items()]
    console.print(*found, *shown, LEGEND, sep="\n")
    if len(result.verdicts.pairs) and result.verdicts.pairs[0].seeds > 1:
        console.print(JUDGED)
    console.print(recipe(result.config))
    if result.reused:
        console.print(
            f"{result.reused} of {len(result.runs)} runs were in {folder / 'runs'} already."
        )
    console.print("Wrote " + ", ".join(str(path) for path in result.files), soft_wrap=True)
    if diverged := [str(run) for run in result.runs if run.diverged]:
        console.print(f"{len(diverged)} of {len(result.runs)} runs diverged: {', '.join(diverged)}")
    return DIVERGED if diverged else 0


def split_names(text: str) -> list[str]:
    """Names by commas, but not by those within brackets.

    >>> split_names("mean@full,timm:vit_tiny(depth=2, embed_dim=48)")
    ['mean@full', 'timm:vit_tiny(depth=2, embed_dim=48)']
    """
    names, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            names.append("")
        else:
            names[-1] += character
    return names


def arguments_of(settings: Sequence[str]) -> dict[str, Any]:
    """The values of NAME=VALUE: Python literals, or else text.

    Raises:
        ValueError: there is no "=", or a name comes twice.

    >>> arguments_of(["patch=4", "blur=3", "path=my.txt"])
    {'patch': 4, 'blur': 3, 'path': 'my.txt'}
    """
    found: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--set must be NAME=VALUE, as patch=4, got {text!r}")
        if name in found:
            raise ValueError(f"--set must name {name!r} once, got {text!r} too")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _workers(fabric: Fabric, task: Task) -> int:
    """One process a core of a CPU; on a GPU, or several devices, the first process alone."""
    if fabric.device.type != "cpu" or fabric.world_size > 1:
        return 1
    try:
        pickle.dumps(task)
    except Exception:  # a task that cannot be sent to other processes
        return 1
    return min(8, os.cpu_count() or 1)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for the epochs of all runs; warnings are lines above it."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
        TimeElapsedColumn(), console=console,
    )  # fmt: skip
    line = bar.add_task("", total=None)

    def on_progress(run: str, done: int, total: int) -> None:
        bar.start()  # not earlier, so that no error message follows a bar
        bar.update(line, description=run, completed=done, total=total)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            yield on_progress
    finally:
        bar.stop()


def _show_warning(message: Warning | str, *where: object) -> None:
    """One line, without the place in the code that gave the warning."""
    print(f"tokennet: {' '.join(str(message).split())}", file=sys.stderr)
