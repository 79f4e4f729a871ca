"""Where tokens are: their index and positions, as scores and `RelativePosition` read them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.mixers.scores import Score
from tokennet.positional import RelativePosition
from tokennet.tokens import Tokens


class Positions(NamedTuple):
    """Of N tokens, the targets or the sources of a call."""

    indices: Tensor
    """(N,) in the array, within each set"""
    pos: Tensor | None
    """(..., N, P) as a `RelativePosition` reads them; None where there is none"""


def check_position(position: object, score: Score, num_heads: int, channels: int) -> None:
    """Raise TypeError or ValueError unless a position goes with a score, and with heads of C."""
    if not isinstance(position, RelativePosition):
        raise TypeError(
            f"position must be a RelativePosition, got {type(position).__name__}; positional "
            "encodings that are added to the tokens are layers of their own"
        )
    if position.num_heads not in (None, num_heads):
        raise ValueError(f"position must be for {num_heads} heads, not for {position.num_heads}")
    if position.rotates and not score.is_product:
        kind = type(score).__name__
        raise ValueError(f"position must not rotate: {kind} is no product of query and key")
    position.check_channels(channels)


def positions_of(
    position: RelativePosition | None, tokens: Tokens, source: Tokens, graph: TokenGraph
) -> tuple[Positions, Positions]:
    """Positions of the targets and of the sources of a call.

    The sets are those of a ragged batch, in whatever form `graph` lists the edges between them.
    """
    device = tokens.z.device
    index = (tokens.graph if tokens.graph.is_ragged else graph).local_index(device)
    targets = _read(position, tokens, index)
    if source is tokens:
        return targets, targets
    if source.graph.is_ragged:
        return targets, _read(position, source, source.graph.local_index(device))
    return targets, _read(position, source, graph.cached(_source_index, device=device))


def last_positions(
    position: RelativePosition | None, tokens: Tokens, graph: TokenGraph
) -> Positions:
    """Positions of the new tokens in a step: the last of all sources of `graph`."""
    return _read(position, tokens, last_index(graph, tokens.num_tokens, tokens.z.device))


def last_index(graph: TokenGraph, count: int, device: torch.device) -> Tensor:
    """(count,) index of the last sources of `graph`."""
    return torch.arange(graph.num_sources - count, graph.num_sources, device=device)


def _read(position: RelativePosition | None, tokens: Tokens, index: Tensor) -> Positions:
    return Positions(index, None if position is None else position.read(tokens.pos, index))


def _source_index(graph: TokenGraph) -> Tensor:
    return graph.T.local_index() if graph.is_ragged else torch.arange(graph.num_sources)
