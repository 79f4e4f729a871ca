"""The mean of the neighbors, without parameters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tokennet.graphs import TokenGraph
from tokennet.mixers.base import Mixer
from tokennet.ops import attend
from tokennet.tokens import Tokens


class Pooling(Mixer):
    r"""The mean of the neighbors, less the token: mixing without parameters.

        out_i = mean_{j -> i} z_j - z_i

    The token mixer of PoolFormer: Yu et al., 2022 (arXiv 2111.11418); use it as a baseline
    that shows what attention adds. On `Grid(h, w, radius=1)`
    it equals timm's `Pooling(pool_size=3)`, on other graphs it is attention with equal weights.
    The token is taken away because a residual connection brings it back. A token without
    neighbors has a mean of 0, as everywhere in this library, so that it gets -z_i.

    Args:
        dim: channels D.

    >>> import torch
    >>> from tokennet import Grid, Tokens
    >>> Pooling(8)(Tokens(torch.ones(2, 12, 8), Grid(3, 4))).z.abs().max().item()
    0.0
    """

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        if graph.is_full:
            mean = source.z.sum(-2, keepdim=True) / max(graph.num_sources, 1)
        elif _is_a_box_everywhere(graph):
            mean = _mean_of_boxes(source.z, graph)
        else:
            equal = source.z.new_zeros(1, 1, 1)  # scores of 0: each neighbor weighs the same
            query = equal.expand(graph.num_targets, 1, 1)
            key = equal.expand(graph.num_sources, 1, 1)
            mean = attend(query, key, source.z.unsqueeze(-2), graph).squeeze(-2)
        return mean - tokens.z

    def flops(self, tokens: Tokens) -> int:
        """D additions for each edge."""
        return tokens.z.shape[:-2].numel() * tokens.graph.num_edges * self.dim


def _is_a_box_everywhere(graph: TokenGraph) -> bool:
    """Not if a periodic box would hold a token twice, nor without tokens."""
    shape, radius = graph.grid_shape or (), graph.radius or 0
    if len(shape) != 2 or graph.neighborhood != "box":
        return False
    return min(shape) >= 2 * radius + 1 if graph.periodic else graph.num_targets > 0


def _mean_of_boxes(z: Tensor, graph: TokenGraph) -> Tensor:
    height, width = graph.grid_shape  # type: ignore[misc]
    image = z.reshape(-1, height, width, z.shape[-1]).permute(0, 3, 1, 2)
    border: int = graph.radius or 0
    side = 2 * border + 1  # image is (B, D, height, width)
    if image.is_cuda:
        # With channels last and a border PyTorch's gradient is wrong there, before a fix of June
        # 2026: https://github.com/pytorch/pytorch/issues/188344. One channel counts as last even
        # after `contiguous`.
        image = image.clone(memory_format=torch.contiguous_format)
    if graph.periodic:
        image, border = F.pad(image, 4 * (border,), mode="circular"), 0
    mean = F.avg_pool2d(image, side, stride=1, padding=border, count_include_pad=False)
    return mean.permute(0, 2, 3, 1).reshape(z.shape)
