"""Which dimensions of an output count tokens, edges and sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokennet.testing.engine.intervention import Outputs


@dataclass(frozen=True)
class Layout:
    """Dimensions of an output, counted from the end.

    Attributes:
        tokens: those that have an entry for each token; two for pairs of tokens.
        before: entries that stand before those of the tokens, such as a class token's.
        width: entries of each token, where all their vectors stand in a row.
        edges: those that have an entry for each edge.
        sets: that which has an entry for each set of a batch, or None.
    """

    tokens: tuple[int, ...] = ()
    before: int = 0
    width: int = 1
    edges: tuple[int, ...] = ()
    sets: int | None = None

    def of_set(self, output: Tensor, number: int) -> Tensor:
        """What an output says of one set, its dimension kept."""
        return output if self.sets is None else output.narrow(self.sets, number, 1)

    def of_tokens(self, output: Tensor, index: Tensor) -> Tensor:
        """What an output says of some tokens."""
        entries = (index[:, None] * self.width + torch.arange(self.width)).flatten() + self.before
        for dim in self.tokens:
            output = output.index_select(dim, entries.to(output.device))
        return output


def usual_layouts(outputs: Outputs, lead: torch.Size) -> list[Layout]:
    """Layouts where nothing else is known: sets first, then tokens, or pooled outputs.

    Args:
        lead: (..., N), the leading dimensions of the tokens.
    """
    found = []
    for y in outputs:
        tokens = (len(lead) - 1 - y.dim(),) if y.shape[: len(lead)] == lead else ()
        found.append(Layout(tokens, sets=-y.dim() if len(lead) > 1 and y.dim() else None))
    return found


def of_sets(outputs: Outputs, layouts: Sequence[Layout], number: int) -> Outputs:
    """What outputs say of one set."""
    return [layout.of_set(y, number) for y, layout in zip(outputs, layouts, strict=True)]
