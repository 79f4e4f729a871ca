"""Tokens that listen to those at given places before and after them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tokennet.checks import check_size
from tokennet.graphs.algebra import TokenGraph


class Offsets(TokenGraph):
    """Token i listens to i + o for each offset o; on a ring of n tokens where `periodic`.

    What a convolution connects: `Offsets(n, (-2, -1, 0))` is causal with a kernel of three,
    `Offsets(n, (-8, -4, 0))` the same dilated by four. On a ring it is a circulant graph, the
    skip links of Murphy et al., 2019 (arXiv 1903.02541) for `Offsets(n, (-s, -1, 1, s))`.

    >>> Offsets(4, (-2, 0)).dense().int().tolist()
    [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]]
    >>> Offsets(4, (1,), periodic=True).edge_index().tolist()
    [[1, 2, 3, 0], [0, 1, 2, 3]]
    """

    def __init__(self, n: int, offsets: Iterable[int], periodic: bool = False) -> None:
        super().__init__(check_size("n", n))
        given = tuple(offsets)
        for offset in given:
            if isinstance(offset, bool) or not isinstance(offset, int):
                raise TypeError(f"offsets must be integers, got {offset!r}")
        self.offsets, self.periodic = tuple(sorted(set(given))), bool(periodic)

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        ahead, found = j - i, torch.zeros_like(i + j, dtype=torch.bool)
        for offset in self.offsets:
            if self.periodic:
                found = found | ((ahead - offset) % max(self.num_targets, 1) == 0)
            else:
                found = found | (ahead == offset)
        return found

    @property
    def band(self) -> tuple[int, int] | None:
        if self.periodic:
            return None
        return max(-o for o in (*self.offsets, 0)), max((*self.offsets, 0))

    @property
    def T(self) -> TokenGraph:
        return Offsets(self.num_targets, (-offset for offset in self.offsets), self.periodic)

    def _build_edge_index(self) -> Tensor:
        n, offsets = self.num_targets, self.offsets
        if self.periodic:
            offsets = tuple({offset % max(n, 1): None for offset in offsets})
        source = torch.arange(n)[:, None] + torch.tensor(offsets, dtype=torch.long)
        if self.periodic:
            source = source % max(n, 1)
        source = source.sort(dim=1).values  # (N, number of offsets)
        row, column = ((source >= 0) & (source < n)).nonzero(as_tuple=True)
        return torch.stack([source[row, column], row])

    def _name(self) -> str:
        periodic = ", periodic=True" if self.periodic else ""
        return f"Offsets({self.num_targets}, {self.offsets}{periodic})"
