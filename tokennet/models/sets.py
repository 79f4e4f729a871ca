"""Nets on sets: `deep_sets`, `set_transformer`, `perceiver`."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from tokennet.checks import checked
from tokennet.layer import TokenLayer
from tokennet.mixers import (
    InducedSetAttentionBlock,
    Latents,
    PoolingByAttention,
    SetAttentionBlock,
)
from tokennet.nets.block import TokenWise
from tokennet.nets.compose import WithGraph, complete
from tokennet.nets.net import TokenNet
from tokennet.nets.readout import MeanReadout, make_readout
from tokennet.positional import SinusoidalEncoding


@checked()
def deep_sets(
    in_features: int = 3,
    out_features: int = 10,
    dim: int = 128,
    depth: int = 3,
    *,
    readout: str = "sum",
) -> TokenNet:
    r"""Deep Sets (Zaheer et al., 2017, arXiv 1703.06114): rho(\sum_i phi(z_i)).

    Tokens are mixed in the pooling only: "sum", "mean" or "max".

    >>> import torch
    >>> from tokennet import Tokens
    >>> net = deep_sets(in_features=3, out_features=2, dim=8)
    >>> net(Tokens.batch([Tokens(torch.zeros(n, 3)) for n in (4, 7)])).shape
    torch.Size([2, 2])
    """
    widths = [in_features, *[dim] * depth]
    phi = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    pool = make_readout(readout, dim, out_features)
    pool.norm = nn.Identity()
    pool.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out_features))
    return TokenNet([TokenWise(part) for part in phi], pool)


@checked(depth=0)
def set_transformer(
    in_features: int = 3,
    out_features: int = 10,
    dim: int = 128,
    depth: int = 2,
    num_heads: int = 4,
    *,
    num_points: int = 16,
    num_seeds: int = 4,
) -> TokenNet:
    """The Set Transformer (Lee et al., 2019, arXiv 1810.00825): ISAB, then PMA, then SAB.

    Tokens exchange information through `num_points` learned points; `num_seeds` learned seeds
    attend to them, then to each other, and are averaged.

    >>> import torch
    >>> net = set_transformer(in_features=3, out_features=2, dim=8, num_points=4)
    >>> net(torch.zeros(5, 30, 3)).shape
    torch.Size([5, 2])
    """
    layers: list[TokenLayer] = [
        WithGraph(complete),
        TokenWise(nn.Linear(in_features, dim)),
        *[InducedSetAttentionBlock(dim, num_heads, num_points) for _ in range(depth)],
        PoolingByAttention(dim, num_heads, num_seeds),
        SetAttentionBlock(dim, num_heads),
    ]
    return TokenNet(layers, MeanReadout(dim, out_features))


@checked(depth=0, num_coordinates=0)
def perceiver(
    in_features: int = 3,
    out_features: int = 10,
    dim: int = 128,
    depth: int = 4,
    num_heads: int = 4,
    *,
    num_latents: int = 32,
    num_coordinates: int = 0,
) -> TokenNet:
    """A Perceiver (Jaegle et al., 2021, arXiv 2103.03206): any number of tokens, few latents.

    Args:
        num_coordinates: columns of `tokens.pos`, as sinusoidal encodings; 0 for sets.

    >>> import torch
    >>> net = perceiver(in_features=3, out_features=2, dim=8, depth=1, num_latents=4)
    >>> net(torch.zeros(5, 30, 3)).shape
    torch.Size([5, 2])
    """
    layers: list[TokenLayer] = [TokenWise(nn.Linear(in_features, dim))]
    if num_coordinates:
        layers.append(SinusoidalEncoding(dim, "pos", num_coordinates=num_coordinates))
    layers.append(Latents(dim, num_latents, num_heads, depth=depth))
    return TokenNet(layers, MeanReadout(dim, out_features))
