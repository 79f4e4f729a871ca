"""Probabilities of return are those of matrix powers, of PyG, and of the graph alone."""

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import AddRandomWalkPE

from tests.axes import pairwise
from tests.families import SQUARE, by_default
from tokennet import Cycle, Disjoint, Edges, Full, Tokens
from tokennet.positional import RandomWalkEncoding, random_walk, return_probabilities
from tokennet.testing import check_declared, random_permutation

STEPS = 5


def by_powers(graph, steps):
    """A walker on a dense matrix of counted edges."""
    n = graph.num_targets
    counts = torch.zeros(n, n, dtype=torch.float64)
    for source, target in graph.edge_index().t().tolist():
        counts[source, target] += 1
    walk = counts / counts.sum(1, keepdim=True).clamp(min=1)
    power, diagonals = torch.eye(n, dtype=torch.float64), []
    for _ in range(steps):
        power = power @ walk
        diagonals.append(power.diagonal())
    return torch.stack(diagonals, dim=1)


@pairwise(family=by_default(SQUARE), block=[2**22, 7], share=[0.0, 2.0], small=[64, 0])
def test_by_powers_of_the_matrix(family, block, share, small, monkeypatch):
    monkeypatch.setattr(random_walk, "_SMALL", small)
    monkeypatch.setattr(random_walk, "_BLOCK_ENTRIES", block)
    monkeypatch.setattr(random_walk, "_DENSE_SHARE", share)
    graph = SQUARE[family]()
    torch.testing.assert_close(return_probabilities(graph, STEPS), by_powers(graph, STEPS))


@pytest.mark.parametrize("directed", [False, True])
def test_as_pyg(directed):
    mask = torch.rand(40, 40) < 0.1
    mask = mask if directed else mask | mask.T
    graph = Edges(mask.nonzero().T, 40)
    peer = AddRandomWalkPE(12)(Data(edge_index=graph.edge_index(), num_nodes=40)).random_walk_pe
    torch.testing.assert_close(return_probabilities(graph, 12), peer.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", by_default(SQUARE))
def test_symmetry_is_declared_truly(family):
    graph = SQUARE[family]()
    layer = RandomWalkEncoding(8, STEPS)
    assert layer.symmetry.reads == {"graph"}
    report = check_declared(layer, Tokens(torch.randn(graph.num_targets, 8), graph), discover=False)
    assert report.holds, report
    perm = random_permutation(graph, torch.Generator().manual_seed(0))
    moved = return_probabilities(graph.relabel(perm), STEPS)
    torch.testing.assert_close(moved, return_probabilities(graph, STEPS)[perm])


def test_a_ragged_batch_is_one_by_one_and_shares_its_parts():
    parts = [Full(2), Cycle(5), Edges(torch.tensor([[0], [1]]), 3)]
    joined = return_probabilities(Disjoint(parts), STEPS)
    torch.testing.assert_close(joined, torch.cat([by_powers(part, STEPS) for part in parts]))
    assert return_probabilities(parts[1], STEPS) is return_probabilities(parts[1], STEPS)
    assert any("random_walk" in key[0].__module__ for key in parts[1]._cache)


@pytest.mark.parametrize("small", [24, 5, 0])
def test_components_are_walked_alone(small, monkeypatch):
    """So that thousands of small components take no longer than their tokens do."""
    monkeypatch.setattr(random_walk, "_SMALL", small)
    walked, together, alone = [], random_walk._walk_together, random_walk._walk

    def walk_together(walks, steps):
        walked.extend(len(walk) for walk in walks)
        return together(walks, steps)

    def walk(walk, steps):
        walked.append(walk.shape[0])
        return alone(walk, steps)

    monkeypatch.setattr(random_walk, "_walk_together", walk_together)
    monkeypatch.setattr(random_walk, "_walk", walk)
    directed = Edges(torch.tensor([[0, 1, 2, 0, 3], [1, 2, 0, 2, 3]]), 5)
    parts = [Full(2), Cycle(5), directed, Edges(torch.tensor([[0], [0]]), 1), Cycle(5), Cycle(7)]
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    mixed = Edges(Disjoint(parts).edge_index(), 25).relabel(order)
    torch.testing.assert_close(return_probabilities(mixed, STEPS), by_powers(mixed, STEPS))
    assert sorted(walked) == [2, 3, 5, 5, 7]


def test_the_layer_adds_a_projection_and_learns_it():
    graph, z = Cycle(6), torch.randn(2, 6, 8, dtype=torch.float64)
    layer = RandomWalkEncoding(8, STEPS).double()
    code = return_probabilities(graph, STEPS)
    out = layer(Tokens(z, graph)).z
    torch.testing.assert_close(out, z + code @ layer.project.weight.T + layer.project.bias)
    out.square().sum().backward()
    want = 2 * torch.einsum("bnd,nk->dk", out, code)
    torch.testing.assert_close(layer.project.weight.grad, want)


def test_any_module_may_project():
    project = torch.nn.Sequential(torch.nn.BatchNorm1d(STEPS), torch.nn.Linear(STEPS, 8))
    layer = RandomWalkEncoding(8, STEPS, project)
    z = layer(Tokens(torch.zeros(6, 8), Edges(torch.tensor([[0, 1, 2], [1, 0, 1]]), 6))).z
    assert z.shape == (6, 8)
    assert float(project[0].running_mean.abs().max()) > 0


def circular_skip_link(n, skip):
    i = torch.arange(n)
    far = torch.stack([torch.cat([i, i]), torch.cat([(i + 1) % n, (i + skip) % n])])
    return Edges(torch.cat([far, far.flip(0)], dim=1), n)


def test_circular_skip_links_that_message_passing_cannot_tell_apart_differ():
    skips = (2, 3, 4, 5, 6, 9, 11, 12, 13, 16)
    codes = [return_probabilities(circular_skip_link(41, skip), 16) for skip in skips]
    for code in codes:  # each of its tokens is like any other
        torch.testing.assert_close(code, code[:1].expand_as(code))
    firsts = torch.stack([code[0] for code in codes])
    assert torch.pdist(firsts).min() > 1e-3


def test_no_neighbor_means_no_return_and_a_self_loop_means_staying():
    graph = Edges(torch.tensor([[1, 2, 2], [1, 2, 0]]), 4)
    assert return_probabilities(graph, 2).tolist() == [[0, 0], [1, 1], [0.5, 0.25], [0, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RandomWalkEncoding(8, 0), "steps must be at least 1, got 0"),
        (lambda: return_probabilities(Full(2, 3), 1), "graph must be of one set of tokens"),
        (lambda: RandomWalkEncoding(4, 2)(torch.zeros(3, 8)), "must have 4 channels, got shape"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
