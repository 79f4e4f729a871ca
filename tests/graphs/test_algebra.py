"""Combining graphs: sets of edges, and the order of those that are listed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families import SQUARE
from tokennet import Causal, Disjoint, Edges, Full, Self, Window
from tokennet.testing.strategies import listed_graphs, symbolic_graphs


@given(data=st.data(), n=st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_operators_are_those_of_masks(data, n):
    a, b = data.draw(symbolic_graphs(n)), data.draw(symbolic_graphs(n))
    assert torch.equal((a & b).dense(), a.dense() & b.dense())
    assert torch.equal((a | b).dense(), a.dense() | b.dense())
    assert torch.equal((~a).dense(), ~a.dense())
    assert torch.equal(a.T.dense(), a.dense().T)


@given(listed=listed_graphs(), data=st.data())
@settings(max_examples=100, deadline=None)
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


@pytest.mark.parametrize("name", [name for name in SQUARE if name != "ragged"])
def test_relabeling_moves_rows_and_columns_as_z(name):
    graph = SQUARE[name]()
    perm = torch.randperm(graph.num_targets)
    relabeled = graph.relabel(perm)
    assert torch.equal(relabeled.dense(), graph.dense()[perm][:, perm])
    if graph.is_explicit:  # edge by edge, in the same order
        assert torch.equal(perm[relabeled.edge_index()], graph.edge_index())


def test_bipartite_relabeling_takes_two_permutations():
    graph = Edges(torch.tensor([[4, 4, 0], [0, 0, 2]]), 3, 5)
    perm, source_perm = torch.tensor([2, 0, 1]), torch.tensor([4, 3, 2, 1, 0])
    expected = graph.dense()[perm][:, source_perm]
    assert torch.equal(graph.relabel(perm, source_perm).dense(), expected)
    assert torch.equal((~graph).relabel(perm, source_perm).dense(), ~expected)
    with pytest.raises(ValueError, match="source_perm is needed to relabel the bipartite"):
        graph.relabel(perm)


@pytest.mark.parametrize("name", SQUARE)
@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_reach_is_walks_of_at_most_k_edges(name, k):
    graph = SQUARE[name]()
    step = graph.dense().double() + torch.eye(graph.num_targets)
    assert torch.equal(graph.reach(k).dense(), torch.linalg.matrix_power(step, k) > 0)


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
    with pytest.raises(TypeError, match="a token graph combines with a token graph, got Tensor"):
        Causal(3) | torch.ones(3, 3)


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
    with pytest.raises(ValueError, match="names must be 3 different ones, got 2"):
        Edges(EDGES, 3, names=["a", "b"])


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


def test_what_is_derived_is_built_once_and_not_carried_along():
    import copy
    import pickle

    graph = Window(6, 1)
    assert graph.edge_index() is graph.edge_index()
    for twin in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert twin._cache == {}
        assert torch.equal(twin.edge_index(), graph.edge_index())


def test_structures_built_in_inference_mode_serve_training():
    for graph in (Edges(EDGES, 3), Window(3, 1)):
        with torch.inference_mode():
            built = [graph.edge_index(), graph.dense(), *graph.csr()]
        assert not any(tensor.is_inference() for tensor in built)
        z = torch.zeros(3, 2, requires_grad=True)
        z[graph.edge_index()[0]].square().sum().backward()
        assert z.grad is not None


def test_a_graph_is_not_changed_through_the_tensor_it_was_made_of():
    edges = torch.tensor([[0, 1], [1, 2]])
    graph = Edges(edges, 3)
    edges[1, 0] = 7
    assert graph.edge_index().tolist() == [[0, 1], [1, 2]]


def test_graphs_made_in_inference_mode_serve_training():
    with torch.inference_mode():
        graph = Edges(torch.tensor([[0, 1], [1, 2]]), 3)
    z = torch.zeros(3, 2, requires_grad=True)
    z[graph.edge_index()[0]].square().sum().backward()
    assert z.grad is not None


def test_a_default_device_does_not_reach_what_is_built():
    graph = Window(5, 1)
    with torch.device("meta"):
        assert graph.csr().indices.device.type == "cpu"
    assert graph.dense().sum() == 13


def test_edge_attributes_are_columns():
    assert Edges(EDGES, 3, edge_attr=torch.ones(4)).edge_attr.shape == (4, 1)
    with pytest.raises(TypeError, match="edge_attr must be a tensor, got list"):
        Edges(EDGES, 3, edge_attr=[1.0] * 4)
    with pytest.raises(ValueError, match="names must be 3 different ones, got 2"):
        Edges(EDGES, 3, names=["a", "b", "a"])


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


def test_only_a_few_repeated_graphs_are_kept():
    from tokennet.graphs import repeat

    graph = Window(4, 1)
    for count in range(20):
        assert repeat(graph, count).num_targets == 4 * count
    assert repeat(graph, 19) is repeat(graph, 19)
    assert len(graph._cache) <= 10


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


def test_a_graph_is_complete_where_all_listen_to_all_exactly_once():
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


def test_parts_are_the_sets():
    sets = Full(2), Causal(3)
    assert Disjoint(sets).parts == sets
    assert sets[0].parts == sets[:1]
    assert Disjoint([]).parts == ()


def test_a_ragged_batch_counts_its_edges_once():
    """As many as a thousand sets, and every call asks."""
    asked = []

    class Counted(Full):
        @property
        def num_edges(self):
            asked.append(self)
            return super().num_edges

    ragged = Disjoint([Counted(2), Counted(3)])
    assert [ragged.num_edges, ragged.num_edges] == [13, 13]
    assert len(asked) == 2
