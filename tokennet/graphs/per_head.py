"""`PerHead`: a graph for each head of attention."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from tokennet.checks import check_type
from tokennet.graphs.algebra import TokenGraph


class PerHead:
    """A graph for each head, between the same tokens; for `attend` and `on_graph`.

    Heads that share a graph are computed together, each graph on its own best backend. It is no
    `TokenGraph` itself: tokens have one graph, and layers but attention know no heads.

    Args:
        graphs: of each head, in their order.

    Raises:
        ValueError: there is no graph, or they differ in their numbers of targets or sources.

    >>> from tokennet import Causal, Full, attend
    >>> q = k = v = torch.eye(3)[:, None].expand(3, 2, 3)
    >>> attend(q, k, v, PerHead([Full(3), Causal(3)]))[0].count_nonzero(-1).tolist()
    [3, 1]
    """

    def __init__(self, graphs: Iterable[TokenGraph]) -> None:
        check_type("graphs", graphs, Iterable, "a sequence of TokenGraphs")
        self.graphs = () if isinstance(graphs, Tensor) else tuple(graphs)
        if not self.graphs:
            raise ValueError("graphs must be at least one graph, got none")
        for number, graph in enumerate(self.graphs):
            check_type(f"graphs[{number}]", graph, TokenGraph, "a TokenGraph")
        sizes = [(graph.num_targets, graph.num_sources) for graph in self.graphs]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"graphs must have the same numbers of targets and sources, got {sizes}"
            )
        self.num_targets, self.num_sources = sizes[0]

    @property
    def num_heads(self) -> int:
        return len(self.graphs)

    @property
    def union(self) -> TokenGraph:
        """The graph of what some head attends to."""
        return reduce(or_, (graph for graph, _ in self.groups()))

    def groups(self) -> list[tuple[TokenGraph, list[int]]]:
        """Each graph once, with the heads that have it."""
        found: dict[int, tuple[TokenGraph, list[int]]] = {}
        for head, graph in enumerate(self.graphs):
            found.setdefault(id(graph), (graph, []))[1].append(head)
        return list(found.values())

    def attends(self, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Whether target i attends to source j in a head: elementwise, as of a graph."""
        out = torch.zeros_like(head + i + j, dtype=torch.bool)
        for graph, heads in self.groups():
            mine = torch.isin(head, torch.tensor(heads, device=head.device))
            out = out | (mine & graph.attends(i, j))
        return out

    def __repr__(self) -> str:
        return f"PerHead([{', '.join(repr(graph).split(':')[0] for graph in self.graphs)}])"
