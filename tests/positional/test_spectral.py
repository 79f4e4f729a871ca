"""Eigenvectors of the Laplacian: right, PyG's, and honest about what the graph determines."""

import math

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import AddLaplacianEigenvectorPE

from tests.axes import pairwise
from tests.families import SQUARE, by_default
from tokennet import (
    Cycle,
    Disjoint,
    Edges,
    Full,
    Symmetry,
    Tokens,
    Window,
    from_networkx,
    to_networkx,
)
from tokennet.positional import (
    LaplacianEncoding,
    RandomWalkEncoding,
    UnitIntervalEncoding,
    eigenvectors,
    laplacian_eigenvectors,
)
from tokennet.testing import check_declared, random_permutation

K = 4


def irregular(n=30, seed=0):
    """A connected graph without symmetries: no eigenvalue is repeated."""
    return from_networkx(nx.connected_watts_strogatz_graph(n, 4, 0.5, seed=seed))


def simple_undirected(graph):
    found = nx.Graph(to_networkx(graph).to_undirected())
    found.remove_edges_from(list(nx.selfloop_edges(found)))
    return found


def components(graph):
    nodes = list(range(graph.num_targets))
    found = nx.relabel_nodes(
        simple_undirected(graph), dict(zip(simple_undirected(graph), nodes, strict=True))
    )
    for members in nx.connected_components(found):
        tokens = sorted(members)
        yield tokens, nx.normalized_laplacian_matrix(found.subgraph(members), tokens).toarray()


@pytest.mark.parametrize("family", by_default(SQUARE))
def test_are_the_eigenvectors_of_each_component(family):
    graph = SQUARE[family]()
    found = laplacian_eigenvectors(graph, K)
    assert found.vectors.shape == (graph.num_targets, K)
    for tokens, laplacian in components(graph):
        many = min(K, len(tokens) - 1)
        (number,) = found.component[tokens].unique().tolist()
        values, vectors = found.values[number].numpy(), found.vectors[tokens].numpy()
        np.testing.assert_allclose(
            values[:many], np.linalg.eigvalsh(laplacian)[1 : many + 1], atol=1e-12
        )
        np.testing.assert_allclose(laplacian @ vectors, vectors * values, atol=1e-12)
        np.testing.assert_allclose(vectors.T @ vectors, np.diag(np.arange(K) < many), atol=1e-12)


@pytest.mark.parametrize("n", [30, 150], ids=["dense peer", "sparse peer"])
def test_as_pyg_but_for_signs(n):
    graph = irregular(n)
    data = Data(edge_index=graph.edge_index(), num_nodes=n)
    peer = AddLaplacianEigenvectorPE(K, is_undirected=True)(data).laplacian_eigenvector_pe.double()
    ours = laplacian_eigenvectors(graph, K).vectors
    sign = (ours * peer).sum(0).sign()
    torch.testing.assert_close(ours, sign * peer, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [700, 1500])
def test_long_paths_are_waves(n):
    """Their eigenvalues crowd at 0, the hardest case for Lanczos' method."""
    found = laplacian_eigenvectors(Window(n, 1), K)
    want = [1 - math.cos(math.pi * j / (n - 1)) for j in range(1, K + 1)]
    np.testing.assert_allclose(found.values[0], want, atol=1e-13, rtol=1e-7)
    wave = torch.cos(math.pi * torch.arange(n, dtype=torch.float64) / (n - 1))
    code = found.vectors[1:-1, 0]  # the ends have half the degree
    np.testing.assert_allclose(code / code[0], wave[1:-1] / wave[1], atol=1e-6)


@pytest.mark.parametrize("make", [lambda: irregular(80), lambda: Window(90, 1)])
def test_solvers_agree(make, monkeypatch):
    dense = laplacian_eigenvectors(make(), K)
    monkeypatch.setattr(eigenvectors, "DENSE_TOKENS", 10)
    for ours, want in zip(laplacian_eigenvectors(make(), K), dense, strict=True):
        torch.testing.assert_close(ours, want, atol=1e-8, rtol=0)


def test_repeated_eigenvalues_are_all_found_by_lanczos(monkeypatch):
    monkeypatch.setattr(eigenvectors, "DENSE_TOKENS", 10)
    found = laplacian_eigenvectors(Cycle(60), 6)
    want = [1 - math.cos(2 * math.pi * j / 60) for j in (1, 1, 2, 2, 3, 3)]
    np.testing.assert_allclose(found.values[0], want, atol=1e-10)
    assert not found.determined.any()


def test_direction_repeats_and_self_loops_do_not_count():
    one_way = Edges(torch.tensor([[0, 1, 1, 2, 4, 4], [1, 2, 2, 3, 2, 4]]), 5)
    tree = from_networkx(nx.Graph([(0, 1), (1, 2), (2, 3), (2, 4)]))
    for ours, want in zip(
        laplacian_eigenvectors(one_way, 2), laplacian_eigenvectors(tree, 2), strict=True
    ):
        torch.testing.assert_close(ours, want)


@pytest.mark.parametrize("family", by_default(SQUARE))
def test_relabeling_moves_what_the_graph_determines(family):
    graph = SQUARE[family]()
    perm = random_permutation(graph, torch.Generator().manual_seed(3))
    old, new = (laplacian_eigenvectors(each, K) for each in (graph, graph.relabel(perm)))
    known = old.determined[old.component][perm]
    torch.testing.assert_close(known, new.determined[new.component])
    moved = old.vectors[perm]
    torch.testing.assert_close(new.vectors.where(known, 0.0), moved.where(known, 0.0))


def test_what_is_determined():
    path = laplacian_eigenvectors(Window(6, 1), 4)
    assert path.determined.tolist() == [[False, True, False, True]]  # odd waves may be turned
    assert (path.vectors[0] > 0)[[0, 2]].all()  # then the first token is positive
    assert laplacian_eigenvectors(irregular(), 8).determined.all()
    assert not laplacian_eigenvectors(Cycle(7), 4).determined.any()
    star = from_networkx(nx.star_graph(4))  # 1 three times, then 2, seen by one more eigenvalue
    assert laplacian_eigenvectors(star, 4).determined.tolist() == [[False, False, False, True]]
    assert laplacian_eigenvectors(star, 1).determined.tolist() == [[False]]


def test_a_ragged_batch_and_components_are_one_by_one():
    parts = [irregular(12), Full(1), Window(5, 1), Edges(torch.tensor([[0], [1]]), 3)]
    joined = laplacian_eigenvectors(Disjoint(parts), 3)
    alone = torch.cat([laplacian_eigenvectors(part, 3).vectors for part in parts])
    torch.testing.assert_close(joined.vectors, alone)
    assert joined.component.tolist() == [0] * 12 + [1] + [2] * 5 + [3, 3, 4]
    edges = Disjoint(parts).edge_index()
    one_graph = laplacian_eigenvectors(Edges(edges, 21), 3)
    for ours, want in zip(joined, one_graph, strict=True):
        torch.testing.assert_close(ours, want)


@pytest.mark.parametrize("entries", [2**22, 100], ids=["at once", "some at a time"])
def test_components_of_one_size_are_decomposed_together(entries, monkeypatch):
    """So that thousands of small components take no longer than their numbers do."""
    monkeypatch.setattr(eigenvectors, "_ENTRIES", entries)
    parts = [irregular(6 + seed % 2, seed) for seed in range(20)] + [Full(1), irregular(9)]
    order = torch.randperm(140, generator=torch.Generator().manual_seed(0))  # tokens interleaved
    mixed = Edges(Disjoint(parts).edge_index(), 140).relabel(order)
    calls, eigh = [], np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda *given: calls.append(1) or eigh(*given))
    found = laplacian_eigenvectors(mixed, K)
    assert len(calls) == (3 if entries > 100 else 5 + 5 + 1)
    alone = torch.cat([laplacian_eigenvectors(part, K).vectors for part in parts])
    known = found.determined[found.component]
    assert 200 < known.sum() < known.numel()
    torch.testing.assert_close(found.vectors.where(known, 0), alone[order].where(known, 0))
    laplacian = torch.from_numpy(nx.normalized_laplacian_matrix(simple_undirected(mixed)).toarray())
    values = found.values[found.component]
    torch.testing.assert_close(laplacian @ found.vectors, values * found.vectors)


def test_a_graph_is_decomposed_once(monkeypatch):
    calls, decompose = [], eigenvectors._decompose
    monkeypatch.setattr(
        eigenvectors, "_decompose", lambda *args: calls.append(1) or decompose(*args)
    )
    graphs = [irregular(10), irregular(10, seed=1)]
    layer = LaplacianEncoding(8, K)
    for batch in (graphs, graphs[::-1], graphs + graphs):
        layer(Tokens(torch.zeros(10 * len(batch), 8), Disjoint(batch)))
    assert len(calls) == 2


SIGNS = {
    "random": {"graph", "index"},
    "fixed": {"graph", "index"},
    "determined": {"graph"},
}


@pairwise(signs=SIGNS, family=by_default(SQUARE))
def test_symmetry_is_declared_truly(signs, family):
    graph = SQUARE[family]()
    layer = LaplacianEncoding(8, K, signs)
    assert layer.symmetry.reads == SIGNS[signs]
    report = check_declared(layer, Tokens(torch.randn(graph.num_targets, 8), graph), discover=False)
    assert report.holds, report


class Boastful(LaplacianEncoding):
    symmetry = Symmetry({"graph"})


def test_chosen_signs_do_read_the_index_but_not_where_the_graph_determines_all():
    for graph, holds in ((Cycle(6), False), (Window(6, 1), False), (irregular(), True)):
        tokens = Tokens(torch.randn(graph.num_targets, 8), graph)
        report = check_declared(Boastful(8, 3, "fixed"), tokens, discover=False)
        assert report.holds == holds, report


def test_signs_are_drawn_in_training_for_each_set_component_and_vector():
    graph = Disjoint([irregular(9), irregular(11)])
    layer, tokens = LaplacianEncoding(8, K), Tokens(torch.zeros(50, 20, 8), graph)
    fixed = laplacian_eigenvectors(graph, K).vectors
    signs = (layer.encode(tokens) / fixed).round()  # (50, 20, K)
    torch.testing.assert_close(layer.encode(tokens).square(), fixed.square().expand(50, 20, K))
    for part in signs.split([9, 11], dim=1):
        assert torch.equal(part, part[:, :1].expand_as(part))
    drawn = torch.cat([signs[:, 0], signs[:, 19]], dim=1)  # (50, 2 K)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.6
    assert not torch.equal(layer.encode(tokens), layer.encode(tokens))
    assert torch.equal(layer.eval().encode(tokens), fixed)
    assert torch.equal(LaplacianEncoding(8, K, "fixed").encode(tokens), fixed)


def test_what_the_graph_does_not_determine_may_be_left_out():
    layer = LaplacianEncoding(8, 4, "determined")
    path = Tokens(torch.zeros(6, 8), Window(6, 1))
    assert layer.encode(path).abs().amax(0).gt(0).tolist() == [False, True, False, True]
    assert not layer.encode(path.replace(graph=Cycle(6))).any()


def test_the_layer_adds_a_projection_and_learns_it():
    graph, z = irregular(), torch.randn(2, 30, 8, dtype=torch.float64)
    layer = LaplacianEncoding(8, K, "fixed").double()
    code = laplacian_eigenvectors(graph, K).vectors
    out = layer(Tokens(z, graph)).z
    torch.testing.assert_close(out, z + code @ layer.project.weight.T + layer.project.bias)
    out.square().sum().backward()
    want = 2 * torch.einsum("bnd,nk->dk", out, code)
    torch.testing.assert_close(layer.project.weight.grad, want)


CODES = {
    "laplacian": lambda: LaplacianEncoding(8, K),
    "random walk": lambda: RandomWalkEncoding(8, K),
    "unit interval": lambda: UnitIntervalEncoding(8),
}


@pytest.mark.parametrize("name", CODES)
def test_types_compile_and_small_sets(name):
    layer = CODES[name]().eval()
    tokens = Tokens(torch.randn(2, 30, 8), Disjoint([irregular(), Full(0)]))
    want = layer(tokens).z
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens).z, want)
    assert layer.bfloat16()(tokens.to(torch.bfloat16)).z.dtype == torch.bfloat16
    for n in (0, 1):
        assert layer(torch.zeros(n, 8, dtype=torch.bfloat16)).isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", CODES)
def test_on_a_gpu(name):
    layer, tokens = CODES[name]().eval(), Tokens(torch.randn(2, 30, 8), irregular())
    moved = layer(tokens).z.cuda()
    torch.testing.assert_close(layer.cuda()(tokens.to("cuda")).z, moved)
    assert layer.train()(tokens.to("cuda")).z.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LaplacianEncoding(8, 0), "k must be at least 1, got 0"),
        (
            lambda: LaplacianEncoding(8, 2, "any"),
            "signs must be one of .* got 'any'",
        ),
        (lambda: laplacian_eigenvectors(Full(2, 3), 1), "graph must be of one set of tokens"),
        (lambda: LaplacianEncoding(4, 2)(torch.zeros(3, 8)), "must have 4 channels, got shape"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_cannot_be_run_step_by_step():
    with pytest.raises(TypeError, match="does not support incremental decoding"):
        LaplacianEncoding(8, 2).step(Tokens(torch.zeros(1, 8)), Full(1))
