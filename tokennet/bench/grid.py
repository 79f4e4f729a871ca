"""The grid of calls by which the planner is fitted and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from tokennet.graphs import (
    Causal,
    Cycle,
    Disjoint,
    Edges,
    Full,
    Global,
    Grid,
    TokenGraph,
    Window,
    from_mask,
)

HEADS = [(1, 16), (4, 16), (8, 8), (4, 32), (8, 64)]
"""Heads and channels, taken in turns."""


class GridCase(NamedTuple):
    """One call of the grid."""

    name: str
    half: int
    """0: constants are fitted to it; 1: they are judged by it."""
    graph: TokenGraph
    heads: int
    channels: int


def _random(n: int, degree: int) -> TokenGraph:
    generator = torch.Generator().manual_seed(n + degree)
    return Edges(torch.randint(0, n, (2, n * degree), generator=generator), n)


def _skewed(n: int, degree: int) -> TokenGraph:
    """Targets drawn by a power law: a few hear a large part of all edges."""
    generator = torch.Generator().manual_seed(n)
    target = (torch.rand(n * degree, generator=generator) ** 3 * n).long()
    return Edges(torch.stack([torch.randint(0, n, (n * degree,), generator=generator), target]), n)


def _sets(count: int, smallest: int, largest: int) -> TokenGraph:
    generator = torch.Generator().manual_seed(count)
    sizes = torch.randint(smallest, largest + 1, (count,), generator=generator)
    return Disjoint(Full(size) for size in sizes.tolist())


def _mask(n: int, percent: int) -> TokenGraph:
    generator = torch.Generator().manual_seed(n)
    return from_mask(100 * torch.rand(n, n, generator=generator) < percent)


FAMILIES: dict[str, tuple[Callable[..., TokenGraph], str]] = {
    "window": (Window, "64,4 256,16 512,64 1024,8 2048,128 4096,32 8192,256 8192,64"),
    "causal window": (
        lambda n, radius: Causal(n) & Window(n, radius),
        "128,16 512,32 1024,256 4096,128 4096,512",
    ),
    "cycle": (Cycle, "32,1 512,4 4096,16"),
    "grid": (lambda n, radius: Grid(n, n, radius=radius), "8,1 16,2 32,3 64,3 64,6"),
    "hubs": (lambda n, k: Global(n, k) | Window(n, 4), "128,2 1024,4 4096,2"),
    "random": (
        _random,
        "32,4 100,8 300,8 1000,16 1000,100 3000,5 5000,40 20000,20 60000,8",
    ),
    "skewed": (_skewed, "200,8 2000,8 20000,10"),
    "sets": (
        _sets,
        "4,16,16 16,8,64 64,30,30 256,8,64 512,20,24 8,100,300 4,512,512 32,128,128",
    ),
    "mask": (_mask, "64,10 64,90 512,2 512,20 1024,10 1024,50 2048,5 3000,30"),
}
"""How graphs are made, and of what."""


def grid() -> Iterator[GridCase]:
    """Every graph of every family, with two widths each."""
    number = 0
    for family, (make, sizes) in FAMILIES.items():
        for position, size in enumerate(sizes.split()):
            graph = make(*map(int, size.split(",")))
            for step in (0, 2):
                heads, channels = HEADS[(position + step) % len(HEADS)]
                name = f"{family} {graph.num_targets} / {graph.num_edges}, {heads} x {channels}"
                yield GridCase(name, number % 2, graph, heads, channels)
                number += 1
