"""A graph with further tokens put before its own."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.disjoint import Disjoint
from tokennet.graphs.edge_list import sort_by_target
from tokennet.graphs.edges import Edges
from tokennet.graphs.symbolic import Causal, Full, Window


class Prefix(TokenGraph):
    """`count` tokens before those of a graph; see `prefixed`."""

    def __init__(
        self, graph: TokenGraph, count: int, listening: bool, heard: bool, among_targets: bool
    ) -> None:
        super().__init__(graph.num_targets + count * among_targets, graph.num_sources + count)
        self.graph, self.count = graph, count
        self.listening, self.heard, self.among_targets = listening, heard, among_targets

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        first = self.count if self.among_targets else 0
        of_first = (j <= i) | self.listening
        own = self._own((i - first).clamp(min=0), (j - self.count).clamp(min=0))
        of_own = torch.where(j < self.count, self.heard, own)
        return torch.where(i < first, of_first, of_own)

    def _own(self, i: Tensor, j: Tensor) -> Tensor:
        if 0 in (self.graph.num_targets, self.graph.num_sources):
            return torch.zeros_like(i + j, dtype=torch.bool)
        return self.graph.attends(i, j)

    def _build_edge_index(self) -> Tensor:
        flags = self.listening, self.heard, self.among_targets
        return sort_by_target(_edges(self.graph, self.count, *flags))

    def _name(self) -> str:
        return f"{self.graph._name()} after {self.count} more"


def prefixed(
    graph: TokenGraph,
    count: int,
    *,
    listening: bool = True,
    heard: bool = True,
    among_targets: bool = True,
) -> TokenGraph:
    """Put `count` tokens before those of a graph, of each set in a ragged batch.

    Complete graphs stay complete and formulas stay formulas; a list of edges keeps its edges
    in their order, new ones come after them, with features of 0 where there are features.

    Args:
        listening: whether they listen to all tokens, or to themselves and those before them
            only.
        heard: whether all tokens listen to them, or they to each other only.
        among_targets: whether they are targets too, or sources only.

    >>> prefixed(Causal(2), 1).dense().int().tolist()
    [[1, 1, 1], [1, 1, 0], [1, 1, 1]]
    >>> prefixed(Causal(2), 1, listening=False)
    Causal(3): 3 tokens, 6 edges, density 0.667
    """
    flags = {"listening": listening, "heard": heard, "among_targets": among_targets}
    if isinstance(graph, Disjoint):
        return Disjoint(prefixed(part, count, **flags) for part in graph.graphs)
    if count == 0:
        return graph
    n, m = graph.num_targets, graph.num_sources
    if isinstance(graph, Full) and heard and (listening or not among_targets):
        return Full(n + count * among_targets, m + count)
    if isinstance(graph, Causal) and heard and not listening and among_targets:
        return Causal(n + count)
    if isinstance(graph, Edges):
        edges, attr = _edges(graph, count, **flags), graph.edge_attr
        if attr is not None:
            attr = torch.cat([attr, attr.new_zeros(edges.shape[1] - len(attr), attr.shape[1])])
        return Edges(edges, n + count * among_targets, m + count, edge_attr=attr)
    return Prefix(graph, count, **flags)


def without_prefix(graph: TokenGraph, count: int) -> TokenGraph:
    """Take the first `count` tokens and their edges off a graph, off each set of a ragged batch.

    >>> without_prefix(prefixed(Window(6, 1), 2), 2)
    Window(6, radius=1): 6 tokens, 16 edges, density 0.444
    >>> without_prefix(Causal(6), 2)
    Causal(4): 4 tokens, 10 edges, density 0.625
    """
    if isinstance(graph, Disjoint):
        return Disjoint(without_prefix(part, count) for part in graph.graphs)
    if count == 0:
        return graph
    n = graph.num_targets - count
    if isinstance(graph, Prefix) and graph.among_targets:
        left, more = max(graph.count - count, 0), max(count - graph.count, 0)
        own = without_prefix(graph.graph, more)
        return prefixed(own, left, listening=graph.listening, heard=graph.heard)
    if isinstance(graph, Full | Causal):
        return type(graph)(n)
    if isinstance(graph, Window):
        return Window(n, graph.radius)
    edges = graph.edge_index()
    keep = (edges >= count).all(0)
    attr: Tensor | None = getattr(graph, "edge_attr", None)
    return Edges(edges[:, keep] - count, n, edge_attr=None if attr is None else attr[keep])


def is_one_sided(graph: TokenGraph) -> bool:
    """Whether tokens listen to earlier ones only, or to later ones only, in some set.

    The order of a list of edges need not mean anything, so that such a graph counts only if
    its tokens are a sequence: each listens to the one before it, and none to a later one.

    >>> is_one_sided(Causal(3)), is_one_sided(Causal(1)), is_one_sided(Full(3))
    (True, False, False)
    """
    return graph.cached(_find_one_sided)


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


def _edges(
    graph: TokenGraph, count: int, listening: bool, heard: bool, among_targets: bool
) -> Tensor:
    """(2, E): the graph's own in their order, those to the first tokens, those of them."""
    first = count if among_targets else 0
    parts = [graph.edge_index() + torch.tensor([[count], [first]])]
    if heard:
        to_first = Full(graph.num_targets, count).edge_index()
        parts.append(to_first + torch.tensor([[0], [first]]))
    if among_targets:
        of_first = Full(count, count + graph.num_sources) if listening else Causal(count)
        parts.append(of_first.edge_index())
    return torch.cat(parts, dim=1)
