"""`Copier`, which copies all weights of a model into a net, and `convert`, which uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tokennet.mixers import Attention


class Copier:
    """Copies the weights of a model, and records which parameters it has copied.

    Use it to convert a model of your own. A value may be a view of a parameter: a part of it, or
    transposed.
    """

    def __init__(self) -> None:
        self._parameters: list[Tensor] = []

    def has(self, parameter: Tensor) -> bool:
        """Whether the parameter, by identity, or a view of it has been copied."""
        return any(parameter is copied for copied in self._parameters)

    def mark(self, parameter: Tensor) -> None:
        """Record that the net has the parameter."""
        self._parameters.append(parameter if parameter._base is None else parameter._base)

    def parameter(self, to: Any, value: Tensor) -> None:
        """Set the parameter `to`, which may be shared, to a copy of the value, of its dtype.

        Raises:
            ValueError: the shapes differ.
        """
        if to.shape != value.shape:
            raise ValueError(f"value must have shape {tuple(to.shape)}, got {tuple(value.shape)}")
        to.data = value.detach().clone()
        self.mark(value)

    def weight(self, to: Any, weight: Tensor, bias: Tensor | None = None) -> None:
        """Weight and bias of a linear layer, a norm or a table; without a bias `to` has none."""
        self.parameter(to.weight, weight)
        if bias is None:
            to.bias = None
        else:
            self.parameter(to.bias, bias)

    def linear(self, to: Any, linear: Any) -> None:
        """A linear layer, or a convolution of patches that do not overlap.

        Raises:
            ValueError: another kind of module.
        """
        expect_kind("linear layer", linear, nn.Linear, nn.Conv2d)
        self.weight(to, linear.weight.flatten(1), linear.bias)
        self.mark(linear.weight)  # flattening may have made a copy

    def norm(self, to: Any, norm: Any) -> None:
        """Weight, bias and eps of a normalization.

        Raises:
            ValueError: not an `nn.LayerNorm` with a weight.
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
        """Both linear layers of `tokennet.mlp`."""
        self.linear(to[0], first)
        self.linear(to[-1], second)

    def readout(self, to: Any, norm: nn.LayerNorm, head: nn.Linear) -> None:
        """A LayerNorm and a linear layer into a `Readout`."""
        self.norm(to.norm, norm)
        self.linear(to.head, head)


Converters = Mapping[str, Callable[[Any, Copier], nn.Module]]
"""By the name of a class: from a model of it to a net, whose weights the copier has copied."""


def convert(
    argument: str, model: nn.Module, converters: Converters, *, subclasses: bool = False
) -> Any:
    """The net of a model, on its device, of its dtype and in its mode.

    Args:
        argument: of the caller, for the message.
        subclasses: whether models of a subclass are converted too.

    Raises:
        TypeError: there is no converter for its class.
        ValueError: the net lacks a parameter of the model.
    """
    kinds = [kind.__name__ for kind in type(model).__mro__]
    known = [kind for kind in kinds if kind in converters] if subclasses else kinds[:1]
    if not known or known[0] not in converters:
        raise TypeError(f"{argument} must be one of {', '.join(converters)}; got {kinds[0]}")
    copier = Copier()
    net = converters[known[0]](model, copier)
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
