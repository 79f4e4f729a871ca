"""Lists of edges: checked, kept in order, with features that stay with their edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tokennet import Causal, Disjoint, Edges, Full, Self, Window
from tokennet.graphs import repeat
from tokennet.graphs.prefix import prefixed, without_prefix
from tokennet.testing.strategies import listed_graphs


@given(listed=listed_graphs())
@settings(max_examples=60, deadline=None)
def test_the_predicate_of_a_list_is_membership(listed):
    n = listed.num_targets
    i = torch.arange(n)
    assert torch.equal(listed.attends(i[:, None], i[None, :]), listed.dense())
    repeated = len({tuple(e) for e in listed.edge_index().t().tolist()}) < listed.num_edges
    assert listed.has_multi_edges == repeated
    assert torch.equal((~listed).dense(), ~listed.dense())
    assert (~listed).num_edges == int((~listed.dense()).sum())


EDGES = torch.tensor([[0, 1, 2, 0], [1, 1, 0, 1]])


@pytest.mark.parametrize(
    ("edge_index", "error", "message"),
    [
        (EDGES.float(), TypeError, "edge_index must hold integers, got torch.float32"),
        (EDGES.bool(), TypeError, "edge_index must hold integers, got torch.bool"),
        (EDGES.double().numpy(), TypeError, "edge_index must hold integers, got float64"),
        (np.array([[0, None]]), TypeError, "edge_index must hold integers, got object"),
        ([(0, 1.0)], TypeError, "edge_index must hold integers, got torch.float32"),
        ([(0, "a")], TypeError, "edge_index must hold numbers, in rows of one length"),
        ("ab", TypeError, "edge_index must hold numbers, in rows of one length"),
        ([(0, 1), (1, 2, 0)], TypeError, "edge_index must hold numbers, in rows of one length"),
        ({(0, 1)}, TypeError, "edge_index must be a tensor, an array or a list of pairs, got set"),
        ([[0, 1], [1, 2]], ValueError, "may be two pairs or two rows: pass tuples"),
        ([(0, 1, 2)], ValueError, r"edge_index must have shape \(2, E\), got \(1, 3\)"),
        ([(0, 3)], ValueError, r"edge_index\[1\] must name one of 3 targets, 0 to 2; got 3"),
        (EDGES.t(), ValueError, r"edge_index must have shape \(2, E\), got \(4, 2\)"),
        (EDGES[0], ValueError, r"edge_index must have shape \(2, E\), got \(4,\)"),
        (EDGES - 1, ValueError, r"edge_index\[0\] must name one of 3 sources, 0 to 2; got -1"),
        (EDGES + 1, ValueError, r"edge_index\[0\] must name one of 3 sources, 0 to 2; got 3"),
        (EDGES + torch.tensor([[0], [2]]), ValueError, r"edge_index\[1\] .* 3 targets.* got 3"),
    ],
)
def test_bad_edges_are_named(edge_index, error, message):
    with pytest.raises(error, match=message):
        Edges(edge_index, 3)


def test_edge_attributes_stay_with_their_edges():
    attr = torch.arange(4.0)[:, None]
    graph = Edges(EDGES, 3, edge_attr=attr, names=["a", "b", "c"])
    kept = graph & Self(3)
    assert kept.edge_index().tolist() == [[1], [1]]
    assert kept.edge_attr.tolist() == [[1.0]]
    assert graph.T.edge_attr is attr
    moved = graph.relabel([2, 0, 1])
    assert moved.edge_attr is attr
    assert moved.names == ("c", "a", "b")
    assert (graph | Edges(EDGES[:, :1], 3)).edge_attr is attr
    with pytest.raises(ValueError, match="edge_attr has no rows for the 2 edges that | adds"):
        graph | Self(3)
    with pytest.raises(ValueError, match="edge_attr must have one row for each of 4 edges"):
        Edges(EDGES, 3, edge_attr=attr[:3])
    with pytest.raises(ValueError, match="names must be 3 different names, got 2"):
        Edges(EDGES, 3, names=["a", "b"])


def test_a_graph_is_not_changed_through_the_tensor_it_was_made_of():
    edges = torch.tensor([[0, 1], [1, 2]])
    graph = Edges(edges, 3)
    edges[1, 0] = 7
    assert graph.edge_index().tolist() == [[0, 1], [1, 2]]


def test_edge_attributes_are_columns():
    assert Edges(EDGES, 3, edge_attr=torch.ones(4)).edge_attr.shape == (4, 1)
    with pytest.raises(TypeError, match="edge_attr must be a tensor, an array or a list, got str"):
        Edges(EDGES, 3, edge_attr="1234")
    for odd in (["a"] * 4, [[1.0], [1.0, 2.0], [1.0], [1.0]], [None] * 4):
        with pytest.raises(TypeError, match="edge_attr must hold numbers, in rows of one length"):
            Edges(EDGES, 3, edge_attr=odd)
    with pytest.raises(ValueError, match="edge_attr must have one row for each of 4 edges, got"):
        Edges(EDGES, 3, edge_attr=[])
    with pytest.raises(ValueError, match="names must be 3 different names, got 2"):
        Edges(EDGES, 3, names=["a", "b", "a"])


def test_features_can_be_given_and_taken_away():
    graph = Edges(EDGES, 3, edge_attr=torch.arange(4.0), names="abc")
    bare = graph.with_edge_attr(None)
    assert bare.edge_attr is None
    assert bare.names == ("a", "b", "c")
    looped = (bare | Self(3)).with_edge_attr(torch.arange(6.0))
    assert looped.edge_attr.shape == (6, 1)
    apart = Disjoint([bare, bare]).with_edge_attr(torch.arange(8.0))
    assert isinstance(apart, Disjoint)
    assert apart.graphs[1].edge_attr.flatten().tolist() == [4.0, 5.0, 6.0, 7.0]


LEFT, RIGHT = Edges([(0, 1), (1, 1), (2, 0)], 3), Edges([(1, 2), (2, 0), (0, 1), (0, 0)], 3)


@pytest.mark.parametrize("field", ["edge_attr", "edge_type"])
def test_features_of_the_right_operand_are_kept(field):
    rows = torch.tensor([[1], [2], [3], [4]]) if field == "edge_attr" else torch.arange(1, 5)

    def given(graph, rows):
        return getattr(graph, f"with_{field}")(rows)

    def found(graph):
        return getattr(graph, field).flatten().tolist()

    right = given(RIGHT, rows)
    both = LEFT & right
    assert both.edge_index().tolist() == [[0, 2], [1, 0]]
    assert found(both) == [3, 2]
    assert found(Edges([(0, 1), (0, 1)], 3) & right) == [3, 3]
    assert found(Self(3) & right) == [4]
    within = Edges([(0, 1), (2, 0)], 3)
    assert (within | right).edge_index().tolist() == [[0, 2, 1, 0], [1, 0, 2, 0]]
    assert found(within | right) == [3, 2, 1, 4]
    # Both have some: the left one's, and the right one's for the edges that it adds.
    left = given(LEFT, 10 * rows[:3])
    assert found(left & right) == [10, 30]
    assert found(left | right) == [10, 20, 30, 1, 4]
    # In a ragged batch.
    apart = Disjoint([given(RIGHT, rows), given(LEFT, rows[:3])])
    assert found(Full(6) & apart) == [1, 2, 3, 4, 1, 2, 3]
    assert found(Disjoint([RIGHT, LEFT]) & apart) == [1, 2, 3, 4, 1, 2, 3]
    listed = Edges([(4, 4), (0, 0)], 6)
    assert found(listed & apart) == [4, 2]
    assert isinstance(listed & apart, Disjoint)


@pytest.mark.parametrize("field", ["edge_attr", "edge_type"])
def test_features_that_are_not_known_are_refused(field):
    rows = torch.tensor([[1], [2], [3], [4]]) if field == "edge_attr" else torch.arange(1, 5)
    with_rows = getattr(RIGHT, f"with_{field}")(rows)
    with pytest.raises(ValueError, match=f"{field} has no rows for the 1 edges of the left operan"):
        LEFT | with_rows
    with pytest.raises(ValueError, match=f"{field} has no rows for the 1 edges that | adds"):
        with_rows | LEFT
    parallel = getattr(Edges([(0, 1), (0, 1), (2, 0), (1, 1)], 3), f"with_{field}")(rows)
    message = rf"{field} of the right operand is not read from parallel edges.*with_{field}\(None\)"
    for operator in ("__and__", "__or__"):
        with pytest.raises(ValueError, match=message):
            getattr(LEFT, operator)(parallel)
    with pytest.raises(ValueError, match=f"{field} of parallel edges cannot be joined"):
        parallel.coalesce()
    with pytest.raises(ValueError, match=rf"all graphs have {field} or none; graphs \[1\] have"):
        Disjoint([with_rows, LEFT])


def test_features_of_other_columns_do_not_join():
    left, right = LEFT.with_edge_attr(torch.ones(3, 2)), RIGHT.with_edge_attr(torch.ones(4))
    with pytest.raises(ValueError, match="edge_attr of both operands must have the same columns"):
        left | right
    assert (left & right).edge_attr.shape == (2, 2)


def test_names_of_either_operand_are_kept():
    named = Edges([(0, 1)], 3, names="abc")
    assert (LEFT & named).names == (LEFT | named).names == (named | LEFT).names == tuple("abc")


@pytest.mark.parametrize(
    ("edge_type", "error", "message"),
    [
        ([0, 1, 2], ValueError, r"one number for each of 4 edges, got shape \(3,\)"),
        (torch.zeros(4, 1).long(), ValueError, r"each of 4 edges, got shape \(4, 1\)"),
        ([0, 1, -1, 0], ValueError, "edge_type must hold 0, 1, ..., got -1"),
        ([0.0, 1, 2, 3], TypeError, "edge_type must hold integers, got torch.float32"),
        ([True] * 4, TypeError, "edge_type must hold integers, got torch.bool"),
        (["a"] * 4, TypeError, "edge_type must hold numbers"),
        ("0123", TypeError, "edge_type must be a tensor, an array or a list, got str"),
    ],
)
def test_bad_types_are_named(edge_type, error, message):
    with pytest.raises(error, match=message):
        Edges(EDGES, 3, edge_type=edge_type)


def test_types_are_counted_and_copied():
    types = np.array([0, 3, 1, 1])
    graph = Edges(EDGES, 3, edge_type=types)
    types[0] = 7
    assert graph.edge_type.tolist() == [0, 3, 1, 1]
    assert graph.num_edge_types == 4
    assert graph.with_edge_type(None).num_edge_types == Full(3).num_edge_types == 1
    assert Edges([], 3, edge_type=[]).num_edge_types == 0
    assert (
        graph.with_edge_type(torch.tensor([0, 1, 2, 255], dtype=torch.uint8)).num_edge_types == 256
    )
    assert repeat(graph, 2).edge_type.tolist() == 2 * [0, 3, 1, 1]


def test_added_tokens_need_edges_without_types():
    graph = Edges(EDGES, 3, edge_type=[0, 1, 2, 0])
    with pytest.raises(ValueError, match="graph must have no edge_type where tokens are added"):
        prefixed(graph, 1)
    assert without_prefix(graph, 1).edge_type.tolist() == [1]


@pytest.mark.parametrize(
    "given",
    [
        EDGES.numpy(),
        EDGES.int().numpy(),
        EDGES.numpy().astype(np.uint64),
        np.broadcast_to(EDGES.numpy()[None], (1, 2, 4))[0],
        EDGES.tolist(),
        EDGES.T.tolist(),
        list(zip(*EDGES.tolist(), strict=True)),
        [(0, 1), [1, 1], (2, 0), (0, 1)],
        tuple(map(tuple, EDGES.T.numpy())),
        list(EDGES.T.numpy()),
        EDGES.to(torch.uint16),
    ],
    ids=[
        "array",
        "int32",
        "uint64",
        "read_only",
        "rows",
        "lists",
        "pairs",
        "mixed",
        "tuple",
        "arrays",
        "uint16",
    ],
)
def test_edges_are_arrays_or_pairs_too(given):
    graph = Edges(given, 3)
    assert graph == Edges(EDGES, 3)
    assert graph.edge_index().dtype == torch.int64


def test_two_pairs_are_tuples():
    assert Edges([(0, 1), (0, 2)], 3).edge_index().tolist() == [[0, 0], [1, 2]]
    assert Edges(np.array([[0, 1], [0, 2]]), 3).edge_index().tolist() == [[0, 1], [0, 2]]
    for none in ([], (), np.zeros((2, 0), dtype=int)):
        assert Edges(none, 3).num_edges == 0
        assert Edges(none, 3, edge_attr=np.zeros((0, 4))).edge_attr.shape == (0, 4)


def test_an_array_that_is_changed_later_does_not_change_the_graph():
    array, features = EDGES.numpy().copy(), np.ones(4)
    graph = Edges(array, 3, edge_attr=features)
    array[:] = 0
    features[:] = 0
    assert graph == Edges(EDGES, 3, edge_attr=torch.ones(4, dtype=torch.float64))
    assert Edges([(0, 1)], 2, edge_attr=[0.5]).edge_attr.tolist() == [[0.5]]


NAMED = Edges(EDGES, 3, edge_attr=torch.arange(4.0), names="abc")


@pytest.mark.parametrize("count", range(4))
def test_the_last_targets_keep_their_features_and_names(count):
    last, first = NAMED.last(count), 3 - count
    kept = [k for k, i in enumerate(EDGES[1].tolist()) if i >= first]
    assert last.edge_index().tolist() == [
        [EDGES[0, k].item() for k in kept], [EDGES[1, k].item() - first for k in kept]
    ]  # fmt: skip
    assert last.edge_attr.flatten().tolist() == [float(k) for k in kept]
    assert last.names == tuple("abc"[first:])
    assert (last.num_targets, last.num_sources) == (count, 3)
    assert (last is NAMED) == (count == 3)


def test_a_subgraph_keeps_features_and_names():
    part = NAMED.subgraph([1, 0])
    assert part == Edges([(1, 0), (0, 0), (1, 0)], 2, edge_attr=[0.0, 1.0, 3.0], names="ba")
    several = Disjoint([NAMED, NAMED.with_edge_attr(torch.ones(4))])
    assert several.subgraph([1, 0, 5]) == Disjoint([
        part, Edges([], 1, edge_attr=torch.zeros(0, 1), names="c")
    ])  # fmt: skip
    with pytest.raises(ValueError, match="index must name the tokens of a ragged batch set by set"):
        several.subgraph([3, 0])
    for index, message in (
        ([0, 0], r"index must name each token once, got \[0, 0\]"),
        ([3], r"index must name some of 3 tokens, got \[3\]"),
        ([-1], "index must name some of 3 tokens"),
        ([0.5], "index must hold the indices of tokens"),
        (0, "index must hold the indices of tokens, got 0"),
        ([True, False], "index must be a mask of 3 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            NAMED.subgraph(index)


def test_parallel_edges_are_joined_where_they_have_no_features():
    assert NAMED.with_edge_attr(None).coalesce().edge_index().tolist() == [[2, 0, 1], [0, 1, 1]]
    with pytest.raises(ValueError, match="edge_attr of parallel edges cannot be joined"):
        NAMED.coalesce()
    alone = Edges([(2, 1), (1, 0), (0, 1)], 3, edge_attr=[1.0, 2.0, 3.0], names="abc").coalesce()
    assert alone == Edges([(1, 0), (0, 1), (2, 1)], 3, edge_attr=[2.0, 3.0, 1.0], names="abc")


def test_equal_lists_have_equal_features_and_names():
    nan = float("nan")
    first = Edges([(0, 1), (1, 0)], 2, edge_attr=[nan, 1.0], names="ab")
    assert first == Edges([(0, 1), (1, 0)], 2, edge_attr=[nan, 1.0], names=["a", "b"])
    for other in (
        Edges([(0, 1), (1, 0)], 2, edge_attr=[1.0, nan], names="ab"),
        Edges([(0, 1), (1, 0)], 2, edge_attr=[nan, 2.0], names="ab"),
        Edges([(0, 1), (1, 0)], 2, edge_attr=first.edge_attr.double(), names="ab"),
        Edges([(0, 1), (1, 0)], 2, edge_attr=[[nan, nan], [1.0, 1.0]], names="ab"),
        Edges([(0, 1), (1, 0)], 2, names="ab"),
        Edges([(0, 1), (1, 0)], 2, edge_attr=first.edge_attr),
        Edges([(1, 0), (0, 1)], 2, edge_attr=[1.0, nan], names="ab"),
        Disjoint([first]),
    ):
        assert first != other
        assert other != first
    assert Disjoint([first]) == Disjoint([first.with_edge_attr(first.edge_attr.clone())])


def test_comparing_formulas_lists_no_edges():
    n = 10**6
    graphs = {Full(n), Window(n, 3), Causal(n), Full(n), ~Full(n), Window(n, 4), Window(n, 3)}
    assert len(graphs) == 5
    assert Window(n, 3) & Causal(n) == Window(n, 3) & Causal(n)
    assert all(not graph._cache for graph in graphs)


def test_formulas_of_the_same_edges_are_equal():
    assert Window(5, 4) == Full(5) == Window(5, 7)
    assert Window(5, 1).relabel([4, 3, 2, 1, 0]) == Window(5, 1)
    assert Window(5, 1).relabel([1, 0, 2, 3, 4]) != Window(5, 1)
    assert Window(5, 1).relabel([1, 0, 2, 3, 4]) != Window(5, 1).relabel([0, 1, 2, 4, 3])
    assert Causal(4).T.T == Causal(4) != Causal(4).T
