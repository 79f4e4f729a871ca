"""A table of a net's layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tokennet.symmetry import Symmetry


@dataclass(frozen=True)
class Row:
    """One layer, as run on the example."""

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
        parameters = count_parameters(layer)
        return Row(name, tuple(output.shape), parameters, flops, symmetry)


@dataclass(frozen=True)
class Summary:
    """What `TokenNet.summary` gives; print it for the table.

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
        cells: list[tuple[str, ...]] = [header]
        cells += [
            _cells(row.name, str(row.shape), row.parameters, row.flops, row.symmetry)
            for row in self.rows
        ]
        cells.append(_cells("net", "", self.parameters, self.flops, self.symmetry))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        right = {2, 3}
        lines = [
            "  ".join(
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        return "\n".join(lines)


def _cells(
    name: str, shape: str, parameters: int, flops: int, symmetry: Symmetry
) -> tuple[str, ...]:
    return (
        name, shape, f"{parameters:,}", f"{flops:,}", symmetry.relabeling, symmetry.shuffling,
    )  # fmt: skip


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars.

    >>> count_parameters(nn.Linear(3, 4))
    16
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
