"""MLP-Mixer: an MLP over the tokens."""

from __future__ import annotations

from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.graphs import TokenGraph
from tokennet.mixers.fixed_pattern import AllToAll


class TokenMixingMLP(AllToAll):
    r"""An MLP over a fixed number of tokens, the same for every channel.

        out_{., d} = W_2 gelu(W_1 z_{., d} + b_1) + b_2,   W_1 in R^{hidden x N}

    The token-mixing layer of Tolstikhin et al., 2021 (arXiv 2105.01601). Its parameters
    belong to indices, so it commutes with no permutation, and it needs the complete graph on
    exactly `num_tokens` tokens.

    Args:
        dim: channels D.
        num_tokens: the number of tokens N.
        hidden: width of the hidden layer.

    Raises:
        ValueError: called on any other graph, or with a `source`.

    >>> import torch
    >>> TokenMixingMLP(8, num_tokens=5, hidden=16)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    @checked(num_tokens=0, hidden=0)
    def __init__(self, dim: int, num_tokens: int, hidden: int) -> None:
        super().__init__(dim, num_tokens)
        self.net = nn.Sequential(
            nn.Linear(num_tokens, hidden), nn.GELU(), nn.Linear(hidden, num_tokens)
        )

    def mix_set(self, z: Tensor, graph: TokenGraph) -> Tensor:
        return self.net(z.transpose(-1, -2)).transpose(-1, -2)  # over N, each channel alone
