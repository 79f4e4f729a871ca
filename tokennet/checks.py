"""Checks that every room shares: sizes, names in a registry, and packages that an extra brings."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import ModuleType, UnionType
from typing import Any, TypeVar

T = TypeVar("T")


def check_size(name: str, value: Any, minimum: int = 0) -> int:
    """Return `value` if it is an integer of at least `minimum`, or raise.

    >>> check_size("dim", 8, 1)
    8
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return value


def check_type(name: str, value: Any, kind: type | UnionType, described: str) -> None:
    """Raise unless `value` is of this type, which the message describes.

    >>> check_type("dim", "8", int | None, "an int or None")
    Traceback (most recent call last):
    TypeError: dim must be an int or None, got str
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {described}, got {type(value).__name__}")


def lookup(argument: str, name: Any, registry: Mapping[str, T], *, also: str = "") -> T:
    """The entry of a registry with this name, or an error that lists the names and the nearest.

    Args:
        argument: of the caller, for the message.
        name: one of the keys of `registry`.
        registry: by name.
        also: what else the argument may be, for the message: "or a Score".

    Raises:
        ValueError: no such name.

    >>> lookup("backend", "dens", {"dense": 1, "sparse": 2})
    Traceback (most recent call last):
    ValueError: backend must be one of dense, sparse; got 'dens'; did you mean dense?
    """
    if isinstance(name, str) and name in registry:
        return registry[name]
    nearest: list[str] = []
    if isinstance(name, str) and name:
        nearest = [known for known in registry if known.startswith(name)]
        nearest = nearest or difflib.get_close_matches(name, registry)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    more = f", {also}" if also else ""
    raise ValueError(f"{argument} must be one of {', '.join(registry)}{more}; got {name!r}{hint}")


def require(module: str, extra: str) -> ModuleType:
    """Import a module that an extra of this package brings, or say which extra is missing.

    Raises:
        ImportError: the module is not installed; the message names the extra.

    >>> require("no_such_module", "cli")
    Traceback (most recent call last):
    ImportError: no_such_module is not installed; pip install "tokennet[cli]" brings it
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name is None or error.name.split(".")[0] != package:
            raise
        raise ImportError(
            f'{package} is not installed; pip install "tokennet[{extra}]" brings it'
        ) from None
