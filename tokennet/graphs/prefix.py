"""Graphs with tokens added before their own: class tokens, registers, memory."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.disjoint import Disjoint
from tokennet.graphs.edges import Edges
from tokennet.graphs.formulas import Causal, Full, Window
from tokennet.graphs.indices import sort_by_target


class Prefixed(TokenGraph):
    """`count` tokens before those of a graph; see `prefixed`."""

    def __init__(
        self,
        graph: TokenGraph,
        count: int,
        attend_to_all: bool,
        visible_to_all: bool,
        as_targets: bool,
    ) -> None:
        super().__init__(graph.num_targets + count * as_targets, graph.num_sources + count)
        self.graph, self.count, self.as_targets = graph, count, as_targets
        self.attend_to_all, self.visible_to_all = attend_to_all, visible_to_all
        self._first = count * as_targets

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        first = self._first
        of_added = (j <= i) | self.attend_to_all
        own = self._own((i - first).clamp(min=0), (j - self.count).clamp(min=0))
        of_own = torch.where(j < self.count, self.visible_to_all, own)
        return torch.where(i < first, of_added, of_own)

    def _own(self, i: Tensor, j: Tensor) -> Tensor:
        if 0 in (self.graph.num_targets, self.graph.num_sources):
            return torch.zeros_like(i + j, dtype=torch.bool)
        return self.graph.attends(i, j)

    def _build_edge_index(self) -> Tensor:
        return sort_by_target(self.listed())

    def listed(self) -> Tensor:
        """(2, E): the edges of the graph in their order, then those from and to added tokens."""
        n, m, count, first = self.graph.num_targets, self.graph.num_sources, self.count, self._first
        parts = [self.graph.edge_index() + torch.tensor([[count], [first]])]
        if self.visible_to_all:
            parts.append(Full(n, count).edge_index() + torch.tensor([[0], [first]]))
        if self.as_targets:
            to_added = Full(count, count + m) if self.attend_to_all else Causal(count)
            parts.append(to_added.edge_index())
        return torch.cat(parts, dim=1)

    def _name(self) -> str:
        return f"prefixed({self.graph._name()}, {self.count})"


def prefixed(
    graph: TokenGraph,
    count: int,
    *,
    attend_to_all: bool = True,
    visible_to_all: bool = True,
    as_targets: bool = True,
) -> TokenGraph:
    """Add `count` tokens before those of a graph, in each set of a ragged batch.

    Complete graphs stay complete and formulas stay formulas. A list of edges keeps its edges
    in their order; new edges come after them, with features of 0 where there are features.

    Raises:
        ValueError: edges have types, since those of the new edges are not known.

    Args:
        attend_to_all: whether the added tokens attend to all tokens; if not, each attends to
            itself and to the added tokens before it.
        visible_to_all: whether all tokens attend to them; if not, they attend to each other only.
        as_targets: whether they are targets too, or sources only.

    >>> prefixed(Causal(2), 1).dense().int().tolist()
    [[1, 1, 1], [1, 1, 0], [1, 1, 1]]
    >>> prefixed(Causal(2), 1, attend_to_all=False)
    Causal(3): 3 tokens, 6 edges, density 0.667
    """
    flags = {
        "attend_to_all": attend_to_all,
        "visible_to_all": visible_to_all,
        "as_targets": as_targets,
    }
    if isinstance(graph, Disjoint):
        return Disjoint(prefixed(part, count, **flags) for part in graph.parts)
    if count == 0:
        return graph
    n, m = graph.num_targets, graph.num_sources
    if isinstance(graph, Full) and visible_to_all and (attend_to_all or not as_targets):
        return Full(n + count * as_targets, m + count)
    if isinstance(graph, Causal) and visible_to_all and not attend_to_all and as_targets:
        return Causal(n + count)
    whole = Prefixed(graph, count, **flags)
    if not isinstance(graph, Edges):
        return whole
    if graph.edge_type is not None:
        raise ValueError(
            f"graph must have no edge_type where tokens are added, of whose edges no type is "
            f"known; call .with_edge_type(None), got {graph!r}"
        )
    edges, attr = whole.listed(), graph.edge_attr
    if attr is not None:
        attr = torch.cat([attr, attr.new_zeros(edges.shape[1] - len(attr), attr.shape[1])])
    return Edges(edges, whole.num_targets, whole.num_sources, edge_attr=attr)


def without_prefix(graph: TokenGraph, count: int) -> TokenGraph:
    """Remove the first `count` tokens and their edges, in each set of a ragged batch.

    >>> without_prefix(prefixed(Window(6, 1), 2), 2)
    Window(6, radius=1): 6 tokens, 16 edges, density 0.444
    >>> without_prefix(Causal(6), 2)
    Causal(4): 4 tokens, 10 edges, density 0.625
    """
    if isinstance(graph, Disjoint):
        return Disjoint(without_prefix(part, count) for part in graph.parts)
    if count == 0:
        return graph
    n = graph.num_targets - count
    if isinstance(graph, Prefixed) and graph.as_targets:
        added, own = max(graph.count - count, 0), max(count - graph.count, 0)
        return prefixed(
            without_prefix(graph.graph, own), added,
            attend_to_all=graph.attend_to_all, visible_to_all=graph.visible_to_all,
        )  # fmt: skip
    if isinstance(graph, Full | Causal):
        return type(graph)(n)
    if isinstance(graph, Window):
        return Window(n, graph.radius)
    edges = graph.edge_index()
    keep = (edges >= count).all(0)
    return Edges(edges[:, keep] - count, n, **graph.fields(keep))


def is_one_sided(graph: TokenGraph) -> bool:
    """Whether, in some set, tokens attend only to earlier tokens, or only to later tokens.

    In a list of edges the order of the tokens need not mean anything. Such a graph counts only
    if its tokens are a sequence: each attends to the token before it, and none to a later one.

    >>> is_one_sided(Causal(3)), is_one_sided(Causal(1)), is_one_sided(Full(3))
    (True, False, False)
    """
    return graph.cached(_find_one_sided)


def _find_one_sided(graph: TokenGraph) -> bool:
    if isinstance(graph, Disjoint):
        return any(is_one_sided(part) for part in graph.parts)
    if not graph.is_explicit:
        return graph.attends_later != graph.T.attends_later
    j, i = graph.edge_index()
    follows = j[i == j + 1].unique().numel() == graph.num_targets - 1
    return graph.num_targets > 1 and follows and not graph.attends_later
