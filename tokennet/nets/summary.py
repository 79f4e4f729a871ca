"""`Summary`, the table of a net's layers that `TokenNet.summary` returns; `count_parameters`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tokennet.symmetry import Symmetry


@dataclass(frozen=True)
class Row:
    """A layer of the table, as it ran on the example."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    symmetry: Symmetry

    @staticmethod
    def of(layer: nn.Module, output: Tensor, flops: int, symmetry: Symmetry) -> Row:
        inner = getattr(layer, "layer", None) or getattr(layer, "fn", None)
        name = type(layer).__name__
        if isinstance(inner, nn.Module):
            name += f"({type(inner).__name__})"
        return Row(name, tuple(output.shape), count_parameters(layer), flops, symmetry)

    @property
    def cells(self) -> tuple[str, ...]:
        shape = str(self.shape) if self.shape else ""
        counts = f"{self.parameters:,}", f"{self.flops:,}"
        return self.name, shape, *counts, self.symmetry.relabeling, self.symmetry.shuffling


@dataclass(frozen=True)
class Summary:
    """Shapes, parameters, FLOPs and symmetry of a net's layers; print it for the table.

    >>> import torch
    >>> from tokennet.nets import TokenNet, TokenWise
    >>> summary = TokenNet([TokenWise(nn.Linear(3, 4))]).summary(torch.zeros(5, 3))
    >>> summary.parameters, summary.flops
    (16, 120)
    """

    rows: list[Row]
    parameters: int
    """Of the net; a layer that is used twice counts once."""
    symmetry: Symmetry

    @property
    def flops(self) -> int:
        return sum(row.flops for row in self.rows)

    def __str__(self) -> str:
        header = ("layer", "output", "parameters", "FLOPs", "relabeling", "shuffling")
        total = Row("net", (), self.parameters, self.flops, self.symmetry)
        lines = [header, *[row.cells for row in (*self.rows, total)]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        form = "{:<{}}  {:<{}}  {:>{}}  {:>{}}  {:<{}}  {:<{}}"
        return "\n".join(
            form.format(
                *(part for pair in zip(line, widths, strict=True) for part in pair)
            ).rstrip()
            for line in lines
        )


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars.

    >>> count_parameters(nn.Linear(3, 4))
    16
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
