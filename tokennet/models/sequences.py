"""Nets over sequences and time series, in the order of their tokens: `tcn` and `rnn`."""

from __future__ import annotations

from torch import nn

from tokennet.checks import checked
from tokennet.layer import TokenLayer
from tokennet.mixers import Convolution, Recurrence
from tokennet.mixers.recurrence import Cell
from tokennet.nets.block import PostNorm, TokenWise
from tokennet.nets.net import TokenNet
from tokennet.nets.readout import make_readout


@checked(depth=0)
def tcn(
    in_features: int = 1,
    out_features: int = 1,
    dim: int = 64,
    depth: int = 6,
    kernel_size: int = 3,
    *,
    readout: str = "token",
    dropout: float = 0.0,
) -> TokenNet:
    r"""A temporal convolutional net (Bai et al., 2018, arXiv 1803.01271): causal, dilated.

        out = relu(z + F(F(z))),   F = dropout relu convolution

    Each block is one residual around two full convolutions of one dilation, which doubles
    from block to block: the last token depends on 1 + 2 (kernel_size - 1) (2^depth - 1) tokens. An
    embedding, a 1x1 convolution, comes first, so that no block changes the width and none
    needs a 1x1 convolution in its residual. The paper also normalizes the filters by their length:
    `torch.nn.utils.parametrizations.weight_norm` of each `Convolution.conv` does so.

    >>> import torch
    >>> from tokennet import Causal, Tokens
    >>> net = tcn(in_features=3, out_features=2, dim=8, depth=2)
    >>> net(Tokens(torch.zeros(4, 20, 3), Causal(20))).shape
    torch.Size([4, 20, 2])
    """
    layers: list[TokenLayer] = [TokenWise(nn.Linear(in_features, dim))]
    for block in range(depth):
        branch: list[TokenLayer] = []
        for _ in range(2):
            conv = Convolution(dim, kernel_size, dilation=2**block, causal=True, groups=1)
            branch += [conv, TokenWise(nn.Sequential(nn.ReLU(), nn.Dropout(dropout)))]
        layers.append(PostNorm(TokenNet(branch), nn.ReLU()))
    return TokenNet(layers, make_readout(readout, dim, out_features))


@checked()
def rnn(
    in_features: int = 1,
    out_features: int = 1,
    dim: int = 128,
    depth: int = 2,
    cell: Cell = "gru",
    *,
    readout: str = "token",
) -> TokenNet:
    """A recurrent net (Cho et al., 2014, arXiv 1406.1078): GRU or LSTM, with a hidden state.

    >>> import torch
    >>> from tokennet import Causal, Tokens
    >>> net = rnn(in_features=3, out_features=2, dim=8, cell="lstm")
    >>> net(Tokens(torch.zeros(4, 20, 3), Causal(20))).shape
    torch.Size([4, 20, 2])
    """
    embed = TokenWise(nn.Linear(in_features, dim))
    return TokenNet(
        [embed, Recurrence(dim, cell, num_layers=depth)], make_readout(readout, dim, out_features)
    )
