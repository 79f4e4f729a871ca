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


def target_index(tokens: Tokens, graph: TokenGraph) -> Tensor:
    """(N,) place of each token within its own set.

    The sets are those of a ragged batch, in whatever form `graph` lists the edges between them.
    """
    counted = tokens.graph if tokens.graph.is_ragged else graph
    return counted.local_index(tokens.z.device)


def source_index(source: Tokens, graph: TokenGraph) -> Tensor:
    """(M,) place of each source within its own set, likewise."""
    if source.graph.is_ragged:
        return source.graph.local_index(source.z.device)
    return graph.cached(_index_of_sources, device=source.z.device)


def _index_of_sources(graph: TokenGraph) -> Tensor:
    return graph.T.local_index()
