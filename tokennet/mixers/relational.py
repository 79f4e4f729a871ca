"""R-GCN: neighbors are aggregated type by type of edge, with a matrix for each type."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, checked, lookup
from tokennet.graphs import TokenGraph
from tokennet.layer import map_flops
from tokennet.mixers.base import Mixer, fold_batch
from tokennet.tokens import Tokens


class _Groups(NamedTuple):
    """Edges in groups of one type and one target; groups by type, then by target."""

    source: Tensor
    """(E,) source of each edge, group by group."""
    group: Tensor
    """(E,) the group that it belongs to."""
    target: Tensor
    """(G,) target of each group."""
    size: Tensor
    """(G,) number of its edges."""
    of_type: list[int]
    """Number of groups of each type."""


def _groups(graph: TokenGraph) -> _Groups:
    assert graph.edge_type is not None
    source, target = graph.edge_index()
    keys = graph.edge_type * graph.num_targets + target
    found, group, size = keys.unique(return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    types, targets = found // max(graph.num_targets, 1), found % max(graph.num_targets, 1)
    return _Groups(source[order], group[order], targets, size, types.bincount().tolist())


class RelationalAggregate(Mixer):
    r"""A linear map of the mean or sum of the neighbors for each type of edge (R-GCN).

        out_i = W_0 z_i + \sum_r W_r aggr_{j -> i of type r}(z_j) + b

    Use it for graphs whose edges have types, such as knowledge graphs. Schlichtkrull et al., 2018
    (arXiv 1703.06103); PyG's `RGCNConv`. Many types have many matrices: with `num_bases` they are
    combinations of a few, W_r = \sum_b a_rb V_b.

    Args:
        dim: channels D.
        num_edge_types: number of types R; they are read from `graph.edge_type`.
        aggr: "mean" or "sum", over the edges of a type to a target.
        num_bases: number of matrices V_b; by default each type has a matrix of its own.
        source_dim: channels of the other set, `dim` by default.

    Raises:
        ValueError: the graph lacks `edge_type`, or has other types than 0 .. R - 1.

    >>> from tokennet import Edges
    >>> graph = Edges([(0, 1), (2, 1), (1, 0)], 3, edge_type=[0, 1, 1])
    >>> RelationalAggregate(8, num_edge_types=2)(Tokens(torch.zeros(3, 8), graph)).z.shape
    torch.Size([3, 8])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        num_edge_types: int,
        aggr: str = "mean",
        *,
        num_bases: int | None = None,
        source_dim: int | None = None,
    ) -> None:
        super().__init__(dim, source_dim)
        self.num_edge_types = check_size("num_edge_types", num_edge_types, 1)
        self.takes_mean = lookup("aggr", aggr, {"mean": True, "sum": False})
        count = num_edge_types if num_bases is None else check_size("num_bases", num_bases, 1)
        self.weight = nn.Parameter(torch.empty(count, self.source_dim, dim))
        self.coefficients = None
        if num_bases is not None:
            self.coefficients = nn.Parameter(torch.empty(num_edge_types, num_bases))
        self.root = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.root.reset_parameters()
        for matrix in self.weight:
            nn.init.xavier_uniform_(matrix)
        if self.coefficients is not None:
            nn.init.xavier_uniform_(self.coefficients)

    def matrices(self) -> Tensor:
        """(R, Ds, D): W_r of each type."""
        if self.coefficients is None:
            return self.weight
        return torch.einsum("rb,bsd->rsd", self.coefficients, self.weight)

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        z, sources, graph, batch = fold_batch(tokens.z, source.z, graph)
        groups = graph.cached(_groups, device=z.device)
        messages = sources.index_select(0, groups.source)  # (E, Ds)
        sums = sources.new_zeros(len(groups.target), self.source_dim)  # (G, Ds)
        sums = sums.index_add(0, groups.group, messages)
        if self.takes_mean:
            sums = sums / groups.size[:, None].to(sums)
        out, matrices = self.root(z), self.matrices()  # (N, D), (R, Ds, D)
        rows, targets = sums.split(groups.of_type), groups.target.split(groups.of_type)
        for number, count in enumerate(groups.of_type):
            if count:
                received = rows[number] @ matrices[number]  # (groups of this type, D)
                out = out.index_add(0, targets[number], received.to(out.dtype))
        return out.reshape(*batch, tokens.num_tokens, self.dim)

    def flops(self, tokens: Tokens) -> int:
        """2 N D^2 for the token itself, 2 D^2 per type and target with edges of it, D per edge.

        Combining `num_bases` matrices is done once for all sets, and not counted.
        """
        num_edges, groups = tokens.graph.num_edges, len(tokens.graph.cached(_groups).target)
        of_set = num_edges * self.dim + 2 * groups * self.dim**2
        return map_flops(tokens.z, self.root) + tokens.z.shape[:-2].numel() * of_set
