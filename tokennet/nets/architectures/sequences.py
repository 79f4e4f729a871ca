"""Nets over sequences and series, in the order of their tokens."""

from __future__ import annotations

from torch import nn

from tokennet.layer import TokenLayer
from tokennet.mixers import Convolution, Recurrence
from tokennet.mixers.recurrence import Cell
from tokennet.nets.block import Residual, TokenWise
from tokennet.nets.net import TokenNet
from tokennet.nets.readout import READOUTS


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
    """A temporal convolutional net (Bai et al., 2018, arXiv 1803.01271): causal, dilated.

    Each block is two full convolutions of one dilation, which doubles from block to block:
    the last token hears 1 + 2 (kernel_size - 1) (2^depth - 1) tokens.
    """
    layers: list[TokenLayer | TokenNet] = [TokenWise(nn.Linear(in_features, dim))]
    for block in range(depth):
        for _ in range(2):
            heard = Convolution(dim, kernel_size, dilation=2**block, causal=True, groups=1)
            layers.append(Residual(heard, nn.LayerNorm(dim), dropout))
            layers.append(TokenWise(nn.ReLU()))
    return TokenNet(layers, READOUTS[readout](dim, out_features))


def rnn(
    in_features: int = 1,
    out_features: int = 1,
    dim: int = 128,
    depth: int = 2,
    cell: Cell = "gru",
    *,
    readout: str = "token",
) -> TokenNet:
    """A recurrent net (Cho et al., 2014, arXiv 1406.1078): GRU or LSTM, a latent state."""
    embed = TokenWise(nn.Linear(in_features, dim))
    return TokenNet(
        [embed, Recurrence(dim, cell, num_layers=depth)], READOUTS[readout](dim, out_features)
    )
