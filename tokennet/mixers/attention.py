"""Dot-product attention on any token graph."""

from __future__ import annotations

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

    def mix(self, z: Tensor, source: Tensor, graph: TokenGraph) -> Tensor:
        q, k = self._heads(self.query(z)), self._heads(self.key(source))
        v = self._heads(self.value(source))  # (..., M, H, C)
        edges = self._edges(graph, z)
        return self.out(attend(q, k, v, graph, edges=edges, backend=self.backend).flatten(-2))

    def _edges(self, graph: TokenGraph, like: Tensor) -> EdgeFeatures | None:
        if self.edge is None:
            return None
        weight = self.edge.weight.unflatten(0, (self.heads, self.channels))  # (H, C, F)
        return EdgeFeatures(graph.edge_attr.to(like), key=weight, value=weight)  # type: ignore[attr-defined]

    def weights(
        self,
        tokens: Tokens | Tensor,
        source: Tokens | Tensor | None = None,
        graph: TokenGraph | None = None,
    ) -> Tensor:
        """Attention weights (..., E, H) of a call, in the order of the graph's `edge_index()`."""
        z, keys, graph = self.inputs(tokens, source, graph)
        q, k = self._heads(self.query(z)), self._heads(self.key(keys))
        return attention_weights(q, k, graph, edges=self._edges(graph, z))

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
