"""What a task gives, looked at before anything is trained; and a hash of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor

from tokennet.compare.net import NetSpec
from tokennet.compare.task import Batch, Task
from tokennet.graphs import Causal, Cycle, Full, Global, Grid, Offsets, Self, Window
from tokennet.tokens import Tokens

_FORMULAS = (Full, Causal, Window, Cycle, Grid, Offsets, Global, Self)
"""Graphs whose `repr` says all there is to know of them."""


def fingerprint(task: Task, graph: str, seed: int) -> str:
    """A hash of all that a net is shown with this graph and seed: examples, edges, targets."""
    digest = hashlib.sha256()
    for split, index in sorted(task.splits(seed).items()):
        digest.update(f"{split} {len(index)}".encode())
        for part in index.split(1024):
            batch = task.batch(part, graph)
            _add(digest, part)
            for tokens in (batch.tokens, batch.source):
                _add_tokens(digest, tokens)
            _add(digest, batch.target, batch.rows)
    return digest.hexdigest()[:16]


def _add_tokens(digest: hashlib._Hash, tokens: Tokens | None) -> None:
    if tokens is None:
        return
    on = tokens.graph
    digest.update(repr(on).encode())
    edges = None if type(on) in _FORMULAS else on.edge_index()
    _add(digest, tokens.z, tokens.pos, edges, getattr(on, "edge_attr", None))


def _add(digest: hashlib._Hash, *tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())


def code_of(task: Task) -> str:
    """A hash of the methods and metrics of a task, so that another loss is another run.

    With them go the functions, classes, numbers and strings of the same module that they name.
    Comments, blank lines and docstrings count for nothing.
    """
    digest, seen = hashlib.sha256(), set[object]()
    for kind in type(task).__mro__[: type(task).__mro__.index(Task)]:
        _add_class(digest, kind, seen)
    for metric in task.metrics:
        digest.update(metric.name.encode())
        _add_callable(digest, metric.values, seen)
        _add_callable(digest, metric.reduce, seen)
    return digest.hexdigest()[:16]


def _add_class(digest: hashlib._Hash, kind: type, seen: set[object]) -> None:
    for name, member in sorted(vars(kind).items()):
        # Static and class methods have their function in __func__, properties in fget.
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if isinstance(function, FunctionType):
            digest.update(name.encode())
            _add_function(digest, function, seen)


def _add_callable(digest: hashlib._Hash, given: Any, seen: set[object]) -> None:
    while isinstance(given, partial):
        digest.update(repr((given.args, given.keywords)).encode())
        given = given.func
    function = getattr(given, "__func__", given)
    if isinstance(function, FunctionType):
        _add_function(digest, function, seen)
    else:
        digest.update(type(given).__qualname__.encode())
        _add_class(digest, type(given), seen)


def _add_function(digest: hashlib._Hash, function: FunctionType, seen: set[object]) -> None:
    """The code of a function, and whatever of its module it names."""
    if function in seen:
        return
    seen.add(function)
    _add_code(digest, function.__code__, function.__doc__)
    digest.update(repr([each for each in function.__defaults__ or () if _is_plain(each)]).encode())
    for name in sorted(_names(function.__code__)):
        value = function.__globals__.get(name)
        if _is_plain(value):
            digest.update(f"{name} {value!r}".encode())
        elif getattr(value, "__module__", None) != function.__module__ or value in seen:
            continue
        elif isinstance(value, FunctionType):
            _add_function(digest, value, seen)
        elif isinstance(value, type):
            seen.add(value)
            _add_class(digest, value, seen)


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str)


def _names(code: CodeType) -> set[str]:
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _add_code(digest: hashlib._Hash, code: CodeType, docstring: str | None = None) -> None:
    digest.update(code.co_code + repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add_code(digest, constant)
        elif isinstance(constant, frozenset):
            digest.update(repr(sorted(map(repr, constant))).encode())
        elif constant is not None and constant is not docstring:
            digest.update(repr(constant).encode())


def check_task(task: Task, nets: Sequence[NetSpec]) -> None:
    """Look at the splits and at one batch for each graph before anything is trained.

    Raises:
        ValueError: what a task gives does not fit together.
    """
    missing = [name for name in ("name", "graphs", "nets", "interface") if not hasattr(task, name)]
    if missing:
        raise ValueError(f"task {type(task).__name__} must set {', '.join(missing)}")
    if not task.metrics:
        raise ValueError(f"task {task.name}: metrics must hold at least one Metric, got none")
    splits = task.splits(0)
    for split in ("train", "test"):
        index = splits.get(split)
        if not isinstance(index, Tensor) or index.dtype != torch.int64 or not len(index):
            raise ValueError(
                f"task {task.name}: splits must have an int64 tensor of examples in {split!r}, "
                f"got {index!r}"
            )
    for graph in dict.fromkeys(net.graph for net in nets):
        _check_batch(task, splits["train"][:2], graph)
        if _classifies(task):
            _check_classes(task, splits["train"][:2], splits["test"], graph)
    _check_baselines(task)


def _check_batch(task: Task, index: Tensor, graph: str) -> None:
    batch = task.batch(index, graph)
    if not isinstance(batch, Batch):
        raise ValueError(f"task {task.name}: batch must give a Batch, got {type(batch).__name__}")
    channels = 1 if task.interface.ids else task.interface.in_features
    described = batch.tokens if batch.source is None else batch.source
    if described.dim != channels:
        raise ValueError(
            f"task {task.name}: tokens must have "
            + (
                "1 channel of ids, "
                if task.interface.ids
                else f"in_features = {channels} channels, "
            )
            + f"got {described.dim}"
        )
    if batch.target.shape[:1] != index.shape:
        raise ValueError(
            f"task {task.name}: target must have shape ({len(index)}, ...) for {len(index)} "
            f"examples, got {tuple(batch.target.shape)}"
        )


def _classifies(task: Task) -> bool:
    return type(task).loss is Task.loss and type(task).build is Task.build


def _check_classes(task: Task, index: Tensor, test: Tensor, graph: str) -> None:
    target = task.batch(index, graph).target
    if target.dtype != torch.int64 or (target.dim() > 1 and task.interface.readout != "token"):
        raise ValueError(
            f"task {task.name}: target must be int64 of shape {tuple(index.shape)}, "
            f"got {target.dtype} of shape {tuple(target.shape)}"
        )
    largest = int(task.batch(test, graph).target.max())
    if largest >= task.interface.out_features:
        raise ValueError(
            f"task {task.name}: target must be below out_features = "
            f"{task.interface.out_features}, got {largest}"
        )


def _check_baselines(task: Task) -> None:
    known = {metric.name for metric in task.metrics}
    for name, figures in task.baselines(0).items():
        if not set(figures) <= known:
            raise ValueError(
                f"task {task.name}: baseline {name!r} must have figures for "
                f"{', '.join(sorted(known))}; got {', '.join(figures)}"
            )
