"""Round trips to networkx, PyG, masks and mask_mods."""

import networkx as nx
import pytest
import torch
from torch_geometric.data import Batch, Data

from tests.families import BIPARTITE
from tokennet import (
    Causal,
    Disjoint,
    Edges,
    Tokens,
    from_mask,
    from_mask_mod,
    from_networkx,
    from_pyg,
    to_networkx,
)


def named(kind, edges):
    graph = kind()
    graph.add_nodes_from(["a", ("b", 2), 3, frozenset({4})])
    graph.add_edges_from(edges)
    return graph


ROUND_TRIPS = {
    "undirected": named(nx.Graph, [("a", 3), (3, ("b", 2)), ("a", "a")]),
    "directed": named(nx.DiGraph, [("a", 3), (3, "a"), (3, ("b", 2)), (3, 3)]),
    "multi": named(nx.MultiGraph, [("a", 3), ("a", 3), (3, ("b", 2)), ("a", "a"), ("a", "a")]),
    "multi_directed": named(nx.MultiDiGraph, [("a", 3), ("a", 3), (3, "a"), (3, 3), (3, 3)]),
    "karate": nx.karate_club_graph(),
    "empty": nx.Graph(),
    "no_edges": named(nx.Graph, []),
}


@pytest.mark.parametrize("kind", ROUND_TRIPS)
def test_networkx_round_trip_keeps_names_direction_loops_and_parallel_edges(kind):
    original = ROUND_TRIPS[kind]
    graph = from_networkx(original)
    back = to_networkx(graph, undirected=not original.is_directed())
    assert list(back.nodes) == list(original.nodes)
    assert back.is_directed() == original.is_directed()
    as_multi = nx.MultiDiGraph if original.is_directed() else nx.MultiGraph
    assert nx.utils.edges_equal(
        as_multi(back).edges(), as_multi(original).edges(), directed=original.is_directed()
    )


def test_direction_target_attends_to_source():
    graph = from_networkx(nx.DiGraph([("source", "target")]))
    i, j = graph.names.index("target"), graph.names.index("source")
    assert graph.attends(torch.tensor(i), torch.tensor(j))
    assert not graph.attends(torch.tensor(j), torch.tensor(i))


def test_edge_attributes_go_and_come_by_name():
    original = nx.MultiDiGraph()
    original.add_edge("a", "b", weight=2.0, kind=[1.0, 0.0])
    original.add_edge("a", "b", weight=3.0, kind=[0.0, 1.0])
    graph = from_networkx(original, edge_attrs=["weight", "kind"])
    assert graph.edge_attr.tolist() == [[2.0, 1.0, 0.0], [3.0, 0.0, 1.0]]
    back = to_networkx(graph, edge_attrs=["weight", "one", "other"])
    assert [data["weight"] for *_, data in back.edges(data=True)] == [2.0, 3.0]
    weighted = nx.Graph()
    weighted.add_edge(0, 1, weight=5.0)
    both_ways = from_networkx(weighted, edge_attrs=["weight"])
    assert both_ways.edge_attr.tolist() == [[5.0], [5.0]]
    assert to_networkx(both_ways, undirected=True, edge_attrs=["weight"])[0][1]["weight"] == 5.0


def test_edge_attributes_that_are_missing_or_no_numbers_are_named():
    original = nx.DiGraph([("a", "b")])
    with pytest.raises(ValueError, match="edge 'a' -> 'b' has no attribute 'weight'"):
        from_networkx(original, edge_attrs=["weight"])
    original["a"]["b"]["weight"] = "heavy"
    with pytest.raises(
        ValueError, match="'weight' of edge 'a' -> 'b' must be numeric, got 'heavy'"
    ):
        from_networkx(original, edge_attrs=["weight"])
    with pytest.raises(ValueError, match="edge_attrs names 1 columns, edge_attr has 0"):
        to_networkx(from_networkx(nx.DiGraph([("a", "b")])), edge_attrs=["weight"])


def test_a_directed_graph_is_not_passed_off_as_undirected():
    with pytest.raises(ValueError, match="undirected: 0 -> 1 has no reverse"):
        to_networkx(Edges(torch.tensor([[0], [1]]), 2), undirected=True)
    two_ways = torch.tensor([[0, 1], [1, 0]])
    weighted = Edges(two_ways, 2, edge_attr=torch.tensor([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="0 -> 1 has no reverse with the same attributes"):
        to_networkx(weighted, undirected=True, edge_attrs=["weight"])
    with pytest.raises(TypeError, match="graph must be a networkx graph, got Edges"):
        from_networkx(Edges(torch.tensor([[0], [1]]), 2))


def test_bipartite_graphs_get_nodes_of_two_kinds():
    nodes = to_networkx(BIPARTITE["multi_edges"]())
    assert nodes.number_of_edges(("source", 4), ("target", 0)) == 2
    assert nodes.number_of_nodes() == 8


def test_masks_that_could_be_misread_are_refused():
    with pytest.raises(TypeError, match="mask must be a boolean tensor, got torch.float32"):
        from_mask(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"mask must have shape \(N, M\), got \(1, 2, 2\)"):
        from_mask(torch.ones(1, 2, 2).bool())


def data(n, edges):
    index = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).t()
    attr = torch.arange(float(len(edges)))[:, None]
    return Data(x=torch.randn(n, 3), edge_index=index, edge_attr=attr, pos=torch.randn(n, 2))


def test_pyg_round_trip_in_the_caller_order():
    single = data(3, [(2, 0), (0, 1), (2, 0)])
    tokens = Tokens.from_pyg(single)
    assert torch.equal(tokens.graph.edge_index(), single.edge_index)
    back = tokens.to_pyg()
    for name in ("x", "edge_index", "edge_attr", "pos"):
        assert torch.equal(back[name], single[name])


def test_pyg_batch_is_a_disjoint_graph_and_back():
    batch = Batch.from_data_list([data(2, [(0, 1)]), data(3, [(2, 0), (1, 1)])])
    tokens = Tokens.from_pyg(batch)
    assert isinstance(tokens.graph, Disjoint)
    assert torch.equal(tokens.graph.edge_index(), batch.edge_index)
    assert torch.equal(tokens.graph.batch(), batch.batch)
    assert torch.equal(tokens.graph.edge_attr, batch.edge_attr)
    back = tokens.to_pyg()
    assert torch.equal(back.batch, batch.batch)
    assert torch.equal(back.x, batch.x)


def test_pyg_data_without_what_is_needed_is_refused():
    with pytest.raises(ValueError, match="data must have an edge_index"):
        from_pyg(Data(x=torch.zeros(2, 1)))
    with pytest.raises(TypeError, match="data must be a PyG Data or Batch, got dict"):
        from_pyg({})
    with pytest.raises(ValueError, match="data must have node features x"):
        Tokens.from_pyg(Data(edge_index=torch.zeros(2, 0, dtype=torch.long), num_nodes=2))
    with pytest.raises(ValueError, match=r"z must have shape \(N, D\) for PyG, got \(1, 2, 3\)"):
        Tokens(torch.zeros(1, 2, 3), Causal(2)).to_pyg()


def test_predicates_must_return_booleans():
    graph = from_mask_mod(lambda b, h, i, j: (i - j) % 2, 4)
    for derive in (graph.dense, graph.edge_index, lambda: graph.num_edges):
        with pytest.raises(TypeError, match=r"attends must return booleans, got torch\.int64"):
            derive()


def test_edge_attributes_of_no_edges_have_their_columns():
    empty = from_networkx(nx.empty_graph(3), edge_attrs=["a", "b"])
    assert empty.edge_attr.shape == (0, 2)
    uneven = nx.DiGraph()
    uneven.add_edge(0, 1, a=[1.0, 2.0])
    uneven.add_edge(1, 0, a=3.0)
    with pytest.raises(
        ValueError, match=r"\['a'\] must have the same length on every edge, got \[1, 2\]"
    ):
        from_networkx(uneven, edge_attrs=["a"])


def test_the_number_of_nodes_is_not_guessed():
    with pytest.raises(ValueError, match="data must have x, pos or num_nodes"):
        from_pyg(Data(edge_index=torch.tensor([[0], [1]])))


@pytest.mark.parametrize(
    "mask_mod", [lambda b, h, i, j: i >= j and i - j < 3, lambda i, j: i >= j], ids=["and", "two"]
)
def test_mask_mods_that_are_not_elementwise_are_refused(mask_mod):
    with pytest.raises(ValueError, match=r"mask_mod must take \(batch, head, query, key\)"):
        from_mask_mod(mask_mod, 16)


def after(batch, head, query, key):
    return query >= key


def test_graphs_of_mask_mods_can_be_pickled():
    import pickle

    graph = pickle.loads(pickle.dumps(from_mask_mod(after, 5)))
    assert torch.equal(graph.dense(), Causal(5).dense())


def test_edge_weight_is_a_column_of_features():
    weighted = Data(
        x=torch.zeros(2, 1), edge_index=torch.tensor([[0], [1]]), edge_weight=torch.ones(1)
    )
    assert from_pyg(weighted).edge_attr.tolist() == [[1.0]]


def test_one_edge_attribute_may_be_named_without_a_list():
    original = nx.DiGraph()
    original.add_edge(0, 1, weight=2.0)
    assert from_networkx(original, edge_attrs="weight").edge_attr.tolist() == [[2.0]]
