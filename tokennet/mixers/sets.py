"""Mixing set by set: what treats all tokens of a set at once, in ragged batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.graphs import Disjoint, Grid, TokenGraph

Mix = Callable[[Tensor, Tensor, TokenGraph], Tensor]
"""(..., n, D), (..., m, Ds) and the graph between them to (..., n, D)."""


class Alike(NamedTuple):
    """The sets of a ragged batch, sorted so that those of one shape are neighbours."""

    targets: Tensor
    """(N,) place of each target of the sorted sets."""
    sources: Tensor
    """(M,)"""
    back: Tensor
    """(N,) place of each target among the sorted ones."""
    groups: list[list[int]]
    """Numbers of the sets of each shape."""


def set_by_set(mix: Mix, z: Tensor, source: Tensor, graph: TokenGraph) -> Tensor:
    """Apply `mix` to every set of a ragged batch alone; sets of one shape go together.

    What is no ragged batch is a set by itself. Sets on grids are of one shape if the grids
    are, other sets if they have as many tokens; `mix` is given the graph of one of them.
    """
    if not isinstance(graph, Disjoint):
        return mix(z, source, graph)
    alike = sets_alike(graph, z.device)
    targets = z.index_select(-2, alike.targets)
    sources = targets if source is z else source.index_select(-2, alike.sources)
    parts, rows, columns = [z[..., :0, :]], 0, 0
    for group in alike.groups:
        first, count = graph.graphs[group[0]], len(group)
        n, m = first.num_targets, first.num_sources
        some = _stacked(targets, rows, count, n)  # (..., count, n, D)
        asked = some if source is z else _stacked(sources, columns, count, m)
        parts.append(mix(some, asked, first).flatten(-3, -2))
        rows, columns = rows + count * n, columns + count * m
    return torch.cat(parts, dim=-2).index_select(-2, alike.back)


def sets_alike(graph: Disjoint, device: torch.device) -> Alike:
    """Which sets of the batch go together; built once and kept with the graph."""
    return graph.derive("sets alike", device, _alike)


def _stacked(z: Tensor, start: int, count: int, size: int) -> Tensor:
    return z.narrow(-2, start, count * size).unflatten(-2, (count, size))


def _alike(graph: Disjoint) -> Alike:
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, part in enumerate(graph.graphs):
        grid = (part.height, part.width) if isinstance(part, Grid) else ()
        groups.setdefault((part.num_targets, part.num_sources, *grid), []).append(number)
    order = [number for group in groups.values() for number in group]
    targets, sources = _places(graph.sizes, order), _places(graph.source_sizes, order)
    return Alike(targets, sources, targets.argsort(), list(groups.values()))


def _places(sizes: list[int], order: list[int]) -> Tensor:
    """Places of the tokens of sets of these sizes, set by set in the order given."""
    places = torch.arange(sum(sizes)).split(sizes)
    return torch.cat([torch.arange(0), *(places[number] for number in order)])
