"""Graphs on which mixers can do without edges: complete sets and causal ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.graphs import Causal, Disjoint, Full, TokenGraph


class SetShapes(NamedTuple):
    """The sets of a graph, equal ones in a row, causal ones in their order; and the way back."""

    targets: Tensor
    """(N,) token of each place; (0,) where the tokens are in order already."""
    sources: Tensor
    """(M,) likewise."""
    back: Tensor
    """(N,) place of each token; (0,) where it is its own."""
    shapes: list[tuple[int, int, int, bool]]
    """Number of sets, targets, sources of each, causal or not."""


def parts_of(graph: TokenGraph) -> tuple[TokenGraph, ...]:
    """The sets of a ragged batch, or the one set."""
    return graph.graphs if isinstance(graph, Disjoint) else (graph,)


def is_complete(graph: TokenGraph) -> bool:
    """Whether every target of a set listens to every source of it, once."""
    return bool(graph.derive("is complete", None, _all_complete))


def check_complete(graph: TokenGraph, what: str) -> None:
    """Raise ValueError unless the graph is complete, set by set."""
    if not is_complete(graph):
        raise ValueError(
            f"graph must be complete, set by set, for {what}, in which every token hears of "
            f"every other; got {graph!r}"
        )


def set_shapes(graph: TokenGraph, device: torch.device | None = None) -> SetShapes:
    """The sets of a graph which are complete or causal, in whatever order.

    Raises:
        ValueError: some set is neither.
    """
    return graph.derive("set shapes", device, _sort_sets)


def causal_order(graph: TokenGraph) -> Tensor | None:
    """The tokens in the order in which each listens to itself and those before, or None.

    >>> causal_order(Causal(3).relabel([2, 0, 1]))
    tensor([1, 2, 0])
    """
    n = graph.num_targets
    if isinstance(graph, Causal):
        return torch.arange(n)
    if not graph.is_square or graph.has_multi_edges or graph.num_edges != n * (n + 1) // 2:
        return None
    source, target = graph.edge_index()
    rank = torch.bincount(target, minlength=n)  # the first hears 1, the last n
    order = rank.argsort()
    is_order = torch.equal(rank[order], torch.arange(1, n + 1))
    return order if is_order and bool((rank[source] <= rank[target]).all()) else None


def _all_complete(graph: TokenGraph) -> bool:
    return all(_is_complete(part) for part in parts_of(graph))


def _is_complete(graph: TokenGraph) -> bool:
    if isinstance(graph, Full):
        return True
    pairs = graph.num_targets * graph.num_sources
    return not graph.has_multi_edges and graph.num_edges == pairs


def _sort_sets(graph: TokenGraph) -> SetShapes:
    kinds: dict[tuple[int, int, bool], list[tuple[Tensor, Tensor]]] = {}
    first_target = first_source = 0
    for part in parts_of(graph):
        n, m = part.num_targets, part.num_sources
        targets, sources, causal = torch.arange(n), torch.arange(m), False
        if not _is_complete(part):
            order = causal_order(part)
            if order is None:
                raise ValueError(
                    f"graph must be complete or causal, set by set, to be summed up without "
                    f"its edges; got {graph!r}"
                )
            targets, sources, causal = order, order, True
        places = targets + first_target, sources + first_source
        kinds.setdefault((n, m, causal), []).append(places)
        first_target, first_source = first_target + n, first_source + m
    none = torch.zeros(0, dtype=torch.long)
    pairs = [pair for same in kinds.values() for pair in same]
    targets = torch.cat([none, *(targets for targets, _ in pairs)])
    sources = torch.cat([none, *(sources for _, sources in pairs)])
    shapes = [(len(same), *kind) for kind, same in kinds.items()]
    return SetShapes(_short(targets), _short(sources), _short(targets.argsort()), shapes)


def _short(order: Tensor) -> Tensor:
    """No order at all where it is that of the tokens."""
    return order[:0] if torch.equal(order, torch.arange(len(order))) else order
