"""The sandbox: a model runs in another precision, mode or device; its state is restored."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.backends.mha import get_fastpath_enabled
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from tokennet.testing.engine.reach import (
    ATOMS,
    CACHED,
    CONTAINERS,
    MAPPINGS,
    base_of,
    held,
    is_a,
    module_names,
    reached,
    referred,
    results_of,
)
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.values import cast

LOW_PRECISION = (torch.float32, torch.bfloat16, torch.float16)
SMALL = 2**24
"""NumPy arrays of at most this number of bytes are restored when written in place."""
KEPT = 2**24
"""Parameters of at most this number of entries are kept in each precision, jittered."""
_RAISED: dict[Any, torch.dtype] = {
    **dict.fromkeys([*LOW_PRECISION, Tensor.float, Tensor.half, Tensor.bfloat16], torch.float64),
    **dict.fromkeys([torch.complex64, torch.complex32], torch.complex128),
    **dict.fromkeys([Tensor.cfloat, Tensor.chalf], torch.complex128),  # type: ignore[attr-defined]
}
"""Precisions, and methods that ask for one, and what they are raised to in float64."""


@dataclass
class _Content:
    """What a model refers to, and how to restore it; the same whenever the model is at rest.

    Attributes:
        places: containers with the keys and items that hold tensors to change.
        tensors: parameters, and the buffers of scripted modules.
        settled: two searches in turn found the same.
        in_use: the model runs, so that it may hold other things.
        values: of the parameters by id, for each precision and jitter.
    """

    model: Any
    modules: list[nn.Module]
    caches: list[Any]
    objects: list[Any]
    places: list[tuple[Any, Any, Any]]
    tensors: list[Tensor]
    undo: list[Callable[[], Any]]
    settled: bool = False
    in_use: bool = False
    values: dict[Any, dict[int, Tensor]] = field(default_factory=dict)

    def has_the_same(self, other: _Content) -> bool:
        pairs = ((self.modules, other.modules), (self.objects, other.objects))
        return all(list(map(id, a)) == list(map(id, b)) for a, b in pairs)

    def keep_values(self, key: Any) -> None:
        """Keep the parameters as they are now, where the content is searched no more."""
        parameters = [value for value in self.objects if is_a(value, nn.Parameter)]
        if self.settled and sum(p.numel() for p in parameters) <= KEPT:
            self.values[key] = {id(p): p.data.clone() for p in parameters}


_REMEMBERED: ContextVar[dict[int, _Content] | None] = ContextVar("contents", default=None)


@contextmanager
def remembered_contents() -> Iterator[None]:
    """Within the context what a model refers to is searched until two searches find the same.

    For many runs of models that nobody else changes between them.
    """
    token = _REMEMBERED.set({})
    try:
        yield
    finally:
        _REMEMBERED.reset(token)


def _content_of(model: Any) -> _Content:
    while isinstance(model, Wrapped):  # which refers to nothing else with tensors to change
        model = model.function
    remembered, key = _REMEMBERED.get(), id(model)
    if remembered is None:
        return _searched(model)
    known = remembered.get(key)
    if known is not None and known.settled and not known.in_use:
        return known
    found = _searched(model)
    if known is None or not known.in_use:
        found.settled = known is not None and known.has_the_same(found)
        remembered[key] = found
    return found


def _searched(model: Any) -> _Content:
    referred_to = reached([model], referred)
    modules = [value for value in referred_to if is_a(value, nn.Module)]
    for module in modules:
        if any(map(is_lazy, [*module.parameters(False), *module.buffers(False)])):
            name = module_names(model)[id(module)]
            raise ValueError(f"model must have run once: {name} is not initialized")
    objects = reached(modules, held)
    undo = [restore for value in objects if (restore := _restoring(value))]
    caches = [value for value in referred_to if is_a(value, CACHED)]
    return _Content(model, modules, caches, objects, _places(objects), _tensors(objects), undo)


@contextmanager
def sandboxed(
    model: Callable[..., Any],
    *,
    dtype: torch.dtype | None = torch.float64,
    jitter: int | None = None,
) -> Iterator[None]:
    """Within the context `model` is in eval mode and `dtype`; after it, its state is restored.

    Of every module that `model` is or refers to (as method, partial, closure, global, item
    or attribute), floating-point and complex tensors are replaced by copies: parameters,
    buffers, attributes, and what containers and plain objects among the attributes hold.
    All is restored: the same objects with the same values, gradients, flags, modes, hooks
    and items; the states of the random number generators; the default dtype. Functions with
    `functools.lru_cache` that the code names are cleared before and after, unless they keep
    a module. In float64, requests of the code for a lower precision
    (`x.float()`, `dtype=torch.float32`) are raised to float64, as code that normalizes in
    float32 would hide 1e-7 of every break. The fast path of torch's transformer layers is off:
    it is taken for some masks and without gradients only, and makes padding zeros.

    Not restored are attributes in `__slots__`, class attributes, containers that are global
    or in a closure, and tensors in sets or in containers of more than `LENGTH` items.

    Args:
        dtype: the precision; None leaves that of every tensor as it is.
        jitter: seed of a small change of every parameter, so that values such as a table
            that starts as zeros hide nothing; None leaves values as they are.

    Raises:
        ValueError: a lazy module has not run yet, so that its parameters have no shape.
    """

    def copied(tensor: Tensor) -> Tensor:
        return tensor.detach().clone() if dtype is None else cast(tensor, dtype)

    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(torch.backends.mha.set_fastpath_enabled, get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(torch.random.fork_rng())
        content = stack.enter_context(_restored(model, copied, (dtype, jitter)))
        for module in content.modules:
            module.training = False
        if (dtype, jitter) not in content.values:
            if jitter is not None:
                _jitter(content.modules, jitter)
            content.keep_values((dtype, jitter))
        if dtype == torch.float64:
            torch.set_default_dtype(dtype)
            stack.enter_context(_InFloat64())
        yield


@contextmanager
def moved_to(device: torch.device | str | None, model: Callable[..., Any]) -> Iterator[None]:
    """Within the context the model is on a device, then restored. None moves nothing.

    Raises:
        ValueError: a lazy module has not run yet.
    """
    with ExitStack() as stack:
        if device is not None:
            stack.enter_context(_restored(model, lambda tensor: tensor.detach().to(device)))
        yield


@contextmanager
def _restored(
    model: Any, change: Callable[[Tensor], Tensor], key: Any = None
) -> Iterator[_Content]:
    """Within the context the tensors of the model are changed copies; `key` names the change."""
    content = _content_of(model)
    _forget(content.caches)
    try:
        content.in_use = True
        _convert(content, change, content.values.get(key, {}))
        yield content
    finally:
        for restore in content.undo:
            restore()
        content.in_use = False
        _forget(content.caches)


def _forget(caches: list[Any]) -> None:
    for cached in caches:
        if not any(is_a(item, nn.Module) for item in results_of(cached)):
            cached.cache_clear()


def _restoring(value: Any) -> Callable[[], Any] | None:
    """A function that gives an object its present content again."""
    if is_a(value, CONTAINERS):
        return functools.partial(_refill, value, _items(value))
    if is_a(value, nn.Parameter):
        return functools.partial(
            _restore_parameter, value, value.data, value.grad, value.requires_grad
        )
    if is_a(value, ScriptModule):
        buffers = [(*pair, pair[1].data) for pair in value.named_buffers(recurse=False)]
        return functools.partial(_restore_script, value, value.training, buffers)
    if is_a(value, np.ndarray) and value.nbytes <= SMALL:
        return functools.partial(np.copyto, value, value.copy()) if value.flags.writeable else None
    if is_a(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if is_a(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if is_a(value, np.random.Generator):
        state = value.bit_generator.state
        return functools.partial(setattr, value.bit_generator, "state", state)
    return None


def _restore_parameter(parameter: Any, data: Tensor, grad: Tensor | None, flag: bool) -> None:
    parameter.grad = None
    parameter.data = data
    parameter.requires_grad_(flag)
    parameter.grad = grad


def _restore_script(module: Any, training: bool, buffers: list[tuple[str, Tensor, Tensor]]) -> None:
    module.training = training
    for name, buffer, data in buffers:
        buffer.data = data
        module._c.setattr(name, buffer)


def _items(container: Any) -> Any:
    if not len(container):  # as most are
        return {}
    is_mapping = is_a(container, MAPPINGS)
    return dict(base_of(container).items(container)) if is_mapping else list(container)


def _refill(container: Any, items: Any) -> None:
    if not len(container) and not items:
        return
    base = base_of(container)
    base.clear(container)
    if base in MAPPINGS:
        for key, value in items.items():
            base.__setitem__(container, key, value)
    else:
        (base.update if base is set else base.extend)(container, items)


def _convert(
    content: _Content, change: Callable[[Tensor], Tensor], kept: dict[int, Tensor]
) -> None:
    """Change tensors; those of parameters are copies of `kept` where they are there."""
    copies: dict[int, Tensor] = {}

    def changed(value: Any) -> Any:
        if not _is_converted(value):
            return value
        if is_a(value, tuple):
            items = [changed(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if id(value) not in copies:
            copies[id(value)] = change(value)
        return copies[id(value)]

    for container, key, item in content.places:
        base_of(container).__setitem__(container, key, changed(item))
    for tensor in content.tensors:
        tensor.grad = None
        ready = kept.get(id(tensor))
        tensor.data = change(tensor.data) if ready is None else ready.clone()


def _is_converted(value: Any) -> bool:
    """Whether a value is, or has among its items, a tensor to change."""
    if type(value) in ATOMS:
        return False
    if is_a(value, tuple):
        return any(map(_is_converted, tuple.__iter__(value)))
    return is_a(value, Tensor) and not is_a(value, nn.Parameter)


def _places(objects: list[Any]) -> list[tuple[Any, Any, Any]]:
    """Containers with the keys and items that hold tensors to change."""
    found = []
    for value in objects:
        if is_a(value, (*MAPPINGS, list, deque)):
            pairs = value.items() if is_a(value, MAPPINGS) else enumerate(value)
            found += [(value, key, item) for key, item in pairs if _is_converted(item)]
    return found


def _tensors(objects: list[Any]) -> list[Tensor]:
    """Parameters, and the buffers of scripted modules, which no container has."""
    found = []
    for value in objects:
        if is_a(value, nn.Parameter):
            found.append(value)
        elif is_a(value, ScriptModule):
            found += value.buffers(recurse=False)
    return found


def _jitter(modules: list[nn.Module], seed: int) -> None:
    """p + 0.1 rms(p) u with u in +-[0.5, 1.5]: never near zero, never large.

    A parameter of zeros gets 0.1 / sqrt(fan in) instead of 0.1 rms(p). Beside parameters
    that are trained, those that are not are constants, and stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    unique = {id(p): p for module in modules for p in module.parameters(recurse=False)}
    trained = [p for p in unique.values() if p.requires_grad]
    for parameter in trained or unique.values():
        if parameter.is_floating_point() and parameter.numel():
            data = parameter.data
            uniform = torch.rand(data.shape, generator=generator, dtype=torch.float64)
            signs = torch.randint(0, 2, data.shape, generator=generator) * 2 - 1
            size = float(data.double().square().mean().sqrt())
            if not 0 < size < float("inf"):
                size = data[0].numel() ** -0.5 if data.dim() > 1 else 1.0
            noise = 0.1 * size * signs * (0.5 + uniform)
            parameter.data = data + noise.to(data.device, data.dtype)


class _InFloat64(TorchFunctionMode):
    """Code that asks for a lower precision gets float64, or complex128."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _RAISED:
            return args[0].to(_RAISED[func])
        args = [_RAISED.get(a, a) if type(a) is torch.dtype else a for a in args]
        if kwargs:
            kwargs = {k: _RAISED.get(a, a) if type(a) is torch.dtype else a
                      for k, a in kwargs.items()}  # fmt: skip
            return func(*args, **kwargs)
        return func(*args)
