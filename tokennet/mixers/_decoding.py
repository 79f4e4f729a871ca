"""Incremental decoding of attention: keys and values of earlier tokens are kept as the state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.layer import check_step
from tokennet.mixers._positions import Positions, last_index, last_positions
from tokennet.positional import RelativePosition
from tokennet.tokens import Tokens

State = tuple[Tensor, ...]
"""Keys and values (..., M, H, C), and positions (..., M, 1, P) where they are read from pos."""


def cached_step(
    attention: Any, tokens: Tokens, graph: TokenGraph, state: State | None
) -> tuple[Tokens, State]:
    """The new tokens attend to those whose keys and values are kept, and are kept with them."""
    check_step(tokens, graph, attention.dim)
    attention.check_graph(graph)
    position, targets = attention.position, None
    if attention.reads_positions:
        targets = last_positions(position, tokens, graph)
    q = attention.queries(tokens.z, targets)
    kept: State = attention.keys(tokens.z, targets), attention.values(tokens.z)
    if position is not None and position.by == "pos":
        pos = targets.pos[..., None, :]  # type: ignore[index, union-attr]  # (..., m, 1, P)
        kept = *kept, pos.expand(*tokens.z.shape[:-1], 1, pos.shape[-1])
    if state is not None:
        kept = tuple(torch.cat(pair, dim=-3) for pair in zip(state, kept, strict=True))
    sources, graph = attention.kept_sources(kept, graph)
    out = attention.attend(q, kept[0], kept[1], graph, targets, sources, tokens.z)
    return tokens.replace(z=out), kept


def kept_positions(
    position: RelativePosition | None, state: State, graph: TokenGraph
) -> Positions | None:
    """Positions of the tokens whose keys are kept: the last sources of `graph`."""
    if position is None:
        return None
    index = last_index(graph, state[0].shape[-3], state[0].device)
    return Positions(index, state[2].squeeze(-2) if position.by == "pos" else index[:, None])
