"""Nodes, edges and points against networkx and scikit-learn; what moves with them."""

import networkx as nx
import pytest
import torch
from sklearn.neighbors import kneighbors_graph, radius_neighbors_graph
from torch_geometric.data import Batch, Data

from tests.tokenizers.cases import graph
from tokennet import Disjoint, Edges
from tokennet.tokenizers import LineGraph, Nodes, NodesAndEdges, Points


def pairs(graph):
    return sorted(map(tuple, graph.edge_index().T.tolist()))


def test_two_steps_between_nodes_are_one_of_the_graph():
    data = graph(0)
    tokens = NodesAndEdges(3)(data)
    incidence = tokens.graph.dense().double()
    given = Edges(data.edge_index, 5)
    assert torch.equal((incidence @ incidence)[:5, :5] > 0, given.dense())
    assert (incidence[:5, :5] == 0).all()
    assert (incidence[5:, 5:] == 0).all()


def test_nodes_and_edges_hold_what_they_should():
    data = graph(1)
    n, (source, target) = 6, data.edge_index
    tokens = NodesAndEdges(3)(data)
    assert torch.equal(tokens.z[:n, :3], data.x)
    assert torch.equal(tokens.z[n:, 3:5], data.edge_attr)
    assert (tokens.z[:n, 3:5] == 0).all()
    assert (tokens.z[n:, :3] == 0).all()
    assert tokens.z[:n, 5:].unique(dim=0).tolist() == [[1, 0]]
    assert tokens.z[n:, 5:].unique(dim=0).tolist() == [[0, 1]]
    assert torch.equal(tokens.pos[n:], torch.stack([source, target], 1))


def test_renumbered_nodes_are_renumbered_tokens():
    data = graph(0)
    perm = torch.tensor([3, 0, 4, 1, 2])  # new node i is old node perm[i]
    new_number = perm.argsort()
    moved = Data(x=data.x[perm], edge_index=new_number[data.edge_index], edge_attr=data.edge_attr)
    tokens, again = NodesAndEdges(3)(data), NodesAndEdges(3)(moved)
    order = torch.cat([perm, torch.arange(5, tokens.num_tokens)])
    assert torch.equal(again.z, tokens.z[order])
    assert pairs(again.graph) == pairs(tokens.graph.relabel(order))
    assert torch.equal(again.pos, new_number[tokens.pos[order]])
    lines, lines_again = LineGraph(3)(data), LineGraph(3)(moved)
    assert torch.equal(lines_again.z, lines.z)
    assert pairs(lines_again.graph) == pairs(lines.graph)


@pytest.mark.parametrize("seed", range(5))
def test_line_graph_is_that_of_networkx(seed):
    drawn = nx.gnp_random_graph(7, 0.6, seed=seed, directed=True)
    edge_index = torch.tensor(list(drawn.edges), dtype=torch.long).view(-1, 2).T
    tokens = LineGraph(1)(Data(x=torch.arange(7.0)[:, None], edge_index=edge_index))
    ends = [tuple(edge) for edge in tokens.pos.tolist()]
    found = sorted((ends[a], ends[b]) for a, b in pairs(tokens.graph))
    assert found == sorted(nx.line_graph(drawn).edges)
    onward = LineGraph(1, backtrack=False)(Data(torch.zeros(7, 1), edge_index)).graph
    kept = sorted((ends[a], ends[b]) for a, b in pairs(onward))
    assert kept == [(a, b) for a, b in found if a != b[::-1]]
    assert len(kept) < len(found)


def test_line_graph_takes_the_mean_of_what_is_said_of_a_node():
    data = Data(x=torch.tensor([[1.0], [2.0], [3.0]]), edge_index=torch.tensor([[0, 1], [1, 2]]))
    tokens = LineGraph(1)(data)
    changed = tokens.replace(z=torch.tensor([[1.0, 4.0], [2.0, 3.0]]))
    assert LineGraph(1).inverse(changed).x.tolist() == [[1.0], [3.0], [3.0]]


def test_isolated_nodes_are_lost_in_the_line_graph_and_kept_elsewhere():
    data = Data(x=torch.arange(4.0)[:, None], edge_index=torch.tensor([[0], [3]]))
    assert torch.equal(NodesAndEdges(1).inverse(NodesAndEdges(1)(data)).x, data.x)
    with pytest.raises(ValueError, match=r"no token names \[1, 2\]"):
        LineGraph(1).inverse(LineGraph(1)(data))


@pytest.mark.parametrize("tokenizer", [Nodes(), NodesAndEdges(1), LineGraph(1)], ids=repr)
def test_graphs_without_edges(tokenizer):
    data = Data(x=torch.ones(2, 1), edge_index=torch.zeros(2, 0, dtype=torch.long))
    tokens = tokenizer(data)
    assert tokens.graph.num_edges == 0
    if not isinstance(tokenizer, LineGraph):
        assert torch.equal(tokenizer.inverse(tokens).x, data.x)


def test_numbers_of_nodes_are_checked():
    tokens = NodesAndEdges(3)(graph(0))
    with pytest.raises(ValueError, match="must number the nodes"):
        NodesAndEdges(3).inverse(tokens.replace(pos=tokens.pos + 1))


@pytest.mark.parametrize("tokenizer", [Nodes(), NodesAndEdges(3), LineGraph(3)], ids=repr)
def test_a_batch_of_pyg_is_a_list(tokenizer):
    graphs = [graph(0), graph(1)]
    together, listed = tokenizer(Batch.from_data_list(graphs)), tokenizer(graphs)
    assert isinstance(together.graph, Disjoint)
    assert torch.equal(together.z, listed.z)
    assert pairs(together.graph) == pairs(listed.graph)


@pytest.mark.parametrize("tokenizer", [Nodes(), NodesAndEdges(3), LineGraph(3)], ids=repr)
def test_a_batch_of_pyg_is_read_as_it_is_now(tokenizer):
    graphs = [graph(0), graph(1)]
    together = Batch.from_data_list(graphs)
    together.edge_index, together.edge_attr = together.edge_index[:, 1:], together.edge_attr[1:]
    first = Data(**{**graphs[0].to_dict(), "edge_index": graphs[0].edge_index[:, 1:]})
    first.edge_attr = first.edge_attr[1:]
    plain = Data(**{name: together[name] for name in ("x", "edge_index", "edge_attr", "batch")})
    for several in (together, plain):
        tokens, wanted = tokenizer(several), tokenizer([first, graphs[1]])
        assert torch.equal(tokens.z, wanted.z)
        assert tokens.graph.with_edge_attr(None) == wanted.graph.with_edge_attr(None)


def test_weights_of_edges_are_features_alone_and_in_a_batch():
    data = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0], [1]]), edge_weight=torch.ones(1))
    for given in (data, Batch.from_data_list([data])):
        assert LineGraph(1)(given).z.tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("n", [1, 4, 60])
@pytest.mark.parametrize("k", [0, 1, 7])
def test_nearest_are_those_of_scikit_learn(n, k):
    points = torch.randn(n, 3, dtype=torch.float64)
    found = Points(k=k)(points).graph
    most = min(k, n - 1)
    assert found.num_edges == n * most
    if most:
        want = kneighbors_graph(points.numpy(), most).nonzero()
        assert pairs(found) == sorted((int(j), int(i)) for i, j in zip(*want, strict=True))
        source, target = found.edge_index()
        distance = (points[source] - points[target]).norm(dim=1).view(n, most)
        assert (distance.diff(dim=1) >= 0).all()
        assert torch.equal(target, torch.arange(n).repeat_interleave(most))


@pytest.mark.parametrize("radius", [0.0, 0.8, 100.0])
def test_those_within_a_radius_are_those_of_scikit_learn(radius):
    points = torch.randn(50, 2, dtype=torch.float64)
    want = radius_neighbors_graph(points.numpy(), radius).nonzero()
    found = Points(radius=radius)(points).graph
    assert pairs(found) == sorted((int(j), int(i)) for i, j in zip(*want, strict=True))
    source, target = found.edge_index()
    assert ((50 * target + source).diff() > 0).all()


def test_radius_is_included_and_a_loop_comes_where_asked():
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    assert pairs(Points(radius=4.0)(points).graph) == [(0, 2), (1, 2), (2, 0), (2, 1)]
    own = [(i, i) for i in range(3)]
    for tokenizer in (Points(radius=4.0, loop=True), Points(k=1, loop=True)):
        found = tokenizer(points).graph
        assert set(own) <= set(pairs(found))
        assert (found.edge_index()[1].diff() >= 0).all()
    assert pairs(Points(k=0, loop=True)(points).graph) == own


def test_points_in_one_place_are_neighbors_and_never_of_themselves():
    points = torch.zeros(6, 2)
    source, target = Points(k=2)(points).graph.edge_index()
    assert torch.equal(target, torch.arange(6).repeat_interleave(2))
    assert (source != target).all()
    assert len(pairs(Points(radius=0.0)(points).graph)) == 30


@pytest.mark.parametrize("tokenizer", [Points(k=4), Points(radius=1.0)], ids=repr)
def test_points_in_another_order_are_tokens_in_another_order(tokenizer):
    points = torch.randn(30, 3)
    tokens, perm = tokenizer(points), torch.randperm(30)
    again = tokenizer(points[perm])
    relabeled = tokens.permute(perm)
    assert torch.equal(again.z, relabeled.z)
    assert torch.equal(again.pos, relabeled.pos)
    assert pairs(again.graph) == pairs(relabeled.graph)


@pytest.mark.parametrize("tokenizer", [Points(k=4), Points(radius=1.0)], ids=repr)
def test_rigid_motion_leaves_the_graph(tokenizer):
    points = torch.randn(40, 3, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    moved = points @ rotation.T + torch.tensor([1.0, -5.0, 2.0])
    assert pairs(tokenizer(moved).graph) == pairs(tokenizer(points).graph)
    assert pairs(tokenizer(points * torch.tensor([1, 1, 9])).graph) != pairs(
        tokenizer(points).graph
    )


def test_features_are_no_coordinates():
    points = torch.randn(20, 5)
    tokens = Points(k=3, num_coordinates=2)(points)
    assert torch.equal(tokens.z, points)
    assert torch.equal(tokens.pos, points[:, :2])
    assert pairs(tokens.graph) == pairs(Points(k=3)(points[:, :2]).graph)


def test_no_points_have_no_neighbors():
    for tokenizer in (Points(k=3), Points(radius=1.0)):
        assert tokenizer(torch.zeros(0, 3)).graph.num_edges == 0
