"""Graphs by formula: grids of every size, neighborhoods by hand, costs, names and errors."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.axes import pairwise
from tokennet import Causal, Cycle, Full, Global, Grid, Offsets, Self, Window
from tokennet.graphs import Dilated, Random


def by_coordinates(sizes, radius, periodic, neighborhood):
    """The mask of a grid from the coordinates of its points."""
    points = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).view(-1, len(sizes))
    distance = (points[:, None] - points[None, :]).abs()  # (N, N, dimensions)
    if periodic:
        distance = torch.minimum(distance, torch.tensor(sizes) - distance)
    within = (distance <= radius).all(-1)
    return within & ((distance > 0).sum(-1) <= 1) if neighborhood == "cross" else within


SIZES = st.lists(st.integers(0, 4), min_size=1, max_size=3)


@given(SIZES, st.integers(0, 4), st.booleans(), st.sampled_from(["box", "cross"]))
@settings(max_examples=100, deadline=None)
def test_grids_of_every_size(sizes, radius, periodic, neighborhood):
    grid = Grid(*sizes, radius=radius, periodic=periodic, neighborhood=neighborhood)
    mask = by_coordinates(sizes, radius, periodic, neighborhood)
    assert grid.grid_shape == tuple(sizes)
    assert torch.equal(grid.dense(), mask)
    assert torch.equal(grid.edge_index(), mask.nonzero().t().flip(0))
    assert grid.num_edges == mask.sum()


@given(SIZES, st.integers(0, 4), st.sampled_from(["box", "cross"]))
@settings(max_examples=60, deadline=None)
def test_the_band_of_a_grid_is_as_narrow_as_can_be(sizes, radius, neighborhood):
    grid = Grid(*sizes, radius=radius, neighborhood=neighborhood)
    source, target = grid.dense().nonzero().t().flip(0)
    furthest = int((source - target).max()) if grid.num_targets else 0
    assert grid.band == (furthest, furthest)
    assert Grid(*sizes, radius=radius, periodic=True, neighborhood=neighborhood).band is None


@given(SIZES, st.integers(0, 2), st.integers(0, 3), st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_reach_of_a_box_is_a_wider_box(sizes, radius, k, periodic):
    grid = Grid(*sizes, radius=radius, periodic=periodic)
    step = grid.dense().double() + torch.eye(grid.num_targets)
    assert torch.equal(grid.reach(k).dense(), torch.linalg.matrix_power(step, k) > 0)
    assert grid.reach(k).grid_shape == grid.grid_shape


def test_a_cross_of_a_radius_above_1_has_arms_and_no_diagonals():
    cross = Grid(5, 5, radius=2, neighborhood="cross").dense()[12].view(5, 5).int().tolist()
    assert cross == [
        [0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
        [1, 1, 1, 1, 1],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
    ]


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
    volume = Grid(10**3, 10**3, 10**3, neighborhood="cross")
    assert volume.num_edges == 7 * 10**9 - 6 * 10**6
    assert volume.band == (10**6, 10**6)
    assert volume.attends(torch.tensor(10**8), torch.tensor(10**8 + 10**6))
    assert not volume.attends(torch.tensor(10**8), torch.tensor(10**8 + 10**6 + 1))


def test_a_narrow_intersection_is_listed_at_the_cost_of_the_narrow_one():
    graph = Causal(200_000) & Window(200_000, 2)  # 4e10 pairs, 1e6 edges
    assert graph.num_edges == 3 * 200_000 - 3


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        (Full(4), "Full(4): 4 tokens, 16 edges, density 1"),
        (Full(2, 3), "Full(2, 3): 2 targets, 3 sources, 6 edges, density 1"),
        (Grid(2, 2, periodic=True), "Grid(2, 2, radius=1, periodic=True): 4 tokens, 16 edges"),
        (Grid(2, 1, 2, neighborhood="cross"), "Grid(2, 1, 2, radius=1, neighborhood='cross'): 4"),
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
        (lambda: Grid(2, "3"), r"sizes\[1\] must be an int, got '3'"),
        (lambda: Grid(), "sizes must hold the size of at least one dimension"),
        (lambda: Grid(2, -1), r"sizes\[1\] must be at least 0, got -1"),
        (lambda: Grid(2, radius=-1), "radius must be at least 0, got -1"),
        (
            lambda: Grid(2, neighborhood="cros"),
            "must be one of box, cross; got 'cros'; did you mean",
        ),
        (lambda: Global(3, 4), "k must be at most n = 3 hubs, got 4"),
        (lambda: Offsets(4, (1, "a")), r"offsets\[1\] must be an int, got 'a'"),
        (lambda: Full(3).reach(-1), "k must be at least 0, got -1"),
        (lambda: Full(3, 4).reach(1), "reach needs the same number of sources and targets"),
    ],
)
def test_bad_sizes_are_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message.replace("(", r"\(")):
        make()


def test_dense_refuses_what_would_not_fit():
    with pytest.raises(ValueError, match="a dense 100000 x 100000 mask has 10,000,000,000 entries"):
        Causal(100_000).dense()


@pairwise(n=[0, 1, 6, 11], radius=[0, 1, 4], dilation=[1, 2, 5, 20])
def test_dilated_windows_are_loops_over_offsets(n, radius, dilation):
    graph = Dilated(n, radius, dilation)
    wanted = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for m in range(-radius, radius + 1):
            if 0 <= i + m * dilation < n:
                wanted[i, i + m * dilation] = True
    assert torch.equal(graph.dense(), wanted)
    assert torch.equal(graph.edge_index().flip(0), wanted.nonzero().T)
    assert dilation > 1 or graph == Window(n, radius)


@pytest.mark.parametrize(("n", "k"), [(1, 0), (2, 1), (7, 3), (7, 6), (200, 5)])
def test_random_edges_go_to_different_others(n, k):
    graph = Random(n, k, seed=3)
    source, target = graph.edge_index()
    assert torch.equal(target.bincount(minlength=n), torch.full((n,), k))
    assert len(graph.edge_index().unique(dim=1)[0]) == n * k
    assert not (source == target).any()
    assert torch.equal(graph.edge_index(), Random(n, k, seed=3).edge_index())
    assert graph == pickle.loads(pickle.dumps(graph))
    if n == 200:
        assert graph != Random(n, k, seed=4)


def test_random_sources_are_equally_likely():
    count = sum(Random(5, 2, seed=seed).dense().double() for seed in range(2000))
    wanted = torch.full((5, 5), 1000.0).fill_diagonal_(0.0)
    assert (count - wanted).abs().max() < 120  # five standard deviations of sqrt(2000 / 4)


def test_random_numbers_of_the_caller_are_left_alone():
    torch.manual_seed(0)
    first = torch.rand(3)
    torch.manual_seed(0)
    Random(9, 2).edge_index()
    assert torch.equal(torch.rand(3), first)


def test_sizes_of_dilated_and_random_graphs_are_named():
    with pytest.raises(ValueError, match="dilation must be at least 1, got 0"):
        Dilated(5, 1, 0)
    with pytest.raises(ValueError, match="k must be at most n - 1 = 4 other tokens, got 5"):
        Random(5, 5)
    with pytest.raises(ValueError, match="k must be at most n - 1"):
        Random(0, 1)
    with pytest.raises(TypeError, match="seed must be an int"):
        Random(5, 2, seed=0.5)
