"""`TokenGraph`: graphs that combine. `Edges`: the list that every combination can become."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokennet.graphs.base import EdgePredicate, check_size


class TokenGraph(EdgePredicate):
    r"""A directed graph from sources j to targets i that can be combined with others.

    `a & b`, `a | b` and `~a` are intersection, union and complement of the edge sets.
    Where an operand is a list of edges, the result is one too and keeps that order
    (the left operand's, if both are): edges are filtered in place, new ones come last.

    >>> from tokennet import Causal, Window
    >>> Causal(6) & Window(6, radius=2)
    Causal(6) & Window(6, radius=2): 6 tokens, 15 edges, density 0.417
    """

    def __and__(self, other: TokenGraph) -> TokenGraph:
        _check_combinable(self, other)
        return NotImplemented if other.is_explicit else And(self, other)

    def __or__(self, other: TokenGraph) -> TokenGraph:
        _check_combinable(self, other)
        return NotImplemented if other.is_explicit else Or(self, other)

    def __invert__(self) -> TokenGraph:
        return Not(self)

    @property
    def T(self) -> TokenGraph:
        """The graph with every edge turned round."""
        return Transposed(self)

    def relabel(self, perm: Any, source_perm: Any = None) -> TokenGraph:
        """Rename the tokens as `z[perm]` does: new token i is old token `perm[i]`.

        Args:
            perm: permutation of the targets, and of the sources where the graph is square.
            source_perm: permutation of the sources; needed for a bipartite graph.

        Raises:
            ValueError: `perm` is not a permutation of the tokens.
        """
        perm, source_perm = _check_relabelling(self, perm, source_perm)
        return self._relabel(perm, source_perm)

    def reach(self, k: int) -> TokenGraph:
        """Return the graph of walks of at most `k` edges: the receptive field of k layers.

        A token always reaches itself, as it does through a residual connection.

        >>> from tokennet import Window
        >>> Window(9, radius=1).reach(3)
        Window(9, radius=3): 9 tokens, 51 edges, density 0.63
        """
        check_size("k", k)
        if not self.is_square:
            raise ValueError(f"reach needs as many sources as targets, got {self!r}")
        return self._reach(k)

    def repeat(self, count: int) -> Edges:
        """Return `count` copies side by side, copy by copy in the order of the edges.

        It is kept with the graph: a batch that shares a graph is folded with it into
        one set, at every call. Edge features are not repeated.
        """
        check_size("count", count)
        return self.derive(f"repeated {count} times", None, partial(_repeat, count))

    def _relabel(self, perm: Tensor, source_perm: Tensor) -> TokenGraph:
        return Relabelled(self, perm, source_perm)

    def _reach(self, k: int) -> TokenGraph:
        n = self.num_targets
        source, target = self.edge_index().cpu()
        loops = torch.arange(n).expand(2, n)
        step = torch.cat([torch.stack([target, source]), loops], dim=1)
        step = _boolean(torch.sparse_coo_tensor(step, torch.ones(step.shape[1]), (n, n)))
        walk = _boolean(torch.sparse_coo_tensor(loops, torch.ones(n), (n, n)))
        for _ in range(k):
            longer = _boolean(torch.sparse.mm(step, walk))
            if longer._nnz() == walk._nnz():
                break
            walk = longer
        return Edges(walk.indices().flip(0), n)


def _repeat(count: int, graph: TokenGraph) -> Edges:
    sizes = torch.tensor([graph.num_sources, graph.num_targets])
    offset = torch.arange(count)[None, :, None] * sizes[:, None, None]  # (2, count, 1)
    edges = (graph.edge_index()[:, None, :] + offset).flatten(1)  # (2, count E)
    return Edges(edges, count * graph.num_targets, count * graph.num_sources)


def _boolean(matrix: Tensor) -> Tensor:
    matrix = matrix.coalesce()
    ones = torch.ones_like(matrix.values())
    return torch.sparse_coo_tensor(
        matrix.indices(), ones, matrix.shape, is_coalesced=True, check_invariants=False
    )


class And(TokenGraph):
    """Intersection of two symbolic graphs; listed at the cost of the smaller one."""

    def __init__(self, a: TokenGraph, b: TokenGraph) -> None:
        super().__init__(a.num_targets, a.num_sources)
        self.a, self.b = a, b

    def has_edge(self, i: Tensor, j: Tensor) -> Tensor:
        return self.a.has_edge(i, j) & self.b.has_edge(i, j)

    def _build_edge_index(self) -> Tensor:
        small, large = sorted((self.a, self.b), key=lambda graph: graph.num_edges)
        source, target = edges = small.edge_index()
        return edges[:, large.has_edge(target, source)]

    def _name(self) -> str:
        return f"{_operand(self.a)} & {_operand(self.b)}"


class Or(TokenGraph):
    """Union of two symbolic graphs; listed at the cost of both."""

    def __init__(self, a: TokenGraph, b: TokenGraph) -> None:
        super().__init__(a.num_targets, a.num_sources)
        self.a, self.b = a, b

    def has_edge(self, i: Tensor, j: Tensor) -> Tensor:
        return self.a.has_edge(i, j) | self.b.has_edge(i, j)

    def _build_edge_index(self) -> Tensor:
        return _sort_by_target(torch.cat([self.a.edge_index(), _missing(self.b, self.a)], dim=1))

    def _name(self) -> str:
        return f"{_operand(self.a)} | {_operand(self.b)}"


class Not(TokenGraph):
    """Complement of a graph, self-edges included."""

    def __init__(self, graph: TokenGraph) -> None:
        super().__init__(graph.num_targets, graph.num_sources)
        self.graph = graph

    def has_edge(self, i: Tensor, j: Tensor) -> Tensor:
        return ~self.graph.has_edge(i, j)

    @property
    def num_edges(self) -> int:
        if self.graph.has_multi_edges:
            return super().num_edges
        return self.num_targets * self.num_sources - self.graph.num_edges

    def _name(self) -> str:
        return f"~{_operand(self.graph)}"


class Transposed(TokenGraph):
    """A symbolic graph with every edge turned round."""

    def __init__(self, graph: TokenGraph) -> None:
        super().__init__(graph.num_sources, graph.num_targets)
        self.graph = graph

    def has_edge(self, i: Tensor, j: Tensor) -> Tensor:
        return self.graph.has_edge(j, i)

    @property
    def T(self) -> TokenGraph:
        return self.graph

    @property
    def num_edges(self) -> int:
        return self.graph.num_edges

    def _build_edge_index(self) -> Tensor:
        return _sort_by_target(self.graph.edge_index().flip(0))

    def _name(self) -> str:
        return f"{_operand(self.graph)}.T"


class Relabelled(TokenGraph):
    """A symbolic graph whose token i is token `perm[i]` of the original."""

    def __init__(self, graph: TokenGraph, perm: Tensor, source_perm: Tensor) -> None:
        super().__init__(graph.num_targets, graph.num_sources)
        self.graph, self.perm, self.source_perm = graph, perm, source_perm

    def has_edge(self, i: Tensor, j: Tensor) -> Tensor:
        perm, source_perm = self.perm.to(i.device), self.source_perm.to(j.device)
        return self.graph.has_edge(perm[i], source_perm[j])

    @property
    def num_edges(self) -> int:
        return self.graph.num_edges

    def _build_edge_index(self) -> Tensor:
        source, target = self.graph.edge_index()
        renamed = [torch.argsort(self.source_perm)[source], torch.argsort(self.perm)[target]]
        return _sort_by_target(torch.stack(renamed))

    def _name(self) -> str:
        return f"{_operand(self.graph)}.relabel(perm)"


class Edges(TokenGraph):
    """A graph given as a list of edges, kept exactly as given: order, repeats, self-loops.

    Args:
        edge_index: (2, E) integer, rows `[source, target]` as in PyG.
        num_targets: number of tokens that listen.
        num_sources: number of tokens listened to; by default the same set.
        edge_attr: (E, F) features of the edges, or None.
        names: name of each token (target), kept for `to_networkx`.

    Raises:
        TypeError: `edge_index` is not an integer tensor.
        ValueError: its shape is not (2, E), or an index is negative or too large.

    >>> import torch
    >>> Edges(torch.tensor([[0, 1, 1], [1, 2, 2]]), 3)
    Edges(3): 3 tokens, 3 edges, density 0.333
    """

    is_explicit = True

    def __init__(
        self,
        edge_index: Tensor,
        num_targets: int,
        num_sources: int | None = None,
        *,
        edge_attr: Tensor | None = None,
        names: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(num_targets, num_sources)
        self._edge_index = _check_edge_index(edge_index, self.num_targets, self.num_sources)
        if edge_attr is not None and edge_attr.shape[:1] != edge_index.shape[1:]:
            raise ValueError(
                f"edge_attr must have one row for each of {edge_index.shape[1]} edges, "
                f"got shape {tuple(edge_attr.shape)}"
            )
        if names is not None and len(names) != num_targets:
            raise ValueError(f"names must name {num_targets} tokens, got {len(names)}")
        self.edge_attr = edge_attr
        self.names = None if names is None else tuple(names)

    def has_edge(self, i: Tensor, j: Tensor) -> Tensor:
        keys = self.derive("sorted_keys", i.device, type(self)._build_sorted_keys)
        key = i * self.num_sources + j
        if keys.numel() == 0:
            return torch.zeros_like(key, dtype=torch.bool)
        place = torch.searchsorted(keys, key).clamp(max=keys.numel() - 1)
        return keys[place] == key

    @property
    def has_multi_edges(self) -> bool:
        return self.derive("has_multi_edges", None, type(self)._find_multi_edges)

    def _build_edge_index(self) -> Tensor:
        return self._edge_index

    def _build_sorted_keys(self) -> Tensor:
        source, target = self.edge_index().cpu()
        return (target * self.num_sources + source).sort().values

    def _build_dense(self) -> Tensor:
        source, target = self.edge_index().cpu()
        dense = torch.zeros(self.num_targets, self.num_sources, dtype=torch.bool)
        dense[target, source] = True
        return dense

    def _find_multi_edges(self) -> bool:
        return bool((self._build_sorted_keys().diff() == 0).any())

    def __and__(self, other: TokenGraph) -> Edges:
        _check_combinable(self, other)
        source, target = edges = self.edge_index()
        keep = other.has_edge(target, source)
        attr = None if self.edge_attr is None else self.edge_attr[keep]
        return Edges(*self._resized(edges[:, keep]), edge_attr=attr, names=self.names)

    def __or__(self, other: TokenGraph) -> Edges:
        _check_combinable(self, other)
        new = _missing(other, self)
        if self.edge_attr is not None and new.shape[1]:
            raise ValueError(
                f"edge_attr has no rows for the {new.shape[1]} edges that | adds; "
                "combine first and give edge_attr to the result"
            )
        edges = torch.cat([self.edge_index(), new], dim=1)
        return Edges(*self._resized(edges), edge_attr=self.edge_attr, names=self.names)

    __rand__ = __and__
    __ror__ = __or__

    @property
    def T(self) -> Edges:
        names = self.names if self.is_square else None
        edges = self.edge_index().flip(0)
        return Edges(
            edges, self.num_sources, self.num_targets, edge_attr=self.edge_attr, names=names
        )

    def _relabel(self, perm: Tensor, source_perm: Tensor) -> TokenGraph:
        source, target = self.edge_index()
        edges = torch.stack([torch.argsort(source_perm)[source], torch.argsort(perm)[target]])
        names = None if self.names is None else [self.names[old] for old in perm.tolist()]
        return Edges(*self._resized(edges), edge_attr=self.edge_attr, names=names)

    def _resized(self, edge_index: Tensor) -> tuple[Tensor, int, int]:
        return edge_index, self.num_targets, self.num_sources

    def _name(self) -> str:
        size = "" if self.is_square else f", {self.num_sources}"
        return f"{type(self).__name__}({self.num_targets}{size})"


def _check_edge_index(edge_index: Any, num_targets: int, num_sources: int) -> Tensor:
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"edge_index must be a tensor, got {type(edge_index).__name__}")
    if edge_index.is_floating_point() or edge_index.dtype in (torch.bool, torch.complex64):
        raise TypeError(f"edge_index must hold integers, got {edge_index.dtype}")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise ValueError(f"edge_index must have shape (2, E), got {tuple(edge_index.shape)}")
    for row, size, what in ((0, num_sources, "sources"), (1, num_targets, "targets")):
        if edge_index.shape[1] == 0:
            continue
        low, high = (int(end) for end in edge_index[row].aminmax())
        if low < 0 or high >= size:
            raise ValueError(
                f"edge_index[{row}] must name one of {size} {what}, 0 to {size - 1}; "
                f"got {low if low < 0 else high}"
            )
    return edge_index.to("cpu", torch.long)


def check_permutation(name: str, perm: Any, size: int) -> Tensor:
    """Return `perm` as an int64 tensor if it is a permutation of 0 .. size - 1, or raise."""
    perm = torch.as_tensor(perm, device="cpu")
    if perm.numel() == 0:
        perm = perm.long()
    integral = not perm.is_floating_point() and perm.dtype != torch.bool
    if (
        not integral
        or perm.shape != (size,)
        or not torch.equal(perm.sort().values, torch.arange(size))
    ):
        raise ValueError(f"{name} must be a permutation of 0 .. {size - 1}, got {perm.tolist()}")
    return perm.long()


def _check_relabelling(graph: TokenGraph, perm: Any, source_perm: Any) -> tuple[Tensor, Tensor]:
    perm = check_permutation("perm", perm, graph.num_targets)
    if source_perm is None:
        if not graph.is_square:
            raise ValueError(f"source_perm is needed to relabel the bipartite {graph!r}")
        return perm, perm
    return perm, check_permutation("source_perm", source_perm, graph.num_sources)


def _check_combinable(a: TokenGraph, b: Any) -> None:
    if not isinstance(b, TokenGraph):
        raise TypeError(f"a token graph combines with a token graph, got {type(b).__name__}")
    if (a.num_targets, a.num_sources) != (b.num_targets, b.num_sources):
        raise ValueError(f"graphs to combine must have the same tokens, got {a!r} and {b!r}")


def _missing(graph: TokenGraph, other: TokenGraph) -> Tensor:
    """Edges of `graph` that `other` does not have."""
    source, target = edges = graph.edge_index()
    return edges[:, ~other.has_edge(target, source)]


def _sort_by_target(edge_index: Tensor) -> Tensor:
    source, target = edge_index
    order = source.argsort(stable=True)
    return edge_index[:, order[target[order].argsort(stable=True)]]


def _operand(graph: TokenGraph) -> str:
    name = graph._name()
    return f"({name})" if isinstance(graph, And | Or) else name
