"""Graphs given by a formula: O(1) memory whatever the number of tokens.

`attends` defines each of them. The edge list and the edge count are written out where
the formula allows it in time proportional to the edges rather than to all pairs. Add a graph
here when its edges follow from the indices of the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tokennet.checks import check_flag, check_items, check_size
from tokennet.graphs.algebra import TokenGraph


class Full(TokenGraph):
    """Each of n targets attends to each of m sources (m = n unless given).

    The graph of a transformer on sets, and the default of `Tokens`.

    >>> Full(4)
    Full(4): 4 tokens, 16 edges, density 1
    >>> Full(2, 5)
    Full(2, 5): 2 targets, 5 sources, 10 edges, density 1
    """

    is_full = True

    def __init__(self, n: int, m: int | None = None) -> None:
        super().__init__(check_size("n", n), None if m is None else check_size("m", m))

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return torch.ones_like(i + j, dtype=torch.bool)

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


class Causal(TokenGraph):
    """Token i attends to tokens 0 .. i: for sequences that are generated from left to right.

    >>> Causal(3).dense().int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """

    is_causal = True
    is_band = True
    has_empty_targets = False

    def __init__(self, n: int) -> None:
        super().__init__(check_size("n", n))

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return i >= j

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


class Self(TokenGraph):
    """Each token attends to itself only: `graph | Self(n)` adds self-loops.

    >>> Self(3).edge_index().tolist()
    [[0, 1, 2], [0, 1, 2]]
    """

    is_band = True
    is_symmetric = True
    has_empty_targets = False
    band = (0, 0)

    def __init__(self, n: int) -> None:
        super().__init__(check_size("n", n))

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return i == j

    @property
    def num_edges(self) -> int:
        return self.num_targets

    def _build_edge_index(self) -> Tensor:
        return torch.arange(self.num_targets).repeat(2, 1)

    def _reach(self, k: int) -> TokenGraph:
        return self


class _Local(TokenGraph):
    """Tokens on a line or ring that attend to those within a radius."""

    is_symmetric = True
    has_empty_targets = False

    def __init__(self, n: int, radius: int) -> None:
        super().__init__(check_size("n", n))
        self.radius: int = check_size("radius", radius)

    def _reach(self, k: int) -> TokenGraph:
        return type(self)(self.num_targets, k * self.radius)

    def _name(self) -> str:
        return f"{type(self).__name__}({self.num_targets}, radius={self.radius})"


class Window(_Local):
    """Token i attends to tokens i - radius .. i + radius, itself included.

    Local attention on a sequence; `Causal(n) & Window(n, radius)` is its causal form.

    >>> Window(4, radius=1).dense().int().tolist()
    [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    """

    is_band = True

    def __init__(self, n: int, radius: int) -> None:
        super().__init__(n, radius)

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return (i - j).abs() <= self.radius

    @property
    def band(self) -> tuple[int, int]:
        return self.radius, self.radius

    @property
    def num_edges(self) -> int:
        n, reach = self.num_targets, min(self.radius, max(self.num_targets - 1, 0))
        return n + reach * (2 * n - reach - 1)

    def _build_edge_index(self) -> Tensor:
        width = min(self.radius, self.num_targets)
        return _edges_at(torch.arange(-width, width + 1), self.num_targets)


class Dilated(_Local):
    """A window with gaps: token i attends to i + m dilation for m = -radius .. radius.

    The dilated sliding window of Longformer (Beltagy et al., 2020, arXiv 2004.05150): with the
    same number of edges as `Window(n, radius)` it reaches `dilation` times as far. Its causal form
    is `Causal(n) & Dilated(n, radius, dilation)`; a radius of n makes the strided attention of
    Child et al., 2019 (arXiv 1904.10509).

    >>> Dilated(5, radius=1, dilation=2).dense().int().tolist()
    [[1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [1, 0, 1, 0, 1], [0, 1, 0, 1, 0], [0, 0, 1, 0, 1]]
    """

    def __init__(self, n: int, radius: int, dilation: int) -> None:
        super().__init__(n, radius)
        self.dilation: int = check_size("dilation", dilation, 1)

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        distance = (i - j).abs()
        return (distance <= self.radius * self.dilation) & (distance % self.dilation == 0)

    @property
    def band(self) -> tuple[int, int]:
        reach = self.radius * self.dilation
        return reach, reach

    def _build_edge_index(self) -> Tensor:
        width = min(self.radius, self.num_targets // self.dilation)
        return _edges_at(torch.arange(-width, width + 1) * self.dilation, self.num_targets)

    def _reach(self, k: int) -> TokenGraph:
        return Dilated(self.num_targets, k * self.radius, self.dilation)

    def _name(self) -> str:
        return f"Dilated({self.num_targets}, radius={self.radius}, dilation={self.dilation})"


class Random(TokenGraph):
    """Each token attends to k different others, drawn at random from a seed.

    `Random(n, k) | Window(n, radius) | Global(n, hubs)` is the pattern of BigBird (Zaheer et al.,
    2020, arXiv 2007.14062). No edge is drawn twice, and none from a token to itself: `| Self(n)`
    adds these. The edges are drawn when they are first needed; only the seed is stored.

    Args:
        n: number of tokens.
        k: number of sources of each token, at most n - 1.
        seed: of the random numbers.

    >>> graph = Random(1000, k=3, seed=7)
    >>> graph
    Random(1000, k=3, seed=7): 1,000 tokens, 3,000 edges, density 0.003
    >>> graph == Random(1000, 3, seed=7), graph == Random(1000, 3, seed=8)
    (True, False)
    """

    def __init__(self, n: int, k: int, seed: int = 0) -> None:
        super().__init__(check_size("n", n))
        self.k, self.seed = check_size("k", k), check_size("seed", seed)
        if self.k > max(self.num_targets - 1, 0):
            raise ValueError(f"k must be at most n - 1 = {n - 1} other tokens, got {k}")

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return self._is_listed(i, j)

    @property
    def num_edges(self) -> int:
        return self.num_targets * self.k

    def _build_edge_index(self) -> Tensor:
        n, k = self.num_targets, self.k
        generator = torch.Generator().manual_seed(self.seed)
        target = torch.arange(n)[:, None]
        source = torch.empty(n, 0, dtype=torch.long)
        # Floyd's algorithm: k of the numbers 0 .. n - 2, each subset as likely as any other.
        for last in range(n - 1 - k, n - 1):
            drawn = torch.randint(last + 1, (n, 1), generator=generator)
            repeated = (source == drawn).any(1, keepdim=True)
            source = torch.cat([source, drawn.masked_fill(repeated, last)], dim=1)
        source = (source + (source >= target)).sort(dim=1).values  # all but the token itself
        return torch.stack([source.flatten(), target.expand(n, k).flatten()])

    def _name(self) -> str:
        return f"Random({self.num_targets}, k={self.k}, seed={self.seed})"


class Cycle(_Local):
    """A window on a ring: token i attends to i - radius .. i + radius modulo n.

    For periodic signals; its automorphisms are the rotations and reflections of the ring.

    >>> Cycle(4, radius=1).dense().int().tolist()
    [[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]]
    """

    periodic = True

    def __init__(self, n: int, radius: int = 1) -> None:
        super().__init__(n, radius)

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return ring_distance(i, j, self.num_targets) <= self.radius

    @property
    def num_edges(self) -> int:
        return self.num_targets * min(self.num_targets, 2 * self.radius + 1)

    def _build_edge_index(self) -> Tensor:
        n = self.num_targets
        offsets = torch.arange(min(n, 2 * self.radius + 1)) - self.radius
        return _edges_at(offsets, n, periodic=True)


class Offsets(TokenGraph):
    """Token i attends to i + o for each offset o; on a ring of n tokens if `periodic`.

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
        given = enumerate(check_items("offsets", offsets, object, "ints"))
        sizes = {check_size(f"offsets[{number}]", offset, None) for number, offset in given}
        self.offsets = tuple(sorted(sizes))
        self.periodic = check_flag("periodic", periodic)

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

    @property
    def num_edges(self) -> int:
        n = self.num_targets
        if self.periodic:
            return n * len({offset % max(n, 1) for offset in self.offsets})
        return sum(max(n - abs(offset), 0) for offset in self.offsets)

    def _build_edge_index(self) -> Tensor:
        n, offsets = self.num_targets, self.offsets
        if self.periodic:
            offsets = tuple({offset % max(n, 1) for offset in offsets})
        return _edges_at(torch.tensor(offsets, dtype=torch.long), n, self.periodic)

    def _name(self) -> str:
        periodic = ", periodic=True" if self.periodic else ""
        return f"Offsets({self.num_targets}, {self.offsets}{periodic})"


class Global(TokenGraph):
    """Tokens 0 .. k - 1 are hubs: they attend to all tokens, and all tokens attend to them.

    Other pairs are not connected; `Global(n, k) | Window(n, radius)` is the pattern of
    Longformer (Beltagy et al., 2020, arXiv 2004.05150).

    >>> Global(4, 1).dense().int().tolist()
    [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    """

    is_symmetric = True

    def __init__(self, n: int, k: int) -> None:
        super().__init__(check_size("n", n))
        self.k = check_size("k", k)
        if self.k > self.num_targets:
            raise ValueError(f"k must be at most n = {n} hubs, got {k}")

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return (i < self.k) | (j < self.k)

    @property
    def num_edges(self) -> int:
        return self.num_targets**2 - (self.num_targets - self.k) ** 2

    def _build_edge_index(self) -> Tensor:
        n, k = self.num_targets, self.k
        hubs = Full(k, n).edge_index()
        others = Full(n - k, k).edge_index() + torch.tensor([[0], [k]])
        return torch.cat([hubs, others], dim=1)

    def _name(self) -> str:
        return f"Global({self.num_targets}, k={self.k})"


def ring_distance(a: Tensor, b: Tensor, size: int) -> Tensor:
    """Steps from a to b on a ring of `size` points, the shorter way round."""
    ahead = (a - b) % max(size, 1)
    return torch.minimum(ahead, size - ahead)


def _edges_at(offsets: Tensor, n: int, periodic: bool = False) -> Tensor:
    """(2, E): the edges i + offset -> i; offsets ascend, or differ modulo n if periodic."""
    source = torch.arange(n)[:, None] + offsets  # (N, number of offsets)
    if periodic:
        source = (source % max(n, 1)).sort(dim=1).values
    row, column = ((source >= 0) & (source < n)).nonzero(as_tuple=True)
    return torch.stack([source[row, column], row])
