"""Tasks by name: of this library, `module:Class`, `pyg:Planetoid`, `images:FOLDER`, `hf:PATH`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokennet.checks import lookup
from tokennet.compare.data import data_root
from tokennet.compare.from_data import task_from
from tokennet.compare.task import Task
from tokennet.testing.resolve import resolve
from tokennet.testing.zoo.source import package

LEVELS = "level"
"""The argument of `task_from` that a dataset of PyG may be given beside its own."""


def load_task(
    name: str, registry: Mapping[str, type[Task]], arguments: Mapping[str, Any] | None = None
) -> Task:
    """Make the task of that name.

    Args:
        name: of a task of the registry; `module:Class` of a file of your own, or `module:data`
            that `task_from` reads; `pyg:KarateClub`, a dataset of PyG; `images:FOLDER`; `hf:PATH`,
            a dataset of Hugging Face that was saved to a folder, or its name.
        arguments: of the class, of the dataset, or of `task_from`, by name.

    Raises:
        ValueError: there is no such task, module, class or argument, or it is not a `Task`.

    >>> from tokennet.compare import TASKS
    >>> load_task("shakespeare", TASKS, {"windows": 64})
    Traceback (most recent call last):
    ValueError: set must be one of path, window, radius; got 'windows'; did you mean window?
    """
    arguments = dict(arguments or {})
    kind, colon, rest = name.partition(":")
    if not colon:
        told = "or module:Class, pyg:Dataset, images:FOLDER, hf:PATH"
        made = _made(name, lookup("task", name, registry, also=told), arguments)
    elif kind in SOURCES:
        made = SOURCES[kind](rest, arguments)
    else:
        made = _of_module(name, arguments)
    made.source = {"name": name, "arguments": arguments}
    return made


def _of_module(name: str, arguments: dict[str, Any]) -> Task:
    found = resolve(name, "task")
    if isinstance(found, type):
        if not issubclass(found, Task):
            raise ValueError(f"task {name!r} must be a Task, got {found!r}")
        if inspect.isabstract(found):
            missing = ", ".join(sorted(found.__abstractmethods__))
            raise ValueError(f"task {name!r} must define {missing}")
        return _made(name, found, arguments)
    try:
        return task_from(found, **arguments)
    except TypeError as error:
        raise ValueError(f"task {name!r} must be a Task, or data: {error}") from error


def _made(name: str, kind: type[Task], arguments: Mapping[str, Any]) -> Task:
    known = {} if kind.__init__ is object.__init__ else inspect.signature(kind).parameters
    if arguments and not known:
        raise ValueError(f"task {name} has nothing to set, got {', '.join(arguments)}")
    for argument in arguments:
        lookup("set", argument, known)
    try:
        return kind(**arguments)
    except TypeError as error:
        given = ", ".join(f"{n}={value!r}" for n, value in arguments.items()) or "no arguments"
        raise ValueError(f"task {name!r} cannot be made with {given}: {error}") from error


def _pyg(name: str, arguments: dict[str, Any]) -> Task:
    """A dataset of PyG, downloaded to the cache where it has to be."""
    datasets = package("torch_geometric.datasets", "torch-geometric")
    known = {n: kind for n, kind in vars(datasets).items() if isinstance(kind, type)}
    kind = lookup("task pyg", name, known)
    own = {n: arguments.pop(n) for n in (LEVELS,) if n in arguments}
    given = dict(arguments)
    if "root" in inspect.signature(kind).parameters and "root" not in given:
        given["root"] = str(data_root(given.get("name", name)))
    try:
        dataset = kind(**given)
    except TypeError as error:
        raise ValueError(f"task pyg:{name} cannot be made with {given}: {error}") from error
    arguments.update(own)
    return task_from(dataset, name=str(given.get("name", name)).lower(), **own)


def _images(folder: str, arguments: dict[str, Any]) -> Task:
    return task_from(Path(folder), **arguments)


def _hugging_face(path: str, arguments: dict[str, Any]) -> Task:
    datasets = package("datasets")
    local = Path(path).is_dir()
    found = datasets.load_from_disk(path) if local else datasets.load_dataset(path)
    return task_from(found, **{"name": Path(path).name, **arguments})


SOURCES = {"pyg": _pyg, "images": _images, "hf": _hugging_face}
