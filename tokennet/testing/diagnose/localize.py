"""Where in its code a model breaks a law: two runs side by side, operation by operation."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokennet.testing.diagnose.source import Site, location_at, user_site
from tokennet.testing.engine.intervention import Among, Inputs, Intervention
from tokennet.testing.engine.reach import module_names
from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.sandbox import LOW_PRECISION
from tokennet.testing.report import Location

MOST_LISTS, MOST_BEFORE = 8, 256
"""Longer lists of tokens that are followed, and entries before the tokens in them, at most."""
UNWRITTEN = ("empty", "new_empty", "empty_like", "empty_strided")
"""Operations whose output is whatever the memory held."""
COPIES = ("detach", "clone", "copy_", "split_with_sizes", "view")
"""Of inputs and outputs, by the checker, and where it makes containers of sets."""


@dataclass
class Value:
    """A copy of a tensor at one moment; `writers` are the calls that wrote it."""

    content: Tensor
    writers: list[int]
    error: float = 0.0


@dataclass
class Call:
    """An operation: where it was called, its inputs and its outputs."""

    operation: str
    site: Site
    inputs: list[Value]
    outputs: list[Value] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.operation, self.site.file, self.site.line)


class Recorder(TorchDispatchMode):
    """Keeps the inputs and outputs of each operation, as they were then, and where it was called.

    In-place operations and views are followed by storage: the calls that wrote to the memory
    of a tensor are its writers.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._names = names
        self._copies: dict[tuple[int, int], Tensor] = {}
        self._alive: list[Tensor] = []  # so that no identity is used twice
        self._created_by: dict[int, int] = {}
        self._written_by: dict[int, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        call = Call(_name(func), user_site(self._names), [self.value(x) for x in given])
        result = func(*args, **kwargs)
        number = len(self.calls)
        written = _written(func, args, kwargs)
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in written:
            self._written_by.setdefault(_storage(tensor), []).append(number)
        for tensor in results:
            if not any(tensor is other for other in given):
                self._created_by[id(tensor)] = number
        self.calls.append(call)
        unchanged = [x for x in results if not any(x is other for other in written)]
        call.outputs = [self.value(tensor) for tensor in unchanged]
        # The version of what is written to changes only later: an older copy may be there.
        bases = [x._base for x in written if x._base is not None]
        call.outputs += [Value(tensor.detach().clone(), [number]) for tensor in [*written, *bases]]
        return result

    def value(self, tensor: Tensor) -> Value:
        key = (id(tensor), tensor._version)
        if key not in self._copies:
            self._copies[key] = tensor.detach().clone()
            self._alive.append(tensor)
        first = self._created_by.get(id(tensor), -1)
        writers = [n for n in self._written_by.get(_storage(tensor), []) if n > first]
        return Value(self._copies[key], ([first] if first >= 0 else []) + writers)


def localize(
    runner: Runner, inputs: Inputs, intervention: Intervention, threshold: float
) -> Location | None:
    """The first operation whose inputs obey the law and whose output does not.

    From the output, which breaks the law, the search goes back through those inputs that
    break it too. So operations that break it on a side path and restore it before the
    output, as code that works in chunks does, are no false positives. Only tensors on the
    way are compared.

    Args:
        runner: to be called within its `at`.
        threshold: relative discrepancy from which a tensor counts as breaking the law.

    Returns:
        the statement, or None where no operation of torch shows the break.
    """
    run, names = runner.run, module_names(runner.model)
    moved = intervention.apply(inputs)
    with torch.no_grad():
        run(inputs), run(moved)  # fills caches that are filled at first use
        before, after = Recorder(names), Recorder(names)
        with anomaly_mode(), before:
            first = [before.value(tensor) for tensor in run(inputs)]
        with anomaly_mode(), after:
            second = [after.value(tensor) for tensor in run(moved)]
    intervention = intervention.among(_longer_lists(before.calls, intervention.lengths))
    comparison = _Comparison(before.calls, after.calls, intervention, threshold)
    for a, b in zip(first, second, strict=False):
        a.error = comparison.error(a, b)
    calls = before.calls
    causes = causes_of(calls, first, threshold, comparison.measure)
    roots = {n for n, found in causes.items() if not found and not _is_copy(calls[n])}
    roots = roots or _joins(calls, causes, threshold)
    return location_of(calls[min(roots)], threshold) if roots else None


@contextmanager
def anomaly_mode() -> Iterator[None]:
    """Lets nodes of a backward pass know the lines of forward."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its warning that it is slow
        with torch.autograd.set_detect_anomaly(True, check_nan=False):
            yield


class _Comparison:
    """The errors of the values of one run against those of another, each measured once.

    A call that has no counterpart in the other run, such as a copy that was not needed
    there, passes on the errors of its inputs.
    """

    def __init__(
        self, calls: list[Call], others: list[Call], intervention: Intervention, threshold: float
    ) -> None:
        self.pairs = dict(_aligned(calls, others))
        self._calls, self._intervention, self._threshold = calls, intervention, threshold
        self._known: dict[tuple[int, int], float] = {}
        self._measured: set[int] = set()
        if len(self.pairs) < len(calls):  # errors are passed on, from the first call to the last
            for number in range(len(calls)):
                self.measure(number)

    def error(self, old: Value, new: Value) -> float:
        """0 where a value is as the law says, or below the threshold."""
        key = id(old.content), id(new.content)
        if key not in self._known:
            pair = _as_real(old.content), _as_real(new.content)
            self._known[key] = self._intervention.discrepancy(*pair, self._threshold)
        return self._known[key]

    def measure(self, number: int) -> None:
        """Set the errors of the values of a call."""
        if number in self._measured:
            return
        self._measured.add(number)
        call, pair = self._calls[number], self.pairs.get(number)
        if pair is None:
            for value in call.inputs:
                value.error = _worst([v for n in value.writers for v in self._calls[n].outputs])
            for value in call.outputs:
                value.error = _worst(call.inputs)
            return
        for old, new in ((call.inputs, pair.inputs), (call.outputs, pair.outputs)):
            for x, y in zip(old, new, strict=False):
                if call.operation not in UNWRITTEN:
                    x.error = self.error(x, y)


def _longer_lists(calls: list[Call], lengths: tuple[int, ...]) -> list[Among]:
    """Where calls put tokens into longer lists, as beside a class token, and at which index.

    Where vectors and their mask are put at different indices, the vectors decide.
    """
    largest: dict[tuple[int, int], float] = {(length, length): math.inf for length in lengths}
    found = {(length, length): Among(length, length, 0) for length in lengths}
    for call in calls:
        for old in call.inputs:
            for new in call.outputs:
                for known in [one for one in found.values() if one.size in old.content.shape]:
                    longer = _put_into(old.content, new.content, known)
                    if longer is None or len(found) >= len(lengths) + MOST_LISTS:
                        continue
                    key, numbers = (longer.count, longer.size), new.content.numel()
                    if numbers > largest.get(key, 0):
                        largest[key], found[key] = numbers, longer
    return [one for one in found.values() if one.size > one.count]


def _put_into(old: Tensor, new: Tensor, known: Among) -> Among | None:
    """The list that `new` holds, where it is `old` with entries before or after a known list."""
    if old.dim() != new.dim() or old.layout != torch.strided or old.dtype != new.dtype:
        return None
    other = [dim for dim, size in enumerate(old.shape) if size != new.shape[dim]]
    if len(other) != 1 or old.shape[other[0]] != known.size or not old.numel():
        return None
    size = new.shape[other[0]]
    for start in range(min(size - known.size, MOST_BEFORE) + 1):
        if torch.equal(new.narrow(other[0], start, known.size), old):
            return Among(known.count, size, known.start + start)
    return None


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.to_dense()) if tensor.is_complex() else tensor.to_dense()


def _aligned(first: list[Call], second: list[Call]) -> list[tuple[int, Call]]:
    """The numbers of calls of the first run with their counterparts in the second."""
    keys, others = [call.key for call in first], [call.key for call in second]
    if keys == others:
        return list(enumerate(second))
    matcher = difflib.SequenceMatcher(None, keys, others, autojunk=False)
    return [
        (block.a + k, second[block.b + k])
        for block in matcher.get_matching_blocks()
        for k in range(block.size)
    ]


def _is_copy(call: Call) -> bool:
    """Whether the checker made a call, to copy or to split the input."""
    return not call.site.line and call.operation in COPIES


def _joins(calls: list[Call], broken: Collection[int], threshold: float) -> set[int]:
    """Broken calls that join what follows from a consistent part of the input with another.

    In a list of sets those that were given other content differ from the start, and rightly;
    the break is where they reach a set that was not.
    """
    fed: set[int] = set()
    joins = set()
    for number, call in enumerate(calls):
        given = [value for value in call.inputs if fed.intersection(value.writers)]
        if given or _is_copy(call):
            fed.add(number)
        if number in broken and len({value.error > threshold for value in given}) > 1:
            joins.add(number)
    return joins


def causes_of(
    calls: list[Call],
    outputs: list[Value],
    threshold: float,
    measure: Callable[[int], None] = lambda number: None,
) -> dict[int, list[int]]:
    """Calls with broken outputs on the way to a broken output, and those that broke their inputs.

    Args:
        measure: sets the errors of a call, by its number, before they are read.
    """
    waiting = [
        n for v in outputs if v.error > threshold for n in _writers(calls, v, threshold, measure)
    ]
    found: dict[int, list[int]] = {}
    while waiting:
        number = waiting.pop()
        measure(number)
        if number in found or _worst(calls[number].outputs) <= threshold:
            continue
        found[number] = [
            writer
            for value in calls[number].inputs
            if value.error > threshold
            for writer in _writers(calls, value, threshold, measure)
            if writer < number and _worst(calls[writer].outputs) > threshold
        ]
        waiting += found[number]
    return found


def _writers(
    calls: list[Call], value: Value, threshold: float, measure: Callable[[int], None]
) -> list[int]:
    """The calls that may have broken a value: none before one that left it consistent."""
    found = []
    for number in reversed(value.writers):
        measure(number)
        found.append(number)
        if any(
            result.error <= threshold and result.content.shape == value.content.shape
            for result in calls[number].outputs
        ):
            break
    return found


def location_of(call: Call, threshold: float) -> Location | None:
    """The statement that made a call, with the errors before and after it."""
    return location_at(
        call.operation,
        [(call.site.file, call.site.line)],
        module=call.site.module,
        error_in=_worst([value for value in call.inputs if value.error <= threshold]),
        error_out=_worst(call.outputs),
    )


def _worst(values: list[Value]) -> float:
    return max((value.error for value in values), default=0.0)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)


def _name(func: Any) -> str:
    return func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else str(func)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an in-place operation writes to."""
    written = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            written += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return written


def lowered_at(runner: Runner) -> str:
    """The first line that computes in less than float64 when the model runs in it, or ''."""
    recorder = Recorder(module_names(runner.model))
    with runner.at(torch.float64) as x, recorder:
        runner.run(x)
    for call in recorder.calls:
        contents = [value.content for value in call.outputs]
        if any(content.dtype in LOW_PRECISION and content.dim() for content in contents):
            return f"{call.site.file}:{call.site.line}"
    return ""
