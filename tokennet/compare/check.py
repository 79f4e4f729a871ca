"""What is wrong with a task, found before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokennet.compare.task import Batch, NetSpec, Task


def check_task(task: Task, nets: Sequence[NetSpec]) -> None:
    """Check the splits, the baselines, and one batch for each graph.

    Raises:
        ValueError: parts of the task do not fit together.
    """
    missing = [name for name in ("name", "graphs", "nets", "interface") if not hasattr(task, name)]
    if missing:
        raise ValueError(f"task {type(task).__name__} must set {', '.join(missing)}")
    try:
        _check(task, nets)
    except _Misfit as error:
        raise ValueError(f"task {task.name}: {error}") from None


class _Misfit(Exception):
    """What is wrong, without the name of the task."""


def _check(task: Task, nets: Sequence[NetSpec]) -> None:
    if not task.metrics:
        raise _Misfit("metrics must hold at least one Metric, got none")
    splits = task.splits(0)
    for split in ("train", "test"):
        index = splits.get(split)
        if not isinstance(index, Tensor) or index.dtype != torch.int64 or not len(index):
            raise _Misfit(
                f"splits must have an int64 tensor of examples in {split!r}, got {index!r}"
            )
    classifies = type(task).loss is Task.loss and type(task).build is Task.build
    for graph in dict.fromkeys(net.graph for net in nets):
        _check_batch(task, splits["train"][:2], graph)
        if classifies:
            _check_classes(task, splits["train"][:2], splits["test"], graph)
    known = {metric.name for metric in task.metrics}
    for name, scores in task.baselines(0).items():
        if not set(scores) <= known:
            raise _Misfit(
                f"baseline {name!r} must have scores for {', '.join(sorted(known))}; "
                f"got {', '.join(scores)}"
            )


def _check_batch(task: Task, index: Tensor, graph: str) -> None:
    batch, io = task.batch(index, graph), task.interface
    if not isinstance(batch, Batch):
        raise _Misfit(f"batch must return a Batch, got {type(batch).__name__}")
    dim = (batch.tokens if batch.source is None else batch.source).dim
    if dim != (1 if io.ids else io.in_features):
        expected = "1 channel of ids" if io.ids else f"in_features = {io.in_features} channels"
        raise _Misfit(f"tokens must have {expected}, got {dim}")
    if batch.target.shape[:1] != index.shape:
        raise _Misfit(
            f"target must have shape ({len(index)}, ...) for {len(index)} examples, "
            f"got {tuple(batch.target.shape)}"
        )


def _check_classes(task: Task, index: Tensor, test: Tensor, graph: str) -> None:
    target, io = task.batch(index, graph).target, task.interface
    if target.dtype != torch.int64 or (target.dim() > 1 and io.readout != "token"):
        raise _Misfit(
            f"target must be int64 of shape {tuple(index.shape)}, "
            f"got {target.dtype} of shape {tuple(target.shape)}"
        )
    largest = int(task.batch(test, graph).target.max())
    if largest >= io.out_features:
        raise _Misfit(f"target must be below out_features = {io.out_features}, got {largest}")
