"""`Edges`: a graph given as a list of edges, the form that PyG and networkx data come in."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokennet.checks import check_items, check_type
from tokennet.graphs.algebra import TokenGraph, check_combinable


class Edges(TokenGraph):
    """A graph given as a list of edges, kept exactly as given: order, repeats, self-loops.

    For graphs that no formula describes, such as molecules or social networks.

    Args:
        edge_index: (2, E) integer, rows `[source, target]` as in PyG, a tensor or an array; or a
            list of pairs `(source, target)`.
        num_targets: number of targets.
        num_sources: number of sources; by default targets and sources are the same tokens.
        edge_attr: (E, F) features of the edges, or None; (E,) becomes (E, 1).
        edge_type: (E,) type of each edge, 0, 1, ..., such as the relations of a knowledge graph; or
            None. Read by `RelationalAggregate` and `Attention(num_edge_types=...)`.
        names: name of each token (target), kept for `to_networkx`.

    Raises:
        TypeError: `edge_index` or `edge_type` does not hold integers.
        ValueError: its shape is not (2, E), or an index is negative or too large; or two lists of
            two numbers, which may be two pairs or the two rows.

    >>> import torch
    >>> Edges(torch.tensor([[0, 1, 1], [1, 2, 2]]), 3)
    Edges(3): 3 tokens, 3 edges, density 0.333
    >>> Edges([(0, 1), (1, 2)], 3).edge_index().tolist()
    [[0, 1], [1, 2]]
    """

    is_explicit = True

    def __init__(
        self,
        edge_index: Tensor | np.ndarray | Sequence[Any],
        num_targets: int,
        num_sources: int | None = None,
        *,
        edge_attr: Tensor | np.ndarray | Sequence[Any] | None = None,
        edge_type: Tensor | np.ndarray | Sequence[int] | None = None,
        names: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(num_targets, num_sources)
        self._edge_index = _check_edge_index(edge_index, self.num_targets, self.num_sources)
        self.edge_attr = _check_edge_attr(edge_attr, self._edge_index.shape[1])
        self.edge_type = _check_edge_type(edge_type, self._edge_index.shape[1])
        self.names = None if names is None else _check_names(names, self.num_targets)

    def with_edge_attr(self, edge_attr: Tensor | None) -> Edges:
        """Return the same edges, types and names with these features, (E, F), or with none."""
        return self._with(edge_attr=edge_attr)

    def with_edge_type(self, edge_type: Tensor | Sequence[int] | None) -> Edges:
        """Return the same edges, features and names with these types, (E,), or with none.

        >>> knows, likes = Edges([(0, 1)], 3), Edges([(2, 1), (1, 0)], 3)
        >>> both = knows.with_edge_type([0]) | likes.with_edge_type([1, 1])
        >>> both.edge_type, both.num_edge_types
        (tensor([0, 1, 1]), 2)
        """
        return self._with(edge_type=edge_type)

    def _with(self, **given: Any) -> Edges:
        fields = {**self.fields(), **given}
        return Edges(*self._resized(self.edge_index()), **fields, names=self.names)

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return self._is_listed(i, j)

    @property
    def has_multi_edges(self) -> bool:
        return self.cached(type(self)._find_multi_edges)

    def _build_edge_index(self) -> Tensor:
        return self._edge_index

    def _build_dense(self) -> Tensor:
        source, target = self.edge_index().cpu()
        dense = torch.zeros(self.num_targets, self.num_sources, dtype=torch.bool)
        dense[target, source] = True
        return dense

    def _find_multi_edges(self) -> bool:
        return bool((self._build_keys().diff() == 0).any())

    def __and__(self, other: TokenGraph) -> Edges:
        check_combinable(self, other)
        source, target = edges = self.edge_index()
        keep = other.attends(target, source)
        edges, fields = edges[:, keep], self.fields(keep)
        for name, theirs in other.fields().items():
            if fields[name] is None and theirs is not None:
                fields[name] = theirs[_find_edges(other, edges, name)]
        return Edges(*self._resized(edges), **fields, names=self._names_with(other))

    def __or__(self, other: TokenGraph) -> Edges:
        check_combinable(self, other)
        source, target = theirs = other.edge_index()
        new = ~self.attends(target, source)
        edges = torch.cat([self.edge_index(), theirs[:, new]], dim=1)
        fields: dict[str, Any] = dict(self.fields())
        for name in fields:
            fields[name] = _join_field(name, self, other, new)
        return Edges(*self._resized(edges), **fields, names=self._names_with(other))

    def _names_with(self, other: TokenGraph) -> Sequence[Any] | None:
        return other.names if self.names is None else self.names

    __rand__ = __and__
    __ror__ = __or__

    @property
    def T(self) -> Edges:
        names = self.names if self.is_square else None
        edges = self.edge_index().flip(0)
        return Edges(edges, self.num_sources, self.num_targets, **self.fields(), names=names)

    def _last(self, count: int) -> TokenGraph:
        source, target = self.edge_index()
        first = self.num_targets - count
        keep = target >= first
        names = None if self.names is None else self.names[first:]
        edges = torch.stack([source[keep], target[keep] - first])
        return Edges(edges, count, self.num_sources, **self.fields(keep), names=names)

    def _relabel(self, perm: Tensor, source_perm: Tensor) -> TokenGraph:
        source, target = self.edge_index()
        edges = torch.stack([torch.argsort(source_perm)[source], torch.argsort(perm)[target]])
        names = None if self.names is None else [self.names[old] for old in perm.tolist()]
        return Edges(*self._resized(edges), **self.fields(), names=names)

    def _subgraph(self, index: Tensor) -> TokenGraph:
        new = torch.full((self.num_targets,), -1)
        new[index] = torch.arange(len(index))
        edges = new[self.edge_index()]
        keep = (edges >= 0).all(0)
        names = None if self.names is None else [self.names[old] for old in index.tolist()]
        return Edges(edges[:, keep], len(index), **self.fields(keep), names=names)

    def coalesce(self) -> Edges:
        """Return the edges sorted by target, then source, each once.

        Raises:
            ValueError: there are parallel edges with features or types: which to keep is not known.

        >>> Edges([(2, 0), (1, 0), (2, 0)], 3).coalesce().edge_index().tolist()
        [[1, 2], [0, 0]]
        """
        for field, rows in self.fields().items():
            if rows is not None and self.has_multi_edges:
                raise ValueError(
                    f"{field} of parallel edges cannot be joined; call .with_{field}(None) first"
                )
        source, target = self.edge_index()
        keys, order = (target * self.num_sources + source).sort(stable=True)
        first = torch.ones(len(keys), dtype=torch.bool)
        first[1:] = keys.diff() > 0
        kept = order[first]
        edges = torch.stack([source[kept], target[kept]])
        return Edges(*self._resized(edges), **self.fields(kept), names=self.names)

    def _resized(self, edge_index: Tensor) -> tuple[Tensor, int, int]:
        return edge_index, self.num_targets, self.num_sources


def _check_edge_index(given: Any, num_targets: int, num_sources: int) -> Tensor:
    """Return `edge_index` as int64 on the CPU if it names existing tokens, or raise."""
    edge_index = given if isinstance(given, Tensor) else _as_edge_index(given)
    if edge_index.is_floating_point() or edge_index.is_complex() or edge_index.dtype == torch.bool:
        raise TypeError(f"edge_index must hold integers, got {edge_index.dtype}")
    edge_index = edge_index.long()
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise ValueError(f"edge_index must have shape (2, E), got {tuple(edge_index.shape)}")
    edge_index = edge_index.long()
    for row, size, what in ((0, num_sources, "sources"), (1, num_targets, "targets")):
        if edge_index.shape[1] == 0:
            break
        low, high = (int(end) for end in edge_index[row].aminmax())
        if low < 0 or high >= size:
            raise ValueError(
                f"edge_index[{row}] must name one of {size} {what}, 0 to {size - 1}; "
                f"got {low if low < 0 else high}"
            )
    with torch.inference_mode(False):
        # A copy: what the caller does to the tensor later must not reach the graph.
        return edge_index.detach().to("cpu", torch.long, copy=True)


def _as_edge_index(given: Any) -> Tensor:
    """(2, E) of an array, of a list of pairs, or of two lists."""
    check_type("edge_index", given, np.ndarray | Sequence, "a tensor, an array or a list of pairs")
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "iu":
            raise TypeError(f"edge_index must hold integers, got {given.dtype}")
        return torch.from_numpy(given.astype(np.int64))
    if not len(given):
        return torch.zeros(2, 0, dtype=torch.long)
    pairs = all(isinstance(item, Sequence | np.ndarray) and len(item) == 2 for item in given)
    if pairs and len(given) == 2 and not all(isinstance(item, tuple) for item in given):
        raise ValueError(
            f"edge_index {given} may be two pairs or two rows: pass tuples (source, target) or a "
            "tensor of rows [source, target]"
        )
    found = _copied("edge_index", given)
    return found.T if pairs else found


def _check_names(names: Any, num_targets: int) -> tuple[Any, ...]:
    if hasattr(names, "tolist"):  # tensors and arrays hold numbers, and each is another object
        names = names.tolist()
    given = list(names) if isinstance(names, str) else names
    names = check_items("names", given, Hashable, "names")
    if len(set(names)) != num_targets:
        raise ValueError(f"names must be {num_targets} different names, got {len(set(names))}")
    return names


def _check_edge_attr(given: Any, num_edges: int) -> Tensor | None:
    if given is None:
        return None
    edge_attr = _tensor_of("edge_attr", given)
    if edge_attr.dim() not in (1, 2) or len(edge_attr) != num_edges:
        raise ValueError(
            f"edge_attr must have one row for each of {num_edges} edges, "
            f"got shape {tuple(edge_attr.shape)}"
        )
    return edge_attr[:, None] if edge_attr.dim() == 1 else edge_attr


def _check_edge_type(given: Any, num_edges: int) -> Tensor | None:
    """Return `edge_type` as int64 on the CPU, a copy, or raise."""
    if given is None:
        return None
    types = _tensor_of("edge_type", given)
    if types.numel() == 0:
        types = types.long()
    if types.is_floating_point() or types.is_complex() or types.dtype == torch.bool:
        raise TypeError(f"edge_type must hold integers, got {types.dtype}")
    if types.shape != (num_edges,):
        raise ValueError(
            f"edge_type must have one number for each of {num_edges} edges, "
            f"got shape {tuple(types.shape)}"
        )
    types = types.long()  # of which all types of integers have a minimum
    if num_edges and int(types.min()) < 0:
        raise ValueError(f"edge_type must hold 0, 1, ..., got {int(types.min())}")
    with torch.inference_mode(False):
        return types.detach().to("cpu", copy=True)


def _find_edges(graph: TokenGraph, edges: Tensor, field: str) -> Tensor:
    """(E,) the index in `graph` of each of these edges, which it has, to read `field` there."""
    if graph.has_multi_edges:
        raise ValueError(
            f"{field} of the right operand is not read from parallel edges, since one edge would "
            f"have several; call .with_{field}(None) on it first"
        )
    source, target = graph.edge_index()
    keys, order = (target * graph.num_sources + source).sort()
    return order[torch.searchsorted(keys, edges[1] * graph.num_sources + edges[0])]


def _join_field(name: str, left: Edges, right: TokenGraph, new: Tensor) -> Tensor | None:
    """Features or types of a union: of the left graph's edges, then of those `new` in the right."""
    mine, theirs = left.fields()[name], right.fields()[name]
    if mine is None and theirs is None:
        return None
    source, target = edges = left.edge_index()
    only_left = 0 if mine is not None else int((~right.attends(target, source)).sum())
    only_right = 0 if theirs is not None else int(new.sum())
    if only_left or only_right:
        added = "that | adds" if only_right else "of the left operand alone"
        raise ValueError(
            f"{name} has no rows for the {only_left or only_right} edges {added}; "
            f"combine .with_{name}(None) first, then call .with_{name}(...) on the result"
        )
    if mine is None:
        mine = theirs[_find_edges(right, edges, name)]
    if theirs is None or not bool(new.any()):
        return mine
    if (mine.shape[1:], mine.dtype) != (theirs.shape[1:], theirs.dtype):
        raise ValueError(
            f"{name} of both operands must have the same columns and dtype, since | adds edges of "
            f"the right one; got {tuple(mine.shape)} in {mine.dtype} and {tuple(theirs.shape)} in "
            f"{theirs.dtype}"
        )
    return torch.cat([mine, theirs[new]])


def _tensor_of(name: str, given: Any) -> Tensor:
    kinds = Tensor | np.ndarray | list | tuple
    check_type(name, given, kinds, "a tensor, an array or a list")
    return given if isinstance(given, Tensor) else _copied(name, given)


def _copied(name: str, given: Any) -> Tensor:
    try:
        # Of arrays in a list `torch.tensor` warns that it is slow.
        of_arrays = any(isinstance(item, np.ndarray) for item in given)
        return torch.tensor(np.stack(given) if of_arrays else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must hold numbers, in rows of one length: {error}") from None


def repeat(graph: TokenGraph, count: int) -> Edges:
    """Return `count` copies side by side, copy by copy in the order of the edges.

    A batch that shares a graph is folded with it into one set in every call, so the last few
    results are kept with the graph. Types of edges are repeated, their features are not.

    >>> from tokennet import Causal
    >>> repeat(Causal(2), 2).edge_index().tolist()
    [[0, 0, 1, 2, 2, 3], [0, 1, 1, 2, 3, 3]]
    """
    return graph.cached(_repeat, count)


def _repeat(graph: TokenGraph, count: int) -> Edges:
    n, m = graph.num_targets, graph.num_sources
    first = torch.arange(count)[None, :, None] * torch.tensor([m, n])[:, None, None]
    edges = graph.edge_index()[:, None, :] + first  # (2, count, E)
    types = None if graph.edge_type is None else graph.edge_type.repeat(count)
    return Edges(edges.flatten(1), count * n, count * m, edge_type=types)


_repeat.most_kept = 4  # type: ignore[attr-defined]
