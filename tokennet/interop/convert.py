"""`convert`, from a model of another library to a net of layers that is proven to be the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from tokennet.interop.copy import Copier
from tokennet.interop.verify import Conversion, Inputs, Run, verified

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Converter(NamedTuple):
    """How models of a class become nets, and how both are run to compare them."""

    build: Callable[[Any, Copier], nn.Module]
    """From a model to a net, whose weights the copier has copied."""
    runs: Callable[[Any, Any, Inputs], Iterable[Run]]
    """From the model, its net and random inputs to outputs of both."""
    dtype: torch.dtype | None = None
    """In which both are compared where the model computes parts of itself in float32 only."""


Converters = Mapping[str, Converter]
"""By the name of a class."""


def convert(
    argument: str,
    model: nn.Module,
    library: str,
    converters: Converters,
    *,
    verify: bool = True,
    verify_dtype: torch.dtype = torch.float64,
) -> Any:
    """The net of a model, on its device, of its dtype and in its mode; the model stays as it is.

    Both are run on random inputs, as copies in eval mode and `verify_dtype`, and compared.

    Args:
        argument: of the caller, for the message.
        library: package that the class of the model comes from; its parts may come from torch too.
        converters: by the name of a class.
        verify: whether the result is compared; `net.conversion` says so.

    Raises:
        TypeError: there is no converter for its class.
        ValueError: the model has parts, parameters, buffers or hooks that the net does not have,
            or the outputs differ.
    """
    kind, package = type(model).__name__, type(model).__module__.partition(".")[0]
    if kind not in converters or package != library:
        of = "" if package in (library, "torch") else f" of {type(model).__module__}"
        raise TypeError(f"{argument} must be one of {', '.join(converters)}; got {kind}{of}")
    _check_parts(argument, model, library)
    like = next(model.parameters())
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # of initial weights, which are replaced
        copier = Copier()
        net = converters[kind].build(model, copier)
        _check_copied(argument, model, copier)
        _check_one_kind(argument, model)
        net = net.to(like.device, like.dtype).train(model.training)
        error = None
        verify_dtype = converters[kind].dtype or verify_dtype
        if verify:
            runs = converters[kind].runs
            error = verified(argument, model, net, runs, copier.pairs, verify_dtype)
    net.__dict__["conversion"] = Conversion(kind, error, verify_dtype if verify else None)
    return net


def _check_parts(argument: str, model: nn.Module, library: str) -> None:
    """Refuse what cannot be read from a type: classes of others, replaced methods, hooks."""
    for name, module in model.named_modules():
        if "activation" in name.split(".") and library == "torch":
            continue  # used as it is, whatever it is
        kind, where = type(module), f"{argument}.{name}" if name else argument
        if kind.__module__.partition(".")[0] not in ("torch", library):
            raise ValueError(
                f"{argument} must be made of modules of torch{_and(library)} only, whose forward "
                f"is known; {where} is a {kind.__name__} of {kind.__module__}"
            )
        if "forward" in vars(module):
            raise ValueError(f"{where} must have the forward of its class, got one of its own")
        hooks = [hook for hook in _HOOKS if getattr(module, hook)]
        if hooks:
            raise ValueError(
                f"{where} must have no hooks, which the net would not have; remove them first, "
                f"got {hooks[0].strip('_').replace('_', ' ')}"
            )


def _and(library: str) -> str:
    return "" if library == "torch" else f" and {library}"


def _check_one_kind(argument: str, model: nn.Module) -> None:
    for name in ("dtype", "device"):
        found = {str(getattr(parameter, name)) for parameter in model.parameters()}
        if len(found) != 1:
            raise ValueError(
                f"{argument} must have all parameters of the same {name}, got {sorted(found)}"
            )


def _check_copied(argument: str, model: nn.Module, copier: Copier) -> None:
    for name, parameter in model.named_parameters():
        if not copier.has(parameter):
            raise ValueError(
                f"{argument} must have no parameter besides those of the net, got {name}"
            )
    for name, buffer in model.named_buffers():  # integers are ids of positions and types
        if buffer.is_floating_point() and not copier.has(buffer):
            raise ValueError(f"{argument} must have no buffer of numbers, got {name}")
