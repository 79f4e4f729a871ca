"""What every token graph must do, as a class that a test class inherits.

Whatever a graph derives, or computes by a cheaper formula, must agree with its predicate.
"""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tests.families import Family, by_default
from tokennet import (
    Disjoint,
    Edges,
    TokenGraph,
    Tokens,
    from_mask,
    from_mask_mod,
    from_networkx,
    to_mask_mod,
    to_networkx,
)
from tokennet.graphs.base import same_features
from tokennet.graphs.indices import set_of_each


def _every_third(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return (i + j) % 3 == 0


def pairs(graph: TokenGraph) -> tuple[Tensor, Tensor]:
    return torch.arange(graph.num_targets)[:, None], torch.arange(graph.num_sources)[None, :]


def mask_of(graph: TokenGraph) -> Tensor:
    """(N, M), by the predicate: what all else is compared with."""
    i, j = pairs(graph)
    mask = graph.attends(i, j)
    assert mask.dtype == torch.bool
    return mask.expand(graph.num_targets, graph.num_sources)


def edges_of(graph: TokenGraph) -> list[tuple[int, int]]:
    """(source, target) of each edge, in the order of the graph."""
    return [(j, i) for j, i in graph.edge_index().t().tolist()]


def permutation(sizes: list[int]) -> Tensor:
    """A permutation within each set."""
    starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
    moved = [torch.randperm(n) + start for n, start in zip(sizes, starts, strict=False)]
    return torch.cat([torch.zeros(0, dtype=torch.long), *moved])


def without_fields(graph: TokenGraph) -> TokenGraph:
    """The same edges, without features and types."""
    for name, rows in graph.fields().items():
        graph = graph if rows is None else getattr(graph, f"with_{name}")(None)
    return graph


class GraphContract:
    """Inherit it and set `graphs`: names, and functions that make small graphs.

    By default all of them are held to their edges, counts and properties, from which the rest
    follows, and those in `core`, if it is set, to everything.
    """

    graphs: ClassVar[Family] = {}
    core: ClassVar[Collection[str]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "make" in metafunc.fixturenames:
            every = not self.core or metafunc.function.__name__ in BASIC
            names = by_default(self.graphs, self.graphs if every else self.core)
            params = [pytest.param(self.graphs[p.values[0]], marks=p.marks) for p in names]
            metafunc.parametrize("make", params, ids=list(self.graphs))

    @pytest.fixture
    def graph(self, make):
        return make()

    def test_the_edge_list_is_what_the_predicate_says(self, graph):
        edges = graph.edge_index()
        assert edges.dtype == torch.int64
        wanted = mask_of(graph).nonzero().flip(1)
        listed = edges.t()
        if graph.is_explicit:  # in an order of its own, perhaps with repeats
            listed = listed.unique(dim=0) if len(listed) else listed
            wanted = wanted[(wanted @ torch.tensor([graph.num_targets, 1])).argsort()]
        assert torch.equal(listed, wanted)
        assert graph.has_multi_edges == (len(set(edges_of(graph))) < edges.shape[1])

    def test_dense_csr_and_counts_agree_with_the_edge_list(self, graph):
        source, target = graph.edge_index()
        dense = torch.zeros(graph.num_targets, graph.num_sources, dtype=torch.bool)
        dense[target, source] = True
        assert torch.equal(graph.dense(), dense)
        indptr, indices, edge_id = graph.csr()
        assert torch.equal(indices.long(), source[edge_id])
        assert torch.equal(torch.repeat_interleave(indptr.diff().long()), target[edge_id])
        assert torch.equal(edge_id.sort().values, torch.arange(len(source)))
        assert graph.num_edges == len(source)
        assert graph.density == pytest.approx(len(source) / max(1, dense.numel()))
        assert graph.has_empty_targets == bool((~dense.any(1)).any())
        assert graph.is_complete == bool(dense.all() and len(source) == dense.numel())
        assert repr(graph).startswith(graph._name())
        assert f"{len(source)} edges" in repr(graph)

    def test_what_a_graph_says_of_itself_is_so(self, graph):
        mask, (i, j) = mask_of(graph), pairs(graph)
        if graph.band is not None:
            below, above = graph.band
            within = (i - j <= below) & (j - i <= above)
            assert not (mask & ~within).any()
            assert not graph.is_band or torch.equal(mask, within)
        assert graph.band is not None or not graph.is_band
        assert not graph.is_full or mask.all()
        assert not graph.is_causal or torch.equal(mask, i >= j)
        assert not graph.is_symmetric or torch.equal(mask, mask.T)
        later = bool((mask & (j > i)).any())
        assert graph.attends_later == (later if graph.band is None else graph.band[1] > 0)
        if graph.grid_shape is not None:
            assert torch.Size(graph.grid_shape).numel() == graph.num_targets
        for rows in graph.fields().values():
            assert rows is None or len(rows) == graph.num_edges
        assert graph.edge_type is None or (graph.edge_type < graph.num_edge_types).all()
        assert graph.names is None or len(graph.names) == graph.num_targets

        blocks = [mask_of(part) for part in graph.parts]
        block_diagonal = torch.block_diag(*blocks).bool() if blocks else torch.zeros(0, 0).bool()
        assert torch.equal(mask_of(graph), block_diagonal)
        assert graph.sizes == [part.num_targets for part in graph.parts]
        assert graph.source_sizes == [part.num_sources for part in graph.parts]
        assert graph.num_graphs == len(graph.parts)
        assert graph.is_ragged == (graph.parts != (graph,))
        assert torch.equal(graph.batch(), set_of_each(graph.sizes))
        index = [index for n in graph.sizes for index in range(n)]
        assert graph.local_index().tolist() == index

    def test_the_operators_are_those_of_masks(self, graph):
        graph = without_fields(graph)
        mask, i_j = mask_of(graph), pairs(graph)
        formula = from_mask_mod(_every_third, graph.num_targets, graph.num_sources)
        listed = from_mask(torch.rand(mask.shape) > 0.5)
        for other in (formula, listed):
            theirs = mask_of(other)
            for both in (graph & other, other & graph):
                assert torch.equal(both.dense(), mask & theirs)
                assert torch.equal(both.attends(*i_j), mask & theirs)
            for either in (graph | other, other | graph):
                assert torch.equal(either.dense(), mask | theirs)
                assert torch.equal(either.attends(*i_j), mask | theirs)
        assert torch.equal((~graph).dense(), ~mask)
        assert (~graph).num_edges == int((~mask).sum())
        assert (graph & ~graph).num_edges == 0
        assert graph.contains(graph & formula)
        assert graph.contains(formula) == bool((mask | ~mask_of(formula)).all())

        # A listed operand keeps its edges in their order.
        listed = graph if graph.is_explicit else from_mask(torch.rand(mask_of(graph).shape) > 0.5)
        other = from_mask_mod(_every_third, *mask_of(graph).shape) if graph.is_explicit else graph
        before, mask = edges_of(listed), mask_of(other)
        for both in (listed & other, other & listed):
            assert edges_of(both) == [(j, i) for j, i in before if mask[i, j]]
        for either in (listed | other, other | listed):
            new = set(edges_of(either)) - set(before)
            assert len(new) == either.num_edges - len(before)
            assert [edge for edge in edges_of(either) if edge not in new] == before

    def test_transpose_and_relabeling_rename_the_ends_of_edges(self, graph):
        assert torch.equal(mask_of(graph.T), mask_of(graph).T)
        assert torch.equal(graph.T.dense(), mask_of(graph).T)
        assert Counter(edges_of(graph.T)) == Counter((i, j) for j, i in edges_of(graph))
        assert torch.equal(graph.T.T.dense(), mask_of(graph))
        if graph.is_explicit and not graph.is_ragged:
            assert torch.equal(graph.T.edge_index(), graph.edge_index().flip(0))

        perm = permutation(graph.sizes)
        source_perm = (
            None if graph.is_square and not graph.is_ragged else permutation(graph.source_sizes)
        )
        moved, columns = (
            graph.relabel(perm, source_perm),
            perm if source_perm is None else source_perm,
        )
        wanted = mask_of(graph)[perm][:, columns]
        assert torch.equal(mask_of(moved), wanted)
        assert torch.equal(moved.dense(), wanted)
        assert moved.is_ragged == graph.is_ragged
        if graph.is_explicit and not graph.is_ragged:  # edge by edge, in the same order
            source, target = moved.edge_index()
            assert torch.equal(torch.stack([columns[source], perm[target]]), graph.edge_index())

    def test_reach_is_walks_of_at_most_k_edges(self, graph):
        for k in (0, 1, 2, 5):
            if not graph.is_square:
                with pytest.raises(ValueError, match="reach needs the same number of sources"):
                    graph.reach(k)
                continue
            step = mask_of(graph).double() + torch.eye(graph.num_targets)
            wanted = torch.linalg.matrix_power(step, k) > 0
            assert torch.equal(graph.reach(k).dense(), wanted)
            assert torch.equal(mask_of(graph.reach(k)), wanted)

    def test_last_keeps_the_last_targets(self, graph):
        n = graph.num_targets
        for count in range(n):
            if graph.is_ragged:
                with pytest.raises(ValueError, match="last needs a graph of one set"):
                    graph.last(count)
                continue
            last = graph.last(count)
            assert torch.equal(last.dense(), mask_of(graph)[n - count :])
            assert torch.equal(mask_of(last), mask_of(graph)[n - count :])
        assert graph.last(n) is graph
        with pytest.raises(ValueError, match="count must be at most the number of targets"):
            graph.last(n + 1)

    def test_neighbors_are_the_sources_of_a_target(self, graph):
        for target in range(graph.num_targets):
            wanted = [j for j, i in edges_of(graph) if i == target]
            assert graph.neighbors(target).tolist() == wanted
        for missing in (-1, graph.num_targets):
            with pytest.raises(IndexError, match="i must be one of"):
                graph.neighbors(missing)

    def test_a_subgraph_has_the_edges_among_its_tokens(self, graph):
        if not graph.is_square:
            with pytest.raises(ValueError, match="subgraph needs the same number of sources"):
                graph.subgraph([])
            return
        owner = set_of_each(graph.sizes)
        moved = permutation(graph.sizes)
        kept = torch.rand(graph.num_targets) > 0.4
        for index in (moved[kept], torch.arange(graph.num_targets), torch.zeros(0).long()):
            part = graph.subgraph(index)
            wanted = mask_of(graph)[index][:, index]
            assert torch.equal(mask_of(part), wanted)
            assert torch.equal(part.dense(), wanted)
            assert part.is_ragged == graph.is_ragged
            assert (
                part.sizes == [len(index)]
                or part.sizes == torch.bincount(owner[index], minlength=graph.num_graphs).tolist()
            )
        assert torch.equal(graph.subgraph(kept).dense(), mask_of(graph)[kept][:, kept])

    def test_graphs_are_equal_when_their_edges_are(self, graph):
        twin, different = copy.deepcopy(graph), graph == "graph"
        assert graph == twin
        assert (graph != twin) is False
        assert hash(graph) == hash(twin)
        assert not different
        sizes = graph.num_targets, graph.num_sources
        listed = Edges(graph.edge_index(), *sizes, **graph.fields(), names=graph.names)
        once = without_fields(graph).coalesce()
        assert torch.equal(once.dense(), mask_of(graph))
        assert not once.has_multi_edges
        assert once == once.coalesce()
        if graph.is_ragged:
            assert graph != listed
            return
        assert graph == listed
        assert listed == graph
        assert hash(graph) == hash(listed)
        assert once == from_mask(mask_of(graph))
        backward = Edges(graph.edge_index().flip(1), *sizes)
        assert backward.coalesce() == once
        if graph.num_edges:
            assert graph != Edges(graph.edge_index()[:, 1:], *sizes)
            assert Edges(graph.edge_index()[:, 1:], *sizes) != graph
        assert graph != Edges(graph.edge_index(), sizes[0], sizes[1] + 1)
        assert (graph == ~graph) == (sizes[0] * sizes[1] == 0)

    def test_features_and_types_stay_with_their_edges(self, graph):
        if not graph.is_explicit or not graph.parts:
            assert set(graph.fields().values()) == {None}
            return
        number = torch.arange(graph.num_edges)
        graph = graph.with_edge_type(number).with_edge_attr(number / 2)
        n, m, edges = graph.num_targets, graph.num_sources, edges_of(graph)
        perm, columns = permutation(graph.sizes), permutation(graph.source_sizes)
        if graph.is_square:
            columns = perm
        other = from_mask_mod(_every_third, n, m)
        same = list(range(n)), list(range(m))
        results = {  # with the former index of each target and source
            "and": (graph & other, *same),
            "rand": (other & graph, *same),
            "or": (graph | graph, *same),
            "same": (pickle.loads(pickle.dumps(graph)), *same),
            "transposed": (graph.T.T, *same),
            "relabeled": (graph.relabel(perm, columns), perm.tolist(), columns.tolist()),
            "batch": (Disjoint([graph]), *same),
        }
        if not graph.is_ragged:
            results["last"] = graph.last(n // 2), same[0][n - n // 2 :], same[1]
        if graph.is_square:
            kept = (perm[: n // 2] if not graph.is_ragged else torch.arange(n)).tolist()
            results["subgraph"] = graph.subgraph(kept), kept, kept
        if not graph.has_multi_edges:
            plain = without_fields(graph)
            results["looked_up"] = plain & graph, *same
            results["looked_up_in_union"] = plain | graph, *same
            results["coalesced"] = graph.coalesce(), *same
        for name, (result, targets, sources) in results.items():
            assert torch.equal(result.edge_attr.flatten(), result.edge_type / 2), name
            former = [(sources[j], targets[i]) for j, i in edges_of(result)]
            assert former == [edges[k] for k in result.edge_type.tolist()], name
        assert graph.with_edge_type(None) != graph
        assert graph.num_edges == 0 or graph.with_edge_type(number + 1) != graph

    def test_it_becomes_what_other_libraries_use_and_comes_back(self, graph):
        theirs = to_networkx(graph)
        if graph.is_square:
            nodes = list(range(graph.num_targets)) if graph.names is None else list(graph.names)
            wanted = [(nodes[j], nodes[i]) for j, i in edges_of(graph)]
            assert list(theirs.nodes) == nodes
            back = from_networkx(theirs)
            assert Counter(edges_of(back)) == Counter(edges_of(graph))
        else:
            wanted = [(("source", j), ("target", i)) for j, i in edges_of(graph)]
            assert theirs.number_of_nodes() == graph.num_targets + graph.num_sources
        assert Counter((u, v) for u, v, *_ in theirs.edges) == Counter(wanted)
        assert torch.equal(from_mask(graph.dense()).dense(), mask_of(graph))
        twin = from_mask_mod(to_mask_mod(graph), graph.num_targets, graph.num_sources)
        assert torch.equal(twin.dense(), mask_of(graph))
        graph.attends(*pairs(graph))  # lists the edges of an explicit graph before vmap
        n, m = graph.num_targets, graph.num_sources
        if n and m:  # as FlexAttention calls it
            by_pair = torch.vmap(torch.vmap(graph.attends, (None, 0)), (0, None))
            assert torch.equal(by_pair(torch.arange(n), torch.arange(m)), mask_of(graph))
        if not graph.is_square or graph.sizes != graph.source_sizes or not graph.parts:
            return  # PyG has no bipartite `Data`
        tokens = Tokens(torch.randn(graph.num_targets, 2), graph)
        back = Tokens.from_pyg(tokens.to_pyg())
        assert torch.equal(back.z, tokens.z)
        assert torch.equal(back.graph.edge_index(), graph.edge_index())
        assert back.graph.sizes == graph.sizes
        assert same_features(back.graph.edge_type, graph.edge_type)

    def test_copies_have_the_edges_and_nothing_that_was_kept(self, graph):
        graph.csr()
        for twin in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
            assert twin._cache == {}
            assert torch.equal(twin.edge_index(), graph.edge_index())
            assert repr(twin) == repr(graph)

    def test_what_is_derived_is_built_once_for_each_device(self, graph):
        def derive(_: int) -> list[Tensor]:
            return [graph.edge_index(), graph.dense(), *graph.csr(), graph.local_index()]

        with ThreadPoolExecutor(4) as pool:
            first, *others = pool.map(derive, range(4))
        assert all(a is b for other in others for a, b in zip(first, other, strict=True))
        elsewhere = [
            graph.edge_index("meta"), graph.dense("meta"), *graph.csr("meta"),
            graph.local_index("meta"), graph.batch("meta"),
        ]  # fmt: skip
        assert all(tensor.device.type == "meta" for tensor in elsewhere)
        assert graph.edge_index() is first[0]
        assert all(tensor.device.type == "cpu" for tensor in derive(0))


BASIC = {
    "test_the_edge_list_is_what_the_predicate_says",
    "test_dense_csr_and_counts_agree_with_the_edge_list",
    "test_what_a_graph_says_of_itself_is_so",
}
