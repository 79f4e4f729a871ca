"""Hypothesis strategies draw what they document, all of it, and shrink to simple values."""

import subprocess
import sys
import warnings

import networkx as nx
import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from tests.axes import pairwise
from tests.families import by_default
from tokennet import Disjoint, Edges, Grid, TokenGraph, Window, graphs
from tokennet.testing import relabeling_error
from tokennet.testing.strategies import (
    GRAPH_KINDS,
    TOKEN_KINDS,
    _formulas,
    listed_graphs,
    permutations,
    ragged_batches,
    symbolic_graphs,
    symmetric_graphs,
    token_graphs,
    token_sets,
    tokens,
)

once = settings(max_examples=60, deadline=None)
many = settings(max_examples=4000, deadline=None, database=None, derandomize=True)
unshrunk = settings(many, phases=[Phase.generate])


def drawn(strategy, condition=lambda value: True):
    """A value for which the condition holds; raises if none is drawn."""
    return find(strategy, condition, settings=unshrunk)


def simplest(strategy, condition=lambda value: True):
    """The simplest value for which the condition holds."""
    return find(strategy, condition, settings=many)


def to_networkx(graph):
    assert graph.num_sources == graph.num_targets
    listed = nx.Graph(graph.edge_index().t().tolist())
    listed.add_nodes_from(range(graph.num_targets))
    return listed


@given(st.data(), st.integers(0, 6))
@once
def test_permutations_are_permutations(data, n):
    perm = data.draw(permutations(n))
    assert perm.dtype == torch.long
    assert perm.sort().values.tolist() == list(range(n))


@pytest.mark.parametrize("wanted", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0], [2, 0, 3, 1]])
def test_every_permutation_can_be_drawn(wanted):
    assert drawn(permutations(4), lambda perm: perm.tolist() == wanted).tolist() == wanted


def test_permutations_shrink_to_the_identity_and_to_one_swap():
    assert simplest(permutations(7)).tolist() == list(range(7))
    swapped = simplest(permutations(7), lambda perm: perm[5] != 5)
    assert int((swapped != torch.arange(7)).sum()) == 2


@pytest.mark.parametrize(
    ("wanted", "condition"),
    [
        ("a multi-edge", lambda graph: graph.has_multi_edges),
        ("a self-loop", lambda graph: bool((graph.edge_index()[0] == graph.edge_index()[1]).any())),
        ("an isolated token", lambda graph: graph.num_edges and graph.has_empty_targets),
        ("no edges", lambda graph: graph.num_targets == 3 and not graph.num_edges),
        ("no tokens", lambda graph: graph.num_targets == 0),
        ("most edges", lambda graph: graph.num_edges == 14),
    ],
)
def test_edge_lists_of_every_kind_are_drawn(wanted, condition):
    assert isinstance(drawn(listed_graphs(), condition), Edges)


def test_edge_lists_have_at_most_max_edges():
    assert drawn(listed_graphs(max_edges=3), lambda graph: graph.num_edges == 3)
    with pytest.raises(Exception, match="NoSuchExample|no examples|No examples"):
        find(listed_graphs(4, 3), lambda graph: graph.num_edges > 3, settings=once)


@pytest.mark.parametrize("symbol", ["&", "|", "~", ".T", ".relabel", *"FCSWG"])
def test_formulas_are_combined_in_every_way(symbol):
    graph = drawn(symbolic_graphs(6), lambda graph: symbol in repr(graph))
    assert not graph.is_explicit
    assert graph.num_targets == 6


@pytest.mark.parametrize(
    "width", [1, *(pytest.param(width, marks=pytest.mark.sweep) for width in (2, 3, 6))]
)
def test_grids_have_every_shape(width):
    grid = drawn(
        symbolic_graphs(6), lambda g: isinstance(g, Grid) and g.grid_shape == (6 // width, width)
    )
    assert grid.num_targets == 6


def public_graphs():
    """The graph classes that are exported, without their base."""
    found = [getattr(graphs, name) for name in graphs.__all__]
    kinds = [kind for kind in found if isinstance(kind, type) and issubclass(kind, TokenGraph)]
    return [kind for kind in kinds if kind is not TokenGraph]


@pytest.mark.parametrize("kind", public_graphs(), ids=lambda kind: kind.__name__)
def test_every_public_class_of_graphs_is_drawn(kind):
    if kind is Disjoint:
        assert type(drawn(ragged_batches()).graph) is Disjoint
        return
    strategy = listed_graphs(6) if kind is Edges else _formulas(6)
    drawn(strategy, lambda graph: type(graph) is kind and graph.num_edges > 0)


def test_grids_of_three_dimensions_and_crosses():
    grids = _formulas(8).filter(lambda graph: isinstance(graph, Grid))
    for kind in ("box", "cross"):
        drawn(grids, lambda grid, kind=kind: grid.neighborhood == kind)
    drawn(grids, lambda grid: grid.grid_shape == (2, 2, 2))


def regular_and_transitive(graph):
    """Whether an automorphism maps token 0 to every other token."""
    listed = to_networkx(graph)
    marked = []
    for token in listed:
        copy = listed.copy()
        copy.nodes[token]["marked"] = True
        marked.append(copy)
    same = nx.algorithms.isomorphism.categorical_node_match("marked", False)
    return all(nx.is_isomorphic(marked[0], other, node_match=same) for other in marked[1:])


@given(symmetric_graphs(st.integers(1, 10)))
@settings(once, max_examples=30)
def test_symmetric_graphs_look_the_same_from_every_token(graph):
    assert graph.is_explicit
    assert not graph.has_multi_edges
    assert torch.equal(graph.dense(), graph.dense().T)
    assert not graph.dense().diagonal().any()
    assert regular_and_transitive(graph)


def test_a_graph_without_symmetry_is_detected():
    assert not regular_and_transitive(Window(5, 1))


@pytest.mark.parametrize(
    ("n", "wanted"),
    [
        (6, nx.circular_ladder_graph(3)),
        (10, nx.circular_ladder_graph(5)),
        (10, nx.petersen_graph()),
        (8, nx.circulant_graph(8, [1, 3])),
        (9, nx.circulant_graph(9, [1, 2])),
        (7, nx.empty_graph(7)),
        (6, nx.circulant_graph(6, [2])),
        (16, nx.moebius_kantor_graph()),
    ],
    ids=["prism3", "prism5", "petersen", "csl8", "csl9", "empty", "two triangles", "moebius"],
)
def test_known_symmetric_graphs_are_drawn(n, wanted):
    degree = wanted.number_of_edges()
    drawn(
        symmetric_graphs(n),
        lambda graph: (
            graph.num_edges == 2 * degree and nx.is_isomorphic(to_networkx(graph), wanted)
        ),
    )


def test_symmetric_graphs_are_relabeled():
    def is_a_ring_without_the_first_edge(graph):
        return nx.is_isomorphic(to_networkx(graph), nx.cycle_graph(4)) and not graph.dense()[0, 1]

    assert drawn(symmetric_graphs(4), is_a_ring_without_the_first_edge).num_edges == 8


def test_circular_skip_links_are_not_rare():
    degrees = []

    @given(symmetric_graphs(41))
    @settings(max_examples=60, deadline=None, derandomize=True)
    def count(graph):
        degrees.append(graph.num_edges / 41)

    count()
    assert degrees.count(4) > 15


@given(token_graphs(st.integers(0, 7)))
@once
def test_any_graph_fits_its_tokens(graph):
    assert graph.num_targets == graph.num_sources <= 7


@pytest.mark.parametrize("kind", GRAPH_KINDS)
def test_kinds_of_graphs_can_be_chosen(kind):
    @given(token_graphs(6, [kind]))
    @once
    def only_this_kind(graph):
        assert graph.is_explicit == (kind != "symbolic")
        assert graph.num_targets == 6
        if kind == "symmetric":
            assert torch.equal(graph.dense(), graph.dense().T)

    only_this_kind()


def repeated(z):
    return len(z.unique(dim=0)) < len(z)


PROPERTY = {
    "generic": lambda z: not repeated(z) and (z != 0).all() and z.abs().max() < 10,
    "duplicates": repeated,
    "zeros": lambda z: (z == 0).all(1).any() and z.abs().max() < 10,
    "large": lambda z: z.abs().max() > 100,
}


@pairwise(
    kind=TOKEN_KINDS,
    dtype=by_default(
        [torch.float64, torch.float32, torch.bfloat16, torch.float16],
        [torch.float32, torch.bfloat16],
    ),
)
def test_kinds_of_sets_have_their_property(kind, dtype):
    @given(token_sets(5, 3, kinds=[kind], dtype=dtype))
    @once
    def has_it(z):
        assert z.shape == (5, 3)
        assert z.dtype == dtype
        assert z.isfinite().all()
        assert PROPERTY[kind](z.double())

    has_it()


def test_all_kinds_of_sets_are_drawn():
    for kind, condition in PROPERTY.items():
        assert condition(drawn(token_sets(5, 3), condition)), kind
    assert len(drawn(token_sets(), lambda z: z.shape[0] == 0)) == 0
    assert (drawn(token_sets(3, 2), lambda z: (z == 0).all()) == 0).all()


def test_sets_depend_on_a_drawn_seed_only():
    torch.manual_seed(1)
    first = simplest(token_sets(3, 2))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(simplest(token_sets(3, 2)), first)
    assert torch.equal(torch.get_rng_state(), state)
    other = drawn(token_sets(3, 2), lambda z: not torch.equal(z, first))
    assert other.shape == (3, 2)


def test_large_sets_are_drawn_fast():
    z = drawn(token_sets(20_000, 64))  # drawing floats would run out of entropy
    assert z.shape == (20_000, 64)


@given(tokens(token_graphs(st.integers(1, 5)), dim=st.integers(1, 4), pos_dim=2, batch=(2,)))
@once
def test_tokens_fit_their_graph_and_have_positions(example):
    assert example.z.shape[:2] == (2, example.graph.num_targets)
    assert example.pos.shape == (example.num_tokens, 2)
    assert example.pos.min() >= 0
    assert example.pos.max() <= 1
    assert not torch.equal(example.pos, example.z[0])


def test_tokens_are_on_any_graph_by_default():
    assert drawn(tokens(), lambda example: example.graph.is_explicit).pos is None
    assert drawn(tokens(dtype=torch.float64)).z.dtype == torch.float64
    assert drawn(tokens(pos_dim=1), lambda e: e.num_tokens == 3).pos.shape == (3, 1)


@given(ragged_batches(pos_dim=1, dim=3))
@once
def test_ragged_batches_are_disjoint_graphs(batch):
    assert isinstance(batch.graph, Disjoint)
    assert 1 <= batch.graph.num_graphs <= 4
    assert all(0 <= size <= 5 for size in batch.graph.sizes)
    assert batch.dim == 3
    assert batch.pos.shape == (batch.num_tokens, 1)


def test_ragged_batches_have_different_sizes_and_empty_sets():
    assert drawn(ragged_batches(), lambda b: len(set(b.graph.sizes)) == 3)
    assert drawn(ragged_batches(), lambda b: b.graph.sizes[0] == 0 < b.num_tokens)
    assert drawn(ragged_batches(), lambda b: b.num_tokens == 0)
    assert drawn(ragged_batches(max_sets=6), lambda b: b.graph.num_graphs == 6)
    listed = ragged_batches(st.just(3), graph_kinds=["listed"])
    assert all(type(part) is Edges for part in drawn(listed).graph.graphs)


def test_a_model_that_depends_on_the_index_is_found_and_shrunk():
    def depends_on_index(example):
        return example.z + torch.arange(float(example.num_tokens))[:, None]

    def is_broken(example):
        return relabeling_error(depends_on_index, example) > 1e-6

    assert simplest(tokens(kinds=["generic"]), is_broken).num_tokens == 2


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (token_graphs(3, ["random"]), r"kinds must be some of symbolic, listed, symmetric, got"),
        (token_graphs(3, "listed"), "kinds must be some of .* got 'listed'"),
        (token_sets(3, kinds=[]), r"kinds must be some of generic, duplicates, zeros, large, got"),
        (token_sets(3, dtype=torch.long), "dtype must be a floating-point type, got torch.int64"),
    ],
)
def test_bad_arguments_are_named(strategy, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=message):
            strategy.example()


def test_the_package_imports_without_what_only_tests_need():
    script = "import sys; sys.modules.update(hypothesis=None, pytest=None); import tokennet.testing"
    subprocess.run([sys.executable, "-c", script], check=True)
