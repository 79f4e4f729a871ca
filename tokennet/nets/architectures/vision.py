"""Nets over patches: what a tokenizer has cut an image into."""

from __future__ import annotations

from torch import nn

from tokennet.layer import TokenLayer
from tokennet.mixers import MLPMixer
from tokennet.nets.architectures.transformer import encoder_stack
from tokennet.nets.block import TokenWise
from tokennet.nets.class_tokens import PutBefore
from tokennet.nets.compose import GraphOf, WithGraph, complete
from tokennet.nets.net import TokenNet
from tokennet.nets.readout import MeanReadout, OneToken
from tokennet.nets.style import Style
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
        layers += [SinusoidalEncoding(dim, "pos", num_coordinates=2), PutBefore(dim)]
    else:
        layers += [PutBefore(dim), LearnedEncoding(dim, num_tokens + 1)]
    layers += list(encoder_stack(dim, depth, heads, hidden, style).layers)[:-1]  # type: ignore[arg-type]
    return TokenNet(layers, OneToken(dim, out_features))  # the readout has the last norm


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
