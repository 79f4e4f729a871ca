"""Additive attention on any token graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.graphs import TokenGraph
from tokennet.layer import map_flops, weight_of
from tokennet.mixers.base import WeightedMixer, check_backend, check_heads, reset_linears
from tokennet.ops import Additive, EdgeFeatures, attend, attention_weights
from tokennet.tokens import Tokens


class GraphAttention(WeightedMixer):
    r"""Graph attention with additive scores (GATv2), the attention of graph networks.

        e_ij = a_h . LeakyReLU(W_t z_i + W_s z_j + W_e f_ij)
        out_i = \sum_{j -> i} softmax_j(e_ij) W_s z_j + b

    Brody, Alon, Yahav, 2021 (arXiv 2105.14491). With the same weights it equals PyG's
    `GATv2Conv(add_self_loops=False)`: here self-loops are edges of
    the graph or not (`graph | Self(n)`).

    Args:
        dim: channels D of tokens and output.
        num_heads: number of heads; divides `dim`.
        edge_dim: number of features F of each edge; they are read from `graph.edge_attr`.
        source_dim: channels of the other set, `dim` by default.
        negative_slope: of the LeakyReLU.
        backend: see `attend`; those for dot products only do not support it.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or the graph lacks `edge_attr` of
            shape (E, edge_dim) where `edge_dim` is given.

    >>> from tokennet import Cycle, Tokens
    >>> GraphAttention(16, num_heads=2)(Tokens(torch.zeros(6, 16), Cycle(6))).z.shape
    torch.Size([6, 16])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        edge_dim: int | None = None,
        source_dim: int | None = None,
        negative_slope: float = 0.2,
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, source_dim)
        self.num_heads, self.channels = num_heads, check_heads(dim, num_heads)
        self.negative_slope, self.backend = negative_slope, check_backend(backend)
        self.source = nn.Linear(self.source_dim, dim)
        self.target = nn.Linear(dim, dim)
        self.edge = None if edge_dim is None else nn.Linear(edge_dim, dim, bias=False)
        self.attention = nn.Parameter(torch.empty(num_heads, self.channels))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_linears(self.source, self.target, self.edge)
        nn.init.xavier_uniform_(self.attention)
        nn.init.zeros_(self.bias)

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        query, key = self._heads(self.target(tokens.z)), self._heads(self.source(source.z))
        score, edges = self._score(graph, tokens.z)
        out = attend(query, key, key, graph, score=score, edges=edges, backend=self.backend)
        return out.flatten(-2) + self.bias

    def weigh(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        query, key = self._heads(self.target(tokens.z)), self._heads(self.source(source.z))
        score, edges = self._score(graph, tokens.z)
        return attention_weights(query, key, graph, score=score, edges=edges)

    def _score(self, graph: TokenGraph, like: Tensor) -> tuple[Additive, EdgeFeatures | None]:
        score = Additive(self.attention, self.negative_slope)
        if self.edge is None:
            return score, None
        attr = graph.edge_attr.to(like)  # type: ignore[union-attr]
        weight = weight_of(self.edge).unflatten(0, (self.num_heads, -1))  # (H, C, F)
        return score, EdgeFeatures(attr, key=weight)

    def flops(self, tokens: Tokens) -> int:
        """4 N D^2 + 5 D E for E edges, and D (2 F + 1) E where they have F features.

        By the formula of GATv2 in the docstring of the class: two projections, W_t x_i and
        W_s x_j, of 2 N D^2 each; per edge D additions in the score and 2 D for its product with
        a_h, and 2 D for the weighted sum. Features are mapped, 2 D F, and added, D. LeakyReLU and
        softmax are not counted.
        """
        projections = map_flops(tokens.z, self.source, self.target)
        per_edge = 5 * self.dim
        if self.edge is not None:
            per_edge += (2 * self.edge.in_features + 1) * self.dim
        return projections + tokens.z.shape[:-2].numel() * tokens.graph.num_edges * per_edge

    def _heads(self, z: Tensor) -> Tensor:
        return z.unflatten(-1, (self.num_heads, self.channels))  # (..., N, H, C)
