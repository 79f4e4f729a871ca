"""Which layers of a model break an equivariance: errors and contributions layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokennet.checks import check_type
from tokennet.testing.example.values import map_tensors
from tokennet.testing.lie.error import LieError, OutGenerator, action_on, summary
from tokennet.testing.lie.generator import LieGenerator
from tokennet.testing.lie.pushforward import in_float64, measuring, pushforward
from tokennet.tokens import Tokens


def lie_errors_by_layer(
    model: nn.Module,
    x: Tensor,
    generator: LieGenerator,
    *,
    token_generator: LieGenerator | None = None,
) -> dict[str, LieError]:
    """The `lie_error` of each module, at the input that it gets within the model.

    Those modules are measured whose first argument is a tensor (or `Tokens`) with a layout
    and whose output is one tensor with a layout; further arguments are kept, unless they
    are the first argument again (queries, keys and values of self-attention). Layouts are inferred
    from shapes: the number of dimensions of x, or (..., N, D) with the N of `token_generator`,
    which is tried first.

    Args:
        token_generator: for tokens in a model of images: `generator.on_tokens((H, W))`.

    Returns:
        By name of the module, in the order of calls; a second call is "name (2)".

    Raises:
        TypeError, ValueError: as `lie_error`.

    >>> circular = nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular")
    >>> model = nn.Sequential(circular, nn.ReLU())
    >>> along_t = LieGenerator.translation(dims=1)
    >>> errors = lie_errors_by_layer(model, torch.randn(3, 2, 16), along_t)
    >>> errors["0"].relative < 1e-12 < errors["1"].relative
    True
    """
    with measuring(model):
        x = in_float64(x)
        layouts = [*filter(None, (token_generator, generator))]
        errors = {}
        for call in _calls(model, x):
            error = _error(call, layouts, x.dim() - generator.value_dims)
            if error is not None:
                errors[call.name] = error
        return errors


def lie_contributions(
    model: nn.Sequential,
    x: Tensor,
    generator: LieGenerator,
    *,
    token_generator: LieGenerator | None = None,
    out_generator: OutGenerator = "auto",
) -> dict[str, Tensor]:
    r"""What each layer of a chain adds to the Lie derivative of the chain.

        L_X (f_n ... f_1)(x) = sum_i J_{f_n} ... J_{f_(i+1)} L_X f_i(x_i)

    by the chain rule (Gruver et al. 2022, arXiv:2210.02984). The identity is
    exact whatever the action on the values in between is; that action is inferred from their
    shapes as in `lie_error`, and values without a layout stay.

    Args:
        token_generator: for tokens in a model of images: `generator.on_tokens((H, W))`.

    Returns:
        By name of the layer, float64 tensors of the shape of the output, whose sum is
        `lie_derivative(model, x, generator)`.

    Raises:
        TypeError, ValueError: as `lie_error`; TypeError, model is no `nn.Sequential`.

    >>> from tokennet.testing.lie import lie_derivative
    >>> model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Conv1d(4, 1, 3))
    >>> x, along_t = torch.randn(3, 2, 16), LieGenerator.translation(dims=1)
    >>> parts = lie_contributions(model, x, along_t)
    >>> torch.allclose(sum(parts.values()), lie_derivative(model, x, along_t))
    True
    """
    check_type("model", model, nn.Sequential, "an nn.Sequential")
    with measuring(model):
        x = z = in_float64(x)
        batch_dims = x.dim() - generator.value_dims
        action: LieGenerator | None = generator
        parts: dict[str, Tensor] = {}
        for i, (name, layer) in enumerate(model.named_children(), start=1):
            f = _of_tensors(layer)
            parts = {key: pushforward(f, z, part).change for key, part in parts.items()}
            pushed = pushforward(f, z, torch.zeros_like(z) if action is None else action(z))
            z = pushed.value
            if i == len(model) and out_generator != "auto":
                action = out_generator
            elif token_generator is not None and token_generator.fits(z, batch_dims):
                action = token_generator
            else:
                action = action_on(z, x, generator)
            parts[name] = pushed.change if action is None else pushed.change - action(z)
        return parts


class _Call(NamedTuple):
    name: str
    function: Callable[[Tensor], Any]
    z: Tensor


def _calls(model: nn.Module, x: Tensor) -> list[_Call]:
    """Every call of a submodule, as a function of its first argument."""
    calls: list[_Call] = []
    counts: Counter[str] = Counter()

    def record(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        first = args[0] if args else None
        z = first.z if isinstance(first, Tokens) else first
        if isinstance(z, Tensor) and z.is_floating_point() and z.numel():
            counts[name] += 1
            label = name if counts[name] == 1 else f"{name} ({counts[name]})"
            calls.append(_Call(label, _of_first(module, args, kwargs), z.clone()))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                hook = partial(record, name)
                stack.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
        model(x)
    return calls


def _of_first(module: nn.Module, args: Any, kwargs: Any) -> Callable[[Tensor], Any]:
    first = args[0]
    moving = [argument is first for argument in args]
    held, named = map_tensors(Tensor.clone, (list(args), kwargs))

    def function(z: Tensor) -> Any:
        moved = first.replace(z=z) if isinstance(first, Tokens) else z
        return module(*(moved if m else a for m, a in zip(moving, held, strict=True)), **named)

    return function


def _error(call: _Call, layouts: list[LieGenerator], batch_dims: int) -> LieError | None:
    generator = _layout(call.z, layouts, batch_dims)
    if generator is None:
        return None
    motion = generator(call.z)
    try:
        pushed = pushforward(call.function, call.z, motion)
    except TypeError:  # more than one output
        return None
    out = _layout(pushed.value, layouts, batch_dims)
    if out is None:
        return None
    return summary(call.function, call.z, motion, pushed, generator, out, call.name)


def _layout(values: Tensor, layouts: list[LieGenerator], batch_dims: int) -> LieGenerator | None:
    return next((layout for layout in layouts if layout.fits(values, batch_dims)), None)


def _of_tensors(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    def function(z: Tensor) -> Tensor:
        output = layer(z)
        check_type("the output of a layer of model", output, Tensor, "a tensor")
        return output

    return function
