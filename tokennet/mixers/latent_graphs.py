"""Learned tokens beside those of each set: their graphs, their number, their cost."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from tokennet.graphs import Disjoint, Full, TokenGraph
from tokennet.mixers.attention import Attention


class LatentGraphs(NamedTuple):
    """Who listens to whom when each set has latents of its own."""

    gather: TokenGraph
    """Latents listen to the sources of their set."""
    within: TokenGraph
    """Latents listen to each other."""
    spread: TokenGraph
    """The targets of the set listen to its latents."""


def latent_graphs(graph: TokenGraph, count: int) -> LatentGraphs:
    """The graphs of `count` latents for each set of `graph`; built once and kept with it."""
    return graph.cached(_build, count)


def _build(graph: TokenGraph, count: int) -> LatentGraphs:
    gather = [Full(count, part.num_sources) for part in graph.parts]
    within = [Full(count) for _ in graph.parts]
    spread = [Full(part.num_targets, count) for part in graph.parts]
    if graph.is_ragged:
        return LatentGraphs(Disjoint(gather), Disjoint(within), Disjoint(spread))
    return LatentGraphs(gather[0], within[0], spread[0])


def for_each_set(latents: Tensor, within: TokenGraph, like: Tensor) -> Tensor:
    """(K, D) latents once for each set: (..., S K, D), with the leading dimensions of `like`."""
    copies = within.num_targets // len(latents)
    return latents.to(like.dtype).repeat(copies, 1).expand(*like.shape[:-2], -1, -1)


def attention_flops(attention: Attention, targets: int, sources: int, edges: int) -> int:
    """Four projections, and 4 D per edge."""
    dim, source_dim = attention.dim, attention.source_dim
    return 4 * dim * (targets * dim + sources * source_dim + edges)
