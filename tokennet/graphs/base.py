"""`EdgePredicate`: one predicate, and everything that can be derived from it."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokennet.checks import check_size
from tokennet.graphs.cache import Cached, SetByInit

DENSE_LIMIT = 2**28
"""Largest N x M, in entries, that `dense` builds: 16,384 x 16,384, or 256 MB of bools."""

BLOCK_ENTRIES = 2**22
"""Pairs that a predicate is evaluated on at once."""


class CSR(NamedTuple):
    """Edges grouped by target: those of target i are `indptr[i]:indptr[i + 1]`.

    >>> from tokennet import Causal
    >>> csr = Causal(3).csr()
    >>> csr.indptr.tolist(), csr.indices.tolist()
    ([0, 1, 3, 6], [0, 0, 1, 0, 1, 2])
    """

    indptr: Tensor
    """(num_targets + 1,) int32 where it fits, else int64."""
    indices: Tensor
    """(E,) source of each edge, of the same type as `indptr`."""
    edge_id: Tensor
    """(E,) int64 index of each edge in `edge_index`."""


class EdgePredicate(Cached, ABC):
    """A set of directed edges j -> i, "target i attends to source j", given by a predicate.

    A subclass defines `attends`; the other methods follow from it and are overridden
    only to be cheaper. Instances are immutable: what is derived is built once per
    device, kept with the graph and freed with it.
    """

    num_targets: int = SetByInit()  # type: ignore[assignment]
    num_sources: int = SetByInit()  # type: ignore[assignment]
    is_explicit = False
    """Whether the edges are a list, whose order is kept."""
    edge_attr: Tensor | None = None
    """(E, F) features of the edges, or None."""
    edge_type: Tensor | None = None
    """(E,) int64 type of each edge, 0 .. `num_edge_types` - 1, or None."""
    names: Sequence[Any] | None = None
    """Names of the tokens, or None."""
    is_ragged = False
    """Whether this is a ragged batch: several sets side by side, in `parts`."""
    from_multigraph = False
    """Whether it was made of a networkx graph that may have parallel edges."""

    # What a formula says of itself, without listing an edge.
    is_full = False
    """Whether the graph is complete by its formula; see `is_complete` for lists of edges."""
    is_causal = False
    """Whether target i attends to sources 0 .. i by its formula, and to no others."""
    is_symmetric = False
    """Whether, by its formula, i attends to j wherever j attends to i: the graph is its own `T`."""
    grid_shape: tuple[int, ...] | None = None
    """Sizes of the grid whose points the tokens are, in row-major order; None for other graphs."""
    radius: int | None = None
    """Reach of a window, a cycle or a grid, in steps along an axis; None for other graphs."""
    periodic = False
    """Whether a grid, or a line with offsets, continues at its other end."""
    neighborhood: str | None = None
    """`"box"` or `"cross"` for a grid; None for other graphs."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "attends" in vars(cls):
            cls.attends = _of_integers_too(cls.attends)  # type: ignore[method-assign]

    def __init__(self, num_targets: int, num_sources: int | None = None) -> None:
        super().__init__()
        self.num_targets = check_size("num_targets", num_targets)
        sources = num_targets if num_sources is None else num_sources
        self.num_sources = check_size("num_sources", sources)

    @abstractmethod
    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        """Whether target i attends to source j: elementwise over broadcast integer tensors.

        Pure torch and vmap-able, so that it serves as a FlexAttention `mask_mod`. Asked about
        ints, it returns a tensor of one bool. Indices in tensors are not checked.

        Raises:
            IndexError: an index that is an int names no token.
        """

    def __eq__(self, other: object) -> bool:
        """Whether both have the same edges in the same order, with the same features and names.

        How they are written does not matter: `Causal(4)` equals the `Edges` that list it. To
        compare without regard to order and repeats, compare `coalesce()` of both.
        """
        if self is other:
            return True
        if not isinstance(other, EdgePredicate):
            return NotImplemented
        return (
            self.is_ragged == other.is_ragged
            and (self.num_targets, self.num_sources) == (other.num_targets, other.num_sources)
            and self.names == other.names
            and same_features(self.edge_attr, other.edge_attr)
            and same_features(self.edge_type, other.edge_type)
            and self._has_edges_of(other)
        )

    def __hash__(self) -> int:
        return hash((self.num_targets, self.num_sources))  # no edge is listed for it

    def _has_edges_of(self, other: EdgePredicate) -> bool:
        """Whether the lists of edges are the same, of graphs of the same size."""
        if type(self) is type(other) and not self.is_explicit and _same_arguments(self, other):
            return True
        if self.num_edges != other.num_edges:
            return False
        if not (self.is_explicit or other.is_explicit) and self.is_complete and other.is_complete:
            return True
        return torch.equal(self.edge_index(), other.edge_index())

    def neighbors(self, i: int) -> Tensor:
        """Return the sources that target i attends to, in the order of `edge_index`.

        Parallel edges are repeated.

        Raises:
            IndexError: there is no target i.

        >>> from tokennet import Window
        >>> Window(6, radius=1).neighbors(2)
        tensor([1, 2, 3])
        """
        i = operator.index(i)
        if not 0 <= i < self.num_targets:
            raise IndexError(f"i must be one of {self.num_targets} targets, got {i}")
        if not self.is_explicit:
            return self.attends(torch.tensor([i]), torch.arange(self.num_sources)).nonzero()[:, 0]
        indptr, indices, _ = self.csr()
        return indices[indptr[i] : indptr[i + 1]].long()

    @property
    def band(self) -> tuple[int, int] | None:
        """(below, above): by its formula, target i attends to i - below .. i + above at most.

        None where the formula does not say so.
        """
        return None

    @property
    def is_band(self) -> bool:
        """Whether, by its formula, all pairs within `band` are edges."""
        return False

    @property
    def attends_later(self) -> bool:
        """Whether some target attends to a source of a higher index, or may by its `band`."""
        return self.cached(type(self)._find_later_sources)

    @property
    def is_square(self) -> bool:
        return self.num_targets == self.num_sources

    @property
    def has_multi_edges(self) -> bool:
        return False

    @property
    def is_complete(self) -> bool:
        """Whether every target attends to every source, by exactly one edge."""
        return self.num_edges == self.num_targets * self.num_sources and not self.has_multi_edges

    @property
    def has_empty_targets(self) -> bool:
        """Whether some target attends to no source."""
        return self.cached(type(self)._find_empty_targets)

    @property
    def num_edges(self) -> int:
        return self.edge_index().shape[1]

    @property
    def num_edge_types(self) -> int:
        """One more than the largest of `edge_type`, as in PyG; 1 where edges have no types."""
        return 1 if self.edge_type is None else self.cached(type(self)._count_edge_types)

    @property
    def density(self) -> float:
        """Edges over targets times sources; 0 where there are no pairs at all."""
        pairs = self.num_targets * self.num_sources
        return self.num_edges / pairs if pairs else 0.0

    def edge_index(self, device: torch.device | str | None = None) -> Tensor:
        """Return (2, E) int64, rows `[source, target]` as in PyG; not to be written to.

        An explicit graph returns the caller's edges in the caller's order; a symbolic
        one sorts by target, then source.
        """
        return self.cached(type(self)._build_edge_index, device=device)

    def dense(self, device: torch.device | str | None = None) -> Tensor:
        """Return (N, M) bool, True where target i (row) attends to source j (column).

        This is the boolean `attn_mask` of `scaled_dot_product_attention`.

        Raises:
            ValueError: the matrix would have more than `DENSE_LIMIT` entries.
        """
        entries = self.num_targets * self.num_sources
        if entries > DENSE_LIMIT:
            raise ValueError(
                f"a dense {self.num_targets} x {self.num_sources} mask has {entries:,} entries, "
                f"more than the limit of {DENSE_LIMIT:,}; use edge_index or csr"
            )
        return self.cached(type(self)._build_dense, device=device)

    def csr(self, device: torch.device | str | None = None) -> CSR:
        """Return the edges grouped by target, with the permutation back to `edge_index`."""
        return self.cached(type(self)._build_csr, device=device)

    def fields(self, edges: Tensor | None = None) -> dict[str, Any]:
        """Features and types of some of the edges, or of all: arguments of `Edges` by name."""
        given = {"edge_attr": self.edge_attr, "edge_type": self.edge_type}
        if edges is None:
            return given
        return {name: None if rows is None else rows[edges] for name, rows in given.items()}

    def _row_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (rows, mask of these rows), so that N x M integers never exist at once."""
        j = torch.arange(self.num_sources)
        step = max(1, BLOCK_ENTRIES // max(1, self.num_sources))
        for start in range(0, self.num_targets, step):
            i = torch.arange(start, min(start + step, self.num_targets))
            mask = self._call_attends(i[:, None], j[None, :])
            yield i, as_mask(mask, i[:, None], j[None, :])  # (block, M)

    def _call_attends(self, i: Tensor, j: Tensor) -> Any:
        try:
            return self.attends(i, j)
        except RuntimeError as error:
            raise ValueError(
                f"attends of {type(self).__name__} must take (target, source) and be elementwise, "
                f"with & and | for `and` and `or`: {error}"
            ) from error

    def _build_edge_index(self) -> Tensor:
        edges = [torch.zeros(2, 0, dtype=torch.long)]
        for i, mask in self._row_blocks():
            row, source = mask.nonzero(as_tuple=True)
            edges.append(torch.stack([source, i[row]]))
        return torch.cat(edges, dim=1)

    def _build_dense(self) -> Tensor:
        rows = [torch.zeros(0, self.num_sources, dtype=torch.bool)]
        return torch.cat(rows + [mask for _, mask in self._row_blocks()])

    def _build_csr(self) -> CSR:
        source, target = self.edge_index().cpu()
        target, edge_id = target.sort(stable=True)
        count = torch.bincount(target, minlength=self.num_targets)
        indptr = torch.zeros(self.num_targets + 1, dtype=torch.long)
        indptr[1:] = count.cumsum(0)
        small = max(source.numel(), self.num_sources) < 2**31
        dtype = torch.int32 if small else torch.int64
        return CSR(indptr.to(dtype), source[edge_id].to(dtype), edge_id)

    def _build_keys(self) -> Tensor:
        """target * M + source of every edge, in ascending order."""
        source, target = self.edge_index().cpu()
        return (target * self.num_sources + source).sort().values

    def _is_listed(self, i: Tensor, j: Tensor) -> Tensor:
        """Whether (i, j) is in the list of edges, by binary search; `attends` of a list."""
        keys = self.cached(EdgePredicate._build_keys, device=i.device)
        key = i * self.num_sources + j
        if keys.numel() == 0:
            return torch.zeros_like(key, dtype=torch.bool)
        return keys[torch.searchsorted(keys, key).clamp(max=keys.numel() - 1)] == key

    def _count_edge_types(self) -> int:
        assert self.edge_type is not None
        return int(self.edge_type.max()) + 1 if self.edge_type.numel() else 0

    def _find_empty_targets(self) -> bool:
        return bool((self.csr().indptr.diff() == 0).any())

    def _find_later_sources(self) -> bool:
        if self.band is not None:
            return self.band[1] > 0
        if self.is_explicit:
            source, target = self.edge_index()
            return bool((source > target).any())
        return any(bool(mask.triu(int(i[0]) + 1).any()) for i, mask in self._row_blocks())

    def _name(self) -> str:
        """How the graph was written, for `repr`."""
        return f"{type(self).__name__}({self._size()})"

    def _size(self) -> str:
        sources = "" if self.is_square else f", {self.num_sources}"
        return f"{self.num_targets}{sources}"

    @property
    def _is_counted(self) -> bool:
        """Whether the number of edges is known without asking about millions of pairs."""
        by_formula = type(self).num_edges is not EdgePredicate.num_edges
        small = self.num_targets * self.num_sources <= BLOCK_ENTRIES
        return by_formula or small or self.is_explicit

    def _count(self) -> str:
        if not self._is_counted:
            return "edges not counted"
        return f"{self.num_edges:,} edges, density {self.density:.3g}"

    def __repr__(self) -> str:
        size = f"{self.num_targets:,} tokens"
        if not self.is_square:
            size = f"{self.num_targets:,} targets, {self.num_sources:,} sources"
        return f"{self._name()}: {size}, {self._count()}"


def _of_integers_too(attends: Callable[..., Any]) -> Callable[..., Any]:
    """A class's `attends`, which accepts ints beside tensors."""

    @wraps(attends)
    def of_both(self: EdgePredicate, i: Any, j: Any) -> Any:
        if isinstance(i, int):
            i = _as_index("i", i, self.num_targets, "targets")
        if isinstance(j, int):
            j = _as_index("j", j, self.num_sources, "sources")
        return attends(self, i, j)

    return of_both


def _as_index(name: str, index: int, size: int, what: str) -> Tensor:
    if not 0 <= index < size:
        raise IndexError(f"{name} must name one of {size} {what}, 0 to {size - 1}; got {index}")
    return torch.tensor(index)


def as_mask(mask: Any, i: Tensor, j: Tensor) -> Tensor:
    """What a predicate returned for i and j, as a mask of their common shape.

    A predicate may look at one of the two only, or at none (`j < 2`, `True`).

    Raises:
        TypeError: it returned something else than booleans.
    """
    mask = torch.as_tensor(mask, device=i.device)
    if mask.dtype != torch.bool:
        raise TypeError(f"attends must return booleans, got {mask.dtype}")
    return mask.expand(torch.broadcast_shapes(i.shape, j.shape))


def same_features(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two matrices are equal, NaN where the other has NaN; or both None."""
    if a is None or b is None or a is b:
        return a is b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = a.detach().cpu(), b.detach().cpu()
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def _same_arguments(a: Any, b: Any) -> bool:
    """Whether two graphs of one class were made alike, as far as that is seen without listing."""
    mine, theirs = a.__getstate__(), b.__getstate__()
    del mine["_cache"], theirs["_cache"]
    if mine.keys() != theirs.keys():
        return False
    try:
        return all(
            torch.equal(x, theirs[key]) if isinstance(x, Tensor) else bool(x == theirs[key])
            for key, x in mine.items()
        )
    except (RuntimeError, TypeError, ValueError):  # of a class of users: arrays, for example
        return False
