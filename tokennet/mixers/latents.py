"""Graphs between the tokens of each set and learned tokens of its own, the latents."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from tokennet.graphs import Disjoint, Full, TokenGraph


class LatentGraphs(NamedTuple):
    """Graphs where each set has latents of its own."""

    gather: TokenGraph
    """Latents attend to the sources of their set."""
    within: TokenGraph
    """Latents attend to each other."""
    spread: TokenGraph
    """The targets of the set attend to its latents."""


def latents_on(graph: TokenGraph, latents: Tensor, like: Tensor) -> tuple[Tensor, LatentGraphs]:
    """(K, D) latents, copied for each set of `graph`: (..., S K, D), and their graphs.

    Leading dimensions are those of `like`; the graphs are built once and kept with `graph`.
    """
    graphs: LatentGraphs = graph.cached(_build, len(latents))
    copies = graphs.within.num_targets // max(len(latents), 1)
    latents = latents.to(like.dtype).repeat(copies, 1).expand(*like.shape[:-2], -1, -1)
    return latents, graphs


def _build(graph: TokenGraph, count: int) -> LatentGraphs:
    gather = [Full(count, part.num_sources) for part in graph.parts]
    within = [Full(count) for _ in graph.parts]
    spread = [Full(part.num_targets, count) for part in graph.parts]
    if graph.is_ragged:
        return LatentGraphs(Disjoint(gather), Disjoint(within), Disjoint(spread))
    return LatentGraphs(gather[0], within[0], spread[0])
