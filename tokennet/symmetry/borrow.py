"""Borrowing a model: run it in another precision and state, and give it back as it came."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LOW_PRECISION = (torch.float32, torch.bfloat16, torch.float16)


@contextmanager
def borrowed(
    model: Callable[..., Any],
    *,
    dtype: torch.dtype = torch.float64,
    jitter: int | None = None,
) -> Iterator[None]:
    """Within the context `model` is in eval mode and `dtype`; after it, exactly as it came.

    Parameters, buffers and floating-point tensor attributes of every module that `model`
    is or refers to (as method, partial, closure or global) are replaced by copies, and
    put back: the same objects, values, gradients, flags, modes and attributes. So are
    the states of the random number generators. In float64, requests of the code for a
    lower precision (`x.float()`, `dtype=torch.float32`) are raised to float64, as code
    that normalises in float32 would hide 1e-7 of every break.

    Args:
        jitter: seed of a small change of every parameter, so that values such as a table
            that starts as zeros hide nothing; None leaves values as they are.
    """
    modules = modules_of(model)
    with ExitStack() as stack:
        stack.enter_context(_random_states())
        stack.enter_context(_kept(modules))
        _convert(modules, lambda tensor: _copied(tensor, dtype))
        for module in modules:
            module.training = False
        if jitter is not None:
            _jitter(modules, jitter)
        if dtype == torch.float64:
            stack.enter_context(_default_dtype(dtype))
            stack.enter_context(_InFloat64())
        yield


@contextmanager
def moved_to(device: torch.device | str | None, model: Callable[..., Any]) -> Iterator[None]:
    """Within the context the model is on a device; after it, where it was. None moves nothing."""
    modules = modules_of(model) if device is not None else []
    with _kept(modules):
        _convert(modules, lambda tensor: tensor.detach().to(device))
        yield


def modules_of(model: Any) -> list[nn.Module]:
    """Every module that `model` is or refers to, submodules included, each once."""
    found: dict[int, nn.Module] = {}
    for root in _roots(model, depth=4):
        for module in root.modules():
            found.setdefault(id(module), module)
    return list(found.values())


def module_names(model: Any) -> dict[int, str]:
    """Names of the modules of `modules_of` by id: paths in the model, with their class."""
    names: dict[int, str] = {}
    for root in modules_of(model):
        for path, module in root.named_modules():
            label = f"{path} ({type(module).__name__})" if path else type(module).__name__
            names.setdefault(id(module), label)
    return names


def _roots(value: Any, depth: int) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
        return
    if depth == 0:
        return
    if isinstance(value, functools.partial):
        refers: list[Any] = [value.func, *value.args, *value.keywords.values()]
    elif inspect.ismethod(value):
        refers = [value.__self__, value.__func__, *getattr(value.__self__, "__dict__", {}).values()]
    elif inspect.isfunction(value):
        variables = inspect.getclosurevars(inspect.unwrap(value))
        refers = [*variables.nonlocals.values(), *variables.globals.values()]
        refers += value.__defaults__ or ()
    elif isinstance(value, tuple | list):
        refers = list(value)
    elif isinstance(value, dict):
        refers = list(value.values())
    elif callable(value) and not inspect.isclass(value) and hasattr(value, "__dict__"):
        refers = list(vars(value).values())
    else:
        return
    for item in refers:
        yield from _roots(item, depth - 1)


@contextmanager
def _kept(modules: list[nn.Module]) -> Iterator[None]:
    attributes = [(module, dict(vars(module))) for module in modules]
    containers = [
        (value, value.copy())
        for _, saved in attributes
        for value in saved.values()
        if isinstance(value, dict | list | set)
    ]
    parameters = [
        (p, p.data, p.grad, p.requires_grad)
        for p in {id(p): p for module in modules for p in module.parameters(False)}.values()
    ]
    try:
        yield
    finally:
        for parameter, data, grad, requires_grad in parameters:
            parameter.grad = None
            parameter.data = data
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for module, saved in attributes:
            vars(module).clear()
            vars(module).update(saved)
        for value, content in containers:
            _refill(value, content)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)


def _copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    target = dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(target, copy=True)


def _convert(modules: list[nn.Module], change: Callable[[Tensor], Tensor]) -> None:
    done = set()
    for module in modules:
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in done:
                done.add(id(parameter))
                parameter.grad = None
                parameter.data = change(parameter.data)
        for tensors in (module._buffers, vars(module)):
            for name, value in list(tensors.items()):
                if isinstance(value, Tensor):
                    tensors[name] = change(value)


def _jitter(modules: list[nn.Module], seed: int) -> None:
    """p + 0.1 rms(p) u with u in +-[0.5, 1.5]: never near zero, never large.

    A parameter of zeros gets 0.1 / sqrt(fan in) instead of 0.1 rms(p).
    """
    generator = torch.Generator().manual_seed(seed)
    unique = {id(p): p for module in modules for p in module.parameters(recurse=False)}
    for parameter in unique.values():
        if parameter.is_floating_point() and parameter.numel():
            data = parameter.data
            uniform = torch.rand(data.shape, generator=generator, dtype=torch.float64)
            signs = torch.randint(0, 2, data.shape, generator=generator) * 2 - 1
            size = float(data.double().square().mean().sqrt())
            if not 0 < size < float("inf"):
                size = data.shape[-1] ** -0.5 if data.dim() > 1 else 1.0
            noise = 0.1 * size * signs * (0.5 + uniform)
            parameter.data = data + noise.to(data.device, data.dtype)


class _InFloat64(TorchFunctionMode):
    """Code that asks for a lower precision gets float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            return Tensor.double(args[0])
        kwargs = {key: _raised(value) for key, value in (kwargs or {}).items()}
        return func(*map(_raised, args), **kwargs)


def _raised(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in LOW_PRECISION else value


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _random_states() -> Iterator[None]:
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002
