"""The cases have the sizes they promise, and are the same each time."""

import networkx as nx
import pytest
import torch

from tokennet import to_networkx
from tokennet.bench.graphs import (
    hubs,
    local_edges,
    molecules,
    power_law,
    random_edges,
    sets,
    superpixels,
)
from tokennet.bench.workloads import SUITES, WORKLOADS, choose

SIZES = {
    "tiny": (16, 16, 256),
    "complete-64": (64, 64, 4096),
    "causal-64": (64, 64, 2080),
    "complete-256": (256, 256, 65_536),
    "causal-256": (256, 256, 32_896),
    "complete-1024": (1024, 1024, 2**20),
    "causal-1024": (1024, 1024, 524_800),
    "complete-4096": (4096, 4096, 2**24),
    "causal-4096": (4096, 4096, 8_390_656),
    "batch-64-of-64": (64, 64, 4096),
    "window-8192": (8192, 8192, 8192 * 129 - 64 * 65),
    "grid-64x64": (4096, 4096, (64 * 7 - 12) ** 2),
    "perceiver-512-from-65536": (512, 65_536, 2**25),
    "sparse-20k-400k": (20_000, 20_000, 400_000),
    "sparse-150k-1.2m": (150_000, 150_000, 1_200_000),
    "cora-like": (2708, 2708, 10_556),
    "pubmed-like": (19_717, 19_717, 88_648),
    "arxiv-like": (169_343, 169_343, 2_500_000),
    "ladder-1e5": (6250, 6250, 100_000),
    "ladder-3e5": (18_750, 18_750, 300_000),
    "ladder-1e6": (62_500, 62_500, 1_000_000),
    "ladder-3e6": (187_500, 187_500, 3_000_000),
    "ladder-1e7": (625_000, 625_000, 10_000_000),
    "sparse-edges-20k-400k": (20_000, 20_000, 400_000),
    "gatv2-20k-400k": (20_000, 20_000, 400_000),
    "gatv2-edges-20k-400k": (20_000, 20_000, 400_000),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.sweep] * (edges > 2e6))
        for name, (_, _, edges) in SIZES.items()
    ],
)
def test_sizes_are_those_promised(name):
    graph = WORKLOADS[name].make(1.0)
    assert (graph.num_targets, graph.num_sources, graph.num_edges) == SIZES[name]


def test_no_case_is_without_a_promise():
    drawn = {"sets-512", "sets-1024", "molecules-1024", "hubs", "arxiv-like-local"}
    assert set(SUITES["cpu"].cases) == set(SIZES) | drawn
    assert all(name == workload.name for name, workload in WORKLOADS.items())
    assert {*SUITES["cpu"].cases, *SUITES["gpu"].cases} == set(WORKLOADS)


def test_each_case_for_a_gpu_comes_in_two_types():
    names = SUITES["gpu"].cases
    for half, single in zip(names[::2], names[1::2], strict=True):
        assert half.removesuffix("-bf16") == single.removesuffix("-fp32")
        assert (WORKLOADS[half].dtype, WORKLOADS[single].dtype) == (torch.bfloat16, torch.float32)
        assert WORKLOADS[half].make is WORKLOADS[single].make


def test_superpixels_hear_their_nearest_and_their_cycle():
    graph = WORKLOADS["voc-bf16"].make(3 / 1024)
    assert graph.sizes == [479] * 3 or graph.num_graphs == 4
    one = superpixels(2, 30).graphs[1]
    source, target = one.edge_index()
    degree = torch.bincount(target)
    assert 4 <= degree.min() <= degree.max() <= 6
    assert one.attends(torch.arange(30), (torch.arange(30) + 1) % 30).all()
    assert not (source == target).any()


def test_a_ragged_case_has_as_many_sets_as_its_name_says():
    for name in ("sets-512", "sets-1024", "molecules-1024"):
        assert WORKLOADS[name].make(1.0).num_graphs == int(name.split("-")[1])


MAKERS = {workload.make: workload for workload in WORKLOADS.values()}
"""A workload for each graph: two types share one."""


@pytest.mark.parametrize("workload", MAKERS.values(), ids=lambda workload: workload.name)
def test_edges_are_the_same_each_time(workload):
    scale = min(0.01, 2e5 / workload.make(0.001).num_edges * 0.001)
    first = workload.make(scale)
    torch.manual_seed(1)
    second = workload.make(scale)
    assert torch.equal(first.edge_index(), second.edge_index())
    attr = getattr(first, "edge_attr", None)
    assert attr is None or torch.equal(attr, second.edge_attr)


def test_random_edges_carry_features():
    assert random_edges(9, 20, 3).edge_attr.shape == (20, 3)
    assert random_edges(9, 20).edge_attr is None


def test_a_network_is_simple_undirected_sorted_and_of_exactly_so_many_edges():
    graph = power_law(400, 3000)
    source, target = graph.edge_index()
    assert graph.num_edges == 3000
    assert not graph.has_multi_edges
    assert not (source == target).any()
    key = source * 400 + target
    assert torch.equal(key, key.sort().values)
    assert torch.equal((target * 400 + source).sort().values, key)


def test_more_edges_than_fit_become_fewer():
    assert power_law(8, 1000).num_edges == 28


def test_a_network_has_hubs_by_its_exponent():
    def largest(exponent):
        return int(power_law(2000, 12_000, exponent=exponent).csr().indptr.diff().max())

    assert largest(0.8) > 3 * largest(0.0)


def far(graph):
    source, target = graph.edge_index()
    distance = (source - target).abs()
    return float((torch.minimum(distance, graph.num_targets - distance) > 64).float().mean())


@pytest.mark.parametrize("locality", [0.0, 0.5, 1.0])
def test_locality_is_the_share_of_near_edges(locality):
    assert far(power_law(20_000, 40_000, locality)) == pytest.approx(1 - locality, abs=0.03)
    assert far(local_edges(20_000, 4, locality)) == pytest.approx(1 - locality, abs=0.03)


def test_local_edges_have_one_degree():
    assert set(local_edges(300, 5, 0.5).csr().indptr.diff().tolist()) == {5}


def test_hubs_fall_like_one_over_rank_to_a_least():
    degrees = hubs(2000, 400).csr().indptr.diff().sort(descending=True).values
    assert degrees[:5].tolist() == [400] * 5
    assert (int(degrees[8]), int(degrees[40])) == (200, 40)
    assert int(degrees[-1]) == 4
    first = hubs(2000, 400).csr().indptr.diff()[:5]
    assert int(first.sum()) < 1000, "the hubs must not come first"


def test_sets_are_complete_and_of_sizes_within_bounds():
    graph = sets(200)
    assert (min(graph.sizes), max(graph.sizes)) == (8, 64)
    assert graph.num_edges == sum(size**2 for size in graph.sizes)


def test_molecules_are_connected_trees_with_rings_and_bounded_degree():
    graph = molecules(20, 40, rings=6)
    assert graph.sizes == [40] * 20
    assert int(graph.csr().indptr.diff().max()) <= 4
    rings = []
    for one in graph.graphs:
        edges = one.edge_index()
        assert torch.equal(one.dense(), one.dense().T)
        assert not (edges[0] == edges[1]).any()
        assert nx.is_connected(to_networkx(one).to_undirected())
        rings.append(one.num_edges // 2 - 39)
    assert 0 < sum(rings) / 20 <= 6
    assert max(rings) <= 6
    assert molecules(3, 1).num_edges == 0


def test_cases_are_chosen_by_name_or_pattern_in_the_order_of_the_suite():
    chosen = [workload.name for workload in choose("cpu", ["sets-*", "tiny"])]
    assert chosen == ["tiny", "sets-512", "sets-1024"]
    assert len(choose("cpu")) + len(choose("gpu")) == len(WORKLOADS)


def test_unknown_names_are_answered_with_the_choices():
    with pytest.raises(ValueError, match="suite must be one of cpu, gpu; got 'tpu'"):
        choose("tpu")
    with pytest.raises(ValueError, match=r"cases must be among tiny, .*; got 'huge'"):
        choose("cpu", ["tiny", "huge"])
