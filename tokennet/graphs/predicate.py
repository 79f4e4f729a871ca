"""A graph from a predicate of one's own."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.base import _BLOCK_ENTRIES, as_mask


class Predicate(TokenGraph):
    """A graph from a predicate of one's own; see `from_mask_mod`."""

    def __init__(
        self,
        predicate: Callable[[Tensor, Tensor], Tensor],
        num_targets: int,
        num_sources: int | None = None,
    ) -> None:
        super().__init__(num_targets, num_sources)
        self.predicate = predicate

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return as_mask(self.predicate(i, j), i, j)

    def _count(self) -> str:
        if self.num_targets * self.num_sources > _BLOCK_ENTRIES:
            return "edges not counted"
        return super()._count()

    def _name(self) -> str:
        name = getattr(self.predicate, "__name__", "predicate")
        return f"Predicate({name}, {self.num_targets}, {self.num_sources})"
