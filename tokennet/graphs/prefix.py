"""A graph with further tokens put before its own."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.disjoint import Disjoint
from tokennet.graphs.edge_list import sort_by_target
from tokennet.graphs.edges import Edges
from tokennet.graphs.symbolic import Causal, Full


class Prefix(TokenGraph):
    """`count` tokens before those of a graph, to which all of them listen; see `prefixed`."""

    def __init__(self, graph: TokenGraph, count: int, listening: bool, among_targets: bool) -> None:
        super().__init__(graph.num_targets + count * among_targets, graph.num_sources + count)
        self.graph, self.count = graph, count
        self.listening, self.among_targets = listening, among_targets

    def has_edge(self, i: Tensor, j: Tensor) -> Tensor:
        first = self.count if self.among_targets else 0
        of_first = (j <= i) | self.listening
        own = (i - first).clamp(min=0), (j - self.count).clamp(min=0)
        return torch.where(i < first, of_first, (j < self.count) | self._own(*own))

    def _own(self, i: Tensor, j: Tensor) -> Tensor:
        if 0 in (self.graph.num_targets, self.graph.num_sources):
            return torch.zeros_like(i + j, dtype=torch.bool)
        return self.graph.has_edge(i, j)

    def _build_edge_index(self) -> Tensor:
        return sort_by_target(_edges(self.graph, self.count, self.listening, self.among_targets))

    def _name(self) -> str:
        return f"{self.graph._name()} after {self.count} more"


def prefixed(
    graph: TokenGraph, count: int, listening: bool = True, among_targets: bool = True
) -> TokenGraph:
    """Put `count` tokens before those of a graph, of each set in a ragged batch.

    All tokens listen to them. They listen to all tokens, or, where not `listening`, to
    themselves and those before them only.

    Args:
        among_targets: whether they are targets too, or sources only.

    >>> prefixed(Causal(2), 1).dense().int().tolist()
    [[1, 1, 1], [1, 1, 0], [1, 1, 1]]
    >>> prefixed(Causal(2), 1, listening=False)
    Causal(3): 3 tokens, 6 edges, density 0.667
    """
    if isinstance(graph, Disjoint):
        return Disjoint(prefixed(part, count, listening, among_targets) for part in graph.graphs)
    n, m = graph.num_targets, graph.num_sources
    if isinstance(graph, Full) and (listening or not among_targets):
        return Full(n + count * among_targets, m + count)
    if isinstance(graph, Causal) and not listening and among_targets:
        return Causal(n + count)
    if graph.is_explicit:
        edges = _edges(graph, count, listening, among_targets)
        return Edges(edges, n + count * among_targets, m + count)
    return Prefix(graph, count, listening, among_targets)


def is_one_sided(graph: TokenGraph) -> bool:
    """Whether tokens listen to earlier ones only, or to later ones only, in some set.

    The order of a list of edges need not mean anything, so that such a graph counts only if
    its tokens are a sequence: each listens to the one before it, and none to a later one.

    >>> is_one_sided(Causal(3)), is_one_sided(Causal(1)), is_one_sided(Full(3))
    (True, False, False)
    """
    return graph.derive("is_one_sided", None, _find_one_sided)


def _find_one_sided(graph: TokenGraph) -> bool:
    if isinstance(graph, Disjoint):
        return any(is_one_sided(part) for part in graph.graphs)
    if graph.band is not None:
        return (graph.band[0] > 0) != (graph.band[1] > 0)
    if graph.is_explicit:
        j, i = graph.edge_index()
        follows = j[i == j + 1].unique().numel() == graph.num_targets - 1
        return graph.num_targets > 1 and follows and not bool((j > i).any())
    sources, earlier, later = torch.arange(graph.num_sources), False, False
    for rows, mask in graph._row_blocks():
        earlier = earlier or bool((mask & (sources < rows[:, None])).any())
        later = later or bool((mask & (sources > rows[:, None])).any())
        if earlier and later:
            break
    return earlier != later


def _edges(graph: TokenGraph, count: int, listening: bool, among_targets: bool) -> Tensor:
    """(2, E): those of the first tokens, those to them, and the graph's own in their order."""
    first = count if among_targets else 0
    shift = torch.tensor([[count], [first]])
    to_first = Full(graph.num_targets, count).edge_index() + torch.tensor([[0], [first]])
    parts = [to_first, graph.edge_index() + shift]
    if among_targets:
        of_first = Full(count, count + graph.num_sources) if listening else Causal(count)
        parts.insert(0, of_first.edge_index())
    return torch.cat(parts, dim=1)
