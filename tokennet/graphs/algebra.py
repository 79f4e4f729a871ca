"""`TokenGraph`: a graph that combines with others, and the graphs that result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokennet.checks import check_size, check_type
from tokennet.graphs.base import BLOCK_ENTRIES, EdgePredicate
from tokennet.graphs.indices import (
    as_boolean,
    check_permutation,
    check_subset,
    index_of_each_target,
    set_of_each_target,
    sort_by_target,
)


class TokenGraph(EdgePredicate):
    """Which sources j each target i attends to: what `Tokens` carry and mixers follow.

    A new kind of graph subclasses it and defines `attends(i, j)`; the edge list, the dense mask,
    counts and the algebra follow.

    `a & b`, `a | b` and `~a` are intersection, union and complement of the edge sets.
    Where an operand is a list of edges, the result is one too and keeps that order
    (the left operand's, if both are): edges are filtered in place, new edges come last.

    >>> from tokennet import Causal, Window
    >>> Causal(6) & Window(6, radius=2)
    Causal(6) & Window(6, radius=2): 6 tokens, 15 edges, density 0.417
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.partition(".")[0] == "tokennet":  # which does nothing when unpickled
            torch.serialization.add_safe_globals([cls])

    def __and__(self, other: TokenGraph) -> TokenGraph:
        check_combinable(self, other)
        return NotImplemented if other.is_explicit else And(self, other)

    def __or__(self, other: TokenGraph) -> TokenGraph:
        check_combinable(self, other)
        return NotImplemented if other.is_explicit else Or(self, other)

    def __invert__(self) -> TokenGraph:
        return Not(self)

    @property
    def parts(self) -> tuple[TokenGraph, ...]:
        """The graphs of a `Disjoint`, one for each set of tokens; else the graph itself."""
        return (self,)

    @property
    def sizes(self) -> list[int]:
        """Number of targets of each set."""
        return [self.num_targets]

    @property
    def source_sizes(self) -> list[int]:
        """Number of sources of each set."""
        return [self.num_sources]

    @property
    def num_graphs(self) -> int:
        """Number of sets: 1 unless the graph is a `Disjoint`."""
        return len(self.parts)

    def batch(self, device: torch.device | str | None = None) -> Tensor:
        """Return (num_targets,) the number of the set that each token belongs to, as in PyG."""
        return self.cached(set_of_each_target, device=device)

    def local_index(self, device: torch.device | str | None = None) -> Tensor:
        """Return (num_targets,) the index of each token within its own set: 0 .. N - 1."""
        return self.cached(index_of_each_target, device=device)

    @property
    def T(self) -> TokenGraph:
        """The graph with every edge reversed."""
        return self if self.is_symmetric else Transposed(self)

    def relabel(self, perm: Any, source_perm: Any = None) -> TokenGraph:
        """Rename the tokens as `z[perm]` does: new token i is old token `perm[i]`.

        Args:
            perm: permutation of the targets, and of the sources where the graph is square.
            source_perm: permutation of the sources; needed for a bipartite graph.

        Raises:
            ValueError: `perm` is not a permutation of the tokens.
        """
        perm = check_permutation("perm", perm, self.num_targets)
        if source_perm is None and not self.is_square:
            raise ValueError(f"source_perm is needed to relabel the bipartite {self!r}")
        if source_perm is not None:
            source_perm = check_permutation("source_perm", source_perm, self.num_sources)
        return self._relabel(perm, perm if source_perm is None else source_perm)

    def reach(self, k: int) -> TokenGraph:
        """Return the graph of walks of at most `k` edges: the receptive field of k layers.

        A token always reaches itself, as it does through a residual connection.

        >>> from tokennet import Window
        >>> Window(9, radius=1).reach(3)
        Window(9, radius=3): 9 tokens, 51 edges, density 0.63
        """
        k = check_size("k", k)
        if not self.is_square:
            raise ValueError(f"reach needs the same number of sources and targets, got {self!r}")
        return self._reach(k)

    def last(self, count: int) -> TokenGraph:
        """Return the bipartite graph of the last `count` targets, with all the sources.

        Raises:
            ValueError: there are fewer targets, or the graph is a ragged batch.

        >>> from tokennet import Causal
        >>> Causal(4).last(2).dense().int().tolist()
        [[1, 1, 1, 0], [1, 1, 1, 1]]
        """
        count = check_size("count", count)
        if count > self.num_targets:
            raise ValueError(
                f"count must be at most the number of targets of {self!r}, got {count}"
            )
        return self if count == self.num_targets else self._last(count)

    def subgraph(self, index: Any) -> TokenGraph:
        """Return the graph on the tokens `z[..., index, :]`, with features of edges and names.

        Args:
            index: different tokens, or a boolean mask (N,) of those to keep.

        Raises:
            ValueError: `index` names a token twice or none, the graph is bipartite, or tokens
                of a ragged batch are not in the order of the sets.

        >>> from tokennet import Cycle
        >>> Cycle(5, radius=1).subgraph([0, 1, 4]).dense().int().tolist()
        [[1, 1, 1], [1, 1, 0], [1, 0, 1]]
        """
        if not self.is_square:
            raise ValueError(f"subgraph needs the same number of sources and targets, got {self!r}")
        return self._subgraph(check_subset("index", index, self.num_targets))

    def coalesce(self) -> TokenGraph:
        """Return the edges sorted by target, then source, each once; a formula as it is."""
        return self

    def contains(self, other: TokenGraph) -> bool:
        """Whether every edge of `other` is an edge of this graph.

        >>> from tokennet import Causal, Full
        >>> Full(4).contains(Causal(4)), Causal(4).contains(Full(4))
        (True, False)
        """
        check_combinable(self, other)
        return self.is_complete or missing_edges(other, self).shape[1] == 0

    def _last(self, count: int) -> TokenGraph:
        return Last(self, count)

    def _relabel(self, perm: Tensor, source_perm: Tensor) -> TokenGraph:
        return Relabeled(self, perm, source_perm)

    def _reach(self, k: int) -> TokenGraph:
        return Reach(self, k)

    def _subgraph(self, index: Tensor) -> TokenGraph:
        return Subgraph(self, index)


class _Pair(TokenGraph):
    """Two symbolic graphs of the same tokens, joined by an operator."""

    operator: str

    def __init__(self, a: TokenGraph, b: TokenGraph) -> None:
        super().__init__(a.num_targets, a.num_sources)
        self.a, self.b = a, b

    def _name(self) -> str:
        return f"{_operand(self.a)} {self.operator} {_operand(self.b)}"


class And(_Pair):
    """Intersection of two symbolic graphs; listed at the cost of the smaller one."""

    operator = "&"

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return self.a.attends(i, j) & self.b.attends(i, j)

    @property
    def band(self) -> tuple[int, int] | None:
        bands = [graph.band for graph in (self.a, self.b) if graph.band is not None]
        if not bands:
            return None
        return min(below for below, _ in bands), min(above for _, above in bands)

    @property
    def is_band(self) -> bool:
        return self.a.is_band and self.b.is_band

    @property
    def num_edges(self) -> int:
        if not (self.is_band and self.is_square):
            return super().num_edges
        n = self.num_targets
        reaches = [min(reach, max(n - 1, 0)) for reach in self.band]  # type: ignore[union-attr]
        return n + sum(reach * (2 * n - reach - 1) // 2 for reach in reaches)

    @property
    def _is_counted(self) -> bool:
        few = self.num_targets * self.num_sources <= BLOCK_ENTRIES
        return few or (self.is_band and self.is_square)

    def _build_edge_index(self) -> Tensor:
        small, large = sorted((self.a, self.b), key=lambda graph: graph.num_edges)
        source, target = edges = small.edge_index()
        return edges[:, large.attends(target, source)]


class Or(_Pair):
    """Union of two symbolic graphs; listed at the cost of both."""

    operator = "|"

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return self.a.attends(i, j) | self.b.attends(i, j)

    def _build_edge_index(self) -> Tensor:
        return sort_by_target(torch.cat([self.a.edge_index(), missing_edges(self.b, self.a)], 1))


class Not(TokenGraph):
    """Complement of a graph, self-edges included."""

    def __init__(self, graph: TokenGraph) -> None:
        super().__init__(graph.num_targets, graph.num_sources)
        self.graph = graph

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return ~self.graph.attends(i, j)

    @property
    def num_edges(self) -> int:
        pairs = self.num_targets * self.num_sources
        return super().num_edges if self.graph.has_multi_edges else pairs - self.graph.num_edges

    _is_counted = property(lambda self: self.graph._is_counted)  # type: ignore[assignment]

    def _name(self) -> str:
        return f"~{_operand(self.graph)}"


class Transposed(TokenGraph):
    """A symbolic graph with every edge reversed."""

    def __init__(self, graph: TokenGraph) -> None:
        super().__init__(graph.num_sources, graph.num_targets)
        self.graph = graph

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return self.graph.attends(j, i)

    @property
    def band(self) -> tuple[int, int] | None:
        return None if self.graph.band is None else self.graph.band[::-1]

    @property
    def is_band(self) -> bool:
        return self.graph.is_band

    @property
    def T(self) -> TokenGraph:
        return self.graph

    @property
    def num_edges(self) -> int:
        return self.graph.num_edges

    _is_counted = property(lambda self: self.graph._is_counted)  # type: ignore[assignment]

    def _build_edge_index(self) -> Tensor:
        return sort_by_target(self.graph.edge_index().flip(0))

    def _name(self) -> str:
        return f"{_operand(self.graph)}.T"


class Relabeled(TokenGraph):
    """A symbolic graph whose token i is token `perm[i]` of the original."""

    def __init__(self, graph: TokenGraph, perm: Tensor, source_perm: Tensor) -> None:
        super().__init__(graph.num_targets, graph.num_sources)
        self.graph, self.perm, self.source_perm = graph, perm, source_perm

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        perm, source_perm = self.perm.to(i.device), self.source_perm.to(j.device)
        return self.graph.attends(perm[i], source_perm[j])

    @property
    def num_edges(self) -> int:
        return self.graph.num_edges

    _is_counted = property(lambda self: self.graph._is_counted)  # type: ignore[assignment]

    def _build_edge_index(self) -> Tensor:
        source, target = self.graph.edge_index()
        edges = [torch.argsort(self.source_perm)[source], torch.argsort(self.perm)[target]]
        return sort_by_target(torch.stack(edges))

    def _name(self) -> str:
        return f"{_operand(self.graph)}.relabel(perm)"


class Subgraph(TokenGraph):
    """Some tokens of a symbolic graph: token i is token `index[i]` of the original."""

    def __init__(self, graph: TokenGraph, index: Tensor) -> None:
        super().__init__(len(index))
        self.graph, self.index = graph, index

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return self.graph.attends(self.index.to(i.device)[i], self.index.to(j.device)[j])

    def _name(self) -> str:
        return f"{_operand(self.graph)}.subgraph(index)"


class Last(TokenGraph):
    """The last targets of a graph, with all its sources."""

    def __init__(self, graph: TokenGraph, count: int) -> None:
        super().__init__(count, graph.num_sources)
        self.graph = graph

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return self.graph.attends(i + (self.graph.num_targets - self.num_targets), j)

    def _name(self) -> str:
        return f"{_operand(self.graph)}.last({self.num_targets})"


class Reach(TokenGraph):
    """Pairs joined by a walk of at most `k` edges."""

    def __init__(self, graph: TokenGraph, k: int) -> None:
        super().__init__(graph.num_targets)
        self.graph, self.k = graph, k

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return self._is_listed(i, j)

    def _build_edge_index(self) -> Tensor:
        source, target = self.graph.edge_index()
        loops, n = torch.arange(self.num_targets).expand(2, -1), self.num_targets
        step = torch.cat([torch.stack([target, source]), loops], dim=1)
        step = as_boolean(torch.sparse_coo_tensor(step, torch.ones(step.shape[1]), (n, n)))
        walk = as_boolean(torch.sparse_coo_tensor(loops, torch.ones(n), (n, n)))
        for _ in range(self.k):
            longer = as_boolean(torch.sparse.mm(step, walk))
            if longer._nnz() == walk._nnz():
                break
            walk = longer
        return walk.indices().flip(0)

    def _name(self) -> str:
        return f"{_operand(self.graph)}.reach({self.k})"


def check_combinable(a: TokenGraph, b: Any) -> None:
    check_type("what a token graph combines with", b, TokenGraph, "a token graph")
    if (a.num_targets, a.num_sources) != (b.num_targets, b.num_sources):
        raise ValueError(f"graphs to combine must have the same tokens, got {a!r} and {b!r}")


def missing_edges(graph: TokenGraph, other: TokenGraph) -> Tensor:
    """Edges of `graph` that `other` does not have."""
    edges = graph.edge_index()
    return edges[:, ~other.attends(edges[1], edges[0])]


def _operand(graph: TokenGraph) -> str:
    name = graph._name()
    return f"({name})" if isinstance(graph, _Pair) else name
