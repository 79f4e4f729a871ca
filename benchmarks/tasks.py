"""The table of default runs in docs/compare.md: python -m benchmarks.tasks FOLDER.

The folder has one for each task, as `tokennet compare TASK --out FOLDER/TASK` writes it. A run of
other than the default settings is refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pages import DOCS, head, row, write
from tokennet.compare import TASKS
from tokennet.compare.metric import Metric

PAGE = DOCS / "compare.md"
COLUMNS = ("task", "net", "parameters", "on the test", "seeds", "seconds of training, each")


def figures(entry: dict[str, Any], metrics: tuple[Metric, ...]) -> str:
    """Every metric that a net or a trivial model has, with its spread over seeds."""
    if entry.get("diverged"):
        return f"diverged, {entry['diverged']} of {entry['seeds']} seeds"
    return ", ".join(
        f"{metric.text(entry[metric.name], entry.get(f'{metric.name} sd'))} {_unit(metric)}"
        for metric in metrics
        if entry.get(metric.name) is not None
    )


def _unit(metric: Metric) -> str:
    return f"% {metric.name}" if metric.unit == "%" else metric.name


def rows(name: str, found: dict[str, Any]) -> Iterator[str]:
    metrics = TASKS[name].metrics
    for number, net in enumerate(found["nets"]):
        shown, seconds = f"`{net['net']}`", f"{net['seconds']:.0f}"
        task = f"`{name}`" if number == 0 else ""
        cells = f"{net['parameters']:,}", figures(net, metrics), str(net["seeds"]), seconds
        yield row(task, shown, *cells)
    for model in found["baselines"]:
        yield row("", model["name"], "", figures(model, metrics), "", "")


def read(folder: Path, name: str) -> dict[str, Any]:
    """The results of a task, of its default nets, seeds and budget."""
    found = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))
    budget, nets = found["config"]["budget"], [net["net"] for net in found["nets"]]
    others = {key: value for key, value in budget.items() if key != "match" and value is not None}
    if others or budget["match"] != "params" or nets != list(TASKS[name].nets):
        raise ValueError(f"{folder / name} must hold a default run, got {budget} and {nets}")
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    there = [name for name in TASKS if (folder / name / "results.json").is_file()]
    lines = [line for name in there for line in rows(name, read(folder, name))]
    write(PAGE, "default runs", [*head(*COLUMNS), *lines])


if __name__ == "__main__":
    main()
