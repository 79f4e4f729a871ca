"""gMLP: hidden channels are gated by a linear map over the tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.graphs import TokenGraph
from tokennet.mixers.fixed_pattern import AllToAll


class GatedMLP(AllToAll):
    r"""A token-wise MLP whose hidden layer is gated across tokens, for a fixed number of them.

        (u, v) = halves of gelu(W_1 z + b_1)
        gate_{., c} = W norm(v)_{., c} + b,   W in R^{N x N}
        out = W_2 (u * gate) + b_2

    The block of gMLP with its spatial gating unit, without norm and residual before and
    around it: Liu et al., 2021 (arXiv 2105.08050), timm's `GatedMlp` with `SpatialGatingUnit`.
    W starts near 0 and b at 1, as the authors advise: tokens mix as training goes on.

    Args:
        dim: channels D.
        num_tokens: the number of tokens N.
        hidden: width of the hidden layer, an even number; `6 dim` by default.

    Raises:
        ValueError: `hidden` is odd, the graph is not complete on `num_tokens` tokens, or there
            is a `source`.

    >>> GatedMLP(8, num_tokens=5)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    @checked(num_tokens=0, hidden=2)
    def __init__(self, dim: int, num_tokens: int, hidden: int | None = None) -> None:
        super().__init__(dim, num_tokens)
        hidden = 6 * dim if hidden is None else hidden
        if hidden < 2 or hidden % 2:
            raise ValueError(f"hidden must be an even number, for two halves; got {hidden}")
        self.expand = nn.Linear(dim, hidden)
        self.activation = nn.GELU()
        self.norm = nn.LayerNorm(hidden // 2)
        self.spatial = nn.Linear(num_tokens, num_tokens)
        self.project = nn.Linear(hidden // 2, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for linear in (self.expand, self.project):
            linear.reset_parameters()
        self.norm.reset_parameters()
        nn.init.normal_(self.spatial.weight, std=1e-6)
        nn.init.ones_(self.spatial.bias)

    def mix_set(self, z: Tensor, graph: TokenGraph) -> Tensor:
        u, v = self.activation(self.expand(z)).chunk(2, dim=-1)  # (..., N, hidden / 2)
        gate = self.spatial(self.norm(v).transpose(-1, -2)).transpose(-1, -2)
        return self.project(torch.mul(u, gate))
