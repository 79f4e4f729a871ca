"""Lists of edges: checked, kept in order, with features that stay with their edges."""

import pytest
import torch
from hypothesis import given, settings

from tokennet import Disjoint, Edges, Self
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
        (EDGES.tolist(), TypeError, "edge_index must be a tensor, got list"),
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
    with pytest.raises(TypeError, match="edge_attr must be a tensor, got list"):
        Edges(EDGES, 3, edge_attr=[1.0] * 4)
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
