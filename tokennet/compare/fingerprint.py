"""Hashes of a task's data and of its source code: with them a finished run is found again."""

from __future__ import annotations

import ast
import hashlib
import inspect
import marshal
import re
import sys
import sysconfig
import textwrap
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from tokennet.compare.task import Task


def fingerprint(task: Task, graph: str, seed: int) -> str:
    """A hash of all that a net is shown with this graph and seed: examples, edges, targets."""
    digest = hashlib.sha256()
    for split, index in sorted(task.splits(seed).items()):
        digest.update(f"{split} {len(index)}".encode())
        for part in index.split(1024):
            batch = task.batch(part, graph)
            _add(digest, part)
            for tokens in (batch.tokens, batch.source):
                if tokens is not None:
                    on = tokens.graph
                    digest.update(repr(on).encode())
                    edges = None if on.is_full or on.is_causal else on.edge_index()
                    _add(digest, tokens.z, tokens.pos, edges, on.edge_attr, on.edge_type)
            _add(digest, batch.target, batch.rows)
    return digest.hexdigest()[:16]


def _add(digest: hashlib._Hash, *tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())


def code_of(task: Task) -> str:
    """A hash of the methods and metrics of a task, so that another loss is another run.

    It covers the functions, classes, numbers and strings that they name, of the same module and of
    modules that are not installed, such as a file beside the task's. Installed packages do not
    count, nor do comments, blank lines and docstrings.
    """
    digest, seen = hashlib.sha256(), set[object]()
    for kind in type(task).__mro__[: type(task).__mro__.index(Task)]:
        _add_source(digest, kind, seen)
    for metric in task.metrics:
        digest.update(metric.name.encode())
        _add_source(digest, metric.values, seen)
        _add_source(digest, metric.reduce, seen)
    return digest.hexdigest()[:16]


def code_of_net(make: Any, net: nn.Module, with_values: bool) -> str:
    """A hash of the source of a net of the user's, of its settings, and perhaps of its values."""
    digest, seen = hashlib.sha256(repr(net).encode()), set[object]()
    _add_source(digest, make, seen)
    for name, part in net.named_modules():
        plain = {n: v for n, v in vars(part).items() if isinstance(v, int | float | str)}
        digest.update(repr((name, sorted(plain.items()))).encode())
        if _is_local(type(part).__module__):
            _add_source(digest, type(part), seen)
    for name, value in net.state_dict().items():
        digest.update(repr((name, value.shape, value.dtype)).encode())
        if with_values:
            _add(digest, value)
    return digest.hexdigest()[:16]


def _add_source(digest: hashlib._Hash, item: Any, seen: set[object]) -> None:
    """The source of a function or of the methods of a class, and of what of its module it names."""
    while isinstance(item, partial):
        digest.update(repr((item.args, item.keywords)).encode())
        item = item.func
    # Static, class and bound methods have their function in __func__, properties in fget.
    item = getattr(item, "__func__", getattr(item, "fget", item))
    if not isinstance(item, FunctionType | type):
        item = type(item)  # an object that is called
    item = inspect.unwrap(item)
    if item in seen:
        return
    seen.add(item)
    if isinstance(item, type):
        for name, member in sorted(vars(item).items()):
            if isinstance(member, FunctionType | staticmethod | classmethod | property):
                digest.update(name.encode())
                _add_source(digest, member, seen)
        return
    source = _source(item)
    digest.update(source.encode())
    for value in inspect.getclosurevars(item).nonlocals.values():
        if isinstance(value, int | float | str):
            digest.update(repr(value).encode())
        elif isinstance(value, FunctionType | type):
            _add_source(digest, value, seen)
    for name in sorted(set(re.findall(r"[^\W\d]\w*", source))):
        value = item.__globals__.get(name)
        if isinstance(value, int | float | str):
            digest.update(f"{name} {value!r}".encode())
        elif isinstance(value, FunctionType | type):
            if value.__module__ == item.__module__ or _is_local(value.__module__):
                _add_source(digest, value, seen)
        elif isinstance(value, ModuleType):
            _add_module(digest, value, seen)


def _add_module(digest: hashlib._Hash, module: ModuleType, seen: set[object]) -> None:
    """The source of a file of the user's own, and of those that it imports, as a whole."""
    if module in seen or not _is_local(module.__name__):
        return
    seen.add(module)
    digest.update(_source(module).encode())
    for _, value in sorted(vars(module).items()):
        named = value if isinstance(value, ModuleType) else inspect.getmodule(value)
        if named is not None:
            _add_module(digest, named, seen)


def _is_local(module: str) -> bool:
    """Whether a module is a file of the user's own, neither installed nor of this package."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.partition(".")[0] == "tokennet":
        return False
    installed = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib"))
    return not any(Path(file).is_relative_to(folder) for folder in installed)


def _source(item: FunctionType | ModuleType) -> str:
    """Without comments and docstrings, in one layout."""
    try:
        source = textwrap.dedent(inspect.getsource(item))
    except (OSError, TypeError):  # typed at a prompt, or made by `dataclass`
        return marshal.dumps(item.__code__).hex()
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a lambda, with a part of the statement around it
        return source
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            continue
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
