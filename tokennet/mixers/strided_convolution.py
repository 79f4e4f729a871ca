"""A convolution that makes a grid coarser."""

from __future__ import annotations

from typing import Any

from torch import nn

from tokennet.checks import check_size, checked
from tokennet.graphs import Disjoint, Grid, TokenGraph
from tokennet.layer import TokenLayer
from tokennet.mixers.convolution import check_odd, convolve_grid
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class StridedConvolution(TokenLayer):
    r"""Fewer tokens, each made of a box of old tokens: the grid becomes coarser by s.

        out_{x, y} = \sum_{a, b = -r}^{r} W_{a, b} z_{s x + a, s y + b} + bias

    Use it between the stages of hierarchical nets, such as PoolFormer (Yu et al., 2022,
    arXiv 2111.11418). Equal to `nn.Conv2d(dim, out_dim, 2 r + 1, stride=s, padding=r)`. The
    height of the new grid is ceil(height / s), its radius that of the old one; the tokens take
    the positions of those in the middle of their boxes. Past the border tokens count as 0, or
    the grid is a torus. Each set of a ragged batch has a grid of its own.

    Args:
        dim: channels D.
        out_dim: channels of the new tokens.
        kernel_size: side of the box, 2 r + 1.
        stride: s.

    Raises:
        ValueError: an even kernel, or a set is not on a `Grid`.

    >>> import torch
    >>> StridedConvolution(8, 16)(Tokens(torch.zeros(2, 12, 8), Grid(3, 4)))
    Tokens(z=(2, 4, 16), graph=Grid(2, 2, radius=1): 4 tokens, 16 edges, density 1)
    """

    symmetry = Symmetry({"index"})

    @checked()
    def __init__(self, dim: int, out_dim: int, kernel_size: int = 3, stride: int = 2) -> None:
        super().__init__()
        check_odd(kernel_size)
        self.radius, self.stride = kernel_size // 2, check_size("stride", stride, 1)
        self.conv = nn.Conv2d(dim, out_dim, kernel_size, stride=stride)

    def transform(self, tokens: Tokens) -> Tokens:
        graph = tokens.graph.cached(_coarser, self.stride)
        parts = tokens.unbatch()
        if not parts:
            return Tokens(tokens.z.new_zeros(*tokens.z.shape[:-1], self.conv.out_channels), graph)
        merged = [self._merge(old, new) for old, new in zip(parts, graph.parts, strict=True)]
        return (Tokens.batch(merged) if graph.is_ragged else merged[0]).replace(graph=graph)

    def _merge(self, tokens: Tokens, grid: TokenGraph) -> Tokens:
        batch, count = tokens.z.shape[:-2], grid.num_targets
        pos = tokens.pos
        if pos is not None:
            pos = pos.unflatten(-2, tokens.graph.grid_shape)
            pos = pos[..., :: self.stride, :: self.stride, :].flatten(-3, -2)
        if tokens.z.numel() == 0:
            z = tokens.z.new_zeros(*batch, count, self.conv.out_channels)
        else:
            old = tokens.graph
            z = convolve_grid(self.conv, tokens.z, old.grid_shape, self.radius, bool(old.periodic))
            z = z.reshape(*batch, count, -1)
        return Tokens(z, grid, pos)


def _coarser(graph: Any, stride: int) -> TokenGraph:
    if graph.is_ragged:
        return Disjoint(_coarser(part, stride) for part in graph.parts)
    if len(graph.grid_shape or ()) != 2:
        raise ValueError(f"graph must be a 2-D Grid for StridedConvolution, got {graph!r}")
    sizes = [-(-size // stride) for size in graph.grid_shape]  # type: ignore[union-attr]
    return Grid(
        *sizes, radius=graph.radius, periodic=graph.periodic, neighborhood=graph.neighborhood,  # type: ignore[arg-type]
    )  # fmt: skip
