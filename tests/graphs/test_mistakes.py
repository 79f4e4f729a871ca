"""What graphs answer to ints, to numbers of numpy, and to classes that are not written whole."""

import networkx as nx
import numpy as np
import pytest
import torch

from tests.families import FAMILIES, by_default
from tokennet import (
    Causal,
    Cycle,
    Disjoint,
    Edges,
    Full,
    Global,
    Offsets,
    Self,
    TokenGraph,
    Tokens,
    Window,
    attend,
    from_mask,
    from_mask_mod,
    from_networkx,
    to_networkx,
)  # fmt: skip


class Multiples(TokenGraph):
    """A formula that counts no edges."""

    def attends(self, i, j):
        return (i * j) % 3 == 0


@pytest.mark.parametrize("name", by_default(FAMILIES))
def test_ints_are_indices_and_those_that_name_no_token_raise(name):
    graph = FAMILIES[name]()
    n, m = graph.num_targets, graph.num_sources
    found = [[bool(graph.attends(i, j)) for j in range(m)] for i in range(n)]
    assert found == graph.dense().tolist()
    for i, j in ((n, 0), (-1, 0), (0, m), (0, -1)):
        with pytest.raises(IndexError, match="must name one of"):
            graph.attends(i, j)


def test_an_int_goes_with_a_tensor():
    assert Causal(3).attends(1, torch.arange(3)).tolist() == [True, True, False]


def test_sizes_are_whatever_is_an_index():
    for three in (np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)):
        made = [Full(three), Full(3, three), Causal(three), Window(three, three), Self(three)]
        made += [Cycle(three, three), Offsets(three, [three]), Global(three, three)]
        made += [Edges(torch.zeros(2, 1, dtype=torch.long), three)]
        for graph in made:
            assert type(graph.num_targets) is type(graph.num_sources) is int
            assert graph.num_targets == 3
    assert Full(4).last(np.int64(2)).num_targets == Cycle(9).reach(np.int64(2)).radius == 2


def bad(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_messages_name_the_argument():
    index = torch.zeros(2, 1, dtype=torch.long)
    bad(lambda: Full(True), TypeError, "n must be an int, got True")
    bad(lambda: Full(torch.tensor(True)), TypeError, "n must be an int, got a tensor")
    bad(lambda: Window(4, 10**30), ValueError, "radius must be an int of 64 bits")
    bad(lambda: Window(8), TypeError, r"Window.__init__\(\) missing .* 'radius'")
    bad(lambda: Causal(), TypeError, r"Causal.__init__\(\) missing .* 'n'")
    bad(lambda: Offsets(4, (1,), periodic="no"), TypeError, "periodic must be True or False")
    bad(lambda: Full(3).relabel(None), TypeError, "perm must be a permutation")
    complex_numbers = torch.tensor([0j, 1])
    bad(lambda: Causal(2).relabel(complex_numbers), ValueError, "perm must be a permutation")
    bad(lambda: Edges(index.to(torch.complex128), 2), TypeError, "edge_index must hold integers")
    bad(lambda: Edges(index + 5, 2), ValueError, r"edge_index\[0\] must name one of 2 sources")
    bad(lambda: Edges(index, 3, names=torch.ones(3)), ValueError, "names must be 3 different names")
    bad(lambda: to_networkx(None), TypeError, "graph must be a token graph, got NoneType")
    bad(lambda: from_mask(np.ones((2, 2))), TypeError, "mask must be a boolean tensor, got array")
    bad(lambda: from_mask_mod(3, 4), TypeError, "mask_mod must be a function, got 3")


def test_unsigned_edges_and_masks_of_numpy():
    assert Edges(torch.zeros(2, 1, dtype=torch.uint64), 2).edge_index().dtype == torch.int64
    mask = np.tril(np.ones((3, 3), dtype=bool))
    assert torch.equal(from_mask(mask).dense(), Causal(3).dense())


def test_the_name_of_one_column_is_not_a_list_of_letters():
    path = nx.path_graph(3)
    nx.set_edge_attributes(path, 2.0, "weight")
    back = to_networkx(from_networkx(path, "weight"), edge_attrs="weight")
    assert {data["weight"] for _, _, data in back.edges(data=True)} == {2.0}
    bad(
        lambda: to_networkx(Causal(2), edge_attrs=3),
        TypeError,
        "edge_attrs must be a list",
    )


def test_a_class_that_forgets_super_says_so():
    class NoSuper(TokenGraph):
        def __init__(self, n):
            self.n = n

        def attends(self, i, j):
            return i > j

    q, graph = torch.ones(3, 1, 2), NoSuper(3)
    uses = (repr, TokenGraph.edge_index, TokenGraph.dense, lambda graph: Tokens(q[:, 0], graph))
    for use in (*uses, lambda graph: graph & Causal(3), lambda graph: attend(q, q, q, graph)):
        bad(lambda use=use: use(graph), TypeError, r"NoSuper.__init__ must call super\(\).__init__")


def test_and_of_python_says_what_to_write():
    class Both(TokenGraph):
        def attends(self, i, j):
            return i >= j and j > 2

    for use in (TokenGraph.edge_index, TokenGraph.dense, repr):
        bad(lambda use=use: use(Both(4)), ValueError, "attends of Both must .* with & and |")


def test_printing_lists_no_edges(monkeypatch):
    n, formula = 20_000, Multiples(20_000)
    calls = []
    monkeypatch.setattr(Multiples, "attends", lambda self, i, j: calls.append(i))
    unknown = [
        formula,
        formula & Causal(n),
        formula | Self(n),
        ~formula,
        formula.T,
        formula.reach(2),
    ]
    unknown += [
        formula.reach(2),
        formula.relabel(torch.arange(n)),
        formula.last(n - 1),
        Disjoint([formula]),
    ]
    known = [Causal(n) & Window(n, 2), Offsets(n, (-2, -1, 0)), ~Causal(n), Cycle(n, 2)]
    assert all(repr(graph).endswith(", edges not counted") for graph in unknown)
    assert not calls
    assert [graph.num_edges for graph in known] == [59_997, 59_997, n * (n - 1) // 2, 5 * n]
    assert all(f" {graph.num_edges:,} edges" in repr(graph) for graph in known)
    assert not any(graph._cache for graph in known)


@pytest.mark.parametrize("n", range(5))
def test_edges_of_bands_and_offsets_are_counted_by_formula(n):
    graphs = [Causal(n) & Window(n, radius) for radius in range(6)]
    offsets = ((), (0,), (-1, 2), (-9, 9), (3, 3, -4))
    graphs += [Offsets(n, given, periodic) for given in offsets for periodic in (False, True)]
    for graph in graphs:
        assert graph.num_edges == int(graph.dense().sum()), graph
