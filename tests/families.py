"""Small graphs of every kind, by name: the one place to add the examples of a new kind.

Tests of all rooms run on `SQUARE`, `RAGGED` and `BIPARTITE`; tests of graphs on `FAMILIES`, all
of them. `tests/graphs/test_contract.py` fails if a class of graphs has no example here. Where a
test takes `by_default(families)`, it runs on those in `CORE`, and on the others under `sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

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
from tokennet.graphs import Dilated, Random, from_knn
from tokennet.graphs.prefix import prefixed

Family = dict[str, Callable[[], TokenGraph]]


def _random_edges(n: int, count: int, seed: int = 0) -> Edges:
    generator = torch.Generator().manual_seed(seed)
    return Edges(torch.randint(0, n, (2, count), generator=generator), n)


# Functions of the module, so that graphs of them can be pickled.
def _of_both(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return (i + 2 * j) % 3 > 0


def _of_source(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return j < 2


def _of_target(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return i > 2


def _of_nothing(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> bool:
    return True


FORMULAS: Family = {
    "full": lambda: Full(6),
    "causal": lambda: Causal(6),
    "window": lambda: Window(6, 1),
    "cycle": lambda: Cycle(6, 1),
    "grid": lambda: Grid(2, 3),
    "torus": lambda: Grid(2, 3, periodic=True),
    "cross": lambda: Grid(2, 3, neighborhood="cross"),
    "offsets": lambda: Offsets(6, (-4, -2, 0)),
    "ring": lambda: Offsets(6, (-1, 2), periodic=True),
    "global": lambda: Global(6, 2),
    "self": lambda: Self(6),
    "one_token": lambda: Full(1),
    "no_tokens": lambda: Full(0),
}
COMBINED: Family = {
    "and": lambda: Causal(6) & Window(6, 2),
    "or": lambda: Global(6, 1) | Window(6, 1),
    "not": lambda: ~Causal(6),
    "transposed": lambda: Causal(6).T,
    "relabeled": lambda: Window(6, 1).relabel([3, 1, 4, 0, 5, 2]),
    "reach": lambda: Cycle(6, 1).reach(2),
}
MASK_MODS: Family = {
    "mask_mod": lambda: from_mask_mod(_of_both, 6),
    "mask_mod_of_source": lambda: from_mask_mod(_of_source, 6),
    "mask_mod_of_target": lambda: from_mask_mod(_of_target, 6),
    "mask_mod_of_nothing": lambda: from_mask_mod(_of_nothing, 5),
}
LISTED: Family = {
    "mask": lambda: from_mask(torch.tensor([[0, 1, 0], [0, 0, 0], [1, 1, 1]]).bool()),
    "edges": lambda: _random_edges(6, 9, seed=3),
    "multi_edges": lambda: Edges(torch.tensor([[0, 0, 3, 2, 2, 2], [1, 1, 4, 2, 2, 0]]), 6),
    "more_edges_than_pairs": lambda: Edges(torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]), 2),
    "edges_and_window": lambda: _random_edges(6, 12, seed=1) & Window(6, 2),
    "edges_or_self": lambda: _random_edges(6, 5, seed=2) | Self(6),
    "no_edges": lambda: Edges(torch.zeros(2, 0, dtype=torch.long), 4),
}
SQUARE: Family = {
    **FORMULAS,
    **COMBINED,
    **MASK_MODS,
    **LISTED,
    "ragged": lambda: Disjoint([Full(2), Causal(3), Edges(torch.tensor([[0], [1]]), 2)]),
}
RAGGED: Family = {
    "ragged_full": lambda: Disjoint([Full(3), Full(1), Full(0), Full(2)]),
    "ragged_grids": lambda: Disjoint([Grid(2, 2), Grid(1, 3)]),
}
BIPARTITE: Family = {
    "full": lambda: Full(3, 5),
    "mask": lambda: from_mask(torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()),
    "multi_edges": lambda: Edges(torch.tensor([[4, 4, 0], [0, 0, 2]]), 3, 5),
    "complement": lambda: ~Edges(torch.tensor([[4, 0], [0, 2]]), 3, 5),
    "ragged": lambda: Disjoint([Full(1, 2), Full(2, 3)]),
    "no_sources": lambda: Full(3, 0),
}
TYPED: Family = {
    "typed": lambda: _random_edges(6, 12, seed=4).with_edge_type([0, 1, 2] * 4),
    "typed_parallel": lambda: Edges(
        [(0, 1), (0, 1), (2, 1), (1, 0), (3, 3)], 6, edge_type=[2, 0, 0, 1, 2]
    ),
    "ragged_typed": lambda: Disjoint(
        [Edges([(0, 1), (1, 0), (1, 1)], 2, edge_type=[0, 2, 1]), Edges([(2, 0)], 3, edge_type=[1])]
    ),
}
"""Graphs of three types of edges, for what reads types."""
FURTHER: Family = {
    "window_of_all": lambda: Window(3, 5),
    "cycle_of_all": lambda: Cycle(4, 3),
    "dilated": lambda: Dilated(7, 2, 2),
    "causal_dilated": lambda: Causal(6) & Dilated(6, 1, 3),
    "dilated_beyond": lambda: Dilated(3, 5, 4),
    "random": lambda: Random(6, 2, seed=1),
    "random_all_others": lambda: Random(4, 3),
    "no_random_edges": lambda: Random(1, 0),
    "nearest": lambda: from_knn(torch.tensor([[0.0, 1.0], [2.0, 0.5], [0.3, 0.1], [5.0, 5.0]]), 2),
    "line": lambda: Grid(6, radius=2),
    "cross_on_a_line": lambda: Grid(6, radius=2, neighborhood="cross"),
    "volume": lambda: Grid(2, 3, 2),
    "long_cross": lambda: Grid(2, 4, 2, radius=2, neighborhood="cross"),
    "cross_on_a_torus": lambda: Grid(2, 5, radius=2, periodic=True, neighborhood="cross"),
    "no_points": lambda: Grid(0, 3, 2, neighborhood="cross"),
    "global_of_all": lambda: Global(3, 3),
    "no_offsets": lambda: Offsets(3, ()),
    "reach_by_walks": lambda: Offsets(6, (1,)).reach(2),
    "and_of_bands": lambda: (Causal(6) & Window(6, 2)).T,
    "prefixed": lambda: prefixed(Window(5, 1), 2, attend_to_all=False),
    "prefixed_unseen": lambda: prefixed(Causal(4), 1, visible_to_all=False),
    "bipartite_prefixed": lambda: prefixed(Causal(3), 2, as_targets=False, visible_to_all=False),
    "subgraph": lambda: Window(6, 1).subgraph([4, 0, 1, 3]),
    "bipartite_last": lambda: Window(6, 1).last(3),
    "bipartite_transposed": lambda: Window(6, 1).last(3).T,
    "bipartite_mask_mod": lambda: from_mask_mod(_of_both, 3, 5),
    "no_sets": lambda: Disjoint([]),
}
"""Cases that matter to graphs only: no other room does anything else with them."""
FAMILIES: Family = {
    **SQUARE,
    **RAGGED,
    **TYPED,
    **{f"bipartite_{name}": make for name, make in BIPARTITE.items()},
    **FURTHER,
}
CORE = {
    *("full", "causal", "window", "cycle", "grid", "cross", "offsets", "global", "self"),
    *("one_token", "no_tokens", "or", "relabeled", "mask_mod", "edges", "multi_edges", "no_edges"),
    *("ragged", "ragged_full", "typed_parallel", "bipartite_full", "bipartite_multi_edges"),
    *("bipartite_ragged", "bipartite_complement", "long_window"),
}
"""One graph of each form, and those that are empty, or have parallel edges. What the others add is
covered by the tests of graphs, which write each out as edges: other rooms read those."""


def by_default(families: Iterable[Any], core: Collection[Any] = CORE) -> list:
    """Names to parametrize by, those outside the core marked as `sweep`."""
    return [
        pytest.param(name, marks=() if name in core else pytest.mark.sweep) for name in families
    ]


def honors(mixer: Mixer, graph: TokenGraph) -> bool:
    """Whether the mixer accepts the graph; a layer that does not say accepts any."""
    try:
        getattr(mixer, "check_graph", lambda graph: None)(graph)
    except ValueError:
        return False
    return True
