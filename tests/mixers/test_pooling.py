"""Pooling on grids: the fast mean of boxes only where the graph is a box in the plane."""

import pytest
import torch

from tokennet import Edges, Grid, Tokens
from tokennet.mixers import Pooling

GRIDS = [
    Grid(4, 5),
    Grid(4, 5, radius=2),
    Grid(5, 6, radius=2, periodic=True),
    Grid(4, 6, radius=2, periodic=True),  # a box would hold a token twice
    Grid(4, 5, neighborhood="cross"),
    Grid(7, radius=2),
    Grid(2, 3, 4),
    Grid(2, 3, 4, periodic=True, neighborhood="cross"),
    Grid(0, 3),
]


@pytest.mark.parametrize("graph", GRIDS, ids=lambda graph: graph._name())
def test_pooling_is_the_mean_over_the_edges_of_any_grid(graph):
    z = torch.randn(2, graph.num_targets, 8, dtype=torch.float64)
    weights = graph.dense().double() / graph.dense().sum(1, keepdim=True)
    expected = weights @ z - z
    torch.testing.assert_close(Pooling(8)(Tokens(z, graph)).z, expected)
    listed = Edges(graph.edge_index(), graph.num_targets)
    torch.testing.assert_close(Pooling(8)(Tokens(z, listed)).z, expected)
