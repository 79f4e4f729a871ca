"""`Disjoint`: sets of different sizes in one batch, as one bigger graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import check_items
from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.base import EdgePredicate
from tokennet.graphs.edges import Edges
from tokennet.graphs.indices import set_of_each
from tokennet.graphs.packing import pack, unpack


class Disjoint(Edges):
    """Several graphs side by side, with no edge between them: a ragged batch.

    Use it, or `Tokens.batch`, for sets of different sizes. There is no padding.
    Edges come graph by graph, in each graph's own order. `&` keeps the graphs apart;
    so does `|` with a graph that adds no edge between them (`Self(n)`, say). A union
    that does connect them is one graph, and an `Edges`.

    Args:
        graphs: the graphs; they may be of any kind, size and, if bipartite, shape. The
            parts of a `Disjoint` among them become parts of this one.

    >>> from tokennet import Full, Causal
    >>> Disjoint([Full(2), Causal(3)])
    Disjoint([Full(2), Causal(3)]): 5 tokens, 10 edges, density 0.4
    """

    def __init__(self, graphs: Iterable[TokenGraph]) -> None:
        parts: list[TokenGraph] = []
        for graph in check_items("graphs", graphs, TokenGraph, "token graphs"):
            parts += graph.parts
        self.graphs: tuple[TokenGraph, ...] = tuple(parts)
        self._sizes = [graph.num_targets for graph in self.graphs]
        self._source_sizes = [graph.num_sources for graph in self.graphs]
        # Edges are listed when first needed, not here: a readout needs the sizes only.
        EdgePredicate.__init__(self, sum(self.sizes), sum(self.source_sizes))
        self.edge_attr = _joined(self.graphs, "edge_attr")
        self.edge_type = _joined(self.graphs, "edge_type")
        self.names = None

    @property
    def parts(self) -> tuple[TokenGraph, ...]:
        return self.graphs

    is_ragged = True

    @property
    def sizes(self) -> list[int]:
        return self._sizes

    @property
    def source_sizes(self) -> list[int]:
        return self._source_sizes

    @property
    def num_edges(self) -> int:
        return self.cached(Disjoint._count_edges)

    def _count_edges(self) -> int:
        return sum(graph.num_edges for graph in self.graphs)

    @property
    def _is_counted(self) -> bool:
        return all(graph._is_counted for graph in self.graphs)

    def _has_edges_of(self, other: EdgePredicate) -> bool:
        return isinstance(other, Disjoint) and self.parts == other.parts

    def _find_multi_edges(self) -> bool:
        return any(graph.has_multi_edges for graph in self.graphs)

    def _build_edge_index(self) -> Tensor:
        # Not `edge_index()`, which would keep each part's list with the part as well.
        edges = [graph._build_edge_index() for graph in self.graphs]
        sizes = torch.tensor([self.source_sizes, self.sizes], dtype=torch.long)
        counts = torch.tensor([part.shape[1] for part in edges], dtype=torch.long)
        first = (sizes.cumsum(1) - sizes).repeat_interleave(counts, dim=1)  # (2, E)
        return torch.cat([torch.zeros(2, 0, dtype=torch.long), *edges], dim=1) + first

    def __getstate__(self) -> Any:
        return pack(self.graphs)

    def __setstate__(self, state: Any) -> None:
        self.__init__(unpack(*state))  # type: ignore[misc]

    @property
    def T(self) -> Disjoint:
        return Disjoint(graph.T for graph in self.graphs)

    def __and__(self, other: TokenGraph) -> Edges:
        return self.split(super().__and__(other))

    def __or__(self, other: TokenGraph) -> Edges:
        return self._split_union(super().__or__(other))

    def _split_union(self, union: Edges) -> Edges:
        """Divide a union into the parts unless it connects them."""
        source, target = union.edge_index()
        if torch.equal(set_of_each(self.source_sizes)[source], self.batch()[target]):
            return self.split(union)
        return union

    def __rand__(self, left: TokenGraph) -> Edges:
        # Python asks this operand first; the order and features are the left one's still.
        return self.split(Edges.__and__(left, self)) if isinstance(left, Edges) else self & left

    def __ror__(self, left: TokenGraph) -> Edges:
        return (
            self._split_union(Edges.__or__(left, self)) if isinstance(left, Edges) else self | left
        )

    def _with(self, **given: Any) -> Disjoint:
        return self.split(super()._with(**given))

    def split(self, edges: Edges) -> Disjoint:
        """Return a graph on the same tokens, without edges between the parts, in these parts."""
        source, target = edges.edge_index()
        owner = self.batch()[target]
        order = owner.argsort(stable=True)
        owned = order.split(torch.bincount(owner, minlength=self.num_graphs).tolist())
        start = torch.zeros(2, 1, dtype=torch.long)
        parts = []
        for graph, own in zip(self.graphs, owned, strict=True):
            n, m = graph.num_targets, graph.num_sources
            local = torch.stack([source[own], target[own]]) - start
            parts.append(Edges(local, n, m, **edges.fields(own), names=graph.names))
            start = start + torch.tensor([[m], [n]])
        return Disjoint(parts)

    def _relabel(self, perm: Tensor, source_perm: Tensor) -> TokenGraph:
        perms = _split_permutation("perm", perm, self.sizes)
        source_perms = _split_permutation("source_perm", source_perm, self.source_sizes)
        return Disjoint(
            graph.relabel(p, s)
            for graph, p, s in zip(self.graphs, perms, source_perms, strict=True)
        )

    def coalesce(self) -> Disjoint:
        return Disjoint(graph.coalesce() for graph in self.graphs)

    def _subgraph(self, index: Tensor) -> TokenGraph:
        if self.sizes != self.source_sizes:
            raise ValueError(f"subgraph needs the same number of sources and targets, got {self!r}")
        owner = self.batch()[index]
        if bool((owner.diff() < 0).any()):
            raise ValueError("index must name the tokens of a ragged batch set by set")
        counts = torch.bincount(owner, minlength=self.num_graphs).tolist()
        own = self.local_index()[index].split(counts)
        return Disjoint(part.subgraph(i) for part, i in zip(self.graphs, own, strict=True))

    def _last(self, count: int) -> TokenGraph:
        raise ValueError(f"last needs a graph of one set, got {self!r}")

    def _reach(self, k: int) -> TokenGraph:
        return Disjoint(graph.reach(k) for graph in self.graphs)

    def _name(self) -> str:
        shown = [graph._name() for graph in self.graphs[:3]]
        if self.num_graphs > 3:
            shown.append(f"... {self.num_graphs} graphs")
        return f"Disjoint([{', '.join(shown)}])"


def _joined(graphs: tuple[TokenGraph, ...], field: str) -> Tensor | None:
    """Features or types of the edges of all graphs."""
    rows = [getattr(graph, field) for graph in graphs]
    missing = [number for number, of_graph in enumerate(rows) if of_graph is None]
    if len(missing) == len(rows):
        return None
    if missing:
        raise ValueError(f"either all graphs have {field} or none; graphs {missing} have none")
    return torch.cat(rows)


def _split_permutation(name: str, perm: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    owner = set_of_each(sizes)
    crossing = (owner[perm] != owner).nonzero().flatten()
    if crossing.numel():
        i = int(crossing[0])
        raise ValueError(
            f"{name} must permute within each graph of a Disjoint; "
            f"it moves token {int(perm[i])} of graph {int(owner[perm[i]])} to graph {int(owner[i])}"
        )
    starts = torch.tensor([0, *sizes]).cumsum(0)
    return (perm - starts[owner]).split(sizes)
