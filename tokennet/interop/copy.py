"""`Copier`, which copies all weights of a model into a net, and what converters expect of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        self.copied: list[tuple[Tensor, Tensor]] = []
        """Parameters of the net, and what they were copied from."""
        self.norms: list[tuple[nn.Module, Any]] = []
        """Norms of the net and of the model."""
        self.pairs: list[tuple[nn.Module, nn.Module]] = []
        """Layers of the net and modules of the model that should give the same, in their order."""

    def pair(self, ours: nn.Module, theirs: nn.Module) -> None:
        """Record that both should give the same, so that the first that differs is named."""
        self.pairs.append((ours, theirs))

    def has(self, parameter: Tensor) -> bool:
        """Whether the parameter, by identity, or a view of it has been copied."""
        return any(parameter is copied for copied in self._parameters)

    def mark(self, parameter: Tensor) -> None:
        """Record that the net has the parameter."""
        self._parameters.append(parameter if parameter._base is None else parameter._base)

    def parameter(self, to: Any, value: Tensor) -> None:
        """Set the parameter `to`, which may be shared, to a copy of the value, of its dtype.

        It is frozen if the value is.

        Raises:
            ValueError: the shapes differ.
        """
        if to.shape != value.shape:
            raise ValueError(f"value must have shape {tuple(to.shape)}, got {tuple(value.shape)}")
        to.data = value.detach().clone()
        self.copied.append((to, value))
        self.mark(value)
        to.requires_grad_(value.requires_grad if value._base is None else value._base.requires_grad)

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
        self.norms.append((to, norm))

    def rms_norm(self, to: nn.RMSNorm, norm: Any) -> None:
        """Weight and eps of a normalization by the root of the mean square.

        Raises:
            ValueError: not one of torch, or as those of Llama and T5 of transformers.
        """
        eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        if not type(norm).__name__.endswith(("RMSNorm", "T5LayerNorm")) or eps is None:
            raise ValueError(f"norm must be an RMSNorm, got {norm!r}")
        self.parameter(to.weight, norm.weight)
        to.eps = eps

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


def expect_kind(name: str, found: Any, *kinds: type) -> None:
    """Raise ValueError unless it is exactly of one of these kinds.

    A subclass has a `forward` of its own. Those of timm and Hugging Face, such as faster norms,
    count as the kind they derive from: the result of the conversion is compared.
    """
    known = type(found).__module__.partition(".")[0] in ("timm", "transformers")
    if type(found) not in kinds and not (known and isinstance(found, kinds)):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} of the model must be {expected}, got {found!r}")


def expect_same(name: str, values: Iterable[Any]) -> None:
    """Raise ValueError unless all blocks, or parts of one, have the same value."""
    first, *others = values
    for number, other in enumerate(others, 1):
        if other != first:
            raise ValueError(
                f"{name} of the model must be the same everywhere, got {first!r} at 0 and "
                f"{other!r} at {number}"
            )


def expect_config(config: Any, of: str = "model.config", /, **values: Any) -> None:
    """Raise ValueError unless the entries that a configuration has are these."""
    for name, value in values.items():
        found = config.get(name) if isinstance(config, dict) else getattr(config, name, value)
        found = value if found is None else found
        if found != value:
            raise ValueError(f"{of}.{name} must be {value!r}, got {found!r}")
