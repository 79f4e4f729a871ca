"""A norm over all tokens of a set, which mixes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.graphs import TokenGraph
from tokennet.mixers._ragged import CompleteMixer, set_by_set
from tokennet.tokens import Tokens


class SetNorm(CompleteMixer):
    r"""Layer norm over a whole set: tokens less its mean, over its standard deviation.

        out_id = g_d (z_id - mean) / sqrt(var + eps) + b_d

    mean and var are those of all channels of all tokens of the set: the layer normalization
    that Ba, Kiros, Hinton, 2016 (arXiv 1607.06450) give a whole image, `nn.GroupNorm(1, dim)`
    in PoolFormer. Unlike a `LayerNorm` of each token it makes every token depend on all
    others, so that it needs the complete graph; each set of a ragged batch has statistics of
    its own. With a source they are those of the source.

    Args:
        dim: channels D.
        eps: added to the variance.

    Raises:
        ValueError: the graph of a set is not complete.

    >>> out = SetNorm(8)(torch.randn(3, 5, 8))
    >>> out.shape, bool((out.mean((1, 2)).abs() < 1e-5).all())
    (torch.Size([3, 5, 8]), True)
    """

    @checked(eps=0)
    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__(dim)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        return set_by_set(self._mix_set, tokens.z, source.z, graph)

    def _mix_set(self, z: Tensor, source: Tensor, graph: TokenGraph) -> Tensor:
        # Sums of many numbers are not for half precision.
        wide = source.to(torch.promote_types(source.dtype, torch.float32))
        count = max(wide.shape[-2:].numel(), 1)
        mean = wide.sum((-2, -1), keepdim=True) / count  # (..., 1, 1)
        variance = (wide - mean).square().sum((-2, -1), keepdim=True) / count
        normal = ((z - mean) * (variance + self.eps).rsqrt()).to(z.dtype)
        return self.weight * normal + self.bias
