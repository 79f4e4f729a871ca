"""Graphs on which everything is tested, a family each."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tokennet import (
    Causal,
    Cycle,
    Disjoint,
    Edges,
    Full,
    Global,
    Grid,
    Mixer,
    Offsets,
    Self,
    TokenGraph,
    Window,
    from_mask,
    from_mask_mod,
)


def _random_edges(n: int, count: int, seed: int = 0) -> Edges:
    generator = torch.Generator().manual_seed(seed)
    return Edges(torch.randint(0, n, (2, count), generator=generator), n)


def _relabeled_window() -> TokenGraph:
    return Window(6, 1).relabel([3, 1, 4, 0, 5, 2])


SQUARE: dict[str, Callable[[], TokenGraph]] = {
    "full": lambda: Full(6),
    "causal": lambda: Causal(6),
    "window": lambda: Window(6, 1),
    "cycle": lambda: Cycle(6, 1),
    "grid": lambda: Grid(2, 3),
    "torus": lambda: Grid(2, 3, periodic=True),
    "offsets": lambda: Offsets(6, (-4, -2, 0)),
    "ring": lambda: Offsets(6, (-1, 2), periodic=True),
    "global": lambda: Global(6, 2),
    "self": lambda: Self(6),
    "and": lambda: Causal(6) & Window(6, 2),
    "or": lambda: Global(6, 1) | Window(6, 1),
    "not": lambda: ~Causal(6),
    "transposed": lambda: Causal(6).T,
    "relabeled": _relabeled_window,
    "reach": lambda: Cycle(6, 1).reach(2),
    "mask_mod": lambda: from_mask_mod(lambda b, h, i, j: (i + 2 * j) % 3 > 0, 6),
    "mask_mod_of_source": lambda: from_mask_mod(lambda b, h, i, j: j < 2, 6),
    "mask_mod_of_target": lambda: from_mask_mod(lambda b, h, i, j: i > 2, 6),
    "mask_mod_of_nothing": lambda: from_mask_mod(lambda b, h, i, j: True, 5),
    "mask": lambda: from_mask(torch.tensor([[0, 1, 0], [0, 0, 0], [1, 1, 1]]).bool()),
    "edges": lambda: _random_edges(6, 9, seed=3),
    "multi_edges": lambda: Edges(torch.tensor([[0, 0, 3, 2, 2, 2], [1, 1, 4, 2, 2, 0]]), 6),
    "more_edges_than_pairs": lambda: Edges(torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]), 2),
    "edges_and_window": lambda: _random_edges(6, 12, seed=1) & Window(6, 2),
    "edges_or_self": lambda: _random_edges(6, 5, seed=2) | Self(6),
    "no_edges": lambda: Edges(torch.zeros(2, 0, dtype=torch.long), 4),
    "one_token": lambda: Full(1),
    "no_tokens": lambda: Full(0),
    "ragged": lambda: Disjoint([Full(2), Causal(3), Edges(torch.tensor([[0], [1]]), 2)]),
}

RAGGED: dict[str, Callable[[], TokenGraph]] = {
    "ragged_full": lambda: Disjoint([Full(3), Full(1), Full(0), Full(2)]),
    "ragged_grids": lambda: Disjoint([Grid(2, 2), Grid(1, 3)]),
}

BIPARTITE: dict[str, Callable[[], TokenGraph]] = {
    "full": lambda: Full(3, 5),
    "mask": lambda: from_mask(torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()),
    "multi_edges": lambda: Edges(torch.tensor([[4, 4, 0], [0, 0, 2]]), 3, 5),
    "complement": lambda: ~Edges(torch.tensor([[4, 0], [0, 2]]), 3, 5),
    "ragged": lambda: Disjoint([Full(1, 2), Full(2, 3)]),
    "no_sources": lambda: Full(3, 0),
}


def honors(mixer: Mixer, graph: TokenGraph) -> bool:
    """Whether the mixer takes the graph; a layer that does not say takes any."""
    try:
        getattr(mixer, "check_graph", lambda graph: None)(graph)
    except ValueError:
        return False
    return True
