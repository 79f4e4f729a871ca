"""How a model is called with the inputs of an example: by name, with PyG `Data`, with a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.layout import Layout
from tokennet.testing.example.values import tensors_of


@dataclass(frozen=True)
class ByName(Wrapped):
    """A model that is called with keyword arguments."""

    names: tuple[str, ...]

    imports = f"from {__name__} import ByName"

    def __call__(self, *inputs: Any) -> Any:
        return self.function(**dict(zip(self.names, inputs, strict=True)))


class OnData(ByName):
    """A model of (x, edge_index, ...) that is called with a PyG `Data` with these attributes."""

    imports = f"from {__name__} import OnData"

    def __call__(self, *inputs: Any) -> Any:
        data = inputs[0]
        return self.function(**{name: data[name] for name in self.names if name in data})


@dataclass(frozen=True)
class Selected(Wrapped):
    """Some of the outputs of a model, with zeros where they belong to padding.

    Args:
        outputs: indices of the outputs.
        layouts: of these outputs.
        mask: the index of the input that is the mask, None if there is no padding.
        hides: the mask is True, or -inf, for padding and not for tokens.
    """

    outputs: tuple[int, ...]
    layouts: tuple[Layout, ...]
    mask: int | None = None
    hides: bool = False

    imports = f"from {__name__} import Layout, Selected"

    def __call__(self, *inputs: Any) -> list[Tensor]:
        found = tensors_of(self.function(*inputs))
        chosen = [found[number] for number in self.outputs]
        if self.mask is None:
            return chosen
        mask = inputs[self.mask]
        real = (mask == 0) if self.hides else (mask != 0)
        return [_cleared(y, layout, real) for y, layout in zip(chosen, self.layouts, strict=True)]


def _cleared(output: Tensor, layout: Layout, real: Tensor) -> Tensor:
    """The output with zeros for padding."""
    for dim in layout.tokens:
        size, entries = output.shape[dim], real.repeat_interleave(layout.width, -1)
        rest = size - layout.before - entries.shape[-1]
        shown = F.pad(entries, (layout.before, rest), value=True)
        shape = [1] * output.dim()
        shape[dim] = size
        if layout.sets is not None and real.dim() == 2:
            shape[layout.sets] = real.shape[0]
        output = output.masked_fill(~shown.to(output.device).reshape(shape), 0)
    return output
