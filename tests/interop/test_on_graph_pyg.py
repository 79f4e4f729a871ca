"""Convolutions of PyG on token graphs: as on the edges that are in both."""

import pytest
import torch
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, TransformerConv

from tokennet import Causal, Edges, Full, Self, Window
from tokennet.graphs import PerHead
from tokennet.interop import on_graph

EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 5, 2], [1, 0, 1, 4, 3, 4, 5, 0, 2]])
GRAPH = Window(6, 1)
CONVOLUTIONS = {
    "transformer": lambda: TransformerConv(4, 3, heads=2, edge_dim=2),
    "gat": lambda: GATConv(4, 3, heads=2, edge_dim=2),
    "gatv2": lambda: GATv2Conv(4, 3, heads=2, edge_dim=2, add_self_loops=False),
    "reversed": lambda: TransformerConv(4, 3, edge_dim=2, flow="target_to_source"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_edges_that_are_not_in_the_graph_are_left_out_with_their_features(name):
    layer, x, attr = CONVOLUTIONS[name](), torch.randn(6, 4), torch.randn(9, 2)
    graph = GRAPH if name != "reversed" else Causal(6)
    source, target = EDGES if layer.flow == "source_to_target" else EDGES.flip(0)
    keep = graph.attends(target, source)
    assert 0 < keep.sum() < 9
    expected = layer(x, EDGES[:, keep], attr[keep])
    own = layer(x, EDGES, edge_attr=attr)
    with on_graph(layer, graph):
        torch.testing.assert_close(layer(x, EDGES, attr), expected)
        torch.testing.assert_close(layer(x=x, edge_index=EDGES, edge_attr=attr), expected)
    with on_graph(layer):
        torch.testing.assert_close(layer(x, EDGES, attr), own)
    torch.testing.assert_close(layer(x, EDGES, attr), own)


def test_a_net_of_convolutions_by_layer_and_size():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([GCNConv(4, 4), TransformerConv(4, 4)])

        def forward(self, x, edge_index):
            for layer in self.layers:
                x = layer(x, edge_index)
            return x

    net, x = Net(), torch.randn(6, 4)
    seen = []
    with on_graph(net, lambda layer, n: seen.append((layer.path, n)) or (GRAPH if layer else None)):
        found = net(x, EDGES)
    assert seen == [("layers.0", 6), ("layers.1", 6)]
    keep = GRAPH.attends(EDGES[1], EDGES[0])
    torch.testing.assert_close(found, net.layers[1](net.layers[0](x, EDGES), EDGES[:, keep]))


def test_between_two_sets():
    layer = TransformerConv((4, 4), 3)
    x, edges = (torch.randn(5, 4), torch.randn(2, 4)), torch.tensor([[0, 4, 3], [0, 1, 1]])
    graph = Edges([(0, 0), (4, 1)], 2, 5)
    with on_graph(layer, graph):
        found = layer(x, edges)
    torch.testing.assert_close(found, layer(x, edges[:, :2]))


def test_what_does_not_fit_is_refused():
    layer, x = GATConv(4, 3), torch.randn(6, 4)
    graph = Edges(EDGES, 6)
    with on_graph(layer, graph), pytest.raises(ValueError, match="must have all self-loops, which"):
        layer(x, EDGES)
    with on_graph(layer, Full(5)), pytest.raises(ValueError, match="must have 6 targets"):
        layer(x, EDGES)
    with on_graph(layer, PerHead([Self(6)])), pytest.raises(TypeError, match="one for all heads"):
        layer(x, EDGES)
    sparse = torch.sparse_coo_tensor(EDGES, torch.ones(9), (6, 6))
    with (
        on_graph(layer, GRAPH),
        pytest.raises(TypeError, match="edge_index of .* a tensor"),
    ):
        layer(x, sparse)
