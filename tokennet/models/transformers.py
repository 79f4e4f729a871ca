"""Stacks of attention: encoder, decoder, and the transformer of both (arXiv 1706.03762)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import nn

from tokennet.checks import check_sizes, checked
from tokennet.graphs import Causal, TokenGraph
from tokennet.layer import TokenLayer
from tokennet.mixers import Attention, CrossAttention, LinearAttention
from tokennet.nets.block import TokenWise
from tokennet.nets.config import BlockConfig
from tokennet.nets.decoder import Decoder
from tokennet.nets.embedding import Embedding, Unembedding
from tokennet.nets.encoder_decoder import EncoderDecoder
from tokennet.nets.net import IOSpec, Positions, TokenNet, positions_of
from tokennet.nets.readout import make_readout
from tokennet.nets.text import TextNet
from tokennet.positional import SinusoidalEncoding


@checked(depth=0, hidden=0)
def encoder_stack(
    dim: int,
    depth: int,
    num_heads: int,
    hidden: int | None = None,
    config: BlockConfig | None = None,
    *,
    final_norm: bool = True,
) -> TokenNet:
    """Blocks of self-attention and MLP, from tokens to tokens: `nn.TransformerEncoder`.

    Args:
        final_norm: whether pre-norm blocks are followed by a norm, as they need to be unless
            a readout has one.

    >>> import torch
    >>> encoder_stack(dim=8, depth=2, num_heads=2)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """
    config = config or BlockConfig()
    layers = config.stack(lambda: [Attention(dim, num_heads)], dim, depth, hidden)
    return TokenNet(layers + config.final_norm(dim) if final_norm else layers)


@checked(depth=0, hidden=0)
def decoder_stack(
    dim: int,
    depth: int,
    num_heads: int,
    hidden: int | None = None,
    config: BlockConfig | None = None,
    *,
    final_norm: bool = True,
) -> TokenNet:
    """Blocks of self-attention, attention to the source, and MLP: `nn.TransformerDecoder`.

    Args:
        final_norm: as for `encoder_stack`.

    >>> import torch
    >>> stack = decoder_stack(dim=8, depth=2, num_heads=2)
    >>> stack(torch.zeros(3, 5, 8), torch.zeros(3, 7, 8)).shape
    torch.Size([3, 5, 8])
    """
    config = config or BlockConfig()
    mixers = Attention, CrossAttention
    layers = config.stack(lambda: [kind(dim, num_heads) for kind in mixers], dim, depth, hidden)
    return TokenNet(layers + config.final_norm(dim) if final_norm else layers)


@checked(depth=0, num_tokens=0, num_coordinates=0)
def encoder(
    in_features: int = 32,
    out_features: int = 10,
    dim: int = 128,
    depth: int = 4,
    num_heads: int = 4,
    *,
    readout: str = "mean",
    positions: Positions = "none",
    num_tokens: int | tuple[int, ...] | None = None,
    num_coordinates: int = 0,
    config: BlockConfig | None = None,
) -> TokenNet:
    """A transformer over tokens of any kind, on any graph; without positions, a set function.

    Args:
        positions: as for `build_net`.
        num_tokens: for positions "index"; sides of a grid, (rows, columns), that is no square.
        num_coordinates: for positions "pos", the columns of `tokens.pos`.

    >>> import torch
    >>> net = encoder(in_features=6, out_features=3, dim=8, depth=1)
    >>> net(torch.zeros(2, 5, 6)).shape, net.symmetry.relabeling
    (torch.Size([2, 3]), 'S_n')
    """
    grid = check_sizes("num_tokens", num_tokens, 1) if isinstance(num_tokens, tuple) else None
    count = num_tokens if grid is None else prod(grid)
    spec = IOSpec(in_features, out_features, readout, count, num_coordinates, grid=grid)  # type: ignore[arg-type]
    embed = TokenWise(nn.Linear(in_features, dim))
    return TokenNet(
        [
            embed,
            *positions_of(positions, spec, dim),
            *encoder_stack(dim, depth, num_heads, config=config, final_norm=False).layers,
        ],
        make_readout(readout, dim, out_features),
    )


@checked(depth=0)
def performer(
    in_features: int = 32,
    out_features: int = 10,
    dim: int = 128,
    depth: int = 4,
    num_heads: int = 4,
    *,
    readout: str = "mean",
    config: BlockConfig | None = None,
) -> TokenNet:
    """A Performer (Choromanski et al., 2020, arXiv 2009.14794): time linear in the tokens.

    On complete graphs, and on causal ones with `readout="token"`.

    >>> import torch
    >>> net = performer(in_features=6, out_features=3, dim=8, depth=1)
    >>> net(torch.zeros(2, 1000, 6)).shape
    torch.Size([2, 3])
    """
    config = config or BlockConfig()
    embed = TokenWise(nn.Linear(in_features, dim))
    blocks = config.stack(lambda: [LinearAttention(dim, num_heads, "softmax")], dim, depth)
    return TokenNet([embed, *blocks], make_readout(readout, dim, out_features))


@checked(hidden=0)
def transformer(
    source_vocab: int = 32_000,
    target_vocab: int | None = None,
    dim: int = 512,
    depth: int = 6,
    num_heads: int = 8,
    hidden: int | None = None,
    *,
    config: BlockConfig | None = None,
    graph: Callable[[int], TokenGraph] = Causal,
) -> EncoderDecoder:
    """The encoder-decoder of Vaswani et al., 2017 (arXiv 1706.03762), sequences to sequences.

    Without `target_vocab` both languages share one vocabulary and one table of vectors.

    Args:
        config: `BlockConfig(post_norm=True, activation=nn.ReLU, dropout=0.1)` by default, as in the
            paper; pre-norm or `norm=BatchNorm` on request.

    >>> import torch
    >>> net = transformer(source_vocab=10, target_vocab=12, dim=8, depth=1, num_heads=2)
    >>> net(torch.tensor([[1, 2, 3]]), torch.tensor([[0, 4]])).shape
    torch.Size([1, 2, 12])
    """
    config = config or BlockConfig(post_norm=True, activation=nn.ReLU, dropout=0.1)
    source = Embedding(source_vocab, dim, scale=dim**0.5)
    target = Embedding(target_vocab, dim, scale=dim**0.5) if target_vocab else source

    def positions() -> list[TokenLayer | TokenNet]:
        return [SinusoidalEncoding(dim, "index"), TokenWise(nn.Dropout(config.dropout))]

    encoder = [source, *positions(), encoder_stack(dim, depth, num_heads, hidden, config)]
    decoder = [target, *positions(), decoder_stack(dim, depth, num_heads, hidden, config)]
    readout = Unembedding(target)
    readout.norm = nn.Identity()  # the last block, or the final norm, has one
    return EncoderDecoder(TextNet(encoder), Decoder(decoder, readout, graph))
