"""ResMLP: one linear map over the tokens."""

from __future__ import annotations

from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.graphs import TokenGraph
from tokennet.mixers.fixed_pattern import AllToAll


class CrossPatchLinear(AllToAll):
    r"""A linear map over a fixed number of tokens, the same for every channel.

        out_{., d} = W z_{., d} + b,   W in R^{N x N}

    The cross-patch layer of ResMLP: Touvron et al., 2021 (arXiv 2105.03404), timm's
    `linear_tokens`. In their block it follows an affine map of the channels, in place of a
    norm, and a scale for each channel follows it; both are token-wise.

    Args:
        dim: channels D.
        num_tokens: the number of tokens N.

    Raises:
        ValueError: the graph is not complete on `num_tokens` tokens, or there is a `source`.

    >>> import torch
    >>> CrossPatchLinear(8, num_tokens=5)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    @checked(num_tokens=0)
    def __init__(self, dim: int, num_tokens: int) -> None:
        super().__init__(dim, num_tokens)
        self.linear = nn.Linear(num_tokens, num_tokens)

    def mix_set(self, z: Tensor, graph: TokenGraph) -> Tensor:
        return self.linear(z.transpose(-1, -2)).transpose(-1, -2)  # over N, each channel alone
