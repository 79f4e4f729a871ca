"""Convolution on a grid in the plane."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.graphs import Grid, TokenGraph
from tokennet.mixers.convolution import check_odd, convolve_grid
from tokennet.mixers.fixed_pattern import FixedPatternMixer
from tokennet.tokens import Tokens


class GridConvolution(FixedPatternMixer):
    r"""A convolution of pixels or patches, row by row: weights tied by offset in the plane.

        out_{x, y} = \sum_{a, b = -r}^{r} W_{a, b} z_{x + a, y + b} + bias

    With `groups=dim` it is depthwise, W_{a, b} is diagonal, as in ConvMixer (Trockman and
    Kolter, 2022, arXiv 2201.09792). Past the border tokens count as 0, or the grid is a torus.
    Equal to `nn.Conv2d` with the same weights.

    Height and width are those of the graph where it is a `Grid`. On other graphs, such as
    the complete one that patches of a ViT are on, give `grid`. The graph must have the edges
    of `Grid(height, width, radius=r, periodic=periodic)`.

    Args:
        dim: channels D.
        kernel_size: side of the box, 2r + 1.
        grid: (height, width); by default the graph's own.
        periodic: whether the grid is a torus.
        groups: as in `nn.Conv2d`; `dim` for a depthwise convolution.
        bias: whether there is a bias.

    Raises:
        ValueError: an even kernel, a graph that lacks some of the edges, is a grid of other
            sides than `grid`, or no grid where `grid` is not given, or a `source`.

    >>> import torch
    >>> from tokennet import Grid, Tokens
    >>> GridConvolution(8)(Tokens(torch.zeros(2, 12, 8), Grid(3, 4))).z.shape
    torch.Size([2, 12, 8])
    >>> GridConvolution(8, kernel_size=5, grid=(14, 14))(torch.zeros(2, 196, 8)).shape
    torch.Size([2, 196, 8])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        *,
        grid: tuple[int, int] | None = None,
        periodic: bool = False,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(dim)
        check_odd(kernel_size)
        if grid is not None and not (isinstance(grid, tuple | list) and len(grid) == 2):
            raise ValueError(f"grid must be (height, width) or None, got {grid!r}")
        self.radius, self.periodic = kernel_size // 2, periodic
        self.grid = None if grid is None else (grid[0], grid[1])
        self.conv = nn.Conv2d(dim, dim, kernel_size, groups=groups, bias=bias)

    @property
    def pattern(self) -> tuple[Any, ...]:  # type: ignore[override]
        return (_boxes, self.radius, self.grid, self.periodic)

    def mix_set(self, z: Tensor, graph: TokenGraph) -> Tensor:
        if z.numel() == 0:
            return z
        shape = self.grid or graph.grid_shape
        return convolve_grid(self.conv, z, shape, self.radius, self.periodic).reshape(z.shape)

    def flops(self, tokens: Tokens) -> int:
        """2 D^2 / groups for each edge of the pattern."""
        return self.pattern_edges(tokens) * 2 * self.dim**2 // self.conv.groups


def _boxes(
    graph: TokenGraph, radius: int, grid: tuple[int, int] | None, periodic: bool
) -> TokenGraph:
    shape = graph.grid_shape
    if grid is None and (shape is None or len(shape) != 2):
        raise ValueError(
            "graph must be a Grid of two dimensions for GridConvolution, or its sides must be "
            f"given: grid=(height, width); got {graph!r}"
        )
    if grid is not None and shape not in (None, grid):
        raise ValueError(
            f"graph must be a Grid of {grid[0]} x {grid[1]}, as GridConvolution was given by "
            f"grid; got {graph!r}"
        )
    return Grid(*(grid or shape), radius=radius, periodic=periodic)  # type: ignore[misc]
