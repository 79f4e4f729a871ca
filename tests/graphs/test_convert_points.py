"""Graphs of points, held to a matrix of distances."""

import numpy as np
import pytest
import torch

from tests.axes import pairwise
from tokennet.graphs import from_knn, from_radius


@pairwise(n=[0, 1, 2, 5, 40], k=[0, 1, 3, 60], loop=[False, True])
def test_the_nearest_are_those_of_the_matrix_of_distances(n, k, loop):
    pos = torch.randn(n, 3)
    graph = from_knn(pos, k, loop=loop)
    distances = torch.cdist(pos.double(), pos.double()).fill_diagonal_(-1 if loop else torch.inf)
    count = min(k, max(n - 1, 0)) + (loop and n > 0)
    wanted = distances.argsort(1)[:, :count]
    assert not graph.has_multi_edges
    assert graph.edge_index()[0].tolist() == wanted.flatten().tolist()
    assert graph.edge_index()[1].tolist() == torch.arange(n).repeat_interleave(count).tolist()
    radius = from_radius(pos, 1.5, loop=loop)
    assert torch.equal(radius.dense(), distances <= 1.5)


def test_points_at_one_place_have_other_neighbors_than_themselves():
    graph = from_knn(torch.zeros(6, 2), 2)
    source, target = graph.edge_index()
    assert graph.num_edges == 12
    assert not graph.has_multi_edges
    assert not (source == target).any()


def test_points_on_a_line_and_arrays():
    pos = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
    assert from_knn(pos, 1) == from_knn(np.array([[0], [1], [3]]), 1)


@pytest.mark.parametrize("make", [lambda pos: from_knn(pos, 1), lambda pos: from_radius(pos, 1.0)])
@pytest.mark.parametrize(
    ("pos", "error", "message"),
    [
        (torch.tensor([[0.0], [torch.nan]]), ValueError, "pos must be finite"),
        (torch.tensor([[0.0], [torch.inf]]), ValueError, "pos must be finite"),
        (
            torch.zeros(2, 3, 1),
            ValueError,
            r"pos must have shape \(N, P\) or \(N,\), got \(2, 3,",
        ),
        ([[0.0]], TypeError, "pos must be a tensor or an array, got list"),
    ],
)
def test_what_are_no_points_is_refused(make, pos, error, message):
    with pytest.raises(error, match=message):
        make(pos)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="k must be at least 0, got -1"):
        from_knn(torch.zeros(2, 1), -1)
    for radius in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="radius must be at least 0, got"):
            from_radius(torch.zeros(2, 1), radius)
