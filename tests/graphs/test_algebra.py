"""Combining graphs: sets of edges, and the order of those that are listed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokennet import Causal, Disjoint, Edges, Full, Self
from tokennet.graphs.base import EdgePredicate
from tokennet.testing.strategies import listed_graphs, symbolic_graphs


@given(data=st.data(), n=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_combinations_of_formulas_are_those_of_masks(data, n):
    a, b = data.draw(symbolic_graphs(n)), data.draw(symbolic_graphs(n))
    for graph in (a, b):
        by_predicate = EdgePredicate._build_edge_index(graph)
        assert torch.equal(graph.edge_index(), by_predicate)
        assert graph.num_edges == by_predicate.shape[1] == int(graph.dense().sum())
        if graph.band is not None:
            (source, target), (below, above) = by_predicate, graph.band
            assert ((target - source <= below) & (source - target <= above)).all()
    assert torch.equal((a & b).dense(), a.dense() & b.dense())
    assert torch.equal((a | b).dense(), a.dense() | b.dense())
    assert torch.equal((~a).dense(), ~a.dense())
    assert torch.equal(a.T.dense(), a.dense().T)


@given(listed=listed_graphs(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_listed_operand_keeps_its_edges_in_order(listed, data):
    other = data.draw(symbolic_graphs(listed.num_targets))
    edges = [tuple(edge) for edge in listed.edge_index().t().tolist()]
    mask = other.dense()
    kept = [(j, i) for j, i in edges if mask[i, j]]
    for both in (listed & other, other & listed):
        assert [tuple(edge) for edge in both.edge_index().t().tolist()] == kept
    for either in (listed | other, other | listed):
        result = [tuple(edge) for edge in either.edge_index().t().tolist()]
        assert result[: len(edges)] == edges
        assert torch.equal(either.dense(), listed.dense() | mask)
        assert not set(result[len(edges) :]) & set(edges)


def test_bipartite_relabeling_takes_two_permutations():
    graph = Edges(torch.tensor([[4, 4, 0], [0, 0, 2]]), 3, 5)
    perm, source_perm = torch.tensor([2, 0, 1]), torch.tensor([4, 3, 2, 1, 0])
    expected = graph.dense()[perm][:, source_perm]
    assert torch.equal(graph.relabel(perm, source_perm).dense(), expected)
    assert torch.equal((~graph).relabel(perm, source_perm).dense(), ~expected)
    with pytest.raises(ValueError, match="source_perm is needed to relabel the bipartite"):
        graph.relabel(perm)


@pytest.mark.parametrize("perm", [[0, 0, 1], [0, 1], [0, 1, 3], [0.0, 1.0, 2.0], [True, False]])
def test_what_is_no_permutation_is_refused(perm):
    for graph in (Causal(3), Edges(torch.zeros(2, 0, dtype=torch.long), 3), Full(3)):
        with pytest.raises(ValueError, match=r"perm must be a permutation of 0 \.\. 2, got"):
            graph.relabel(perm)


def test_graphs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="graphs to combine must have the same tokens"):
        Causal(3) & Causal(4)
    with pytest.raises(ValueError, match="graphs to combine must have the same tokens"):
        Edges(torch.zeros(2, 0, dtype=torch.long), 3) | Self(4)
    with pytest.raises(
        TypeError, match="what a token graph combines with must be a token graph, got Tensor"
    ):
        Causal(3) | torch.ones(3, 3)


def test_a_graph_is_complete_where_each_target_attends_to_each_source_once():
    listed = Full(2, 3).edge_index()
    assert Full(2, 3).is_complete
    assert Edges(listed.flip(1), 2, 3).is_complete
    assert (Causal(3) | Causal(3).T).is_complete
    assert Full(0, 4).is_complete
    assert not Causal(3).is_complete
    assert not Disjoint([Full(1), Full(1)]).is_complete
    twice = torch.cat([listed, listed[:, :1]], dim=1)
    assert not Edges(twice, 2, 3).is_complete
    assert not Edges(twice[:, 1:-1], 2, 3).is_complete
    assert not Edges(twice[:, [0, 0, 1, 2, 3, 4]], 2, 3).is_complete
