"""A net and its peer in another library: the same weights, values and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Parity:
    """Largest differences, relative to the largest value of each tensor."""

    value: float
    gradient: float


def error(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape, (got.shape, want.shape)
    if not want.numel():
        return 0.0
    scale = want.detach().abs().max().clamp(min=1e-12)
    return float((got.detach() - want.detach()).abs().max() / scale)


def parity(
    convert: Callable[[Any], Any],
    theirs: nn.Module,
    run_ours: Callable[[Any], Tensor],
    run_theirs: Callable[[Any], Tensor],
) -> Parity:
    """Run both and compare outputs, and gradients of all parameters.

    A conversion is linear in the weights. So their gradients, converted like weights, must be
    ours.
    """
    ours = convert(theirs)
    got, want = run_ours(ours), run_theirs(theirs)
    weight = torch.linspace(-1, 1, want.numel(), dtype=want.dtype).view_as(want).cos()
    ours.zero_grad()
    theirs.zero_grad()
    (got * weight).sum().backward()
    (want * weight).sum().backward()
    of_gradients = copy.deepcopy(theirs)
    with torch.no_grad():
        for parameter, original in zip(of_gradients.parameters(), theirs.parameters(), strict=True):
            gradient = original.grad
            parameter.copy_(torch.zeros_like(parameter) if gradient is None else gradient)
    expected = dict(convert(of_gradients).named_parameters())
    errors = [0.0]
    largest = max(float(p.detach().abs().max()) for p in expected.values() if p.numel())
    for name, parameter in ours.named_parameters():
        found = parameter.grad
        found = torch.zeros_like(parameter) if found is None else found
        # Relative to all gradients: those that vanish (biases of keys) are rounding only.
        scale = max(float(expected[name].detach().abs().max()), 1e-3 * largest)
        errors.append(float((found - expected[name]).detach().abs().max()) / scale)
    assert largest > 0
    return Parity(error(got, want), max(errors))


def randomized(module: nn.Module) -> nn.Module:
    """In float64 and eval mode, with no parameter at a value that hides it (0 or 1)."""
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


class Widened(TorchFunctionMode):
    """What a model computes in float32, whatever its own type, is computed in float64.

    Some models of others compute norms, angles or softmax in float32. Made and run within this,
    they are held to a net in float64.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.float:
            return args[0].double()
        args = [torch.float64 if value is torch.float32 else value for value in args]
        kwargs = {
            name: torch.float64 if value is torch.float32 else value
            for name, value in (kwargs or {}).items()
        }
        return func(*args, **kwargs)
