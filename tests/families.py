"""Graphs on which everything is tested: every family, and strategies for random ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st

from tokennet import (
    Causal,
    Cycle,
    Disjoint,
    Edges,
    Full,
    Global,
    Grid,
    Self,
    TokenGraph,
    Window,
    from_mask,
    from_mask_mod,
)


def _random_edges(n: int, count: int, seed: int = 0) -> Edges:
    generator = torch.Generator().manual_seed(seed)
    return Edges(torch.randint(0, n, (2, count), generator=generator), n)


def _relabelled_window() -> TokenGraph:
    return Window(6, 1).relabel([3, 1, 4, 0, 5, 2])


SQUARE: dict[str, Callable[[], TokenGraph]] = {
    "full": lambda: Full(6),
    "causal": lambda: Causal(6),
    "window": lambda: Window(6, 1),
    "cycle": lambda: Cycle(6, 1),
    "grid": lambda: Grid(2, 3),
    "torus": lambda: Grid(2, 3, periodic=True),
    "global": lambda: Global(6, 2),
    "self": lambda: Self(6),
    "and": lambda: Causal(6) & Window(6, 2),
    "or": lambda: Global(6, 1) | Window(6, 1),
    "not": lambda: ~Causal(6),
    "transposed": lambda: Causal(6).T,
    "relabelled": _relabelled_window,
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

BIPARTITE: dict[str, Callable[[], TokenGraph]] = {
    "full": lambda: Full(3, 5),
    "mask": lambda: from_mask(torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()),
    "multi_edges": lambda: Edges(torch.tensor([[4, 4, 0], [0, 0, 2]]), 3, 5),
    "complement": lambda: ~Edges(torch.tensor([[4, 0], [0, 2]]), 3, 5),
    "ragged": lambda: Disjoint([Full(1, 2), Full(2, 3)]),
    "no_sources": lambda: Full(3, 0),
}


@st.composite
def edges_graphs(draw: st.DrawFn, max_tokens: int = 6, max_edges: int = 14) -> Edges:
    """Any listed graph: repeats, self-loops, isolated tokens, no tokens at all."""
    n = draw(st.integers(0, max_tokens))
    token = st.integers(0, n - 1) if n else st.nothing()
    pairs = draw(st.lists(st.tuples(token, token), max_size=max_edges if n else 0))
    return Edges(torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t(), n)


@st.composite
def symbolic_graphs(draw: st.DrawFn, n: int) -> TokenGraph:
    """Any combination of formulas on n tokens, two operations deep."""
    size = st.integers(0, n)
    leaf = st.one_of(
        st.just(Full(n)),
        st.just(Causal(n)),
        st.just(Self(n)),
        size.map(lambda radius: Window(n, radius)),
        size.map(lambda radius: Cycle(n, radius)),
        size.map(lambda k: Global(n, k)),
    )

    def combined(children: st.SearchStrategy[TokenGraph]) -> st.SearchStrategy[TokenGraph]:
        return st.one_of(
            st.tuples(children, children).map(lambda pair: pair[0] & pair[1]),
            st.tuples(children, children).map(lambda pair: pair[0] | pair[1]),
            children.map(lambda graph: ~graph),
            children.map(lambda graph: graph.T),
            st.tuples(children, st.permutations(range(n))).map(lambda two: two[0].relabel(two[1])),
        )

    return draw(st.recursive(leaf, combined, max_leaves=3))
