"""Tokens on the points of a grid."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.checks import check_size
from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.symbolic import Cycle, Window, ring_distance


class Grid(TokenGraph):
    """Pixels or patches, row by row: a token listens to the box of `radius` around it.

    Token `i` sits at row `i // width`, column `i % width`; the box has side
    `2 radius + 1`, holds the token itself, and wraps round where `periodic`.

    >>> Grid(3, 3)
    Grid(3, 3, radius=1): 9 tokens, 49 edges, density 0.605
    """

    def __init__(self, height: int, width: int, radius: int = 1, periodic: bool = False) -> None:
        super().__init__(check_size("height", height) * check_size("width", width))
        self.height, self.width = height, width
        self.radius, self.periodic = check_size("radius", radius), bool(periodic)

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        near = self._near
        return near(i // self.width, j // self.width, self.height) & near(
            i % self.width, j % self.width, self.width
        )

    def _near(self, a: Tensor, b: Tensor, size: int) -> Tensor:
        distance = ring_distance(a, b, size) if self.periodic else (a - b).abs()
        return distance <= self.radius

    @property
    def band(self) -> tuple[int, int] | None:
        if self.periodic:
            return None
        rows, columns = (min(self.radius, size - 1) for size in (self.height, self.width))
        reach = max(rows * self.width + columns, 0)
        return reach, reach

    @property
    def num_edges(self) -> int:
        rows, columns = self._line(self.height), self._line(self.width)
        return rows.num_edges * columns.num_edges

    @property
    def grid_shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def T(self) -> TokenGraph:
        return self

    def _line(self, size: int) -> TokenGraph:
        return Cycle(size, self.radius) if self.periodic else Window(size, self.radius)

    def _reach(self, k: int) -> TokenGraph:
        return Grid(self.height, self.width, k * self.radius, self.periodic)

    def _build_edge_index(self) -> Tensor:
        j_row, i_row = self._line(self.height).edge_index()[:, :, None]
        j_column, i_column = self._line(self.width).edge_index()[:, None, :]
        source = (j_row * self.width + j_column).flatten()
        target = (i_row * self.width + i_column).flatten()
        order = (target * self.num_sources + source).argsort()
        return torch.stack([source[order], target[order]])

    def _name(self) -> str:
        periodic = ", periodic=True" if self.periodic else ""
        return f"Grid({self.height}, {self.width}, radius={self.radius}{periodic})"
