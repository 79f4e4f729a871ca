"""Language models: `gpt`, `llama` of next ids, `bert`, `modernbert` of masked ids, `t5`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from tokennet.checks import check_made, checked
from tokennet.graphs import Causal, Disjoint, TokenGraph, Window
from tokennet.layer import TokenLayer
from tokennet.mixers import Attention, CrossAttention
from tokennet.nets.block import TokenWise, mlp
from tokennet.nets.compose import OnGraph
from tokennet.nets.config import BlockConfig
from tokennet.nets.decoder import Decoder
from tokennet.nets.embedding import Embedding, Unembedding
from tokennet.nets.encoder_decoder import EncoderDecoder
from tokennet.nets.readout import Readout, TokenReadout
from tokennet.nets.text import MaskedLanguageModel, TextNet
from tokennet.positional import LearnedEncoding, Rotary, T5Bias


@checked(depth=0)
def gpt(
    vocab: int = 50_257,
    dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    max_length: int = 1024,
    *,
    mixer: Callable[[int, int], TokenLayer] = Attention,
    graph: Callable[[int], TokenGraph] = Causal,
    dropout: float = 0.0,
) -> Decoder:
    """GPT-2 (Radford et al., 2019): a pre-norm decoder with tied embeddings.

    Args:
        mixer: from channels and heads to any mixer that supports incremental decoding.
        graph: any causal family, such as `lambda n: Causal(n) & Window(n, 64)`.

    >>> import torch
    >>> net = gpt(vocab=10, dim=8, depth=1, num_heads=2, max_length=12)
    >>> net(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 10])
    """
    config = BlockConfig(activation=partial(nn.GELU, approximate="tanh"), dropout=dropout)
    embedding = Embedding(vocab, dim)
    positions, drop = LearnedEncoding(dim, max_length), TokenWise(nn.Dropout(dropout))
    make = partial(check_made, "mixer", mixer, TokenLayer, dim, num_heads)
    blocks = config.stack(lambda: [make()], dim, depth)
    layers = [embedding, positions, drop, *blocks]
    return Decoder(layers, Unembedding(embedding), graph, max_length)


@checked(depth=0)
def llama(
    vocab: int = 32_000,
    dim: int = 4096,
    depth: int = 32,
    num_heads: int = 32,
    max_length: int = 4096,
    *,
    hidden: int = 11_008,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    window: int | None = None,
    base: float = 10_000.0,
    scaling: str | None = None,
    factor: float = 1.0,
    original_length: int | None = None,
    qk_norm: bool = False,
    tied: bool = False,
) -> Decoder:
    """Llama (Touvron et al., 2023, arXiv 2307.09288), Mistral and Qwen3: a pre-norm decoder.

    With RMSNorm, rotary positions, SwiGLU, grouped queries, and no biases.

    Args:
        head_dim: channels of a head; `dim / num_heads` by default.
        window: how many tokens a token attends to, itself among them (Mistral); None for all.
        base: of the rotary positions; `scaling`, `factor` and `original_length` as of `Rotary`.
        qk_norm: whether queries and keys are normalized (Qwen3).
        tied: whether the readout is the table of the embedding.

    >>> import torch
    >>> net = llama(vocab=10, dim=8, depth=1, num_heads=4, max_length=12, hidden=16, num_kv_heads=2)
    >>> net(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 10])
    """
    norm = partial(nn.RMSNorm, eps=1e-6)
    config = BlockConfig(norm=norm, activation=nn.SiLU, gated=True)

    def attention() -> list[TokenLayer]:
        position = Rotary(
            base=base, interleaved=False, scaling=scaling, factor=factor,
            original_length=original_length,
        )  # fmt: skip
        return [
            Attention(
                dim, num_heads, bias=False, position=position, num_kv_heads=num_kv_heads,
                qk_norm=qk_norm, head_dim=head_dim,
            )
        ]  # fmt: skip

    embedding = Embedding(vocab, dim)
    blocks = config.stack(attention, dim, depth, hidden)
    readout: Readout = Unembedding(embedding) if tied else TokenReadout(dim, vocab)
    readout.norm = norm(dim)
    if not tied:
        readout.head = nn.Linear(dim, vocab, bias=False)
    graph = Causal if window is None else partial(_past, window)
    return Decoder([embedding, *blocks], readout, graph, max_length)


def _past(window: int, n: int) -> TokenGraph:
    return Causal(n) & Window(n, window - 1)


@checked(depth=0, hidden=0, types=0)
def bert(
    vocab: int = 30_522,
    dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    max_length: int = 512,
    *,
    types: int = 2,
    hidden: int | None = None,
    dropout: float = 0.0,
) -> MaskedLanguageModel:
    """BERT (Devlin et al., 2018, arXiv 1810.04805): masked ids are predicted from both sides.

    Ids may come with types as a second column, tokens of z (..., N, 2). RoBERTa (Liu et al., 2019,
    arXiv 1907.11692) has one type, DistilBERT (Sanh et al., 2019, arXiv 1910.01108) has none.

    Args:
        types: number of types; 0 for no table of them.

    >>> import torch
    >>> net = bert(vocab=10, dim=8, depth=1, num_heads=2, max_length=12)
    >>> net([[1, 2, 3], [4, 5]]).shape
    torch.Size([5, 10])
    """
    config = BlockConfig(post_norm=True, dropout=dropout)
    embedding = Embedding((vocab, types) if types else vocab, dim)
    layers: list[TokenLayer] = [embedding, LearnedEncoding(dim, max_length)]
    layers.append(TokenWise(nn.Sequential(nn.LayerNorm(dim), nn.Dropout(dropout))))
    layers += config.stack(lambda: [Attention(dim, num_heads)], dim, depth, hidden)
    layers.append(TokenWise(nn.Sequential(nn.Linear(dim, dim), nn.GELU())))
    return MaskedLanguageModel(layers, Unembedding(embedding, bias=True), max_length=max_length)


@checked(depth=0)
def modernbert(
    vocab: int = 50_368,
    dim: int = 768,
    depth: int = 22,
    num_heads: int = 12,
    max_length: int = 8192,
    *,
    hidden: int = 1152,
    radius: int = 64,
    full_every: int = 3,
    base: float = 160_000.0,
    window_base: float = 10_000.0,
) -> MaskedLanguageModel:
    """ModernBERT (Warner et al., 2024, arXiv 2412.13663): a BERT whose attention is mostly local.

    With rotary positions, GeGLU, and neither biases nor dropout.

    Args:
        radius: of the windows, in each of which a token attends to those before and after it.
        full_every: one block in this number, from the first, attends to all tokens.
        base: of the rotary positions there; `window_base` in windows.

    >>> import torch
    >>> net = modernbert(vocab=10, dim=8, depth=2, num_heads=2, max_length=12, hidden=16)
    >>> net([[1, 2, 3], [4, 5]]).shape
    torch.Size([5, 10])
    """
    norm = partial(nn.LayerNorm, bias=False)
    config, near = BlockConfig(norm=norm, gated=True), partial(_near, radius)

    def mixer(number: int) -> TokenLayer:
        is_full = number % full_every == 0
        position = Rotary(base=base if is_full else window_base, interleaved=False)
        attention = Attention(dim, num_heads, bias=False, position=position)
        return attention if is_full else OnGraph(near, attention)

    embedding = Embedding(vocab, dim)
    blocks = [layer for n in range(depth) for layer in config.block([mixer(n)], dim, hidden)]
    for first in blocks[:1]:
        first.norm = nn.Identity()  # the embedding has one
    layers = [embedding, TokenWise(norm(dim)), *blocks, TokenWise(norm(dim))]
    layers.append(TokenWise(nn.Sequential(nn.Linear(dim, dim, bias=False), nn.GELU())))
    readout = Unembedding(embedding, bias=True)
    readout.norm = norm(dim)
    return MaskedLanguageModel(layers, readout, max_length=max_length)


def _near(radius: int, graph: TokenGraph) -> TokenGraph:
    if graph.is_ragged:
        return Disjoint(_near(radius, part) for part in graph.parts)
    return graph & Window(graph.num_targets, radius)


@checked()
def t5(
    vocab: int = 32_128,
    dim: int = 512,
    depth: int = 6,
    num_heads: int = 8,
    *,
    decoder_depth: int | None = None,
    hidden: int = 2048,
    head_dim: int = 64,
    num_buckets: int = 32,
    max_distance: int = 128,
    gated: bool = False,
    tied: bool = True,
    dropout: float = 0.0,
) -> EncoderDecoder:
    """T5 (Raffel et al., 2019, arXiv 1910.10683): an encoder-decoder of texts.

    With RMSNorm, unscaled scores with a bias of offsets that all layers of a side share, and no
    biases of maps. Version 1.1 and Flan-T5 are gated and not tied.

    Args:
        decoder_depth: `depth` by default.
        num_buckets: of offsets; as `max_distance` of `T5Bias`.
        gated: whether the token-wise functions are GeGLU, not of ReLU.
        tied: whether the readout is the table of the embedding, scaled by 1 / sqrt(dim).

    >>> import torch
    >>> net = t5(vocab=10, dim=8, depth=1, num_heads=2, hidden=16, head_dim=3)
    >>> net(torch.tensor([[1, 2, 3]]), torch.tensor([[0, 4]])).shape
    torch.Size([1, 2, 10])
    """
    norm, gelu = partial(nn.RMSNorm, eps=1e-6), partial(nn.GELU, approximate="tanh")
    tokenwise = partial(_relu_without_bias, dropout)
    config = BlockConfig(norm=norm, dropout=dropout, tokenwise=tokenwise)
    if gated:
        config = BlockConfig(norm=norm, dropout=dropout, activation=gelu, gated=True)
    options: Any = {"bias": False, "head_dim": head_dim, "score": "dot_product"}
    embedding = Embedding(vocab, dim)

    def side(kinds: list[type[Attention]], depth: int, bidirectional: bool) -> list[TokenLayer]:
        sizes: Any = {"num_buckets": num_buckets, "max_distance": max_distance}
        biases = [T5Bias(num_heads, **sizes, bidirectional=bidirectional), None]

        def mixers() -> list[TokenLayer]:
            pairs = zip(kinds, biases, strict=False)
            return [kind(dim, num_heads, position=bias, **options) for kind, bias in pairs]

        start = [embedding, TokenWise(nn.Dropout(dropout))]
        return [*start, *config.stack(mixers, dim, depth, hidden)]

    final = [nn.Sequential(norm(dim), nn.Dropout(dropout)) for _ in range(2)]
    encoder = [*side([Attention], depth, True), TokenWise(final[0])]
    decoder_depth = depth if decoder_depth is None else decoder_depth
    decoder = side([Attention, CrossAttention], decoder_depth, False)
    readout: Readout = TokenReadout(dim, vocab)
    readout.head = nn.Linear(dim, vocab, bias=False)
    readout = Unembedding(embedding, scale=dim**-0.5) if tied else readout
    readout.norm = final[1]
    return EncoderDecoder(TextNet(encoder), Decoder(decoder, readout))


def _relu_without_bias(dropout: float, dim: int, hidden: int | None) -> TokenLayer:
    return TokenWise(mlp(dim, hidden, dropout, nn.ReLU, bias=False))
