"""HyperMixer and Pooling against their formulas, between two sets and in ragged batches."""

import pytest
import torch
from torch.nn import functional as F

from tests.families import SQUARE
from tokennet import Causal, Cycle, Edges, Full, Grid, Tokens
from tokennet.mixers import HyperMixer, PerceiverMixer, Pooling

DIM = 8


def by_hand(layer, z, source):
    """The MLP-mixer whose weights are rows, one token at a time."""
    hidden = torch.zeros(layer.hidden, DIM, dtype=z.dtype)
    for token in source:
        hidden = hidden + torch.outer(layer.weights_in(token), token)
    hidden = F.gelu(hidden)
    rows = [sum(w * row for w, row in zip(layer.weights_out(t), hidden, strict=True)) for t in z]
    return layer.norm(torch.stack(rows))


@pytest.mark.parametrize("tied", [False, True])
def test_hypermixer_is_its_formula(tied):
    layer = HyperMixer(DIM, 4, tied=tied).double()
    z, source = torch.randn(3, DIM).double(), torch.randn(5, DIM).double()
    torch.testing.assert_close(layer(z), by_hand(layer, z, z))
    torch.testing.assert_close(layer(z, source), by_hand(layer, z, source))
    assert len(list(layer.parameters())) == (6 if tied else 10)


def test_hypermixer_takes_sets_of_any_size_and_another_set():
    layer = HyperMixer(DIM).double()
    asking = [Tokens(torch.randn(n, DIM).double()) for n in (2, 0, 3, 2)]
    answering = [Tokens(torch.randn(n, DIM).double()) for n in (4, 5, 1, 4)]
    together = layer(Tokens.batch(asking), Tokens.batch(answering))
    for part, ask, answer in zip(together.unbatch(), asking, answering, strict=True):
        torch.testing.assert_close(part.z, layer(ask, answer).z)


def test_hypermixer_refuses_what_is_not_complete():
    with pytest.raises(
        ValueError, match="graph must be complete, set by set, for HyperMixer.*Causal"
    ):
        HyperMixer(DIM)(torch.zeros(3, DIM), graph=Causal(3))
    listed = Edges(Full(3).edge_index(), 3)
    layer, z = HyperMixer(DIM), torch.randn(3, DIM)
    torch.testing.assert_close(layer(z, graph=listed), layer(z))


def test_whether_a_graph_is_complete_does_not_depend_on_who_asks_first():
    edges = Full(3).edge_index()
    twice = Edges(torch.cat([edges, edges[:, :1]], dim=1), 3)
    for layer in (HyperMixer(DIM), PerceiverMixer(DIM, 2, 2), HyperMixer(DIM)):
        with pytest.raises(ValueError, match="graph must be complete, set by set"):
            layer(torch.zeros(3, DIM), graph=twice)


@pytest.mark.parametrize(
    "graph",
    [
        *SQUARE.values(),
        lambda: Grid(3, 4, periodic=True),
        lambda: Grid(5, 6, radius=2, periodic=True),
        lambda: Grid(0, 3),
    ],
)
def test_pooling_is_the_mean_of_the_neighbors_without_the_token(graph):
    graph = graph()
    z = torch.randn(2, graph.num_targets, DIM, dtype=torch.float64)
    source, target = graph.edge_index()
    total = torch.zeros_like(z).index_add(1, target, z[:, source])
    degree = torch.bincount(target, minlength=graph.num_targets).clamp(min=1)[:, None]
    torch.testing.assert_close(Pooling(DIM)(Tokens(z, graph)).z, total / degree - z)


def test_pooling_of_another_set():
    z, source = torch.randn(3, DIM), torch.randn(5, DIM)
    torch.testing.assert_close(Pooling(DIM)(z, source), source.mean(0) - z)
    torch.testing.assert_close(Pooling(DIM)(z, source[:0]), -z)
    graph = Edges(torch.tensor([[4, 2], [0, 0]]), 3, 5)
    out = Pooling(DIM)(z, source, graph)
    torch.testing.assert_close(out[0], source[[4, 2]].mean(0) - z[0])
    torch.testing.assert_close(out[1:], -z[1:])


def test_pooling_of_a_window_is_a_box_of_its_own():
    z = torch.randn(9, DIM)
    by_edges = Pooling(DIM)(z, graph=Cycle(9, 1))
    torch.testing.assert_close(by_edges, (z.roll(1, 0) + z + z.roll(-1, 0)) / 3 - z)


def test_a_hidden_layer_of_no_width_is_refused():
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        HyperMixer(DIM, hidden=0)
