"""Any PyG convolution as a mixer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor, nn

from tokennet.graphs import TokenGraph
from tokennet.mixers.aggregate import check_unordered
from tokennet.mixers.base import Mixer, fold_batch
from tokennet.tokens import Tokens


class PyGMixer(Mixer):
    """Any `torch_geometric.nn` convolution in a token net, to compare with or to reuse it.

    The convolution receives the edges in the caller's order, and `graph.edge_attr` if its
    `forward` takes `edge_attr`, or, where that is a single number, `edge_weight`.
    Convolutions that change the graph themselves (`GCNConv` adds self-loops) do so here too.

    Args:
        conv: a module called as `conv(x, edge_index)`, or `conv((x_source, x_target),
            edge_index)` for two sets. It must keep the number of channels.
        dim: channels D of the tokens, for convolutions that have no `in_channels`.

    Raises:
        ValueError: the channels of `conv` are not known, it changes their number, or its
            aggregation depends on the order of neighbors.

    >>> import torch
    >>> from torch_geometric.nn import GCNConv
    >>> from tokennet import Cycle, Tokens
    >>> PyGMixer(GCNConv(8, 8))(Tokens(torch.zeros(5, 8), Cycle(5))).z.shape
    torch.Size([5, 8])
    """

    def __init__(self, conv: nn.Module, dim: int | None = None) -> None:
        given: Any = getattr(conv, "in_channels", None) if dim is None else dim
        source_dim, channels = given if isinstance(given, tuple) else (given, given)
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"dim must be given: conv has in_channels = {channels!r}")
        super().__init__(channels, source_dim)
        check_unordered(conv)
        self.conv = conv

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        itself, attr = source is tokens, graph.edge_attr
        z, sources, graph, batch = fold_batch(tokens.z, source.z, graph)
        features = {}
        if attr is not None:
            attr = attr.to(z).repeat(batch.numel(), 1)
            accepted = _parameters_of(type(self.conv).forward)
            if "edge_attr" in accepted:
                features["edge_attr"] = attr
            elif "edge_weight" in accepted and attr.shape[1] == 1:
                features["edge_weight"] = attr[:, 0]
        x = z if itself else (sources, z)
        out = self.conv(x, graph.edge_index(z.device), **features)
        if out.shape != z.shape:
            raise ValueError(
                f"conv must keep the tokens' shape {tuple(z.shape)}, it gave {tuple(out.shape)}"
            )
        return out.reshape(*batch, tokens.num_tokens, self.dim)

    def flops(self, tokens: Tokens) -> int:
        """Matrix products as run, and one addition per edge and channel for the sum."""
        batch = tokens.z.shape[:-2].numel()
        return super().flops(tokens) + batch * tokens.graph.num_edges * self.dim


@cache
def _parameters_of(forward: Callable[..., Any]) -> frozenset[str]:
    """Names of the arguments that convolutions of a class accept."""
    return frozenset(inspect.signature(forward).parameters)
