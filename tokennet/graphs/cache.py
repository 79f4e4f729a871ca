"""What follows from an object, built once and kept with it: `graph.cached(build, *args)`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import _len_torch_function_stack
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.overrides import _pop_mode, _push_mode
from torch.utils._python_dispatch import _disable_current_modes

from tokennet._compiling import outside_compilation

MOST_KEPT = 64
"""Values that are kept of one function and device, for different arguments; then the oldest go.
A function whose values are large says a smaller number in its attribute `most_kept`."""
MOST_IN_ALL = 512
"""Values that are kept in all, for functions of users: each model may bring its own."""

_Key = tuple[Callable[..., Any], str | None, tuple[Hashable, ...]]
"""The function that builds, the device, and further arguments."""
_ABSENT = object()


class SetByInit:
    """An attribute that `__init__` of the base class sets; before that, an error that says so.

    It costs nothing once the attribute is set: that one is found first.
    """

    def __get__(self, owner: Any, kind: type) -> Any:
        if owner is None:
            return self
        name = type(owner).__name__
        raise TypeError(f"{name}.__init__ must call super().__init__(num_targets, num_sources)")


class Cached:
    """An immutable object that keeps what is built from it; a base class of graphs."""

    _cache: dict[_Key, Any] = SetByInit()  # type: ignore[assignment]

    def __init__(self) -> None:
        self._cache = {}

    def cached(
        self, build: Callable[..., Any], *args: Hashable, device: torch.device | str | None = None
    ) -> Any:
        """Return `build(self, *args)` on `device`, built on the CPU once and kept with this graph.

        What is kept is freed with the graph and is never pickled or copied. Threads may ask for
        the same value at the same time: one of them builds it.

        Args:
            build: a function of a module, which is the key. A function that is made anew in each
                call, such as a lambda, would be a new key each time. It returns a tensor, a
                NamedTuple of tensors, or anything that belongs to no device.
            args: hashable; values for the last `MOST_KEPT` of them are kept.
            device: where its tensors should be; None for the CPU.
        """
        key = (build, "cpu" if device is None else str(device), args)
        value = self._cache.get(key, _ABSENT)
        return _build_and_keep(self, key) if value is _ABSENT else value

    def lock(self) -> threading.RLock:
        """Held while something is built; another one in a process that was forked meanwhile."""
        # Made when first needed, since graphs are made in compiled programs too.
        locks: dict[int, threading.RLock] = self.__dict__.setdefault("_locks", {})
        return locks.setdefault(os.getpid(), threading.RLock())

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_cache": {}}
        state.pop("_locks", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


@outside_compilation(
    "what this token graph needs is not built yet; run the model once before compiling it"
)
def _build_and_keep(owner: Cached, key: _Key) -> Any:
    """Build real tensors, whatever mode is on: a graph is a constant of the program.

    Without this, a fake tensor (`torch.export`), an inference tensor or one of `torch.func`
    could be kept on the graph and break the next call that has nothing to do with either. Under
    `torch.compile` the first call breaks the compiled graph here; with `fullgraph=True`
    the model must have run once, or dynamo raises the reason above.
    """
    build, device, args = key
    with owner.lock():
        if key in owner._cache:  # another thread was first
            return owner._cache[key]
        with (
            temporarily_clear_interpreter_stack(),
            _disable_current_modes(),
            without_function_modes(),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            value = _move(build(owner, *args), device)
        kept = list(owner._cache)
        of_function = [other for other in kept if other[:2] == key[:2]]
        most = getattr(build, "most_kept", MOST_KEPT)
        for oldest in of_function[: max(len(of_function) + 1 - most, 0)] or kept[:-MOST_IN_ALL]:
            del owner._cache[oldest]
        owner._cache[key] = value
    return value


@contextmanager
def without_function_modes() -> Iterator[None]:
    """No mode sees what is built: not that of a default device, so that tensors are on the CPU,
    and not that of `torch.export`, which would put `no_grad` into the program.
    """
    modes = [_pop_mode() for _ in range(_len_torch_function_stack())]
    try:
        yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)


def _move(value: Any, device: str | None) -> Any:
    if device is None:
        return value
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return type(value)(*(_move(item, device) for item in value))
    return value
