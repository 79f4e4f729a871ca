"""The plain graph network: neighbours summed up without attention."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn.resolver import aggregation_resolver

from tokennet.graphs import TokenGraph
from tokennet.layer import linear_flops
from tokennet.mixers.base import Mixer, fold_batch
from tokennet.tokens import Tokens


class Neighbourhoods(NamedTuple):
    """Edges by target, and the targets that have any."""

    source: Tensor
    """(E,) source of each edge."""
    group: Tensor
    """(E,) which of `targets` it belongs to, ascending."""
    targets: Tensor
    """(K,) the targets that have neighbours."""


def _neighbourhoods(graph: TokenGraph) -> Neighbourhoods:
    indptr, indices, _ = graph.csr()
    degree = indptr.diff().long()
    targets = degree.nonzero().flatten()
    group = torch.arange(len(targets)).repeat_interleave(degree[targets])
    return Neighbourhoods(indices.long(), group, targets)


class Aggregate(Mixer):
    r"""A linear map of what the neighbours amount to.

        out_i = W aggr_{j -> i}(z_j) + b

    With `Residual` around it, the message-passing layer of Gilmer et al., 2017
    (arXiv 1704.01212) with a linear message. The aggregation is shown only targets that
    have neighbours; for the others it counts as 0, whichever it is.

    Args:
        dim: channels D.
        aggr: "mean", "sum", "max" or any other PyG aggregation, by name or as a module;
            aggregations that need the neighbours sorted by target get them so.
        source_dim: channels of the other set, `dim` by default.

    >>> import torch
    >>> from tokennet import Grid, Tokens
    >>> Aggregate(8, "max")(Tokens(torch.zeros(12, 8), Grid(3, 4))).z.shape
    torch.Size([12, 8])
    """

    def __init__(self, dim: int, aggr: Any = "mean", *, source_dim: int | None = None) -> None:
        super().__init__(dim, source_dim)
        self.aggr = aggregation_resolver(aggr)
        widened = getattr(self.aggr, "get_out_channels", lambda channels: channels)
        self.linear = nn.Linear(widened(self.source_dim), dim)

    def mix(self, z: Tensor, source: Tensor, graph: TokenGraph) -> Tensor:
        n = z.shape[-2]
        _, source, graph, batch = fold_batch(z, source, graph)
        near = graph.derive("neighbourhoods", z.device, _neighbourhoods)
        total = source.new_zeros(graph.num_targets, self.linear.in_features)
        if graph.num_edges:
            messages = source.index_select(0, near.source)  # (E, Ds), by target
            sums = self.aggr(messages, near.group, dim_size=len(near.targets), dim=0)
            total = total.index_copy(0, near.targets, sums.to(total.dtype))
        return self.linear(total).reshape(*batch, n, self.dim)

    def flops(self, tokens: Tokens) -> int:
        """One projection, 2 N D^2, and D additions per edge."""
        batch = tokens.z.shape[:-2].numel()
        return linear_flops(self.linear, tokens.z) + batch * tokens.graph.num_edges * self.dim
