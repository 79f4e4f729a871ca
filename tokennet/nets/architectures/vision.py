"""Nets over patches: what a tokenizer has cut an image into."""

from __future__ import annotations

from torch import nn

from tokennet.layer import TokenLayer
from tokennet.mixers import CrossPatchLinear, MLPMixer, Pooling
from tokennet.nets.architectures.transformer import encoder_stack
from tokennet.nets.block import TokenWise
from tokennet.nets.compose import GraphOf, WithGraph, complete
from tokennet.nets.net import TokenNet
from tokennet.nets.prepend import PrependTokens
from tokennet.nets.readout import MeanReadout, OneToken
from tokennet.nets.style import Affine, Style
from tokennet.positional import LearnedEncoding, SinusoidalEncoding


def vit(
    in_features: int = 3 * 16 * 16,
    out_features: int = 1000,
    num_tokens: int | None = 196,
    dim: int = 192,
    depth: int = 12,
    heads: int = 3,
    *,
    hidden: int | None = None,
    style: Style | None = None,
    graph: GraphOf = complete,
) -> TokenNet:
    """The vision transformer (Dosovitskiy et al., 2020, arXiv 2010.11929).

    Args:
        in_features: values of a patch.
        num_tokens: number of patches, each place with a learned code; None for images of any
            size, with sinusoidal codes of `tokens.pos` (row and column).
        graph: from the graph of the patches to the one of attention; all listen to all, or
            `lambda grid: grid.reach(3)` for neighbourhoods and the class token.
    """
    layers: list[TokenLayer] = [WithGraph(graph), TokenWise(nn.Linear(in_features, dim))]
    if num_tokens is None:
        layers += [SinusoidalEncoding(dim, "pos", num_coordinates=2), PrependTokens(dim)]
    else:
        layers += [PrependTokens(dim), LearnedEncoding(dim, num_tokens + 1)]
    blocks = encoder_stack(dim, depth, heads, hidden, style, final_norm=False)
    layers += list(blocks.layers)  # type: ignore[arg-type]
    return TokenNet(layers, OneToken(dim, out_features))


def mlp_mixer(
    in_features: int = 3 * 16 * 16,
    out_features: int = 1000,
    num_tokens: int = 196,
    dim: int = 512,
    depth: int = 8,
    *,
    token_hidden: int | None = None,
    hidden: int | None = None,
    style: Style | None = None,
) -> TokenNet:
    """MLP-Mixer (Tolstikhin et al., 2021, arXiv 2105.01601): tokens, but no attention."""
    style = style or Style()
    token_hidden = dim // 2 if token_hidden is None else token_hidden
    layers: list[TokenLayer] = [WithGraph(complete), TokenWise(nn.Linear(in_features, dim))]
    for _ in range(depth):
        layers += style.block([MLPMixer(dim, num_tokens, token_hidden)], dim, hidden)
    return TokenNet(layers, MeanReadout(dim, out_features))


def resmlp(
    in_features: int = 3 * 16 * 16,
    out_features: int = 1000,
    num_tokens: int = 196,
    dim: int = 384,
    depth: int = 12,
    *,
    hidden: int | None = None,
) -> TokenNet:
    """ResMLP (Touvron et al., 2021, arXiv 2105.03404): one linear map of the tokens, no norms."""
    style = Style(norm=Affine, layer_scale=1e-4)
    layers: list[TokenLayer] = [WithGraph(complete), TokenWise(nn.Linear(in_features, dim))]
    for _ in range(depth):
        layers += style.block([CrossPatchLinear(dim, num_tokens)], dim, hidden)
    readout = MeanReadout(dim, out_features)
    readout.norm = Affine(dim)
    return TokenNet(layers, readout)


def poolformer(
    in_features: int = 3 * 16 * 16,
    out_features: int = 1000,
    dim: int = 384,
    depth: int = 12,
    *,
    hidden: int | None = None,
) -> TokenNet:
    """PoolFormer's blocks (Yu et al., 2022, arXiv 2111.11418) at one scale: means of neighbours.

    The graph of the patches says who they are, as `Grid(14, 14)`. The net of the paper
    shrinks the grid four times; here it keeps its size.
    """
    style = Style(layer_scale=1e-5)
    layers: list[TokenLayer] = [TokenWise(nn.Linear(in_features, dim))]
    for _ in range(depth):
        layers += style.block([Pooling(dim)], dim, hidden)
    return TokenNet(layers, MeanReadout(dim, out_features))
