"""How a model of points is called: the moved inputs first, attributes of `Data` as inputs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.values import is_pyg_data, tensors_of
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class Arranged(Wrapped):
    """A model with its inputs in another order, and chosen outputs as a list.

    Args:
        order: input k is the argument of this number.
        outputs: names of outputs as in `named_outputs`.
        attributes: inputs that belong into the last input, which is `Data` or `Tokens`.
        gradients: the model needs autograd, as to compute forces.
    """

    order: tuple[int, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    gradients: bool = False

    imports = "from tokennet.testing.scripts import Arranged"

    def __call__(self, *inputs: Any) -> list[Tensor]:
        named = named_outputs(self.output(inputs))
        return [named[name] for name in self.outputs]

    def output(self, inputs: tuple[Any, ...]) -> Any:
        """What the model returns."""
        given = [inputs[self.order.index(k)] for k in range(len(self.order))]
        if self.attributes:
            *values, whole = inputs
            given = [with_attributes(whole, dict(zip(self.attributes, values, strict=True)))]
        with torch.enable_grad() if self.gradients else nullcontext():
            return self.function(*given)


def with_attributes(whole: Any, values: dict[str, Tensor]) -> Any:
    """`Data` or `Tokens` with other attributes."""
    if isinstance(whole, Tokens):
        return whole.replace(**values)
    whole = whole.clone()
    for name, value in values.items():
        whole[name] = value
    return whole


def named_outputs(output: Any) -> dict[str, Tensor]:
    """The floating-point tensors of an output by key, attribute, or else by number from "0".

    >>> list(named_outputs((torch.zeros(2), {"forces": torch.zeros(2, 3)})))
    ['0', '1.forces']
    """
    found: dict[str, Tensor] = {}
    for key, value in _items(output):
        if not isinstance(value, Tensor):
            found |= {f"{key}.{name}": tensor for name, tensor in named_outputs(value).items()}
        elif value.is_floating_point():
            found[key] = value
    return found


def _items(output: Any) -> list[tuple[str, Any]]:
    if isinstance(output, Tokens):
        return [("z", output.z), *([] if output.pos is None else [("pos", output.pos)])]
    if is_pyg_data(output):
        output = output.to_dict()
    if isinstance(output, dict):  # of Hugging Face too
        return [(str(key), value) for key, value in output.items() if _holds_tensors(value)]
    if is_dataclass(output):
        pairs = [(field.name, getattr(output, field.name)) for field in fields(output)]
        return [(key, value) for key, value in pairs if _holds_tensors(value)]
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        pairs = list(zip(output._fields, output, strict=True))
        return [(key, value) for key, value in pairs if _holds_tensors(value)]
    if isinstance(output, tuple | list):
        return [(str(k), value) for k, value in enumerate(output) if _holds_tensors(value)]
    return [("0", tensor) for tensor in tensors_of(output)]


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor | Tokens | tuple | list | dict) or is_pyg_data(value)
