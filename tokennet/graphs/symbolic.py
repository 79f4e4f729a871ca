"""Graphs given by a formula: O(1) memory whatever the number of tokens.

`attends` defines each of them. The edge list and the edge count are written out where
the formula allows it in time proportional to the edges rather than to all pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.checks import check_size
from tokennet.graphs.algebra import TokenGraph


class Full(TokenGraph):
    """Every one of n targets listens to every one of m sources (m = n unless given).

    >>> Full(4)
    Full(4): 4 tokens, 16 edges, density 1
    >>> Full(2, 5)
    Full(2, 5): 2 targets, 5 sources, 10 edges, density 1
    """

    def __init__(self, n: int, m: int | None = None) -> None:
        super().__init__(check_size("n", n), None if m is None else check_size("m", m))

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return torch.ones_like(i + j, dtype=torch.bool)

    @property
    def is_full(self) -> bool:
        return True

    @property
    def has_empty_targets(self) -> bool:
        return self.num_targets > 0 and self.num_sources == 0

    @property
    def num_edges(self) -> int:
        return self.num_targets * self.num_sources

    @property
    def T(self) -> TokenGraph:
        return Full(self.num_sources, self.num_targets)

    def _build_edge_index(self) -> Tensor:
        source, target = torch.arange(self.num_sources), torch.arange(self.num_targets)
        return torch.stack([
            source.repeat(self.num_targets), target.repeat_interleave(self.num_sources)
        ])  # fmt: skip

    def _last(self, count: int) -> TokenGraph:
        return Full(count, self.num_sources)

    def _relabel(self, perm: Tensor, source_perm: Tensor) -> TokenGraph:
        return self

    def _reach(self, k: int) -> TokenGraph:
        return self if k else Self(self.num_targets)

    def _name(self) -> str:
        return f"Full({self.num_targets}{'' if self.is_square else f', {self.num_sources}'})"


class _Square(TokenGraph):
    """A graph on one set of n tokens."""

    def __init__(self, n: int) -> None:
        super().__init__(check_size("n", n))

    def _name(self) -> str:
        return f"{type(self).__name__}({self.num_targets})"


class Causal(_Square):
    """Token i listens to tokens 0 .. i.

    >>> Causal(3).dense().int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return i >= j

    @property
    def is_causal(self) -> bool:
        return True

    @property
    def has_empty_targets(self) -> bool:
        return False

    @property
    def band(self) -> tuple[int, int]:
        return max(self.num_targets - 1, 0), 0

    @property
    def num_edges(self) -> int:
        return self.num_targets * (self.num_targets + 1) // 2

    def _build_edge_index(self) -> Tensor:
        return torch.tril_indices(self.num_targets, self.num_targets).flip(0)

    def _last(self, count: int) -> TokenGraph:
        return Full(1, self.num_sources) if count == 1 else super()._last(count)

    def _reach(self, k: int) -> TokenGraph:
        return self if k else Self(self.num_targets)


class Self(_Square):
    """Each token listens to itself alone.

    >>> Self(3).edge_index().tolist()
    [[0, 1, 2], [0, 1, 2]]
    """

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return i == j

    @property
    def has_empty_targets(self) -> bool:
        return False

    @property
    def band(self) -> tuple[int, int]:
        return 0, 0

    @property
    def num_edges(self) -> int:
        return self.num_targets

    @property
    def T(self) -> TokenGraph:
        return self

    def _build_edge_index(self) -> Tensor:
        return torch.arange(self.num_targets).repeat(2, 1)

    def _reach(self, k: int) -> TokenGraph:
        return self


class _Local(_Square):
    """A symmetric graph in which every token has at most a few sources, known by formula."""

    def __init__(self, n: int, radius: int) -> None:
        super().__init__(n)
        self.radius = check_size("radius", radius)

    @property
    def T(self) -> TokenGraph:
        return self

    @property
    def has_empty_targets(self) -> bool:
        return False

    def _reach(self, k: int) -> TokenGraph:
        return type(self)(self.num_targets, k * self.radius)

    def _build_edge_index(self) -> Tensor:
        i = torch.arange(self.num_targets)[:, None]
        width = min(self.radius, self.num_targets)
        j = i + torch.arange(-width, width + 1)  # (N, 2 radius + 1)
        row, column = ((j >= 0) & (j < self.num_targets)).nonzero(as_tuple=True)
        return torch.stack([j[row, column], row])

    def _name(self) -> str:
        return f"{type(self).__name__}({self.num_targets}, radius={self.radius})"


class Window(_Local):
    """Token i listens to the tokens at most `radius` places away, itself included.

    >>> Window(4, radius=1).dense().int().tolist()
    [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    """

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return (i - j).abs() <= self.radius

    @property
    def band(self) -> tuple[int, int]:
        return self.radius, self.radius

    @property
    def num_edges(self) -> int:
        return line_edges(self.num_targets, self.radius)


class Cycle(_Local):
    """A window on a ring: token i listens to i - radius .. i + radius modulo n.

    Its automorphisms are the rotations and reflections of the ring.

    >>> Cycle(4, radius=1).dense().int().tolist()
    [[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]]
    """

    def __init__(self, n: int, radius: int = 1) -> None:
        super().__init__(n, radius)

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return ring_distance(i, j, self.num_targets) <= self.radius

    @property
    def num_edges(self) -> int:
        return self.num_targets * min(self.num_targets, 2 * self.radius + 1)

    def _build_edge_index(self) -> Tensor:
        n = self.num_targets
        near = torch.arange(n)[:, None] + torch.arange(min(n, 2 * self.radius + 1)) - self.radius
        source = (near % max(n, 1)).sort(dim=1).values  # (N, min(N, 2 radius + 1))
        target = torch.arange(n)[:, None].expand_as(source)
        return torch.stack([source.flatten(), target.flatten()])


class Global(_Square):
    """Tokens 0 .. k - 1 are hubs: they listen to all and all listen to them.

    Other pairs are not connected; `Global(n, k) | Window(n, radius)` is the pattern of
    Longformer (Beltagy et al., 2020, arXiv 2004.05150).

    >>> Global(4, 1).dense().int().tolist()
    [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    """

    def __init__(self, n: int, k: int) -> None:
        super().__init__(n)
        if check_size("k", k) > n:
            raise ValueError(f"k must be at most n = {n} hubs, got {k}")
        self.k = k

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return (i < self.k) | (j < self.k)

    @property
    def num_edges(self) -> int:
        return self.num_targets**2 - (self.num_targets - self.k) ** 2

    @property
    def T(self) -> TokenGraph:
        return self

    def _build_edge_index(self) -> Tensor:
        n, k = self.num_targets, self.k
        hubs = Full(k, n).edge_index()
        others = Full(n - k, k).edge_index() + torch.tensor([[0], [k]])
        return torch.cat([hubs, others], dim=1)

    def _name(self) -> str:
        return f"Global({self.num_targets}, k={self.k})"


def ring_distance(a: Tensor, b: Tensor, size: int) -> Tensor:
    ahead = (a - b) % max(size, 1)
    return torch.minimum(ahead, size - ahead)


def line_edges(n: int, radius: int) -> int:
    reach = min(radius, max(n - 1, 0))
    return n + sum(2 * (n - offset) for offset in range(1, reach + 1))
