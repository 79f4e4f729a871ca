"""Every graph keeps the contract of graphs; and a graph that breaks it is found."""

import pytest
import torch

from tests.contracts.graphs import GraphContract
from tests.families import CORE, FAMILIES, LISTED
from tokennet import Causal, Edges, Global, TokenGraph, Window


class TestEveryGraph(GraphContract):
    graphs = FAMILIES
    core = CORE | {
        *("and", "not", "transposed", "reach", "dilated", "random", "volume", "prefixed"),
        *("bipartite_last", "ragged_grids", "ragged_typed", "no_sets", "edges_and_window"),
    }


def subclasses(base):
    for cls in base.__subclasses__():
        yield cls
        yield from subclasses(cls)


def test_every_class_of_graphs_has_an_example():
    covered = {type(make()) for make in FAMILIES.values()}
    of_the_package = {
        cls
        for cls in subclasses(TokenGraph)
        if cls.__module__.startswith("tokennet.graphs.") and not cls.__name__.startswith("_")
    }
    assert len(of_the_package) >= 19
    assert of_the_package - covered == set()


class Unsorted(Window):
    def _build_edge_index(self):
        return super()._build_edge_index().flip(1)


class MissingEdge(Window):
    def _build_edge_index(self):
        return super()._build_edge_index()[:, :-1]


class Miscounted(Window):
    num_edges = 15


class NeverEmpty(Window):
    has_empty_targets = True


class NarrowBand(Window):
    band = (1, 0)


class NoBand(Global):
    band, is_band = (5, 5), True


class NotCausal(Window):
    is_causal = True


class NotItsOwnTranspose(Causal):
    is_symmetric = True


class NoneLater(Window):
    def _find_later_sources(self):
        return False


class NotFull(Window):
    is_full = True


class OtherGrid(Window):
    grid_shape = (2, 2)


class NotSymmetric(Causal):
    @property
    def T(self):
        return self


class NotMoved(Window):
    def _relabel(self, perm, source_perm):
        return self


class FarReach(Window):
    def _reach(self, k):
        return Window(self.num_targets, self.radius + k)


class FirstNotLast(Window):
    def _last(self, count):
        return Edges(self.edge_index()[:, self.edge_index()[1] < count], count, self.num_sources)


class KeptInCopies(Window):
    def __getstate__(self):
        return {**super().__getstate__(), "_cache": self._cache}


class AnewEachTime(Window):
    def edge_index(self, device=None):
        return super().edge_index(device).clone()


class OnTheCPUOnly(Window):
    def dense(self, device=None):
        return super().dense()


class NeighborsBackward(Window):
    def neighbors(self, i):
        return super().neighbors(i).flip(0)


class WholeSubgraph(Window):
    def _subgraph(self, index):
        return self


class UnorderedSubgraph(Window):
    def _subgraph(self, index):
        return super()._subgraph(index.sort().values)


class OnlyItself(Window):
    def __eq__(self, other):
        return self is other

    __hash__ = Window.__hash__


class HashOfItself(Window):
    __eq__ = Window.__eq__

    def __hash__(self):
        return id(self)


class TwoSets(Window):
    @property
    def parts(self):
        return Window(3, 1), Window(3, 1)


@pytest.mark.parametrize(
    ("graph", "law"),
    [
        (Unsorted(6, 1), "the_edge_list_is_what_the_predicate_says"),
        (MissingEdge(6, 1), "the_edge_list_is_what_the_predicate_says"),
        (Miscounted(6, 1), "dense_csr_and_counts_agree_with_the_edge_list"),
        (NeverEmpty(6, 1), "dense_csr_and_counts_agree_with_the_edge_list"),
        (NarrowBand(6, 1), "what_a_graph_says_of_itself_is_so"),
        (NoBand(6, 1), "what_a_graph_says_of_itself_is_so"),
        (NotCausal(6, 1), "what_a_graph_says_of_itself_is_so"),
        (NotItsOwnTranspose(6), "what_a_graph_says_of_itself_is_so"),
        (NoneLater(6, 1), "what_a_graph_says_of_itself_is_so"),
        (NotFull(6, 1), "what_a_graph_says_of_itself_is_so"),
        (OtherGrid(6, 1), "what_a_graph_says_of_itself_is_so"),
        (TwoSets(6, 1), "what_a_graph_says_of_itself_is_so"),
        (NotSymmetric(6), "transpose_and_relabeling_rename_the_ends_of_edges"),
        (NotMoved(6, 1), "transpose_and_relabeling_rename_the_ends_of_edges"),
        (FarReach(6, 1), "reach_is_walks_of_at_most_k_edges"),
        (FirstNotLast(6, 1), "last_keeps_the_last_targets"),
        (NeighborsBackward(6, 1), "neighbors_are_the_sources_of_a_target"),
        (WholeSubgraph(6, 1), "a_subgraph_has_the_edges_among_its_tokens"),
        (UnorderedSubgraph(6, 1), "a_subgraph_has_the_edges_among_its_tokens"),
        (OnlyItself(6, 1), "graphs_are_equal_when_their_edges_are"),
        (HashOfItself(6, 1), "graphs_are_equal_when_their_edges_are"),
        (KeptInCopies(6, 1), "copies_have_the_edges_and_nothing_that_was_kept"),
        (AnewEachTime(6, 1), "what_is_derived_is_built_once_for_each_device"),
        (OnTheCPUOnly(6, 1), "what_is_derived_is_built_once_for_each_device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, TokenGraph) else "",
)
def test_a_graph_that_breaks_the_contract_is_found(graph, law):
    test = getattr(GraphContract(), f"test_{law}")
    test(Window(6, 1))
    with pytest.raises(AssertionError):
        test(graph)


class Reordered(Edges):
    def __and__(self, other):
        return Edges(super().__and__(other).edge_index().flip(1), self.num_targets)


class NotCoalesced(Edges):
    def coalesce(self):
        return self


class AnyOrder(Edges):
    def _has_edges_of(self, other):
        return torch.equal(self.coalesce().edge_index(), other.coalesce().edge_index())


@pytest.mark.parametrize("kind", [NotCoalesced, AnyOrder])
def test_lists_that_break_the_contract_of_equality_are_found(kind):
    test, edges = (
        GraphContract().test_graphs_are_equal_when_their_edges_are,
        LISTED["multi_edges"](),
    )
    test(edges)
    with pytest.raises(AssertionError):
        test(kind(edges.edge_index(), 6))


def test_edges_in_another_order_after_an_operation_are_found():
    test, edges = GraphContract().test_the_operators_are_those_of_masks, LISTED["edges"]()
    test(edges)
    with pytest.raises(AssertionError):
        test(Reordered(edges.edge_index(), 6))
