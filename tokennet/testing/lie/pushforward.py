"""J_f(x) u, how an output changes as the input moves: by forward mode or by differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.example.values import describe, tensors_of

Map = Callable[[Tensor], Any]
Method = Literal["forward mode", "central difference"]


@contextmanager
def measuring(f: Callable[..., Any]) -> Iterator[None]:
    """Within it f runs in float64 and eval mode, on kernels that have a forward mode."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        sandboxed(f),
    ):
        yield


def in_float64(x: Any) -> Tensor:
    """A float64 copy of the input.

    Raises:
        TypeError: x is no floating-point tensor.
        ValueError: it is empty.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, got {kind}")
    if not x.numel():
        raise ValueError(f"x must have elements, got shape {tuple(x.shape)}")
    return x.detach().to(torch.float64, copy=True)


def value_of(output: Any) -> Tensor:
    """The one tensor of an output (of `Tokens` its z).

    Raises:
        TypeError: there are more, or it is not floating-point.
        ValueError: it is empty.
    """
    tensors = tensors_of(output)
    if len(tensors) > 1:
        raise TypeError(f"f must return one tensor, got {len(tensors)}: {describe(output)}")
    if not tensors[0].is_floating_point():
        raise TypeError(f"f must return a floating-point tensor, got {tensors[0].dtype}")
    if not tensors[0].numel():
        raise ValueError(f"f must return elements, got shape {tuple(tensors[0].shape)}")
    return tensors[0].double()


class Pushforward(NamedTuple):
    """f(x), J_f(x) u, and how the second was computed."""

    value: Tensor
    change: Tensor
    method: Method


def pushforward(f: Map, x: Tensor, direction: Tensor, method: Method | None = None) -> Pushforward:
    """J_f(x) u by forward mode, checked against central differences, or by the method given.

    The difference is returned where operations have no forward mode, and where forward mode
    differs from both differences, of steps h and 10 h, by more than ten times what these
    differ from each other: code that detaches, or leaves PyTorch, silently loses terms of
    the derivative, while rounding and the kinks of ReLU change both differences.
    """
    exact = None if method == "central difference" else _forward_mode(f, x, direction)
    if exact and method:
        return exact
    numeric = _central_difference(f, x, direction)
    if exact is None:
        return numeric
    coarse = _central_difference(f, x, direction, stretch=10).change
    lost = norm(exact.change - coarse) > 10 * norm(numeric.change - coarse)
    return numeric if lost else exact


def _forward_mode(f: Map, x: Tensor, direction: Tensor) -> Pushforward | None:
    with suppress(RuntimeError), forward_ad.dual_level():
        dual = value_of(f(forward_ad.make_dual(x.clone(), direction.clone())))
        value, change = forward_ad.unpack_dual(dual)
        change = torch.zeros_like(value) if change is None else change
        return Pushforward(value, change, "forward mode")
    return None


def _central_difference(f: Map, x: Tensor, direction: Tensor, stretch: float = 1) -> Pushforward:
    value, largest = value_of(f(x.clone())), float(direction.abs().max())
    if not largest:
        return Pushforward(value, torch.zeros_like(value), "central difference")
    size = float(x.abs().max()) or 1.0
    step = stretch * torch.finfo(x.dtype).eps ** (1 / 3) * size / largest
    change = value_of(f(x + step * direction)) - value_of(f(x - step * direction))
    return Pushforward(value, change / (2 * step), "central difference")


def norm(values: Tensor) -> float:
    """Euclidean, over all entries."""
    return float(torch.linalg.vector_norm(values))
