"""Dot-product attention on any token graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokennet.attend import EdgeFeatures, attend, attention_weights
from tokennet.graphs import TokenGraph
from tokennet.layer import linear_flops
from tokennet.mixers.base import Mixer, check_edge_attr, check_heads
from tokennet.tokens import Tokens


class Attention(Mixer):
    r"""Multi-head attention along the edges of the graph.

        out_i = W_o concat_h \sum_{j -> i} softmax_j(q_i^h . k_j^h / sqrt(C)) v_j^h
        q = W_q z,  k = W_k source,  v = W_v source

    Vaswani et al., 2017 (arXiv 1706.03762) on the complete graph. With the same weights it
    equals `nn.MultiheadAttention`; with W_o the identity, PyG's
    `TransformerConv(root_weight=False)`. The parameters do not depend on the graph.

    Args:
        dim: channels D of tokens and output.
        heads: number of heads; divides `dim`.
        bias: whether the four linear maps have a bias.
        edge_dim: number of features F of each edge; they are read from `graph.edge_attr`, and
            W_e f is added to keys and values, as in `TransformerConv(edge_dim=...)`.
        source_dim: channels of the other set in cross-attention, `dim` by default.
        backend: see `attend`.

    Raises:
        ValueError: `heads` does not divide `dim`, or the graph lacks `edge_attr` of
            shape (E, edge_dim) where `edge_dim` is given.

    >>> import torch
    >>> from tokennet import Causal, Tokens
    >>> layer = Attention(32, heads=4)
    >>> layer(Tokens(torch.zeros(2, 10, 32), Causal(10))).z.shape
    torch.Size([2, 10, 32])
    >>> layer(torch.zeros(2, 10, 32), source=torch.zeros(2, 7, 32)).shape
    torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        bias: bool = True,
        edge_dim: int | None = None,
        source_dim: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, source_dim)
        self.heads, self.channels = heads, check_heads(dim, heads)
        self.backend = backend
        self.query = nn.Linear(dim, dim, bias)
        self.key = nn.Linear(self.source_dim, dim, bias)
        self.value = nn.Linear(self.source_dim, dim, bias)
        self.out = nn.Linear(dim, dim, bias)
        self.edge = None if edge_dim is None else nn.Linear(edge_dim, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for linear in (self.query, self.key, self.value, self.out, self.edge):
            if linear is not None:
                nn.init.xavier_uniform_(linear.weight)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)

    def check_graph(self, graph: TokenGraph) -> None:
        if self.edge is not None:
            check_edge_attr(graph, self.edge.in_features)

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        q, k = self._heads(self.query(tokens.z)), self._heads(self.key(source.z))
        v = self._heads(self.value(source.z))  # (..., M, H, C)
        return self._attend(q, k, v, graph)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, graph: TokenGraph) -> Tensor:
        edges = self._edges(graph, q)
        return self.out(attend(q, k, v, graph, edges=edges, backend=self.backend).flatten(-2))

    def _edges(self, graph: TokenGraph, like: Tensor) -> EdgeFeatures | None:
        if self.edge is None:
            return None
        weight = self.edge.weight.unflatten(0, (self.heads, self.channels))  # (H, C, F)
        return EdgeFeatures(graph.edge_attr.to(like), key=weight, value=weight)  # type: ignore[attr-defined]

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The keys and values of all tokens so far are the state."""
        q, k, v = (self._heads(linear(tokens.z)) for linear in (self.query, self.key, self.value))
        if state is not None:
            k, v = (torch.cat([old, new], dim=-3) for old, new in zip(state, (k, v), strict=True))
        return tokens.replace(z=self._attend(q, k, v, graph)), (k, v)

    def weights(
        self,
        tokens: Tokens | Tensor,
        source: Tokens | Tensor | None = None,
        graph: TokenGraph | None = None,
    ) -> Tensor:
        """Attention weights (..., E, H) of a call, in the order of the graph's `edge_index()`."""
        tokens, source, graph = self.inputs(tokens, source, graph)
        q, k = self._heads(self.query(tokens.z)), self._heads(self.key(source.z))
        return attention_weights(q, k, graph, edges=self._edges(graph, tokens.z))

    def flops(self, tokens: Tokens) -> int:
        """Four projections, 8 N D^2, and 4 D per edge for the scores and the sum.

        Features add 4 H F per edge, and 4 N D F to ask of them and to bring them back.
        """
        linears = (self.query, self.key, self.value, self.out)
        batch, num_edges = tokens.z.shape[:-2].numel(), tokens.graph.num_edges
        edges = 4 * num_edges * self.dim
        if self.edge is not None:
            features = self.edge.in_features
            edges += 4 * features * (num_edges * self.heads + tokens.num_tokens * self.dim)
        return sum(linear_flops(linear, tokens.z) for linear in linears) + batch * edges

    def _heads(self, z: Tensor) -> Tensor:
        return z.unflatten(-1, (self.heads, self.channels))  # (..., N, H, C)


class CrossAttention(Attention):
    """Attention to another set only: what a decoder asks of an encoder.

    In a `TokenNet` it listens to the net's `source`. Arguments as for `Attention`.

    Raises:
        ValueError: called without `source`.

    >>> CrossAttention(32, heads=4)(torch.zeros(2, 10, 32), torch.zeros(2, 7, 32)).shape
    torch.Size([2, 10, 32])
    """

    needs_source = True

    def resolve(
        self, tokens: Tokens, source: Tokens | Tensor | None, graph: TokenGraph | None
    ) -> tuple[Tokens, TokenGraph]:
        if source is None:
            raise ValueError("source must be given: CrossAttention listens to another set only")
        return super().resolve(tokens, source, graph)

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The keys and values of the source, computed once, are the state."""
        source, graph = self.resolve(tokens, source, None)
        q = self._heads(self.query(tokens.z))
        if state is None:
            state = self._heads(self.key(source.z)), self._heads(self.value(source.z))
        k, v = state
        return tokens.replace(z=self._attend(q, k, v, graph)), state

    def flops(self, tokens: Tokens, source: Tokens | Tensor | None = None) -> int:
        """As for `Attention`, on the complete graph from tokens to source."""
        asked, graph = self.resolve(tokens, source, None)
        of_targets, of_sources = (self.query, self.out), (self.key, self.value)
        return (
            sum(linear_flops(linear, tokens.z) for linear in of_targets)
            + sum(linear_flops(linear, asked.z) for linear in of_sources)
            + tokens.z.shape[:-2].numel() * graph.num_edges * 4 * self.dim
        )
