"""Nets on graphs, whose tokens attend along their own graph: `gat`, `gin`, `gps`."""

from __future__ import annotations

from torch import nn

from tokennet.checks import checked
from tokennet.layer import TokenLayer
from tokennet.mixers import Attention, GraphAttention, GraphIsomorphism
from tokennet.nets.block import TokenWise
from tokennet.nets.compose import OnGraph, Parallel, add_self_loops, complete
from tokennet.nets.config import BatchNorm, BlockConfig
from tokennet.nets.net import TokenNet
from tokennet.nets.readout import make_readout


@checked(depth=0)
def gat(
    in_features: int = 32,
    out_features: int = 10,
    dim: int = 64,
    depth: int = 3,
    num_heads: int = 4,
    *,
    readout: str = "token",
) -> TokenNet:
    """A graph attention net (Brody et al., 2021, arXiv 2105.14491): GATv2, ELU, self-loops.

    >>> import torch
    >>> from tokennet import Cycle, Tokens
    >>> gat(in_features=3, out_features=2, dim=8)(Tokens(torch.zeros(6, 3), Cycle(6))).shape
    torch.Size([6, 2])
    """
    layers: list[TokenLayer] = [TokenWise(nn.Linear(in_features, dim))]
    for _ in range(depth):
        layers += [OnGraph(add_self_loops, GraphAttention(dim, num_heads)), TokenWise(nn.ELU())]
    return TokenNet(layers, make_readout(readout, dim, out_features))


@checked(depth=0)
def gin(
    in_features: int = 32,
    out_features: int = 10,
    dim: int = 64,
    depth: int = 5,
    *,
    readout: str = "sum",
    edge_dim: int | None = None,
) -> TokenNet:
    """A graph isomorphism net (Xu et al., 2018, arXiv 1810.00826), as strong as color refinement.

    Each block is an MLP of (1 + eps) z_i plus the sum of the neighbors, with BatchNorm.

    >>> import torch
    >>> from tokennet import Cycle, Tokens
    >>> graphs = Tokens.batch([Tokens(torch.zeros(n, 3), Cycle(n)) for n in (4, 6)])
    >>> gin(in_features=3, out_features=2, dim=8)(graphs).shape
    torch.Size([2, 2])
    """
    layers: list[TokenLayer] = [TokenWise(nn.Linear(in_features, dim))]
    for _ in range(depth):
        mlp = nn.Sequential(
            nn.Linear(dim, dim), BatchNorm(dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()
        )
        layers.append(GraphIsomorphism(dim, mlp, edge_dim=edge_dim))
    return TokenNet(layers, make_readout(readout, dim, out_features))


@checked(depth=0)
def gps(
    in_features: int = 32,
    out_features: int = 10,
    dim: int = 64,
    depth: int = 4,
    num_heads: int = 4,
    *,
    readout: str = "sum",
    edge_dim: int | None = None,
    dropout: float = 0.0,
) -> TokenNet:
    """A general, powerful, scalable graph transformer (Rampasek et al., 2022, arXiv 2205.12454).

    Each block has two mixers in parallel: messages along the graph, attention among all tokens.

    >>> import torch
    >>> from tokennet import Cycle, Tokens
    >>> graphs = Tokens.batch([Tokens(torch.zeros(n, 3), Cycle(n)) for n in (4, 6)])
    >>> gps(in_features=3, out_features=2, dim=8)(graphs).shape
    torch.Size([2, 2])
    """
    config = BlockConfig(post_norm=True, norm=BatchNorm, activation=nn.ReLU, dropout=dropout)
    layers: list[TokenLayer] = [TokenWise(nn.Linear(in_features, dim))]
    for _ in range(depth):
        fn = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        along_graph = config.around(GraphIsomorphism(dim, fn, edge_dim=edge_dim), dim)
        among_all = config.around(OnGraph(complete, Attention(dim, num_heads)), dim)
        layers.append(Parallel([along_graph, among_all]))
        layers += config.block([], dim, hidden=2 * dim)
    return TokenNet(layers, make_readout(readout, dim, out_features))
