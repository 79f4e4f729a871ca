"""Weights from one module to another, all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from tokennet.mixers import Attention


class Copier:
    """Copies the weights of a model, and knows which it has copied.

    A value may be a view of a parameter: a part of it, or transposed.
    """

    def __init__(self) -> None:
        self._parameters: list[Tensor] = []

    def has(self, parameter: Tensor) -> bool:
        """Whether the parameter, by identity, or a view of it has been copied."""
        return any(parameter is copied for copied in self._parameters)

    def mark(self, parameter: Tensor) -> None:
        """Take note that the net has the parameter."""
        self._parameters.append(parameter if parameter._base is None else parameter._base)

    def parameter(self, to: Any, value: Tensor) -> None:
        """A copy of the value, of its type; the parameter, which may be shared, stays.

        Raises:
            ValueError: the shapes differ.
        """
        if to.shape != value.shape:
            raise ValueError(f"value must have shape {tuple(to.shape)}, got {tuple(value.shape)}")
        to.data = value.detach().clone()
        self.mark(value)

    def weight(self, to: Any, weight: Tensor, bias: Tensor | None = None) -> None:
        """Weight and bias into a linear layer, a norm or a table; without one the bias goes."""
        self.parameter(to.weight, weight)
        if bias is None:
            to.bias = None
        else:
            self.parameter(to.bias, bias)

    def linear(self, to: Any, linear: Any) -> None:
        """A linear layer, or a convolution of patches that do not overlap.

        Raises:
            ValueError: it is something else.
        """
        expect_kind("linear layer", linear, nn.Linear, nn.Conv2d)
        self.weight(to, linear.weight.flatten(1), linear.bias)
        self.mark(linear.weight)  # flattening may have made a copy

    def norm(self, to: Any, norm: Any) -> None:
        """Weight, bias and eps of a normalization.

        Raises:
            ValueError: it is no `nn.LayerNorm` with a weight.
        """
        expect_kind("norm", norm, nn.LayerNorm)
        if norm.weight is None:
            raise ValueError(f"norm must have a weight, got {norm!r}")
        self.weight(to, norm.weight, norm.bias)
        to.eps = norm.eps

    def attention(
        self, to: Attention, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
    ) -> None:
        """Query, key, value and output, each (out, in), and their biases."""
        linears = (to.query, to.key, to.value, to.out)
        for linear, weight, bias in zip(linears, weights, biases, strict=True):
            self.weight(linear, weight, bias)

    def mlp(self, to: Any, first: nn.Linear, second: nn.Linear) -> None:
        """Both linear layers of what `tokennet.mlp` makes."""
        self.linear(to[0], first)
        self.linear(to[-1], second)


def converted(convert: Callable[[Any, Copier], Any], model: nn.Module) -> Any:
    """The net on the device, of the type and in the mode of the model.

    Raises:
        ValueError: the net lacks a parameter of the model.
    """
    copier = Copier()
    net = convert(model, copier)
    for name, parameter in model.named_parameters():
        if not copier.has(parameter):
            raise ValueError(f"model must have no parameter besides those of the net, got {name}")
    parameter = next(model.parameters())
    return net.to(parameter.device, parameter.dtype).train(model.training)


def expect_kind(name: str, found: Any, *kinds: type) -> None:
    """Raise ValueError unless it is of one of these kinds."""
    if not isinstance(found, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} of the model must be {expected}, got {found!r}")
