"""`Grid`: tokens on the points of a grid of any number of dimensions."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import check_flag, check_size, lookup
from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.formulas import Cycle, Self, Window, ring_distance


class Grid(TokenGraph):
    """Each point of a grid attends to the points around it, itself included.

    For pixels, patches, voxels or samples of a signal: what a convolution of odd kernel connects.
    Tokens are in row-major order: on `Grid(height, width)` token i is at row `i // width`, column
    `i % width`.

    - `neighborhood="box"`: all coordinates differ by at most `radius`. In two dimensions radius 1
      is the Moore neighborhood of 9 points.
    - `neighborhood="cross"`: one coordinate differs by at most `radius`, all others are equal. In
      two dimensions radius 1 is the von Neumann neighborhood of 5 points. A larger radius
      lengthens the arms: `1 + 2 d radius` points in d dimensions, never a diagonal neighbor.

    Args:
        sizes: number of points along each dimension, at least one dimension.
        radius: how far a token sees along a dimension.
        periodic: whether every dimension continues at its other end, as on a torus.
        neighborhood: `"box"` or `"cross"`.

    Raises:
        TypeError: a size is not an int.
        ValueError: there are no sizes, a size or the radius is negative, or another neighborhood.

    >>> Grid(3, 3)
    Grid(3, 3, radius=1): 9 tokens, 49 edges, density 0.605
    >>> Grid(3, 3, neighborhood="cross").dense()[4].view(3, 3).int().tolist()
    [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    >>> Grid(8, 8, 8).grid_shape
    (8, 8, 8)
    """

    is_symmetric = True
    has_empty_targets = False

    def __init__(
        self, *sizes: int, radius: int = 1, periodic: bool = False, neighborhood: str = "box"
    ) -> None:
        if not sizes:
            raise ValueError("sizes must hold the size of at least one dimension, got none")
        shape = tuple(check_size(f"sizes[{axis}]", size) for axis, size in enumerate(sizes))
        super().__init__(prod(shape))
        self.grid_shape: tuple[int, ...] = shape
        self.radius: int = check_size("radius", radius)
        self.periodic, self.neighborhood = check_flag("periodic", periodic), neighborhood
        self._is_cross = lookup("neighborhood", neighborhood, {"box": False, "cross": True})

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        inside: Any = True
        axes_that_differ: Any = 0
        for size in (max(size, 1) for size in reversed(self.grid_shape)):
            a, b = i % size, j % size
            distance = ring_distance(a, b, size) if self.periodic else (a - b).abs()
            inside = (distance <= self.radius) & inside
            if self._is_cross:
                axes_that_differ = axes_that_differ + (distance > 0).long()
            i, j = i // size, j // size
        return inside & (axes_that_differ <= 1) if self._is_cross else inside

    @property
    def band(self) -> tuple[int, int] | None:
        if self.periodic:
            return None
        steps, stride = [0], 1
        for size in reversed(self.grid_shape):
            steps.append(min(self.radius, size - 1) * stride)
            stride *= size
        furthest = max(steps) if self._is_cross else sum(steps)
        return (furthest, furthest) if self.num_targets else (0, 0)

    @property
    def is_band(self) -> bool:
        return len(self.grid_shape) == 1 and not self.periodic

    @property
    def num_edges(self) -> int:
        lines = [self._line(size).num_edges for size in self.grid_shape]
        if not self._is_cross or self.num_targets == 0:
            return prod(lines)
        n = self.num_targets
        to_others = zip(lines, self.grid_shape, strict=True)
        return n + sum((edges - size) * (n // size) for edges, size in to_others)

    def _line(self, size: int) -> TokenGraph:
        return Cycle(size, self.radius) if self.periodic else Window(size, self.radius)

    def _reach(self, k: int) -> TokenGraph:
        if self._is_cross and len(self.grid_shape) > 1:
            return super()._reach(k)
        return Grid(*self.grid_shape, radius=k * self.radius, periodic=self.periodic)

    def _build_edge_index(self) -> Tensor:
        axes = range(len(self.grid_shape))
        # A box moves along all axes at once, a cross along one, or another, or a third.
        moves = [{axis} for axis in axes] if self._is_cross else [set(axes)]
        keys = torch.cat([self._moving_along(some) for some in moves]).unique()
        n = max(self.num_targets, 1)
        return torch.stack([keys % n, keys // n])

    def _moving_along(self, axes: set[int]) -> Tensor:
        """target * N + source of the edges between tokens that differ along these axes only."""
        source = target = torch.zeros(1, dtype=torch.long)
        for axis, size in enumerate(self.grid_shape):
            j, i = (self._line(size) if axis in axes else Self(size)).edge_index()
            source = (source[:, None] * size + j).flatten()
            target = (target[:, None] * size + i).flatten()
        return target * self.num_targets + source

    def _name(self) -> str:
        options = f"radius={self.radius}"
        options += ", periodic=True" if self.periodic else ""
        options += ", neighborhood='cross'" if self._is_cross else ""
        return f"Grid({', '.join(map(str, self.grid_shape))}, {options})"
