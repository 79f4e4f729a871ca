"""Perceiver: a few learned tokens, the latents, gather a set, and may be read by its tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import check_size
from tokennet.graphs import TokenGraph
from tokennet.layer import IncrementalDecodingError, TokenLayer
from tokennet.mixers._latent_graphs import LatentGraphs, for_each_set, latent_graphs
from tokennet.mixers._ragged import check_complete
from tokennet.mixers.attention import Attention
from tokennet.mixers.base import Mixer
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class LatentBlock(nn.Module):
    """Pre-norm attention to a source, or of the latents to each other, and an MLP.

    Args:
        dim: channels of the latents.
        num_heads: number of heads.
        source_dim: channels of the source; None where they attend to themselves.
        widening: width of the MLP over `dim`.
    """

    def __init__(self, dim: int, num_heads: int, source_dim: int | None, widening: int) -> None:
        super().__init__()
        self.hidden = widening * dim
        self.norm = nn.LayerNorm(dim)
        self.source_norm = None if source_dim is None else nn.LayerNorm(source_dim)
        self.attention = Attention(dim, num_heads, source_dim=source_dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, self.hidden), nn.GELU(), nn.Linear(self.hidden, dim)
        )

    def forward(self, latents: Tensor, source: Tensor | None, graph: TokenGraph) -> Tensor:
        z = self.norm(latents)
        source = z if source is None or self.source_norm is None else self.source_norm(source)
        latents = latents + self.attention(z, source, graph)
        return latents + self.mlp(self.mlp_norm(latents))

    def flops(self, latents: Tensor, source: Tensor, graph: TokenGraph) -> int:
        mlp = 4 * latents.shape[:-1].numel() * self.attention.dim * self.hidden
        return self.attention.flops(latents, source, graph) + mlp


class Latents(TokenLayer):
    r"""K learned tokens attend to all tokens of a set, then to each other; they are the output.

        y = y_0 + Attention(norm(y_0), norm(z)),  y_1 = y + MLP(norm(y)),  y_0 learned
        y_{l+1} in the same way, with attention among the latents

    The encoder of Perceiver, Jaegle et al., 2021 (arXiv 2103.03206). Use it to reduce a large
    set to K tokens, at a cost of N K; each set of a ragged batch has K of its own. Like a
    readout it attends to all tokens of a set, whatever graph they have among themselves, and
    the output does not depend on their order; the new tokens are on the complete graph.

    Args:
        dim: channels D of the tokens.
        num_latents: K.
        num_heads: number of heads; divides `latent_dim`.
        depth: number of blocks of attention among the latents.
        latent_dim: channels of the latents, `dim` by default.
        widening: width of the MLPs over `latent_dim`.

    Raises:
        ValueError: `num_heads` does not divide `latent_dim`, or `num_latents` is not positive.

    >>> Latents(8, num_latents=3, num_heads=2)(torch.zeros(2, 50, 8)).shape
    torch.Size([2, 3, 8])
    """

    symmetry = Symmetry()

    def __init__(
        self,
        dim: int,
        num_latents: int = 32,
        num_heads: int = 8,
        *,
        depth: int = 1,
        latent_dim: int | None = None,
        widening: int = 1,
    ) -> None:
        super().__init__()
        self.dim, self.latent_dim = dim, dim if latent_dim is None else latent_dim
        check_size("num_latents", num_latents, 1)
        self.latents = nn.Parameter(torch.empty(num_latents, self.latent_dim))
        self.cross = LatentBlock(self.latent_dim, num_heads, dim, widening)
        self.blocks = nn.ModuleList(
            LatentBlock(self.latent_dim, num_heads, None, widening) for _ in range(depth)
        )
        nn.init.trunc_normal_(self.latents, std=0.02)

    def transform(self, tokens: Tokens) -> Tokens:
        graphs = latent_graphs(tokens.graph, len(self.latents))
        return Tokens(self.encode(tokens.z, graphs), graphs.within)

    def encode(self, source: Tensor, graphs: LatentGraphs) -> Tensor:
        """(..., M, D) sources to (..., S K, latent_dim)."""
        latents = for_each_set(self.latents, graphs.within, source)
        latents = self.cross(latents, source, graphs.gather)
        for block in self.blocks:
            latents = block(latents, None, graphs.within)
        return latents

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        raise IncrementalDecodingError(self, "the latents attend to all tokens")

    def flops(self, tokens: Tokens) -> int:
        """Attention of latents to tokens, and of latents to each other, with their MLPs."""
        return self.encode_flops(tokens.z, latent_graphs(tokens.graph, len(self.latents)))

    def encode_flops(self, source: Tensor, graphs: LatentGraphs) -> int:
        """Those of `encode`."""
        latents = for_each_set(self.latents, graphs.within, source)
        flops = self.cross.flops(latents, source, graphs.gather)
        blocks = (block.flops(latents, latents, graphs.within) for block in self.blocks)  # type: ignore[operator]
        return flops + sum(blocks)


class PerceiverMixer(Mixer):
    r"""Tokens exchange information through K learned latents, at a cost of N K, not N^2.

        out = W_o Attention(z, norm(y)),   y = Latents(source)

    Latents attend to all tokens and to each other (Perceiver, Jaegle et al., 2021,
    arXiv 2103.03206); then the tokens attend to the latents (Perceiver IO, 2021,
    arXiv 2107.14795). Use it for large sets; for the latents alone take `Latents`. As every
    token depends on all others it honors complete graphs only; in a ragged batch each set has
    latents of its own.

    Args:
        dim: channels D of tokens and output.
        num_heads: number of heads; divides `dim` and `latent_dim`.
        num_latents: K.
        depth: number of blocks of attention among the latents.
        latent_dim: channels of the latents, `dim` by default.
        widening: width of the MLPs of the latents over `latent_dim`.
        source_dim: channels of the other set, `dim` by default.

    Raises:
        ValueError: `num_heads` does not divide the channels, or the graph is not complete.

    >>> PerceiverMixer(8, num_heads=2, num_latents=3)(torch.zeros(2, 50, 8)).shape
    torch.Size([2, 50, 8])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        num_latents: int = 32,
        *,
        depth: int = 1,
        latent_dim: int | None = None,
        widening: int = 1,
        source_dim: int | None = None,
    ) -> None:
        super().__init__(dim, source_dim)
        self.latents = Latents(
            self.source_dim,
            num_latents,
            num_heads,
            depth=depth,
            latent_dim=dim if latent_dim is None else latent_dim,
            widening=widening,
        )
        self.norm = nn.LayerNorm(self.latents.latent_dim)
        self.read = Attention(dim, num_heads, source_dim=self.latents.latent_dim)

    def check_graph(self, graph: TokenGraph) -> None:
        check_complete(graph, "Perceiver")

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        graphs = latent_graphs(graph, len(self.latents.latents))
        latents = self.norm(self.latents.encode(source.z, graphs))
        return self.read(tokens.z, latents, graphs.spread)

    def flops(self, tokens: Tokens) -> int:
        """That of `Latents`, and of attention from tokens to latents."""
        graphs = latent_graphs(tokens.graph, len(self.latents.latents))
        count, size = graphs.within.num_targets, self.latents.latent_dim
        latents = tokens.z.new_zeros(*tokens.z.shape[:-2], count, size)
        encode = self.latents.encode_flops(tokens.z, graphs)
        return encode + self.read.flops(tokens.z, latents, graphs.spread)
