"""Random graphs like those of applications, made offline from a fixed seed."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.graphs import Disjoint, Edges, Full


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_edges(n: int, edges: int, features: int | None = None, seed: int = 0) -> Edges:
    """Edges between random ends; parallel edges and self-loops may occur."""
    generator = _generator(seed)
    edge_index = torch.randint(0, n, (2, edges), generator=generator)
    attr = None if features is None else torch.randn(edges, features, generator=generator)
    return Edges(edge_index, n, edge_attr=attr)


def local_edges(n: int, degree: int, locality: float, reach: int = 64) -> Edges:
    """Every token attends to `degree` others: a share of them close, the rest anywhere.

    Args:
        n: number of tokens.
        degree: sources of each target; parallel edges may occur.
        locality: share of edges from sources at an index at most `reach` away, on a ring.
        reach: the largest distance of a close edge.
    """
    generator = _generator()
    target = torch.arange(n).repeat_interleave(degree)
    close = target + torch.randint(-reach, reach + 1, target.shape, generator=generator)
    anywhere = torch.randint(0, n, target.shape, generator=generator)
    is_close = torch.rand(target.shape, generator=generator) < locality
    return Edges(torch.stack([torch.where(is_close, close % n, anywhere), target]), n)


def power_law(n: int, edges: int, locality: float = 0.0, exponent: float = 0.6) -> Edges:
    """A simple undirected graph with hubs, both directions listed, sorted as in PyG.

    A few tokens have most of the edges: the one of rank r is drawn in proportion to
    (r + 10) ** -exponent, and ranks are spread over the ids at random. So degrees follow
    a power law of exponent 1 + 1 / exponent (Chung, Lu, 2002, doi 10.1073/pnas.252631999).

    Args:
        n: number of tokens.
        edges: directed edges, at most half of all pairs: an even number comes out.
        locality: share of edges that go to one of the 64 ids on either side.
        exponent: 0 for equal chances.
    """
    generator = _generator()
    weight = (torch.arange(n, dtype=torch.float64) + 10) ** -exponent
    weight = weight[torch.randperm(n, generator=generator)].cumsum(0)
    wanted = min(edges // 2, n * (n - 1) // 4)
    keys = torch.zeros(0, dtype=torch.long)
    while len(keys) < wanted:
        ends = torch.rand(2, wanted, generator=generator, dtype=torch.float64) * weight[-1]
        a, b = torch.searchsorted(weight, ends).clamp(max=n - 1)
        close = (a + torch.randint(-64, 65, a.shape, generator=generator)).clamp(0, n - 1)
        b = torch.where(torch.rand(a.shape, generator=generator) < locality, close, b)
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        keys = torch.cat([keys, (low * n + high)[low != high]]).unique()
    keys = keys[torch.randperm(len(keys), generator=generator)[:wanted]]
    both = torch.cat([keys, keys % n * n + keys // n]).sort().values
    return Edges(torch.stack([both // n, both % n]), n)


def hubs(n: int, largest: int) -> Edges:
    """Targets whose degrees fall like 1 / rank (Zipf), a few of them with the largest.

    The target of rank r attends to `largest / max(1, r / 4)` tokens drawn at random, and
    to at least 4; ranks are spread over the ids at random.
    """
    generator = _generator()
    degree = (largest / (torch.arange(n) / 4).clamp(min=1)).long().clamp(min=4)
    target = torch.randperm(n, generator=generator).repeat_interleave(degree)
    source = torch.randint(0, n, target.shape, generator=generator)
    return Edges(torch.stack([source, target]), n)


def sets(count: int, smallest: int = 8, largest: int = 64, seed: int = 0) -> Disjoint:
    """Sets of random sizes, each complete."""
    sizes = torch.randint(smallest, largest + 1, (count,), generator=_generator(seed))
    return Disjoint(Full(size) for size in sizes.tolist())


def molecules(count: int, size: int, rings: int = 15, valence: int = 4) -> Disjoint:
    """Graphs like molecules: trees of bounded degree with some rings of six, undirected.

    Atom i hangs on one of the 8 atoms before it that has a bond left, else on atom i - 1;
    then up to `rings` bonds close a way from atom i to i + 5, some of them drawn twice.
    """
    generator, graph = _generator(), torch.arange(count)
    degree = torch.zeros(count, size, dtype=torch.long)
    bonded = torch.zeros(count, size, size, dtype=torch.bool)

    def bond(where: Tensor, i: Tensor, j: Tensor) -> None:
        bonded[graph[where], i[where], j[where]] = bonded[graph[where], j[where], i[where]] = True
        degree[graph[where], i[where]] += 1
        degree[graph[where], j[where]] += 1

    everywhere = torch.ones(count, dtype=torch.bool)
    for atom in range(1, size):
        first = max(0, atom - 8)
        parent = torch.randint(first, atom, (count,), generator=generator)
        free = degree[graph, parent] < valence
        parent = torch.where(free, parent, torch.tensor(atom - 1))
        bond(everywhere, torch.full((count,), atom), parent)
    for _ in range(rings if size > 5 else 0):
        i = torch.randint(0, size - 5, (count,), generator=generator)
        free = (degree[graph, i] < valence) & (degree[graph, i + 5] < valence)
        bond(free, i, i + 5)
    return Disjoint(Edges(mask.nonzero().t().contiguous(), size) for mask in bonded)


def superpixels(count: int, size: int, nearest: int = 4) -> Disjoint:
    """Graphs like the superpixels of pictures: random points, each attends to the nearest points.

    And to its two neighbors on a cycle through all points, so that every graph is connected.
    """
    generator, index = _generator(), torch.arange(size)
    graphs = []
    for _ in range(count):
        points = torch.rand(size, 2, generator=generator)
        distance = torch.cdist(points, points).fill_diagonal_(float("inf"))
        closest = distance.topk(min(nearest, size - 1), largest=False).indices  # (size, nearest)
        sources = torch.cat([closest, torch.stack([index - 1, index + 1], 1) % size], 1)
        pairs = torch.stack([sources.flatten(), index.repeat_interleave(sources.shape[1])])
        graphs.append(Edges(pairs.unique(dim=1), size))
    return Disjoint(graphs)
