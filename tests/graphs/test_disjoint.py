"""Ragged batches: graphs side by side that stay apart."""

import pytest
import torch

from tokennet import Causal, Disjoint, Edges, Full, Self, Window

EDGES = torch.tensor([[0, 1, 2, 0], [1, 1, 0, 1]])


def test_disjoint_keeps_graphs_apart():
    ragged = Disjoint([Full(2), Causal(3)])
    assert torch.equal(ragged.dense(), torch.block_diag(Full(2).dense(), Causal(3).dense()).bool())
    assert ragged.batch().tolist() == [0, 0, 1, 1, 1]
    assert ragged.local_index().tolist() == [0, 1, 0, 1, 2]
    both = Window(5, 1) & ragged
    assert isinstance(both, Disjoint)
    assert torch.equal(both.dense(), ragged.dense() & Window(5, 1).dense())
    looped = Disjoint(
        [Edges(torch.tensor([[0], [1]]), 2), Edges(torch.tensor([[1], [0]]), 2)]
    ) | Self(4)
    assert isinstance(looped, Disjoint)
    assert looped.edge_index().t().tolist() == [[0, 1], [0, 0], [1, 1], [3, 2], [2, 2], [3, 3]]
    joined = ragged | Window(5, 1)
    assert not isinstance(joined, Disjoint)
    assert torch.equal(joined.dense(), ragged.dense() | Window(5, 1).dense())


def test_disjoint_relabels_within_graphs_only():
    ragged = Disjoint([Full(2), Causal(3)])
    perm = torch.tensor([1, 0, 4, 2, 3])
    moved = ragged.relabel(perm)
    assert isinstance(moved, Disjoint)
    assert torch.equal(moved.dense(), ragged.dense()[perm][:, perm])
    with pytest.raises(ValueError, match="it moves token 2 of graph 1 to graph 0"):
        ragged.relabel([2, 1, 0, 3, 4])


def test_disjoint_with_many_empty_parts():
    ragged = Disjoint([Full(0), Full(2), Full(0)])
    assert ragged.batch().tolist() == [1, 1]
    assert (ragged & Self(2)).edge_index().tolist() == [[0, 1], [0, 1]]
    assert Disjoint([]).num_edges == 0
    with pytest.raises(TypeError, match=r"graphs\[1\] must be a TokenGraph, got 3"):
        Disjoint([Full(1), 3])
    a, b = Edges(EDGES, 3, edge_attr=torch.ones(4, 2)), Edges(EDGES, 3)
    assert Disjoint([a, a]).edge_attr.shape == (8, 2)
    with pytest.raises(ValueError, match=r"either all graphs have edge_attr or none; graphs \[1\]"):
        Disjoint([a, b])


def test_what_is_combined_with_a_disjoint_graph_keeps_its_edges_and_their_features():
    left = Edges(torch.tensor([[2, 0, 0, 1], [3, 1, 1, 2]]), 4, edge_attr=torch.arange(4.0))
    apart = Disjoint([Full(2), Full(2)])
    both = left & apart
    assert isinstance(both, Disjoint)
    assert both.edge_index().t().tolist() == [[0, 1], [0, 1], [2, 3]]
    assert both.edge_attr.flatten().tolist() == [1.0, 2.0, 0.0]
    with pytest.raises(ValueError, match="edge_attr has no rows for the"):
        left | apart
    plain = Edges(torch.tensor([[2], [3]]), 4) | apart
    assert isinstance(plain, Disjoint)
    assert plain.num_edges == 8
    assert isinstance(Self(4) & apart, Disjoint)
    assert not isinstance(Edges(torch.tensor([[0], [3]]), 4) | apart, Disjoint)


def test_parts_of_parts_are_parts():
    nested = Disjoint([Disjoint([Full(1), Causal(2)]), Full(2)])
    assert nested.sizes == [1, 2, 2]
    assert nested.local_index().tolist() == [0, 0, 1, 0, 1]


def test_parts_are_the_sets():
    sets = Full(2), Causal(3)
    assert Disjoint(sets).parts == sets
    assert sets[0].parts == sets[:1]
    assert Disjoint([]).parts == ()


def test_a_ragged_batch_counts_its_edges_once():
    """There may be a thousand sets, and every call needs the number."""
    counted = []

    class Counted(Full):
        @property
        def num_edges(self):
            counted.append(self)
            return super().num_edges

    ragged = Disjoint([Counted(2), Counted(3)])
    assert [ragged.num_edges, ragged.num_edges] == [13, 13]
    assert len(counted) == 2
