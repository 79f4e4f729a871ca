"""The plain graph network: neighbors are aggregated without attention."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokennet.checks import check_type, checked, lookup
from tokennet.graphs import TokenGraph
from tokennet.layer import map_flops
from tokennet.mixers.base import Mixer, fold_batch
from tokennet.tokens import Tokens


class Neighborhoods(NamedTuple):
    """Edges by target, and the targets that have any."""

    source: Tensor
    """(E,) source of each edge."""
    group: Tensor
    """(E,) which of `targets` it belongs to, ascending."""
    targets: Tensor
    """(K,) the targets that have neighbors."""


def _neighborhoods(graph: TokenGraph) -> Neighborhoods:
    indptr, indices, _ = graph.csr()
    degree = indptr.diff().long()
    targets = degree.nonzero().flatten()
    group = torch.arange(len(targets)).repeat_interleave(degree[targets])
    return Neighborhoods(indices.long(), group, targets)


def check_unordered(module: nn.Module) -> None:
    """Raise ValueError if an aggregation in `module` depends on the order of neighbors."""
    from torch_geometric.nn.aggr import GRUAggregation, LSTMAggregation

    for part in module.modules():
        if isinstance(part, LSTMAggregation | GRUAggregation):
            raise ValueError(
                f"aggr must not depend on the order of neighbors, as {type(part).__name__} does"
            )


def _aggregation(aggr: Any) -> nn.Module:
    """The PyG aggregation of a name, or of several; or the given one."""
    from torch_geometric.nn import aggr as pyg
    from torch_geometric.nn.resolver import aggregation_resolver

    if isinstance(aggr, pyg.Aggregation):
        return aggr
    if isinstance(aggr, list | tuple) and aggr:
        return pyg.MultiAggregation([_aggregation(each) for each in aggr])
    check_type("aggr", aggr, str, "the name of an aggregation, a PyG Aggregation, or a list")
    short = [name.lower().removesuffix("aggregation") for name in pyg.__all__]
    plain = re.sub("[-_ ]", "", aggr.lower()).removesuffix("aggregation")
    known = dict.fromkeys([*filter(None, short), "add"])
    lookup("aggr", plain if plain in known else aggr, known)
    try:
        return aggregation_resolver(aggr)
    except TypeError as error:
        raise TypeError(f"aggr must be a module where it has arguments: {error}") from error


class Aggregate(Mixer):
    r"""A linear map of the mean, sum or maximum of the neighbors.

        out_i = W aggr_{j -> i}(z_j) + b

    Use it for a plain graph network. With `Residual` around it, the message-passing layer of
    Gilmer et al., 2017 (arXiv 1704.01212) with a linear message. The aggregation sees only
    targets that have neighbors; for the others it counts as 0, whichever it is.

    Args:
        dim: channels D.
        aggr: "mean", "sum", "max" or any other PyG aggregation, by name or as a module;
            neighbors are sorted by target. Not those that depend on the order of
            neighbors (LSTM, GRU): a graph has none.
        source_dim: channels of the other set, `dim` by default.

    Raises:
        ValueError: the aggregation depends on the order of neighbors.

    >>> import torch
    >>> from tokennet import Grid, Tokens
    >>> Aggregate(8, "max")(Tokens(torch.zeros(12, 8), Grid(3, 4))).z.shape
    torch.Size([12, 8])
    """

    @checked()
    def __init__(self, dim: int, aggr: Any = "mean", *, source_dim: int | None = None) -> None:
        super().__init__(dim, source_dim)
        self.aggr = _aggregation(aggr)
        check_unordered(self.aggr)
        with torch.no_grad():
            example = torch.zeros(1, self.source_dim), torch.zeros(1, dtype=torch.long)
            self.linear = nn.Linear(self.aggr(*example, dim_size=1, dim=0).shape[-1], dim)

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        z, sources, graph, batch = fold_batch(tokens.z, source.z, graph)
        edges = graph.cached(_neighborhoods, device=z.device)
        total = sources.new_zeros(graph.num_targets, self.linear.in_features)
        if graph.num_edges:
            messages = sources.index_select(0, edges.source)  # (E, Ds), by target
            sums = self.aggr(messages, edges.group, dim_size=len(edges.targets), dim=0)
            total = total.index_copy(0, edges.targets, sums.to(total.dtype))
        return self.linear(total).reshape(*batch, tokens.num_tokens, self.dim)

    def flops(self, tokens: Tokens) -> int:
        """One projection, 2 N D^2, and D additions per edge."""
        batch = tokens.z.shape[:-2].numel()
        return map_flops(tokens.z, self.linear) + batch * tokens.graph.num_edges * self.dim
