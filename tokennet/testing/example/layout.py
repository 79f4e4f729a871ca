"""`Layout`: which dimensions of an output have an entry for each token, edge or set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokennet.testing.engine.intervention import Outputs


@dataclass(frozen=True)
class Layout:
    """Which dimensions of an output belong to what, counted from the end.

    Attributes:
        tokens: dimensions with an entry for each token; two for pairs of tokens.
        before: entries before those of the tokens, that of a class token for instance.
        width: entries for each token, more than 1 where the token vectors are flattened.
        edges: dimensions with an entry for each edge.
        sets: the dimension with an entry for each set of a batch, or None.
        scalar: there is one value for the whole batch, as a loss, of which no set can be told.
    """

    tokens: tuple[int, ...] = ()
    before: int = 0
    width: int = 1
    edges: tuple[int, ...] = ()
    sets: int | None = None
    scalar: bool = False

    def of_tokens(self, output: Tensor, index: Tensor) -> Tensor:
        """The part of an output that belongs to some tokens."""
        entries = (index[:, None] * self.width + torch.arange(self.width)).flatten() + self.before
        for dim in self.tokens:
            output = output.index_select(dim, entries.to(output.device))
        return output


def usual_layouts(outputs: Outputs, lead: torch.Size) -> list[Layout]:
    """Layouts if nothing else is known: sets first, then tokens, or pooled outputs.

    Args:
        lead: (..., N), the leading dimensions of the tokens.
    """
    found = []
    for y in outputs:
        tokens = (len(lead) - 1 - y.dim(),) if y.shape[: len(lead)] == lead else ()
        found.append(Layout(tokens, sets=-y.dim() if len(lead) > 1 and y.dim() else None))
    return found


def of_sets(outputs: Outputs, layouts: Sequence[Layout], number: int) -> Outputs:
    """The parts of outputs that belong to one set; its dimension is kept."""
    pairs = zip(outputs, layouts, strict=True)
    return [y if at.sets is None else y.narrow(at.sets, number, 1) for y, at in pairs]
