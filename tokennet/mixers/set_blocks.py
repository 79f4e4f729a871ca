"""The blocks of the Set Transformer: SAB, ISAB and PMA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, checked
from tokennet.graphs import TokenGraph
from tokennet.layer import TokenLayer, map_flops
from tokennet.mixers._ragged import CompleteMixer
from tokennet.mixers.attention import Attention
from tokennet.mixers.base import WeightedMixer
from tokennet.mixers.latents import latents_on
from tokennet.tokens import Tokens


class SetAttentionBlock(WeightedMixer):
    r"""Attention with its residuals and norms, for sets: `block(x, y)` is MAB, `block(x)` SAB.

        MAB(X, Y) = norm(H + relu(W H)),   H = norm(X + Attention(X, Y))
        SAB(X) = MAB(X, X)

    Lee et al., 2019 (arXiv 1810.00825), on complete sets; it honors any graph. With the same
    weights it equals PyG's `MultiheadAttentionBlock`. Use it as a whole layer: the residual is
    inside, so that no `Residual` is needed around it.

    Args:
        dim: channels D.
        num_heads: number of heads; divides `dim`.
        norm: whether there is a LayerNorm after each of the two sums.
        source_dim: channels of Y, `dim` by default.

    Raises:
        ValueError: `num_heads` does not divide `dim`.

    >>> SetAttentionBlock(8, num_heads=2)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    @checked()
    def __init__(
        self, dim: int, num_heads: int = 4, *, norm: bool = True, source_dim: int | None = None
    ) -> None:
        super().__init__(dim, source_dim)
        self.attention = Attention(dim, num_heads, source_dim=source_dim)
        self.linear = nn.Linear(dim, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) if norm else nn.Identity() for _ in range(2))

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        return self._close(tokens.z, self.attention(tokens, source, graph).z)

    def weigh(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        return self.attention.weigh(tokens, source, graph)

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        attended, state = self.attention.step(tokens, graph, state, source)
        return tokens.replace(z=self._close(tokens.z, attended.z)), state

    def _close(self, z: Tensor, attended: Tensor) -> Tensor:
        h = self.norms[0](z + attended)
        return self.norms[1](h + self.linear(h).relu())

    def flops(self, tokens: Any, source: Any = None, graph: Any = None) -> int:
        """Attention, and 2 N D^2."""
        z = tokens if isinstance(tokens, Tensor) else tokens.z
        return self.attention.flops(tokens, source, graph) + map_flops(z, self.linear)


class InducedSetAttentionBlock(CompleteMixer):
    r"""Attention through K learned points, for large sets, at a cost of N K: ISAB.

        ISAB(X) = MAB(X, MAB(I, X)),   I in R^{K x D} learned

    Lee et al., 2019 (arXiv 1810.00825). With the same weights it equals PyG's
    `InducedSetAttentionBlock`. As every token depends on all others it honors complete
    graphs only; in a ragged batch each set has induced points of its own. The residual is
    inside: no `Residual` is needed around it.

    Args:
        dim: channels D.
        num_heads: number of heads; divides `dim`.
        num_points: K.
        norm: whether the blocks have LayerNorms.
        source_dim: channels of the other set, `dim` by default.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or the graph is not complete.

    >>> InducedSetAttentionBlock(8, num_heads=2, num_points=3)(torch.zeros(2, 50, 8)).shape
    torch.Size([2, 50, 8])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        num_points: int = 16,
        *,
        norm: bool = True,
        source_dim: int | None = None,
    ) -> None:
        super().__init__(dim, source_dim)
        check_size("num_points", num_points, 1)
        self.points = nn.Parameter(torch.empty(num_points, dim))
        self.gather = SetAttentionBlock(dim, num_heads, norm=norm, source_dim=source_dim)
        self.spread = SetAttentionBlock(dim, num_heads, norm=norm)
        nn.init.xavier_uniform_(self.points)

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        points, graphs = latents_on(graph, self.points, source.z)
        points = self.gather(points, source.z, graphs.gather)
        return self.spread(tokens.z, points, graphs.spread)

    def flops(self, tokens: Tokens) -> int:
        """That of two blocks, from tokens to points and back."""
        points, graphs = latents_on(tokens.graph, self.points, tokens.z)
        gather = self.gather.flops(points, tokens.z, graphs.gather)
        return gather + self.spread.flops(tokens.z, points, graphs.spread)


class PoolingByAttention(TokenLayer):
    r"""K learned seeds attend to the tokens of a set, and replace them: PMA.

        PMA_K(Z) = MAB(S, relu(W Z)),   S in R^{K x D} learned

    Lee et al., 2019 (arXiv 1810.00825). With the same weights it equals PyG's
    `PoolingByMultiheadAttention`. Use it to reduce a set to K tokens on the complete graph,
    which blocks and a readout can follow; for one seed and nothing after it, take
    `AttentionReadout`. Like a readout it attends to all tokens of a set, whatever graph they
    have among themselves, and the output does not depend on their order.

    Args:
        dim: channels D.
        num_heads: number of heads; divides `dim`.
        num_seeds: K.
        norm: whether the block has LayerNorms.

    Raises:
        ValueError: `num_heads` does not divide `dim`.

    >>> sets = Tokens.batch([Tokens(torch.zeros(n, 8)) for n in (7, 2)])
    >>> PoolingByAttention(8, num_heads=2, num_seeds=3)(sets)
    Tokens(z=(6, 8), graph=Disjoint([Full(3), Full(3)]): 6 tokens, 18 edges, density 0.5)
    """

    why_no_step = "the seeds attend to all tokens"

    @checked()
    def __init__(
        self, dim: int, num_heads: int = 4, num_seeds: int = 1, *, norm: bool = True
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        check_size("num_seeds", num_seeds, 1)
        self.seeds = nn.Parameter(torch.empty(num_seeds, dim))
        self.block = SetAttentionBlock(dim, num_heads, norm=norm)
        nn.init.xavier_uniform_(self.seeds)

    def transform(self, tokens: Tokens) -> Tokens:
        seeds, graphs = latents_on(tokens.graph, self.seeds, tokens.z)
        source = self.linear(tokens.z).relu()
        return Tokens(self.block(seeds, source, graphs.gather), graphs.within)

    def flops(self, tokens: Tokens) -> int:
        """One projection of the tokens, and a block from the tokens to the seeds."""
        seeds, graphs = latents_on(tokens.graph, self.seeds, tokens.z)
        block = self.block.flops(seeds, tokens.z, graphs.gather)
        return map_flops(tokens.z, self.linear) + block
