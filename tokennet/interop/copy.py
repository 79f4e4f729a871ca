"""Weights from one module to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tokennet.mixers import Attention


def copy_parameter(to: Any, value: Tensor) -> None:
    """A copy of the value, of its type; the parameter, which may be shared, stays.

    Raises:
        ValueError: the shapes differ.
    """
    if to.shape != value.shape:
        raise ValueError(f"value must have shape {tuple(to.shape)}, got {tuple(value.shape)}")
    to.data = value.detach().clone()


def copy_weight(to: Any, weight: Tensor, bias: Tensor | None = None) -> None:
    """Weight and bias into a linear layer, a norm or a table; without one the bias goes."""
    copy_parameter(to.weight, weight)
    if bias is None:
        to.bias = None
    else:
        copy_parameter(to.bias, bias)


def copy_norm(to: Any, norm: Any) -> None:
    """Weight, bias and eps of a normalisation."""
    copy_weight(to, norm.weight, norm.bias)
    to.eps = norm.eps


def copy_attention(
    to: Attention, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> None:
    """Query, key, value and output, each (out, in), and their biases."""
    linears = (to.query, to.key, to.value, to.out)
    for linear, weight, bias in zip(linears, weights, biases, strict=True):
        copy_weight(linear, weight, bias)


def copy_mlp(to: Any, first: nn.Linear, second: nn.Linear) -> None:
    """Both linear layers of what `tokennet.mlp` makes."""
    copy_weight(to[0], first.weight, first.bias)
    copy_weight(to[-1], second.weight, second.bias)


def like(net: Any, model: nn.Module) -> Any:
    """The net on the device, of the type and in the mode of the model."""
    parameter = next(model.parameters())
    return net.to(parameter.device, parameter.dtype).train(model.training)
