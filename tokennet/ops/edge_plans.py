"""`EdgePlan`: the edges of a graph by target and by source, for kernels that run along edges."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph


class EdgePlan(NamedTuple):
    """A graph's edges by target (CSR) and by source (CSC), and the way between the two.

    All tensors are int32 where numbers of tokens and edges fit, else int64. Among the edges
    of a target the caller's order is kept; those of a source come by target.
    """

    indptr: Tensor
    """(N + 1,) edges of target i: indptr[i] .. indptr[i + 1]."""
    indices: Tensor
    """(E,) source of each edge."""
    rows: Tensor
    """(E,) target of each edge."""
    edge_id: Tensor
    """(E,) index of each edge in `edge_index`; (0,) where the edges are listed by target."""
    t_indptr: Tensor
    """(M + 1,) edges of source j."""
    t_indices: Tensor
    """(E,) target of each edge, by source."""
    t_order: Tensor
    """(E,) index by target of each edge by source."""

    @property
    def num_edges(self) -> int:
        return self.indices.shape[0]

    def by_target(self, values: Tensor, dim: int) -> Tensor:
        """Bring values in the order of `edge_index` into that of this plan."""
        return values if len(self.edge_id) == 0 else values.index_select(dim, self.edge_id)

    def as_listed(self, values: Tensor, dim: int) -> Tensor:
        """Bring values in the order of this plan into that of `edge_index`."""
        return values if len(self.edge_id) == 0 else values.index_select(dim, self._listed_index())

    def edge_tokens(self) -> EdgePlan:
        """The plan of a graph in which each edge is a source of its own, as listed."""
        count = torch.arange(self.num_edges + 1, dtype=self.indptr.dtype, device=self.rows.device)
        edge_id = self.edge_id if len(self.edge_id) else count[:-1]
        index = self._listed_index() if len(self.edge_id) else count[:-1]
        targets = self.rows.index_select(0, index)
        return EdgePlan(self.indptr, edge_id, self.rows, self.edge_id, count, targets, index)

    def _listed_index(self) -> Tensor:
        return self.edge_id.argsort().to(self.edge_id.dtype)


def edge_plan(graph: TokenGraph, device: torch.device | str | None = None) -> EdgePlan:
    """Return the plan of a graph, built once per graph and device and freed with the graph."""
    return graph.cached(_build_plan, device=device)


def _build_plan(graph: TokenGraph) -> EdgePlan:
    indptr, indices, edge_id = graph.csr()
    index = indptr.dtype
    rows = torch.arange(graph.num_targets, dtype=index).repeat_interleave(indptr.diff().long())
    t_order = indices.argsort(stable=True)
    t_indptr = torch.zeros(graph.num_sources + 1, dtype=index)
    t_indptr[1:] = torch.bincount(indices, minlength=graph.num_sources).cumsum(0)
    if torch.equal(edge_id, torch.arange(len(edge_id))):
        edge_id = edge_id[:0]
    return EdgePlan(
        indptr, indices, rows, edge_id.to(index), t_indptr, rows[t_order], t_order.to(index)
    )
