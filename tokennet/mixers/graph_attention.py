"""Additive attention on any token graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from tokennet.attend import attend, attention_weights
from tokennet.graphs import TokenGraph
from tokennet.layer import linear_flops
from tokennet.mixers.base import Mixer, check_heads, fold_batch
from tokennet.tokens import Tokens


class GraphAttention(Mixer):
    r"""Graph attention with dynamic scores (GATv2).

        e_ij = a_h . LeakyReLU(W_t z_i + W_s z_j + W_e f_ij)
        out_i = \sum_{j -> i} softmax_j(e_ij) W_s z_j + b

    Brody, Alon, Yahav, 2021 (arXiv 2105.14491). With the same weights it equals PyG's
    `GATv2Conv(add_self_loops=False)`: here the graph alone says who listens to whom, so
    self-loops are in it or not (`graph | Self(n)`). Scores that are not a dot product
    enter `attend` as the bias of a dot product of zeros.

    Args:
        dim: channels D of tokens and output.
        heads: number of heads; divides `dim`.
        edge_dim: number of features F of each edge; they are read from `graph.edge_attr`.
        source_dim: channels of the other set, `dim` by default.
        negative_slope: of the LeakyReLU.
        backend: see `attend`.

    Raises:
        ValueError: `heads` does not divide `dim`, or the graph lacks `edge_attr` of
            shape (E, edge_dim) where `edge_dim` is given.

    >>> from tokennet import Cycle, Tokens
    >>> GraphAttention(16, heads=2)(Tokens(torch.zeros(6, 16), Cycle(6))).z.shape
    torch.Size([6, 16])
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        edge_dim: int | None = None,
        source_dim: int | None = None,
        negative_slope: float = 0.2,
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, source_dim)
        self.heads, self.channels = heads, check_heads(dim, heads)
        self.negative_slope, self.backend = negative_slope, backend
        self.source = nn.Linear(self.source_dim, dim)
        self.target = nn.Linear(dim, dim)
        self.edge = None if edge_dim is None else nn.Linear(edge_dim, dim, bias=False)
        self.attention = nn.Parameter(torch.empty(heads, self.channels))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for linear in (self.source, self.target, self.edge):
            if linear is not None:
                nn.init.xavier_uniform_(linear.weight)
        for linear in (self.source, self.target):
            nn.init.zeros_(linear.bias)
        nn.init.xavier_uniform_(self.attention)
        nn.init.zeros_(self.bias)

    def check_graph(self, graph: TokenGraph) -> None:
        if self.edge is None:
            return
        attr, expected = getattr(graph, "edge_attr", None), (graph.num_edges, self.edge.in_features)
        if attr is None or tuple(attr.shape) != expected:
            got = None if attr is None else tuple(attr.shape)
            raise ValueError(
                f"graph.edge_attr must have shape (E, edge_dim) = {expected}, got {got}"
            )

    def mix(self, z: Tensor, source: Tensor, graph: TokenGraph) -> Tensor:
        n = z.shape[-2]
        scores, value, folded, batch = self._scored(z, source, graph)
        q, k = self._zeros(value, folded)
        out = attend(q, k, value, folded, scores, scale=1.0, backend=self.backend)
        return out.reshape(*batch, n, self.dim) + self.bias

    def weights(
        self,
        tokens: Tokens | Tensor,
        source: Tokens | Tensor | None = None,
        graph: TokenGraph | None = None,
    ) -> Tensor:
        """Attention weights (..., E, H) of a call, in the order of the graph's `edge_index()`."""
        z, source, graph = self.inputs(tokens, source, graph)
        scores, value, folded, batch = self._scored(z, source, graph)
        weights = attention_weights(*self._zeros(value, folded), folded, scores)
        return weights.reshape(*batch, graph.num_edges, self.heads)

    def _scored(
        self, z: Tensor, source: Tensor, graph: TokenGraph
    ) -> tuple[Tensor, Tensor, TokenGraph, torch.Size]:
        """Scores (B E, H) and values (B M, H, C) on the batch folded into one graph."""
        features = None if self.edge is None else self.edge(graph.edge_attr.to(z))  # type: ignore[attr-defined]
        z, source, graph, batch = fold_batch(z, source, graph)
        value = self._heads(self.source(source))
        return (
            self._scores(self._heads(self.target(z)), value, features, graph),
            value,
            graph,
            batch,
        )

    def _zeros(self, like: Tensor, graph: TokenGraph) -> tuple[Tensor, Tensor]:
        """Queries and keys whose products are 0, so that the bias alone decides."""
        sizes = graph.num_targets, graph.num_sources
        return tuple(like.new_zeros(size, self.heads, 1) for size in sizes)  # type: ignore[return-value]

    def _scores(
        self, target: Tensor, source: Tensor, features: Tensor | None, graph: TokenGraph
    ) -> Tensor:
        j, i = graph.edge_index(target.device)
        total = target.index_select(0, i) + source.index_select(0, j)  # (E, H, C)
        if features is not None:
            repeats = len(total) // max(len(features), 1)
            total = total + self._heads(features).repeat(repeats, 1, 1)
        return (leaky_relu(total, self.negative_slope) * self.attention).sum(-1)  # (E, H)

    def flops(self, tokens: Tokens) -> int:
        """Two projections, 4 N D^2, and per edge 3 D for the score and 2 D for the sum."""
        projections = sum(linear_flops(linear, tokens.z) for linear in (self.source, self.target))
        per_edge, features = 5 * self.dim, 0
        if self.edge is not None:
            per_edge += self.dim
            features = 2 * tokens.graph.num_edges * self.edge.in_features * self.dim
        batch = tokens.z.shape[:-2].numel()
        return projections + batch * tokens.graph.num_edges * per_edge + features

    def _heads(self, z: Tensor) -> Tensor:
        return z.unflatten(-1, (self.heads, self.channels))  # (..., N, H, C)
