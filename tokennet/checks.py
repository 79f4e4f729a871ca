"""Checks that every room shares: numbers, types, names in a registry, and packages of an extra.

`checked` does them for all arguments of a constructor, by its annotations.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import math
import numbers
import operator
import re
from collections.abc import Callable, Mapping
from functools import cache, wraps
from types import ModuleType, UnionType
from typing import Any, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

import torch

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[str, Any], Any]
"""(name, value) to the value, as an int, float or bool where it was numpy's; or raises."""
LARGEST = 2**63 - 1
"""The largest index that a tensor holds."""


def check_size(name: str, value: Any, minimum: int | None = 0) -> int:
    """Return `value` as an int of at least `minimum`, or raise.

    Anything with `__index__` is an integer: np.int64, a tensor of one integer. Booleans are not.

    >>> check_size("dim", torch.tensor(8), 1)
    8
    """
    if type(value) is not int:
        value = _as_int(name, value)
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if value > LARGEST:
        raise ValueError(f"{name} must be an int of 64 bits, got {value}")
    return value


def _as_int(name: str, value: Any) -> int:
    if not isinstance(value, bool) and getattr(value, "dtype", None) is not torch.bool:
        with contextlib.suppress(TypeError, ValueError):
            return operator.index(value)
    raise TypeError(f"{name} must be an int, got {shown(value)}")


def check_number(name: str, value: Any, low: float | None = None, high: float | None = None) -> Any:
    """Return `value` if it is a finite real number in low .. high, or raise.

    Real numbers are floats, ints, those of numpy, and tensors of one number.

    >>> check_number("dropout", 1.5, 0, 1)
    Traceback (most recent call last):
    ValueError: dropout must be at most 1, got 1.5
    """
    if type(value) is not float:
        value = _as_float(name, value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if low is not None and value < low:
        raise ValueError(f"{name} must be at least {low:g}, got {value}")
    if high is not None and value > high:
        raise ValueError(f"{name} must be at most {high:g}, got {value}")
    return value


def _as_float(name: str, value: Any) -> float:
    is_tensor = isinstance(value, torch.Tensor)
    is_real = isinstance(value, numbers.Real) or (is_tensor and value.dim() == 0)
    if is_real and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name} must be a float of 64 bits, got {shown(value)}") from None
        except (TypeError, ValueError, RuntimeError):
            pass  # a complex number
    raise TypeError(f"{name} must be a number, got {shown(value)}")


def check_flag(name: str, value: Any) -> bool:
    """Return `value` as a bool if it is one, or numpy's, or raise.

    >>> check_flag("causal", "no")
    Traceback (most recent call last):
    TypeError: causal must be True or False, got 'no'
    """
    is_numpys = getattr(value, "dtype", None) == "bool" and value.ndim == 0
    if isinstance(value, bool) or is_numpys:
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {shown(value)}")


def shown(value: Any) -> str:
    """A value in an error message: short, on one line, whatever it is.

    >>> shown([0] * 100)
    '[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,...'
    """
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    if type(value).__module__.partition(".")[0] not in ("builtins", "numpy"):
        return type(value).__name__ if not isinstance(value, type) else repr(value)
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:39]}..."


def check_sizes(name: str, value: Any, minimum: int = 0) -> tuple[int, ...]:
    """Return one size, or a list or tuple of sizes, as a tuple of ints; or raise.

    >>> check_sizes("size", 4), check_sizes("size", [2, 3])
    ((4,), (2, 3))
    """
    if not isinstance(value, list | tuple | torch.Size):
        return (check_size(name, value, minimum),)
    if not value:
        raise ValueError(f"{name} must be an int or several, got {value!r}")
    return tuple(check_size(f"{name}[{i}]", size, minimum) for i, size in enumerate(value))


def check_items(name: str, value: Any, kind: type, described: str) -> tuple[Any, ...]:
    """Return what `value` iterates over as a tuple if all are of a type, or raise.

    >>> check_items("reads", "graph", str, "names")
    Traceback (most recent call last):
    TypeError: reads must be a list of names, got 'graph'
    """
    given = None
    if not isinstance(value, str | bytes | Mapping):
        with contextlib.suppress(TypeError):
            given = iter(value)
    if given is None:
        raise TypeError(f"{name} must be a list of {described}, got {shown(value)}")
    items = tuple(given)
    for i, item in enumerate(items):
        if not isinstance(item, kind):
            raise TypeError(f"{name}[{i}] must be {_with_article(kind)}, got {shown(item)}")
    return items


def check_made(name: str, make: Any, kind: type, *args: Any) -> Any:
    """Return what the function `make(*args)` makes if it is of a type, or raise.

    >>> check_made("activation", lambda: 3, torch.nn.Module)
    Traceback (most recent call last):
    TypeError: activation must be a function that returns a Module, got int
    """
    told = f"{name} must be a function that returns a {kind.__name__}"
    try:
        made = make(*args)
    except TypeError as error:
        raise TypeError(f"{told}: {error}") from error
    if not isinstance(made, kind):
        raise TypeError(f"{told}, got {type(made).__name__}")
    return made


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


def lookup_all(argument: str, names: Any, registry: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a list, each once, or an error where one is not in a registry or none is given.

    Raises:
        TypeError: they are no list of names.
        ValueError: there are none, or one is unknown.

    >>> lookup_all("laws", ["padding", "padding"], {"padding": 1})
    ('padding',)
    >>> lookup_all("laws", "padding", {"padding": 1})
    Traceback (most recent call last):
    TypeError: laws must be a list of names, got 'padding'
    """
    found = check_items(argument, names, str, "names")
    if not found:
        raise ValueError(f"{argument} must hold at least one name, got none")
    for name in found:
        lookup(argument, name, registry)
    return tuple(dict.fromkeys(found))


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


def checked(**minimum: int | None) -> Callable[[F], F]:
    """Decorate a constructor whose arguments are to be what its annotations say.

    `int` is anything with `__index__`, at least 1 or the `minimum` that is given here (None for
    none); `float` any finite real number, of at least the `minimum` if one is given; `bool` a
    bool; `Callable` whatever can be called; another class what `isinstance` says. Each may be
    `| None`. Options of `**options: Unpack[AnOption]`, a `TypedDict`, count as arguments by name.
    Which strings are names in a registry is not checked: see `lookup`.

    Use it on `__init__`, on a function that makes a net, or on a dataclass. Not on what a call of
    a layer makes, such as graphs, which call `check_size` themselves.

    Raises:
        TypeError: of the constructor: an argument is missing, unknown, or of another type.
        ValueError: of the constructor: a number is too small, or not finite.

    >>> @checked(depth=0)
    ... def net(dim: int, depth: int = 2): ...
    >>> net(8, -1)
    Traceback (most recent call last):
    ValueError: depth must be at least 0, got -1
    >>> net(8, deph=1)
    Traceback (most recent call last):
    TypeError: net() got an unexpected keyword argument 'deph'; did you mean depth?
    """

    def decorate(function: F) -> F:
        if isinstance(function, type):
            function.__init__ = decorate(function.__init__)  # type: ignore[misc]
            return function
        signature, annotations = _arguments_of(function)
        is_method = next(iter(signature.parameters), "") == "self"

        @cache
        def checks() -> dict[str, Check]:
            found = {
                name: _check_of(function, name, annotations.get(name), minimum)
                for name in signature.parameters
            }
            return {name: check for name, check in found.items() if check is not None}

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                owner = type(args[0]).__name__ if is_method else function.__name__
                raise TypeError(f"{owner}() {error}{_hint(signature, kwargs)}") from None
            for name, check in checks().items():
                if name in bound.arguments:
                    bound.arguments[name] = check(name, bound.arguments[name])
            return function(*bound.args, **bound.kwargs)

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def _arguments_of(function: Any) -> tuple[inspect.Signature, dict[str, Any]]:
    """The signature of a function and its annotations, with options by their names."""
    signature, annotations = inspect.signature(function), dict(function.__annotations__)
    given = list(signature.parameters.values())
    if not given or given[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return signature, annotations
    annotation = _evaluated(function, given[-1].annotation)
    if get_origin(annotation) is not Unpack:
        return signature, annotations
    options = get_type_hints(get_args(annotation)[0])
    by_name = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in options.items()
    ]
    return signature.replace(parameters=[*given[:-1], *by_name]), {**annotations, **options}


def _evaluated(function: Any, annotation: Any) -> Any:
    if isinstance(annotation, str):
        with contextlib.suppress(NameError):  # imported for type checkers only
            return eval(annotation, function.__globals__)
    return annotation


def _hint(signature: inspect.Signature, kwargs: dict[str, Any]) -> str:
    """The argument that is nearest to one that there is not."""
    names = list(signature.parameters)
    unknown = next((name for name in kwargs if name not in names), "")
    nearest = [name for name in names if unknown in name.split("_")]
    nearest = nearest or difflib.get_close_matches(unknown, names)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _check_of(
    function: Any, name: str, annotation: Any, minimum: Mapping[str, int | None]
) -> Check | None:
    """How an argument of a function is checked, by its annotation; None for not at all."""
    annotation = _evaluated(function, annotation)
    is_union = isinstance(annotation, UnionType) or get_origin(annotation) is Union
    kinds = get_args(annotation) if is_union else (annotation,)
    low = minimum.get(name, 1 if int in kinds else None)
    check = _check_of_kinds([kind for kind in kinds if kind is not type(None)], low)
    if check is None or type(None) not in kinds:
        return check
    return lambda name, value: None if value is None else check(name, value)


def _check_of_kinds(kinds: list[Any], minimum: int | None) -> Check | None:
    if kinds == [int]:
        return lambda name, value: check_size(name, value, minimum)
    if kinds == [float]:
        return lambda name, value: check_number(name, value, minimum)
    if kinds == [bool]:
        return check_flag
    if len(kinds) == 1 and get_origin(kinds[0]) is Callable:
        function = f"a function, {re.sub(r'[a-z_.]+[.]', '', str(kinds[0]))}"
        return lambda name, value: _expect(name, value, callable(value), function)
    if any(not isinstance(kind, type) or kind is Any for kind in kinds):
        return None
    if str in kinds and len(kinds) > 1:  # a name or what it stands for: `lookup` says it better
        return None
    described = " or ".join(_with_article(kind) for kind in kinds)
    return lambda name, value: _expect(name, value, isinstance(value, tuple(kinds)), described)


def _expect(name: str, value: Any, fits: bool, described: str) -> Any:
    if not fits:
        raise TypeError(f"{name} must be {described}, got {shown(value)}")
    return value


def _with_article(kind: type) -> str:
    name = f"nn.{kind.__name__}" if kind.__module__.startswith("torch.nn") else kind.__name__
    return f"{'an' if name[0] in 'AEIOUn' else 'a'} {name}"
