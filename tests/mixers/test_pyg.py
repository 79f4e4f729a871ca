"""Convolutions of PyG as mixers: what they are given, and what they cannot be given."""

import re

import pytest
import torch
from torch import nn
from torch_geometric.nn import (
    FiLMConv,
    GATConv,
    GCN2Conv,
    GCNConv,
    GPSConv,
    HEATConv,
    HypergraphConv,
    PointNetConv,
    RGATConv,
    RGCNConv,
    SAGEConv,
)

from tokennet import Cycle, Edges, PyGMixer, Tokens

DIM = 32


@pytest.fixture
def sparse_graph():
    return Edges(torch.randint(0, 20, (2, 90)), 20)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RGCNConv(DIM, DIM, 3),
        lambda: FiLMConv(DIM, DIM, 3),
        lambda: RGATConv(DIM, DIM, 3, edge_dim=2),
    ],
    ids=["rgcn", "film", "rgat"],
)
def test_pyg_mixer_hands_on_types_of_edges(sparse_graph, make):
    attr, types = torch.randn(90, 2), torch.randint(0, 3, (90,))
    graph = Edges(sparse_graph.edge_index(), 20, edge_attr=attr, edge_type=types)
    conv, z = make(), torch.randn(2, 20, DIM)
    out = PyGMixer(conv)(Tokens(z, graph)).z
    given = {"edge_attr": attr} if isinstance(conv, RGATConv) else {}
    for number in range(2):
        expected = conv(z[number], graph.edge_index(), types, **given)
        torch.testing.assert_close(out[number], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"graph.edge_type must be given: \w+ needs it, got None"):
        PyGMixer(conv)(Tokens(z, graph.with_edge_type(None)))
    with pytest.raises(ValueError, match=r"must be less than num_relations = 3 of \w+, got 3"):
        PyGMixer(conv)(Tokens(z, graph.with_edge_type(types + 1)))


def test_a_graph_without_types_is_refused_where_two_types_are_expected():
    tokens = Tokens(torch.randn(6, DIM), Cycle(6))
    with pytest.raises(ValueError, match="graph.edge_type must be given: RGCNConv needs it"):
        PyGMixer(RGCNConv(DIM, DIM, 2))(tokens)


def test_pyg_mixer_keeps_sets_apart():
    conv = GPSConv(DIM, SAGEConv(DIM, DIM), heads=2, norm=None).eval()
    mixer = PyGMixer(conv, DIM)
    sets = [Tokens(torch.randn(n, DIM), Cycle(n)) for n in (5, 3, 7)]
    wanted = [conv(tokens.z, tokens.graph.edge_index()) for tokens in sets]
    together = mixer(Tokens.batch(sets))
    torch.testing.assert_close(together.z, torch.cat(wanted))
    z = torch.stack([together.z, together.z.flip(0)])
    apart = [mixer(together.replace(z=each)).z for each in z]
    torch.testing.assert_close(mixer(together.replace(z=z)).z, torch.stack(apart))


@pytest.mark.parametrize(
    ("conv", "called"),
    [
        (PointNetConv(), "x, pos, edge_index"),
        (GCN2Conv(DIM, 0.1), "x, x_0, edge_index, edge_weight"),
        (HypergraphConv(DIM, DIM), "x, hyperedge_index, hyperedge_weight"),
        (HEATConv(DIM, DIM, 2, 2, 4, 4, 4), "x, edge_index, node_type, edge_type, edge_attr"),
        (nn.Linear(DIM, DIM), "input"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_pyg_mixer_says_what_it_cannot_give(conv, called):
    message = "conv must be called as conv(x, edge_index) and need nothing else but edge_attr"
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        PyGMixer(conv, DIM)
    assert f"{type(conv).__name__} is called as conv({called}" in str(raised.value)


class NeedsFeatures(nn.Module):
    in_channels = DIM

    def forward(self, x, edge_index, edge_attr):
        return x


class NeedsWeights(nn.Module):
    in_channels = DIM

    def forward(self, x, edge_index, edge_weight):
        return x


class ReturnsPair(nn.Module):
    in_channels = DIM

    def forward(self, x, edge_index):
        return x, edge_index


def test_pyg_mixer_says_what_the_graph_lacks(sparse_graph):
    z, wide = torch.randn(20, DIM), sparse_graph.with_edge_attr(torch.randn(90, 2))
    for conv, graph, message in [
        (
            NeedsFeatures(),
            sparse_graph,
            "graph.edge_attr must be given: NeedsFeatures needs",
        ),
        (NeedsWeights(), sparse_graph, "graph.edge_attr must be given: NeedsWeights needs"),
        (GCNConv(DIM, DIM), wide, r"must have one column for GCNConv.*, got \(90, 2\)"),
        (GATConv(DIM, DIM, edge_dim=3), wide, r"edge_dim\) = \(90, 3\) for GATConv, got \(90, 2\)"),
        (GATConv(DIM, DIM, edge_dim=3), sparse_graph, "for GATConv, got None"),
        (ReturnsPair(), sparse_graph, "conv must return a tensor, it returned tuple"),
    ]:
        with pytest.raises(ValueError, match=message):
            PyGMixer(conv)(Tokens(z, graph))
    assert PyGMixer(NeedsFeatures())(Tokens(z, wide)).z.shape == z.shape
