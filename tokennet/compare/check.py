"""What is wrong with a task, found before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from tokennet.checks import check_items, check_type
from tokennet.compare.metric import Metric
from tokennet.compare.report import ResultRow
from tokennet.compare.task import Batch, NetSpec, Task, TrainConfig
from tokennet.nets import IOSpec


def check_attributes(task: Task) -> None:
    """Check what a task says of itself, before anything of it is used.

    Raises:
        TypeError: an attribute is of another type.
        ValueError: attributes are not set, or are empty.
    """
    check_type("task", task, Task, "an instance of a Task")
    missing = [name for name in ("name", "graphs", "nets", "interface") if not hasattr(task, name)]
    if missing:
        raise ValueError(f"task {type(task).__name__} must set {', '.join(missing)}")
    told = f"task {task.name}:"
    for name in ("graphs", "nets", "forms", "readouts"):
        check_items(f"{told} {name}", getattr(task, name), str, "names, as a tuple")
    for name in ("graphs", "nets"):
        _expect(task, len(getattr(task, name)) > 0, f"{name} must hold at least one name, got none")
    check_type(f"{told} interface", task.interface, IOSpec, "an IOSpec")
    check_type(f"{told} config", task.config, TrainConfig, "a TrainConfig")
    check_items(f"{told} metrics", task.metrics, Metric, "metrics, as a tuple")
    _expect(task, bool(task.metrics), "metrics must hold at least one Metric, got none")
    _check_names([metric.name for metric in task.metrics], task)


def check_task(task: Task, nets: Sequence[NetSpec]) -> None:
    """Check the splits, the baselines, and one batch for each graph.

    Raises:
        ValueError: parts of the task do not fit together.
    """
    splits = task.splits(0)
    for split in ("train", "test"):
        index = splits.get(split)
        fits = isinstance(index, Tensor) and index.dtype == torch.int64 and len(index) > 0
        told = f"splits must have an int64 tensor of examples in {split!r}, got {index!r}"
        _expect(task, fits, told)
    _expect(task, "loss" not in splits, "splits must not be called 'loss', as the curve is")
    classifies = type(task).loss is Task.loss and type(task).build is Task.build
    for graph in dict.fromkeys(net.graph for net in nets):
        _check_batch(task, splits["train"][:2], graph)
        if classifies:
            _check_classes(task, splits["train"][:2], splits["test"], graph)
    known = {metric.name for metric in task.metrics}
    for name, scores in task.baselines(0).items():
        told = f"baseline {name!r} must have scores for {', '.join(sorted(known))}; "
        _expect(task, set(scores) <= known, told + f"got {', '.join(scores)}")


def _check_names(metrics: list[str], task: Task) -> None:
    """Metrics are columns of the results, each with its sd, and curves have names too."""
    columns = [*RESERVED, *metrics, *(f"{name} sd" for name in metrics)]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    told = f"metrics must have names that are not those of other columns, got {', '.join(twice)}"
    _expect(task, not twice, told)


RESERVED = (
    "name",
    "loss",
    "index",
    "answer",
    "target",
    *(field.name for field in fields(ResultRow) if "scores" not in field.name),
)
"""Columns of `ResultRow` and of baselines, of a curve and of what is kept: no metrics."""


def _expect(task: Task, fits: bool, told: str) -> None:
    if not fits:
        raise ValueError(f"task {task.name}: {told}")


def _check_batch(task: Task, index: Tensor, graph: str) -> None:
    batch, io = task.batch(index, graph), task.interface
    told = f"batch must return a Batch, got {type(batch).__name__}"
    _expect(task, isinstance(batch, Batch), told)
    dim = (batch.tokens if batch.source is None else batch.source).dim
    expected = "1 channel of ids" if io.ids else f"in_features = {io.in_features} channels"
    fits = dim == (1 if io.ids else io.in_features)
    _expect(task, fits, f"tokens must have {expected}, got {dim}")
    given = batch.tokens if batch.source is None else batch.source
    other = next((size for size in given.graph.sizes if size != io.num_tokens), None)
    told = f"interface.num_tokens must be the tokens of each set, {other}; got {io.num_tokens}"
    _expect(task, io.num_tokens is None or other is None, told)
    shape, n = tuple(batch.target.shape), len(index)
    told = f"target must have shape ({n}, ...) for {n} examples, got {shape}"
    _expect(task, shape[:1] == (n,), told)


def _check_classes(task: Task, index: Tensor, test: Tensor, graph: str) -> None:
    target, io = task.batch(index, graph).target, task.interface
    fits = target.dtype == torch.int64 and (target.dim() == 1 or io.readout == "token")
    told = f"got {target.dtype} of shape {tuple(target.shape)}"
    _expect(task, fits, f"target must be int64 of shape {tuple(index.shape)}, {told}")
    largest = int(task.batch(test, graph).target.max())
    told = f"target must be below out_features = {io.out_features}, got {largest}"
    _expect(task, largest < io.out_features, told)
