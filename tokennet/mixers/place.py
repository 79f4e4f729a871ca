"""Where the tokens at one end of the edges are."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.positional import RelativePosition
from tokennet.tokens import Tokens


class Place(NamedTuple):
    """Of N tokens, for scores and positions."""

    indices: Tensor
    """(N,) in the array, within each set"""
    positions: Tensor | None
    """(..., N, P) as a `RelativePosition` counts them; None where there is none"""

    @classmethod
    def of(cls, position: RelativePosition | None, tokens: Tokens, indices: Tensor) -> Place:
        if position is None:
            return cls(indices, None)
        return cls(indices, position.places(tokens.pos, indices))


def source_index(graph: TokenGraph) -> Tensor:
    """(num_sources,) place of each source within its own set."""
    return graph.T.local_index()
