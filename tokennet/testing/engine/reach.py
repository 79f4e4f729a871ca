"""Reaching into a model: the modules, containers and functions that it is or refers to."""

from __future__ import annotations

import functools
import gc
import inspect
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

DEPTH = 8
"""How many references are followed from a model, and anew from each of its modules."""
LENGTH = 4096
"""Longer containers are not searched."""

MAPPINGS = (OrderedDict, dict, WeakKeyDictionary)
CONTAINERS = (*MAPPINGS, list, deque, set)
CACHED = functools._lru_cache_wrapper

_OPAQUE = (sys.stdlib_module_names - {"types", "argparse"}) | {"numpy", "torch", "_pytest"}
ATOMS = {NoneType, bool, int, float, complex, str, bytes, torch.dtype, torch.device}
_DICTS = (dict, OrderedDict)
_SEQUENCES: tuple[Any, ...] = (list, tuple, deque, set, frozenset)
_EMPTY = CellType()


def modules_of(model: Any) -> list[nn.Module]:
    """Every module that `model` is or refers to, submodules included, each once.

    >>> layer = nn.Linear(2, 2)
    >>> modules_of(lambda x: layer(x).relu()) == [layer]
    True
    """
    return [value for value in reached([model], referred) if is_a(value, nn.Module)]


def module_names(model: Any) -> dict[int, str]:
    """Names of the modules of `modules_of` by id: paths in the model, with their class."""
    names: dict[int, str] = {}
    for root in modules_of(model):
        for path, module in root.named_modules():
            label = f"{path} ({type(module).__name__})" if path else type(module).__name__
            names.setdefault(id(module), label)
    return names


def reached(roots: list[Any], refers: Callable[[Any], list[Any]]) -> list[Any]:
    """The roots and what they refer to, in order, each once."""
    found: dict[int, Any] = {}
    depths: dict[int, int] = {}
    stack = [(root, DEPTH) for root in reversed(roots)]
    while stack:
        value, depth = stack.pop()
        depth = DEPTH if issubclass(type(value), nn.Module) else depth
        if depths.get(id(value), -1) < depth:
            depths[id(value)] = depth
            found.setdefault(id(value), value)
            if depth > 0:
                items = reversed(refers(value))
                stack += [(item, depth - 1) for item in items if type(item) not in ATOMS]
    return list(found.values())


def is_a(value: Any, kinds: Any) -> bool:
    """Of its own type: a proxy that answers for another object is none of these."""
    own = type(value).__mro__  # `issubclass` is slow for classes with an abstract base
    return any(kind in own for kind in kinds) if isinstance(kinds, tuple) else kinds in own


def _is_opaque(name: str | None) -> bool:
    return (name or "").partition(".")[0] in _OPAQUE


def held(value: Any) -> list[Any]:
    """What an object is made of: its items, or its attributes as the dict that has them."""
    if type(value) in _DICTS:  # most are
        return list(value.values()) if len(value) <= LENGTH else []
    parts: list[Any] = []
    if is_a(value, MAPPINGS) and len(value) <= LENGTH:
        parts = list(base_of(value).values(value))
    elif is_a(value, _SEQUENCES):
        # By the base type: a subclass may refuse `len`, as the irreps of e3nn do.
        base = next(kind for kind in _SEQUENCES if is_a(value, kind))
        parts = list(base.__iter__(value)) if base.__len__(value) <= LENGTH else []
    elif is_a(value, MethodType):
        parts = [value.__self__]
    elif is_a(value, ScriptModule):
        parts = [*value.parameters(recurse=False), *value.children()]
    if _is_plain(value):
        attributes = getattr(value, "__dict__", None)
        parts += [attributes] if type(attributes) is dict else []
    return parts


def _is_plain(value: Any) -> bool:
    """A module, or an instance of a class that is not of Python, NumPy or torch."""
    if is_a(value, nn.Module):
        return True
    return not is_a(value, (type, Tensor)) and not _is_opaque(type(value).__module__)


def referred(value: Any) -> list[Any]:
    """What an object is made of, and what its code names."""
    if type(value) in _DICTS:
        return [item for item in held(value) if type(item) not in _DICTS or item]
    if is_a(value, FunctionType):
        if _is_opaque(value.__module__):
            return []
        cells = [cell for cell in value.__closure__ or () if cell != _EMPTY]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        named = _named(_names_in(value.__code__), value.__globals__)
        return [*(c.cell_contents for c in cells), *named, *defaults, *vars(value).values()]
    if is_a(value, CACHED):
        return [value.__wrapped__, *(item for item in results_of(value) if is_a(item, nn.Module))]
    if is_a(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if is_a(value, MethodType):
        return [value.__self__, value.__func__]
    if is_a(value, type):
        return [] if _is_opaque(value.__module__) else _methods(value)
    return [*held(value), type(value)] if _is_plain(value) else held(value)


def _named(names: tuple[str, ...], scope: Mapping[str, Any], depth: int = 3) -> Iterator[Any]:
    """What names stand for; those of a Python module (`tables.sine`) are looked up in it."""
    for item in [scope[name] for name in names if name in scope]:
        if not is_a(item, ModuleType):
            yield item
        elif depth and not _is_opaque(item.__name__):
            yield from _named(names, vars(item), depth - 1)


@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> tuple[str, ...]:
    inner = (_names_in(const) for const in code.co_consts if isinstance(const, CodeType))
    return tuple(dict.fromkeys([*code.co_names, *(name for names in inner for name in names)]))


def _methods(kind: type) -> list[Any]:
    """The methods of a class that a call runs: `forward`, and those that it names in turn."""
    todo, found = ["__call__", "forward"], []
    for name in todo:
        for base in kind.__mro__:
            method: Any = vars(base).get(name)
            for wrapper in ("__func__", "fget", "func"):
                method = getattr(method, wrapper, method)
            if is_a(method, (FunctionType, CACHED)) and not _is_opaque(method.__module__):
                found.append(method)
                code = getattr(inspect.unwrap(method), "__code__", None)
                todo += [n for n in _names_in(code) if n not in todo] if code else []
    return found


def results_of(cached: Any) -> list[Any]:
    """The results that a function with `lru_cache` keeps, among other things."""
    parts = gc.get_referents(cached)
    return [*parts, *(item for part in parts if type(part) is dict for item in part.values())]


def base_of(container: Any) -> Any:
    """The kind of container that it is."""
    kind = type(container)
    return kind if kind in CONTAINERS else next(c for c in CONTAINERS if issubclass(kind, c))
