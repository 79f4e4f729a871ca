"""Round trips to networkx, with names and attributes."""

import threading
import time

import networkx as nx
import numpy as np
import pytest
import torch

from tests.families import BIPARTITE
from tokennet import Edges, Tokens, from_networkx, to_networkx


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


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_attributes_of_several_sizes_are_refused(kind):
    uneven = nx.DiGraph()
    uneven.add_edge(0, 1, a=kind([1.0, 2.0]))
    uneven.add_edge(1, 0, a=kind([3.0]))
    with pytest.raises(ValueError, match=r"the same shape everywhere, got \(1,\), \(2,\)"):
        from_networkx(uneven, edge_attrs="a")


def test_edge_attributes_of_no_edges_have_their_columns():
    empty = from_networkx(nx.empty_graph(3), edge_attrs=["a", "b"])
    assert empty.edge_attr.shape == (0, 2)
    uneven = nx.DiGraph()
    uneven.add_edge(0, 1, a=[1.0, 2.0])
    uneven.add_edge(1, 0, a=3.0)
    with pytest.raises(
        ValueError, match=r"'a' must have the same shape everywhere, got \(\), \(2,\)"
    ):
        from_networkx(uneven, edge_attrs=["a"])


def test_one_edge_attribute_may_be_named_without_a_list():
    original = nx.DiGraph()
    original.add_edge(0, 1, weight=2.0)
    assert from_networkx(original, edge_attrs="weight").edge_attr.tolist() == [[2.0]]


def test_an_undirected_graph_is_not_copied():
    original = nx.Graph()
    original.add_edge("ann", "bob", weight=1.0, lock=threading.Lock())
    assert from_networkx(original, "weight").edge_attr.tolist() == [[1.0], [1.0]]
    original = nx.MultiGraph()
    original.add_edge(0, 1, f=torch.ones(2, requires_grad=True) * 2)
    columns = from_networkx(original, "f").edge_attr
    assert columns.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert columns.requires_grad

    class Uncopied(list):
        def __deepcopy__(self, memo):
            raise AssertionError("copied")

    original = nx.path_graph(3)
    nx.set_edge_attributes(original, Uncopied([1.0, 2.0]), "pair")
    assert from_networkx(original, "pair").edge_attr.shape == (4, 2)
    assert original[0][1]["pair"] is original[1][2]["pair"]


def test_the_order_of_edges_is_that_of_the_directed_copy():
    for original in ROUND_TRIPS.values():
        number = {name: i for i, name in enumerate(original)}
        wanted = [(number[u], number[v]) for u, v, *_ in original.to_directed().edges]
        assert [tuple(edge) for edge in from_networkx(original).edge_index().T.tolist()] == wanted


def test_many_edges_take_the_time_of_a_loop():
    original = nx.gnm_random_graph(5_000, 25_000, seed=0)
    nx.set_edge_attributes(original, 1.0, "w")
    from_networkx(original, "w")

    def loop():
        number = {u: i for i, u in enumerate(original)}
        edges = original.edges(data=True)
        torch.tensor([(number[u], number[v], data["w"]) for u, v, data in edges])

    def seconds(call):
        times = []
        for _ in range(3):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(lambda: from_networkx(original, "w")) < 8 * seconds(loop)  # measured: 1.2


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1_700_000_001, None),
        (-16_777_217, None),
        (1_700_000_001.0, None),
        (torch.tensor(16_777_217), None),
        (257, torch.bfloat16),
        (2**53 + 1, torch.float64),
        (0.5, torch.int64),
        (300, torch.uint8),
    ],
)
def test_whole_numbers_are_not_rounded(value, dtype):
    original = nx.DiGraph()
    original.add_edge("a", "b", t=1)
    original.add_edge("b", "c", t=value)
    with pytest.raises(ValueError, match="edge_attrs: 't' of edge 'b' -> 'c' must be exact in"):
        from_networkx(original, "t", dtype=dtype)
    nx.set_node_attributes(original, {"a": 0, "b": value, "c": 2}, "t")
    with pytest.raises(ValueError, match="node_attrs: 't' of node 'b' must be exact in"):
        Tokens.from_networkx(original, "t", dtype=dtype)


def test_large_numbers_in_a_type_that_holds_them():
    original = nx.DiGraph()
    original.add_edge(0, 1, t=1_700_000_001)
    original.add_edge(1, 2, t=1_700_000_002)
    for dtype in (torch.float64, torch.int64):
        times = from_networkx(original, "t", dtype=dtype).edge_attr
        assert times.dtype == dtype
        assert times.flatten().tolist() == [1_700_000_001, 1_700_000_002]
    nx.set_edge_attributes(original, {(0, 1): 0.1, (1, 2): float("inf")}, "t")
    assert from_networkx(original, "t").edge_attr.tolist() == [
        [torch.tensor(0.1).item()], [float("inf")]
    ]  # fmt: skip
    nx.set_edge_attributes(original, {(0, 1): True, (1, 2): 1e30}, "t")
    assert from_networkx(original, "t").edge_attr[0] == 1.0
    with pytest.raises(TypeError, match=r"dtype must be a torch\.dtype, got str"):
        from_networkx(original, "t", dtype="float64")
    original.add_edge(0, 2, t=2**64)
    with pytest.raises(ValueError, match="edge_attrs: 't' of edge 0 -> 2 must be numeric"):
        from_networkx(original, "t")


def club():
    graph = nx.Graph()
    graph.add_node("ann", age=30, role="boss", pos=(0.0, 1.0))
    graph.add_node("bob", age=2.5, role="clerk", pos=(2.0, 3.0))
    graph.add_edge("ann", "bob", kind="friend", weight=2)
    graph.add_edge("bob", "bob", kind="foe", weight=np.float64(0.5))
    return graph


def test_nodes_with_attributes_become_tokens():
    tokens = Tokens.from_networkx(
        club(),
        {"age": None, "role": ["clerk", "boss"]},
        {"weight": None, "kind": {"friend": 1, "foe": -1}},
        pos_attrs="pos",
    )
    assert tokens.z.tolist() == [[30.0, 0.0, 1.0], [2.5, 1.0, 0.0]]
    assert tokens.z.dtype == tokens.pos.dtype == torch.get_default_dtype()
    assert tokens.pos.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert tokens.graph == from_networkx(club(), {"weight": None, "kind": {"friend": 1, "foe": -1}})
    assert tokens.graph.edge_attr.tolist() == [[2.0, 1.0], [2.0, 1.0], [0.5, -1.0]]
    assert tokens.graph.names == ("ann", "bob")
    ids = Tokens.from_networkx(club(), {"role": {"clerk": 0, "boss": 7}}, dtype=torch.int64)
    assert ids.z.tolist() == [[7], [0]]


def test_a_graph_without_features_of_nodes_is_told_what_to_do():
    graph = nx.path_graph(3)
    nx.set_edge_attributes(graph, 2.0, "weight")
    for given in ({}, {"node_attrs": None}):
        with pytest.raises(ValueError, match=r"node_attrs must name .* use Tokens\(z, from_netw"):
            Tokens.from_networkx(graph, edge_attrs="weight", **given)
    tokens = Tokens(torch.zeros(3, 2), from_networkx(graph, edge_attrs="weight"))
    assert tokens.graph.edge_attr.tolist() == [[2.0]] * 4


def test_categories_are_given_and_checked():
    with pytest.raises(
        ValueError, match=r"of text give the categories: \{'role': \['boss', 'clerk'\]\}"
    ):
        Tokens.from_networkx(club(), ["role"])
    with pytest.raises(
        ValueError, match="'kind' of edge 'bob' -> 'bob' must be one of 'friend', got 'foe'"
    ):
        from_networkx(club(), {"kind": ["friend"]})
    with pytest.raises(ValueError, match="'pos' of node 'ann' must be one of 'x', got"):
        Tokens.from_networkx(club(), {"pos": ["x"]})
    with pytest.raises(TypeError, match=r"edge_attrs\['kind'\] must be a list or a dict, got int"):
        from_networkx(club(), {"kind": 3})
    with pytest.raises(TypeError, match="edge_attrs must be a name, names, or categories by name"):
        from_networkx(club(), 3)
    with pytest.raises(ValueError, match="node_attrs: node 'ann' has no attribute 'height'"):
        Tokens.from_networkx(club(), "height")
    with pytest.raises(TypeError, match="graph must be a networkx graph, got list"):
        Tokens.from_networkx([], "height")
    for odd in (None, 1j, object(), [1.0, None]):
        graph = club()
        graph.nodes["bob"]["age"] = odd
        with pytest.raises(ValueError, match="node_attrs: 'age' of node 'bob' must be numeric"):
            Tokens.from_networkx(graph, "age")


def test_values_of_nodes_and_edges_go_out_by_name():
    graph = from_networkx(club())  # ann -> bob, bob -> ann, bob -> bob
    weights = torch.tensor([0.25, 0.75, 1.0], requires_grad=True)
    heads = np.arange(6.0).reshape(3, 2)
    theirs = to_networkx(
        graph,
        nodes={"x": torch.eye(2), "name": ["A", "B"]},
        edges={"attention": weights, "h": heads},
    )
    assert theirs.is_directed()
    assert dict(theirs.nodes.data()) == {
        "ann": {"x": [1.0, 0.0], "name": "A"}, "bob": {"x": [0.0, 1.0], "name": "B"}
    }  # fmt: skip
    assert theirs["ann"]["bob"] == {"attention": 0.25, "h": [0.0, 1.0]}
    assert theirs["bob"]["ann"] == {"attention": 0.75, "h": [2.0, 3.0]}
    with pytest.raises(ValueError, match=r"edges\['w'\] must have 3 values or rows, got 2"):
        to_networkx(graph, edges={"w": [1, 2]})
    with pytest.raises(ValueError, match=r"nodes\['w'\] must have 2 values or rows, got float"):
        to_networkx(graph, nodes={"w": 1.0})
    with pytest.raises(TypeError, match="edges must be values by name, got Tensor"):
        to_networkx(graph, edges=weights)
    with pytest.raises(ValueError, match="no reverse with the same attributes"):
        to_networkx(graph, undirected=True, edges={"attention": weights})
    with pytest.raises(ValueError, match="nodes and undirected need the same sources and targets"):
        to_networkx(BIPARTITE["multi_edges"](), nodes={"x": [1, 2, 3]})


def test_the_kind_of_graph_comes_back():
    for kind in (nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph):
        graph = from_networkx(kind([(0, 1)]))
        assert type(to_networkx(graph, undirected=not kind().is_directed())) is kind
    assert type(to_networkx(from_networkx(nx.MultiGraph([(0, 1)])), multigraph=False)) is nx.DiGraph
    assert type(to_networkx(Edges([(0, 1)], 2), multigraph=True)) is nx.MultiDiGraph
    with pytest.raises(ValueError, match="multigraph=False would lose parallel edges"):
        to_networkx(Edges([(0, 1), (0, 1), (1, 1)], 2), multigraph=False)


@pytest.mark.parametrize("kind", [nx.Graph, nx.MultiGraph])
def test_an_edge_of_nan_has_a_reverse(kind):
    original = kind()
    original.add_edge(0, 1, w=float("nan"))
    original.add_edge(1, 2, w=1.0)
    back = to_networkx(from_networkx(original, "w"), undirected=True, edge_attrs="w")
    assert [str(w) for *_, w in back.edges.data("w")] == ["nan", "1.0"]
    one_way = Edges([(0, 1), (1, 0)], 2, edge_attr=[float("nan"), 1.0])
    with pytest.raises(ValueError, match="0 -> 1 has no reverse"):
        to_networkx(one_way, undirected=True, edge_attrs=["w"])


def test_types_of_edges_are_an_attribute():
    graph = nx.MultiDiGraph()
    graph.add_edge("ann", "bob", kind="knows", rel=3, w=0.5)
    graph.add_edge("ann", "bob", kind="likes", rel=1, w=1.5)
    graph.add_edge("bob", "ann", kind="knows", rel=3, w=2.5)
    by_name = from_networkx(graph, "w", edge_type={"kind": ["likes", "knows"]})
    assert by_name.edge_type.tolist() == [1, 0, 1]
    assert by_name.edge_attr.flatten().tolist() == [0.5, 1.5, 2.5]
    assert from_networkx(graph, edge_type={"kind": {"likes": 5, "knows": 2}}).num_edge_types == 6
    assert from_networkx(graph, edge_type="rel").edge_type.tolist() == [3, 1, 3]
    back = to_networkx(by_name, edges={"rel": by_name.edge_type})
    assert [rel for _, _, rel in back.edges.data("rel")] == [1, 0, 1]
    nodes = {"ann": 0.0, "bob": 1.0}
    nx.set_node_attributes(graph, nodes, "x")
    assert Tokens.from_networkx(graph, "x", edge_type="rel").graph.edge_type.tolist() == [3, 1, 3]
    for odd, message in [
        ("kind", r"edge_type: 'kind' of edge 'ann' -> 'bob' must be numeric, got 'knows'; of text"),
        ("w", r"edge_type: 'w' of edge 'ann' -> 'bob' must be exact in torch.int64"),
        (["rel", "rel2"], "edge_type: edge 'ann' -> 'bob' has no attribute 'rel2'"),
        ({"kind": ["likes"]}, "must be one of 'likes'"),
        ([], "edge_type must name one attribute"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_networkx(graph, edge_type=odd)
