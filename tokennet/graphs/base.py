"""One predicate, and everything that can be derived from it."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from tokennet._compiling import outside_compilation
from tokennet.checks import check_size

DENSE_LIMIT = 2**28
"""Largest N x M, in entries, that `dense` builds: 16,384 x 16,384, or 256 MB of bools."""

_BLOCK_ENTRIES = 2**22
_ABSENT = object()
_Key = tuple[Callable[..., Any], str | None, tuple[Hashable, ...]]
"""The function that builds, the device, and further arguments."""


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
    """(E,) int64 position of each edge in `edge_index`."""


def as_mask(mask: Any, i: Tensor, j: Tensor) -> Tensor:
    """What a predicate said about i and j, as a mask of their common shape.

    A predicate may look at one of the two only, or at none (`j < 2`, `True`).

    Raises:
        TypeError: it said something else than yes or no.
    """
    mask = torch.as_tensor(mask, device=i.device)
    if mask.dtype != torch.bool:
        raise TypeError(f"attends must give booleans, got {mask.dtype}")
    return mask.expand(torch.broadcast_shapes(i.shape, j.shape))


def _on_cpu() -> AbstractContextManager:
    """Make tensors on the CPU: a context that every operation pays for, so only where needed."""
    if torch.get_default_device().type == "cpu":
        return nullcontext()
    return torch.device("cpu")  # type: ignore[return-value]


MOST_KEPT = 8
"""Values that a graph keeps of one function and device, for other arguments; then the oldest go."""

_LOCK = threading.RLock()
os.register_at_fork(
    before=_LOCK.acquire, after_in_child=_LOCK.release, after_in_parent=_LOCK.release
)


@outside_compilation(
    "what this token graph needs is not built yet; run the model once before compiling it"
)
def _build_and_keep(graph: EdgePredicate, key: _Key) -> Any:
    """Build for real, whatever mode is on: a graph is a constant of the program.

    Without this, a fake tensor (`torch.export`) or an inference tensor could be kept
    on the graph and break the next call that has nothing to do with either. Under
    `torch.compile` the first call breaks the compiled graph here; with `fullgraph=True`
    the model must have run once, or dynamo raises the reason above.
    """
    build, device, args = key
    with _LOCK:
        if key in graph._cache:  # another thread was first
            return graph._cache[key]
        with _disable_current_modes(), torch.inference_mode(False), torch.no_grad(), _on_cpu():
            value = _move(build(graph, *args), device)
        older = [other for other in graph._cache if other[:2] == key[:2]]
        for other in older[: len(older) + 1 - MOST_KEPT]:
            del graph._cache[other]
        graph._cache[key] = value
    return value


class EdgePredicate(ABC):
    """A set of directed edges j -> i, "target i listens to source j", given by a predicate.

    A subclass defines `attends`; the other methods follow from it and are overridden
    only to be cheaper. Instances are immutable: what is derived is built once per
    device, kept with the graph and freed with it.
    """

    is_explicit = False
    """Whether the edges are a list with an order of its own."""

    def __init__(self, num_targets: int, num_sources: int | None = None) -> None:
        self.num_targets = check_size("num_targets", num_targets)
        sources = num_targets if num_sources is None else num_sources
        self.num_sources = check_size("num_sources", sources)
        self._cache: dict[_Key, Any] = {}

    @abstractmethod
    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        """Whether target i listens to source j: elementwise over broadcast integer tensors.

        Pure torch and vmap-able, so that it serves as a FlexAttention `mask_mod`.
        """

    @property
    def is_square(self) -> bool:
        return self.num_targets == self.num_sources

    @property
    def has_multi_edges(self) -> bool:
        return False

    @property
    def is_complete(self) -> bool:
        """Whether every target listens to every source, exactly once."""
        return self.num_edges == self.num_targets * self.num_sources and not self.has_multi_edges

    @property
    def has_empty_targets(self) -> bool:
        """Whether some target listens to nobody."""
        return self.cached(type(self)._find_empty_targets)

    @property
    def band(self) -> tuple[int, int] | None:
        """(below, above): target i listens to i - below .. i + above at most, by its formula.

        None where the formula does not say so.
        """
        return None

    @property
    def num_edges(self) -> int:
        return self.edge_index().shape[1]

    @property
    def density(self) -> float:
        """Edges over targets times sources; 0 where there are no pairs at all."""
        pairs = self.num_targets * self.num_sources
        return self.num_edges / pairs if pairs else 0.0

    def edge_index(self, device: torch.device | str | None = None) -> Tensor:
        """Return (2, E) int64, rows `[source, target]` as in PyG; not to be written to.

        An explicit graph gives the caller's edges in the caller's order; a symbolic
        one sorts by target, then source.
        """
        return self.cached(type(self)._build_edge_index, device=device)

    def dense(self, device: torch.device | str | None = None) -> Tensor:
        """Return (N, M) bool, True where target i (row) listens to source j (column).

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

    def local_index(self, device: torch.device | str | None = None) -> Tensor:
        """Return (num_targets,) the place of each token within its own set: 0 .. N - 1."""
        return self.cached(type(self)._build_local_index, device=device)

    def cached(
        self,
        build: Callable[..., Any],
        *args: Hashable,
        device: torch.device | str | None = None,
    ) -> Any:
        """Return `build(self, *args)` on `device`, built on the CPU once and kept with this graph.

        What is kept is freed with the graph and is never pickled. Threads may ask at once.

        Args:
            build: a function of a module, the key of what it makes: a function that is made
                anew in each call, such as a lambda, would be a new key each time. It makes a
                tensor, a NamedTuple of tensors, or anything that belongs to no device.
            args: hashable; the last `MOST_KEPT` of them are kept.
            device: where its tensors are wanted; None for the CPU.
        """
        key = (build, None if device is None else str(device), args)
        found = self._cache.get(key, _ABSENT)
        return _build_and_keep(self, key) if found is _ABSENT else found

    def _row_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (rows, mask of these rows), so that N x M integers never exist at once."""
        j = torch.arange(self.num_sources)
        step = max(1, _BLOCK_ENTRIES // max(1, self.num_sources))
        for start in range(0, self.num_targets, step):
            i = torch.arange(start, min(start + step, self.num_targets))
            mask = self.attends(i[:, None], j[None, :])
            yield i, as_mask(mask, i[:, None], j[None, :])  # (block, M)

    def _build_edge_index(self) -> Tensor:
        edges = [torch.zeros(2, 0, dtype=torch.long)]
        for i, mask in self._row_blocks():
            row, source = mask.nonzero(as_tuple=True)
            edges.append(torch.stack([source, i[row]]))
        return torch.cat(edges, dim=1)

    def _build_local_index(self) -> Tensor:
        return torch.arange(self.num_targets)

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

    def _find_empty_targets(self) -> bool:
        return bool((self.csr().indptr.diff() == 0).any())

    def _name(self) -> str:
        """How the graph was written, for `repr`."""
        return f"{type(self).__name__}({self.num_targets}, {self.num_sources})"

    def _count(self) -> str:
        return f"{self.num_edges:,} edges, density {self.density:.3g}"

    def __repr__(self) -> str:
        size = f"{self.num_targets:,} tokens"
        if not self.is_square:
            size = f"{self.num_targets:,} targets, {self.num_sources:,} sources"
        return f"{self._name()}: {size}, {self._count()}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}


def _move(value: Any, device: torch.device | str | None) -> Any:
    if device is None:
        return value
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return type(value)(*(_move(item, device) for item in value))
    return value
