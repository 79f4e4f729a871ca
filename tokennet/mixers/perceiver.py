"""Perceiver: a few learned tokens, the latents, gather a set, and may be read by its tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, checked
from tokennet.graphs import TokenGraph
from tokennet.layer import TokenLayer, map_flops
from tokennet.mixers._ragged import CompleteMixer
from tokennet.mixers.attention import Attention
from tokennet.mixers.latents import LatentGraphs, latents_on
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
        self.norm = nn.LayerNorm(dim)
        self.source_norm = None if source_dim is None else nn.LayerNorm(source_dim)
        self.attention = Attention(dim, num_heads, source_dim=source_dim)
        self.mlp_norm = nn.LayerNorm(dim)
        hidden = widening * dim
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, latents: Tensor, source: Tensor | None, graph: TokenGraph) -> Tensor:
        z = self.norm(latents)
        source = z if source is None or self.source_norm is None else self.source_norm(source)
        latents = latents + self.attention(z, source, graph)
        return latents + self.mlp(self.mlp_norm(latents))

    def flops(self, latents: Tensor, source: Tensor, graph: TokenGraph) -> int:
        mlp = map_flops(latents, self.mlp[0], self.mlp[2])
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

    why_no_step = "the latents attend to all tokens"

    @checked(depth=0)
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
        latents, graphs = self.encode(tokens.z, tokens.graph)
        return Tokens(latents, graphs.within)

    def encode(self, source: Tensor, graph: TokenGraph) -> tuple[Tensor, LatentGraphs]:
        """(..., M, D) sources of a graph to latents (..., S K, latent_dim), and their graphs."""
        latents, graphs = latents_on(graph, self.latents, source)
        latents = self.cross(latents, source, graphs.gather)
        for block in self.blocks:
            latents = block(latents, None, graphs.within)
        return latents, graphs

    def flops(self, tokens: Tokens) -> int:
        """Attention of latents to tokens, and of latents to each other, with their MLPs."""
        latents, graphs = latents_on(tokens.graph, self.latents, tokens.z)
        flops = self.cross.flops(latents, tokens.z, graphs.gather)
        blocks = (block.flops(latents, latents, graphs.within) for block in self.blocks)  # type: ignore[operator]
        return flops + sum(blocks)


class PerceiverMixer(CompleteMixer):
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

    @checked(depth=0)
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

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        latents, graphs = self.latents.encode(source.z, graph)
        return self.read(tokens.z, self.norm(latents), graphs.spread)

    def flops(self, tokens: Tokens) -> int:
        """That of `Latents`, and of attention from tokens to latents."""
        latents, graphs = latents_on(tokens.graph, self.latents.latents, tokens.z)
        return self.latents.flops(tokens) + self.read.flops(tokens.z, latents, graphs.spread)
