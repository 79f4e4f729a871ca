"""The predicate defines a graph; the cheap edge lists and counts must say the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families import BIPARTITE, SQUARE
from tokennet import Causal, Cycle, Full, Global, Grid, Offsets, Self, Window
from tokennet.graphs.base import EdgePredicate
from tokennet.testing.strategies import symbolic_graphs

ALL = {**SQUARE, **{f"bipartite_{name}": make for name, make in BIPARTITE.items()}}
SYMBOLIC = {name: make for name, make in ALL.items() if not make().is_explicit}


def by_predicate(graph):
    """Edges found by asking the predicate about every pair."""
    return EdgePredicate._build_edge_index(graph)


@pytest.mark.parametrize("name", SYMBOLIC)
def test_edge_list_is_what_the_predicate_says_sorted_by_target(name):
    graph = SYMBOLIC[name]()
    assert torch.equal(graph.edge_index(), by_predicate(graph))


@given(data=st.data(), n=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_every_combination_lists_what_its_predicate_says(data, n):
    graph = data.draw(symbolic_graphs(n))
    assert torch.equal(graph.edge_index(), by_predicate(graph))
    assert graph.num_edges == graph.edge_index().shape[1] == int(graph.dense().sum())


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4), st.booleans())
@settings(max_examples=100, deadline=None)
def test_grids_of_every_size(height, width, radius, periodic):
    grid = Grid(height, width, radius, periodic)
    assert torch.equal(grid.edge_index(), by_predicate(grid))
    assert grid.num_edges == grid.edge_index().shape[1]


def assert_within_the_band(graph):
    if graph.band is not None:
        source, target = by_predicate(graph)
        below, above = graph.band
        assert ((target - source <= below) & (source - target <= above)).all()


@given(data=st.data(), n=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_edges_lie_within_the_band(data, n):
    assert_within_the_band(data.draw(symbolic_graphs(n)))


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4))
@settings(max_examples=100, deadline=None)
def test_the_band_of_a_grid_is_as_narrow_as_can_be(height, width, radius):
    grid = Grid(height, width, radius)
    assert_within_the_band(grid)
    source, target = by_predicate(grid)
    furthest = int((source - target).max()) if grid.num_targets else 0
    assert grid.band == (furthest, furthest)
    assert Grid(height, width, radius, periodic=True).band is None


@pytest.mark.parametrize("name", ALL)
def test_dense_csr_and_counts_agree_with_the_edge_list(name):
    graph = ALL[name]()
    source, target = graph.edge_index()
    dense = torch.zeros(graph.num_targets, graph.num_sources, dtype=torch.bool)
    dense[target, source] = True
    assert torch.equal(graph.dense(), dense)
    indptr, indices, edge_id = graph.csr()
    assert torch.equal(indices.long(), source[edge_id])
    rows = torch.repeat_interleave(indptr.diff().long())
    assert torch.equal(rows, target[edge_id])
    assert graph.num_edges == len(source)
    assert graph.has_empty_targets == bool((~dense.any(1)).any())
    pairs = max(1, dense.numel())
    assert graph.density == pytest.approx(len(source) / pairs)


def test_neighborhoods_by_hand():
    assert Window(5, 1).dense()[2].tolist() == [False, True, True, True, False]
    assert Cycle(5, 1).dense()[0].tolist() == [True, True, False, False, True]
    assert Causal(3).dense()[1].tolist() == [True, True, False]
    assert Self(3).dense().tolist() == torch.eye(3).bool().tolist()
    corner = Grid(3, 3).dense()[0].view(3, 3).int().tolist()
    assert corner == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    wrapped = Grid(4, 4, periodic=True).dense()[0].view(4, 4).int().tolist()
    assert wrapped == [[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]]
    assert Global(3, 1).dense().int().tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert Full(2, 3).dense().shape == (2, 3)


def test_large_symbolic_graphs_cost_no_memory_until_listed():
    graph = Causal(10**9) & Window(10**9, 64)
    assert graph.attends(torch.tensor(10**8), torch.tensor(10**8 - 64))
    assert not graph.attends(torch.tensor(10**8), torch.tensor(10**8 - 65))
    assert Window(10**6, 2).num_edges == 5 * 10**6 - 6


def test_a_narrow_intersection_is_listed_at_the_cost_of_the_narrow_one():
    graph = Causal(200_000) & Window(200_000, 2)  # 4e10 pairs, 1e6 edges
    assert graph.num_edges == 3 * 200_000 - 3


@pytest.mark.parametrize("name", SQUARE)
def test_predicate_serves_under_vmap(name):
    graph = SQUARE[name]()
    n = graph.num_targets
    graph.edge_index()
    i = torch.arange(n)
    rows = torch.vmap(torch.vmap(graph.attends, (None, 0)), (0, None))(i, i) if n else graph.dense()
    assert torch.equal(rows, graph.dense())


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        (Full(4), "Full(4): 4 tokens, 16 edges, density 1"),
        (Full(2, 3), "Full(2, 3): 2 targets, 3 sources, 6 edges, density 1"),
        (Grid(2, 2, periodic=True), "Grid(2, 2, radius=1, periodic=True): 4 tokens, 16 edges"),
        (Causal(4) & ~Self(4), "Causal(4) & ~Self(4): 4 tokens, 6 edges, density 0.375"),
        ((Self(4) | Causal(4)) & Full(4), "(Self(4) | Causal(4)) & Full(4): 4 tokens, 10 edges"),
    ],
)
def test_repr_names_graph_size_edges_and_density(graph, text):
    assert repr(graph).startswith(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Full(-1), "n must be at least 0, got -1"),
        (lambda: Full(2.0), "n must be an int, got 2.0"),
        (lambda: Causal(True), "n must be an int, got True"),
        (lambda: Window(4, -1), "radius must be at least 0, got -1"),
        (lambda: Grid(2, "3"), "width must be an int, got '3'"),
        (lambda: Global(3, 4), "k must be at most n = 3 hubs, got 4"),
        (lambda: Offsets(4, (1, "a")), "offsets must be integers, got 'a'"),
        (lambda: Full(3).reach(-1), "k must be at least 0, got -1"),
        (lambda: Full(3, 4).reach(1), "reach needs as many sources as targets"),
    ],
)
def test_bad_sizes_are_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message.replace("(", r"\(")):
        make()


def test_dense_refuses_what_would_not_fit():
    with pytest.raises(ValueError, match="a dense 100000 x 100000 mask has 10,000,000,000 entries"):
        Causal(100_000).dense()
