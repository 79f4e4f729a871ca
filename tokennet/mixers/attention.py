"""Dot-product attention on any token graph."""

from __future__ import annotations

from torch import Tensor, nn

from tokennet.attend import attend, attention_weights
from tokennet.graphs import TokenGraph
from tokennet.layer import linear_flops
from tokennet.mixers.base import Mixer, check_heads
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
        source_dim: channels of the other set in cross-attention, `dim` by default.
        backend: see `attend`.

    Raises:
        ValueError: `heads` does not divide `dim`.

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
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def mix(self, z: Tensor, source: Tensor, graph: TokenGraph) -> Tensor:
        q, k = self._heads(self.query(z)), self._heads(self.key(source))
        v = self._heads(self.value(source))  # (..., M, H, C)
        return self.out(attend(q, k, v, graph, backend=self.backend).flatten(-2))

    def weights(
        self,
        tokens: Tokens | Tensor,
        source: Tokens | Tensor | None = None,
        graph: TokenGraph | None = None,
    ) -> Tensor:
        """Attention weights (..., E, H) of a call, in the order of the graph's `edge_index()`."""
        z, keys, graph = self.inputs(tokens, source, graph)
        q, k = self._heads(self.query(z)), self._heads(self.key(keys))
        return attention_weights(q, k, graph)

    def flops(self, tokens: Tokens) -> int:
        """Four projections, 8 N D^2, and 4 D per edge for the scores and the sum."""
        linears = (self.query, self.key, self.value, self.out)
        batch = tokens.z.shape[:-2].numel()
        edges = 4 * batch * tokens.graph.num_edges * self.dim
        return sum(linear_flops(linear, tokens.z) for linear in linears) + edges

    def _heads(self, z: Tensor) -> Tensor:
        return z.unflatten(-1, (self.heads, self.channels))  # (..., N, H, C)
