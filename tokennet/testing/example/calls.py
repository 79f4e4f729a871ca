"""How a model is called with the inputs of an example: by name, with PyG `Data`, with a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.forms import Form
from tokennet.testing.example.inputs import Example, real_tokens
from tokennet.testing.example.layout import Layout
from tokennet.testing.example.roles import Kind
from tokennet.testing.example.values import features, is_pyg_data, tensors_of


@dataclass(frozen=True)
class ByName(Wrapped):
    """A model that is called with keyword arguments."""

    names: tuple[str, ...]

    imports = "from tokennet.testing.scripts import ByName"

    def __call__(self, *inputs: Any) -> Any:
        return self.function(**dict(zip(self.names, inputs, strict=True)))


class OnData(ByName):
    """A model of (x, edge_index, ...) that is called with a PyG `Data` with these attributes."""

    imports = "from tokennet.testing.scripts import OnData"

    def __call__(self, *inputs: Any) -> Any:
        data = inputs[0]
        return self.function(**{name: data[name] for name in self.names if name in data})


def call_of(model: Callable[..., Any], example: Example, names: Sequence[str]) -> Any:
    """The model as a function of the inputs of an example, in their order.

    Args:
        names: of the model's arguments.
    """
    if example.roles[0].kind is Kind.WHOLE:
        by_parts = is_pyg_data(example.inputs[0]) and "edge_index" in names
        return OnData(model, tuple(names)) if by_parts else model
    keys = [slot.path[0] for slot in example.slots]
    if not all(slot.is_plain for slot in example.slots):
        return Form(model, example.slots, example.hetero)
    if keys == list(range(len(keys))):
        return model
    if all(isinstance(key, str) for key in keys):
        return ByName(model, tuple(keys))
    return Form(model, example.slots)


@dataclass(frozen=True)
class Selected(Wrapped):
    """Some of the outputs of a model, with zeros where they belong to padding.

    Args:
        outputs: indices of the outputs.
        layouts: of these outputs.
        mask: the index of the input that is the mask, None if there is no padding.
        how: it says what is padding, as `Example.how`.
        dim: the dimension of the first input that counts tokens.
    """

    outputs: tuple[int, ...]
    layouts: tuple[Layout, ...]
    mask: int | None = None
    how: str = "keep"
    dim: int = -2

    imports = "from tokennet.testing.scripts import Layout, Selected"

    def __call__(self, *inputs: Any) -> list[Tensor]:
        found = tensors_of(self.function(*inputs))
        chosen = [found[number] for number in self.outputs]
        if self.mask is None:
            return chosen
        real = real_tokens(inputs[self.mask], self.how, features(inputs[0]).shape[self.dim])
        return [_cleared(y, layout, real) for y, layout in zip(chosen, self.layouts, strict=True)]


def _cleared(output: Tensor, layout: Layout, real: Tensor) -> Tensor:
    """The output with zeros for padding."""
    lead = real.shape[:-1]
    if len(lead) > 1 and output.shape[: len(lead)] == lead:  # (B, T, N) of an output (B, T, ...)
        flat = output.flatten(0, len(lead) - 1)
        at = replace(layout, sets=-flat.dim())
        return _cleared(flat, at, real.flatten(0, -2)).unflatten(0, lead)
    if len(lead) > 1:  # without T: padding is what is padding in all of it
        real = real.flatten(1, -2).any(1)
    for dim in layout.tokens:
        size, entries = output.shape[dim], real.repeat_interleave(layout.width, -1)
        rest = size - layout.before - entries.shape[-1]
        shown = F.pad(entries, (layout.before, rest), value=True)
        shape = [1] * output.dim()
        shape[dim] = size
        if layout.sets is not None and real.dim() == 2:
            shape[layout.sets] = real.shape[0]
            shown = shown if layout.sets < dim else shown.T  # (N, B, D)
        output = output.masked_fill(~shown.to(output.device).reshape(shape), 0)
    return output
