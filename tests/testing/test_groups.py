"""Groups against brute force: orders, membership, automorphisms; and names that must be true."""

import itertools
import math
import random
import re
from collections import Counter

import networkx as nx
import numpy as np
import pytest
import torch

from tests.families import by_default
from tokennet import Causal, Cycle, Disjoint, Edges, Full, Grid, from_networkx
from tokennet.testing.groups import (
    automorphisms,
    automorphisms_of_coloring,
    contains,
    name,
    orbits,
    order,
    sample,
)
from tokennet.testing.groups.graph_automorphisms import refined
from tokennet.testing.groups.permutations import compose, stabilizer_chain


def cycles(degree, *parts):
    """The permutation with these cycles."""
    p = list(range(degree))
    for part in parts:
        for i, j in zip(part, (*part[1:], part[0]), strict=True):
            p[i] = j
    return tuple(p)


def symmetric(points, degree):
    return [cycles(degree, (a, b)) for a, b in itertools.pairwise(points)]


def rotation(points, degree):
    return cycles(degree, tuple(points))


def elements(generators, degree):
    found = {tuple(range(degree))}
    queue = list(found)
    for p in queue:
        new = {compose(p, tuple(g)) for g in generators} - found
        found |= new
        queue += new
    return found


def regular(generators, degree):
    """The group acting on itself by multiplication."""
    points = sorted(elements(generators, degree))
    number = {p: k for k, p in enumerate(points)}
    return [tuple(number[compose(g, p)] for p in points) for g in generators], len(points)


def random_group(chance, degree, count=2):
    return [tuple(chance.sample(range(degree), degree)) for _ in range(count)]


def test_the_convention_is_indexing():
    x, p, q = torch.arange(5) * 10, (2, 0, 1, 4, 3), (1, 2, 3, 4, 0)
    assert torch.equal(x[list(p)][list(q)], x[list(compose(p, q))])


@pytest.mark.parametrize("seed", by_default(range(20), range(10)))
def test_order_membership_and_orbits_agree_with_listing_all_elements(seed):
    chance = random.Random(seed)
    degree = chance.randint(2, 6)
    generators = random_group(chance, degree, chance.randint(1, 2))
    if seed % 2:  # intransitive, with a transposition that its conjugates must join
        generators = [cycles(degree, (0, 1)), rotation(range(degree // 2 + 1), degree)]
    known = elements(generators, degree)
    assert order(generators, degree) == len(known)
    for p in itertools.permutations(range(degree)):
        assert contains(generators, p) == (p in known)
    reach = {frozenset(p[i] for p in known) for i in range(degree)}
    assert {frozenset(orbit) for orbit in orbits(generators, degree)} == reach


@pytest.mark.parametrize(
    "generators",
    [
        symmetric([0, 1, 2], 5) + symmetric([3, 4], 5),
        [rotation(range(5), 5)],
        [cycles(5, (0, 1)), cycles(5, (2, 3)), cycles(5, (0, 2), (1, 3))],
    ],
    ids=["S_3 x S_2", "C_5", "D_4"],
)
def test_samples_are_uniform(generators):
    known = elements(generators, 5)
    count = Counter(sample(generators, 5, 200 * len(known), seed=1))
    assert set(count) == known
    assert all(120 < k < 300 for k in count.values())


def test_the_stabilizer_chain_gives_each_element_once():
    generators = [rotation(range(6), 6), cycles(6, (0, 3))]
    chain = stabilizer_chain(generators, 6)
    products = [tuple(range(6))]
    for _, transversal in chain:
        products = [compose(p, u) for p in products for u in transversal.values()]
    assert len(products) == len(set(products))
    assert set(products) == elements(generators, 6)


def test_symmetric_groups_of_many_points_are_fast():
    assert order(symmetric(range(128), 128), 128) == math.factorial(128)
    swaps = [cycles(128, (2 * i, 2 * i + 1)) for i in range(64)]
    swaps += [cycles(128, (i, i + 2), (i + 1, i + 3)) for i in range(0, 126, 2)]
    assert order(swaps, 128) == 2**64 * math.factorial(64)
    assert name(swaps, 128) == "S_2 wr S_64"


def test_generators_must_be_permutations():
    with pytest.raises(ValueError, match=r"generators\[1\] must be a permutation of 0 .. 2"):
        order([(0, 1, 2), (0, 0, 2)], 3)


def brute_force(vertices, pairs):
    n = len(vertices)
    return {
        p
        for p in itertools.permutations(range(n))
        if all(vertices[p[i]] == vertices[i] for i in range(n))
        and all(pairs[p[i], p[j]] == pairs[i, j] for i in range(n) for j in range(n))
    }


@pytest.mark.parametrize("seed", by_default(range(40), range(16)))
def test_automorphisms_of_colorings_agree_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    n, colors = int(rng.integers(1, 7)), int(rng.integers(1, 6))
    pairs = rng.integers(0, colors, (n, n))
    if seed % 4:  # few random colorings have any automorphism: make some symmetric
        generators = [tuple(rng.permutation(n))]
        for p in elements(generators, n):
            pairs = np.minimum(pairs, pairs[np.ix_(p, p)])
    vertices = rng.integers(0, 2, n) if seed % 4 == 1 else np.zeros(n, dtype=int)
    found = automorphisms_of_coloring(vertices, pairs)
    assert elements(found, n) == brute_force(vertices, pairs)


def test_refinement_ends_at_a_fixed_point():
    path = nx.to_numpy_array(nx.path_graph(6)).astype(int)
    assert len(set(refined(np.array([0, 0, 0, 0, 0, 1]), path))) == 6
    assert len(set(refined(np.zeros(6, dtype=int), path))) == 3


def test_many_colors_in_both_directions_are_fast():
    i = np.arange(96)
    shuffled = np.random.default_rng(0).permutation(96)
    found = automorphisms_of_coloring(np.zeros(96), shuffled[(i[:, None] - i) % 96])
    assert name(found, 96) == "C_96"


@pytest.mark.parametrize("seed", by_default(range(30), range(12)))
def test_automorphisms_of_graphs_with_parallel_and_colored_edges(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 6))
    edges = rng.integers(0, n, (2, int(rng.integers(1, 7))))
    attr = None if seed % 2 else torch.tensor(rng.integers(0, 2, (edges.shape[1], 2)))
    types = rng.integers(0, 2, edges.shape[1]) if seed % 5 == 0 else None
    graph = Edges(torch.tensor(edges), n, edge_attr=attr, edge_type=types)
    colors = rng.integers(0, 2, n) if seed % 3 == 0 else np.zeros(n)
    rows = [()] * edges.shape[1] if attr is None else [tuple(row) for row in attr.tolist()]
    if types is not None:
        rows = [(*row, int(kind)) for row, kind in zip(rows, types, strict=True)]
    pairs = np.empty((n, n), dtype=object)
    for i, j in np.ndindex(n, n):
        here = zip(edges.T.tolist(), rows, strict=True)
        pairs[i, j] = sorted(row for edge, row in here if edge == [i, j])
    found = automorphisms(graph, torch.tensor(colors))
    assert elements(found, n) == brute_force(colors, pairs)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (Full(7), "S_7"),
        (Causal(7), "trivial"),
        (Cycle(32, 1), "D_32"),
        (Grid(3, 3), "D_4"),
        (Disjoint([Full(3), Full(4)]), "S_3 x S_4"),
        (Disjoint([Full(3), Full(3)]), "S_3 wr S_2"),
        (from_networkx(nx.petersen_graph()), "S_5"),
        (from_networkx(nx.hypercube_graph(3)), "S_4 x S_2"),
        (from_networkx(nx.octahedral_graph()), "S_2 wr S_3"),
        (from_networkx(nx.dodecahedral_graph()), "A_5 x S_2"),
        (from_networkx(nx.heawood_graph()), "group of order 336"),
        (from_networkx(nx.frucht_graph()), "trivial"),
        (from_networkx(nx.circulant_graph(11, [1, 3])), "D_11"),
        (from_networkx(nx.balanced_tree(3, 2)), "S_3 wr S_3"),
        (from_networkx(nx.cycle_graph(32, create_using=nx.DiGraph)), "C_32"),
        (from_networkx(nx.karate_club_graph()), "S_2 x S_5 x S_2"),
        (from_networkx(nx.empty_graph(0)), "trivial"),
    ],
    ids=str,
)
def test_automorphism_groups_of_known_graphs(graph, expected):
    assert name(automorphisms(graph), graph.num_targets) == expected


def test_positions_are_used_as_colors():
    pos = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 2.0], [1.0, 1.0]])
    assert automorphisms(Full(4), pos) == [(1, 0, 2, 3)]


def test_errors_of_automorphisms():
    with pytest.raises(TypeError, match="graph must be a TokenGraph, got Graph"):
        automorphisms(nx.petersen_graph())
    with pytest.raises(ValueError, match="graph must connect tokens of one set"):
        automorphisms(Full(2, 3))
    with pytest.raises(ValueError, match="vertex_colors must hold one for each of 3 tokens"):
        automorphisms(Full(3), [0, 1])
    with pytest.raises(ValueError, match=r"vertex_colors must have shape \(N,\) or \(N, P\)"):
        automorphisms(Full(3), torch.zeros(3, 1, 1))
    with pytest.raises(ValueError, match=r"must have shapes \(N,\) and \(N, N\)"):
        automorphisms_of_coloring(np.zeros(3), np.zeros((2, 2)))


S3, D4 = symmetric(range(3), 3), [rotation(range(4), 4), cycles(4, (0, 2))]
QUATERNIONS = [cycles(8, (0, 1, 2, 3), (4, 5, 6, 7)), cycles(8, (0, 4, 2, 6), (1, 7, 3, 5))]
CENTRAL = cycles(8, (0, 2), (1, 3), (4, 6), (5, 7))
SEMI = tuple(3 * i % 8 for i in range(8))
SL23 = [*QUATERNIONS, cycles(8, (1, 4, 5), (3, 6, 7))]
DICYCLIC = [cycles(7, (0, 1, 2)), cycles(7, (1, 2), (3, 4, 5, 6))]
FANO = [rotation(range(7), 7), cycles(7, (1, 2), (3, 6))]
PROJECTIVE = [rotation(range(5), 6), cycles(6, (1, 2, 4, 3)), cycles(6, (0, 5), (2, 3))]
BLOCKS = cycles(8, (0, 2, 4, 6), (1, 3, 5, 7))
BOTH = [p + tuple(i + 3 for i in q) for p, q in [(S3[0], S3[0]), (S3[1], S3[1])]]
SAME_SIGN = [*BOTH, cycles(6, (0, 1, 2))]

NAMES = {
    "no generators": ([], 4, "trivial"),
    "C_6 on 6 points": ([rotation(range(6), 6)], 6, "C_6"),
    "S_3 on itself": (*regular(S3, 3), "S_3"),
    "the triangle": ([rotation(range(3), 3), cycles(3, (0, 1))], 3, "S_3"),
    "the hexagon": ([rotation(range(6), 6), cycles(6, (1, 5), (2, 4))], 6, "D_6"),
    "the square": (D4, 4, "D_4"),
    "D_4 on itself": (*regular(D4, 4), "D_4"),
    "D_5 on itself": (*regular([rotation(range(5), 5), cycles(5, (1, 4), (2, 3))], 5), "D_5"),
    "three and two points": ([cycles(5, (0, 1, 2)), cycles(5, (3, 4))], 5, "C_3 x S_2"),
    "one generator of both": ([cycles(5, (0, 1, 2), (3, 4))], 5, "C_3 x S_2"),
    "Klein on 4 points": ([cycles(4, (0, 1), (2, 3)), cycles(4, (0, 2), (1, 3))], 4, "S_2 x S_2"),
    "two pairs": ([cycles(4, (0, 1)), cycles(4, (2, 3))], 4, "S_2 x S_2"),
    "two pairs at once": ([cycles(4, (0, 1), (2, 3))], 4, "S_2"),
    "C_4 on 4 points": ([rotation(range(4), 4)], 4, "C_4"),
    "C_4 on 4 and 2 points": ([cycles(6, (0, 1, 2, 3), (4, 5))], 6, "C_4"),
    "C_12 on 4 and 6 points": ([cycles(10, (0, 1, 2, 3), tuple(range(4, 10)))], 10, "C_12"),
    "A_4": ([cycles(4, (0, 1, 2)), cycles(4, (1, 2, 3))], 4, "A_4"),
    "A_4 on itself": (*regular([cycles(4, (0, 1, 2)), cycles(4, (1, 2, 3))], 4), "A_4"),
    "A_3": ([cycles(3, (0, 1, 2))], 3, "C_3"),
    "S_4 on itself": (*regular(symmetric(range(4), 4), 4), "S_4"),
    "S_5 on 6 points": (PROJECTIVE, 6, "S_5"),
    "quaternions": (QUATERNIONS, 8, "group of order 8"),
    "SL(2, 3), no S_4": (SL23, 8, "group of order 24"),
    "dicyclic, no D_6": (DICYCLIC, 7, "group of order 12"),
    "affine, no D_10": ([rotation(range(5), 5), cycles(5, (1, 2, 4, 3))], 5, "group of order 20"),
    "quaternions, first what commutes": ([CENTRAL, *QUATERNIONS], 8, "group of order 8"),
    "semidihedral, no D_8": ([rotation(range(8), 8), SEMI], 8, "group of order 16"),
    "C_4 x S_2 on itself": (*regular([(1, 2, 3, 0, 4, 5), (0, 1, 2, 3, 5, 4)], 6), "C_4 x S_2"),
    "C_12 x S_2 on itself": (
        *regular([(1, 2, 3, 0, *range(4, 9)), (0, 1, 2, 3, 5, 6, 4, 8, 7)], 9), "C_12 x S_2",
    ),
    "Fano plane": (FANO, 7, "group of order 168"),
    "S_3 wr S_2": ([*symmetric(range(3), 6), cycles(6, (0, 3), (1, 4), (2, 5))], 6, "S_3 wr S_2"),
    "S_3 x S_3": ([*symmetric(range(3), 6), *symmetric(range(3, 6), 6)], 6, "S_3 x S_3"),
    "S_3 on both": (BOTH, 6, "S_3"),
    "same sign on both, no product": (SAME_SIGN, 6, "group of order 18"),
    "S_2 wr C_4": ([cycles(8, (0, 1)), BLOCKS], 8, "S_2 wr C_4"),
    "half of S_2 wr C_4": ([cycles(8, (0, 1), (2, 3)), BLOCKS], 8, "group of order 32"),
    "C_4 wr S_3": (
        [rotation(range(4), 12), cycles(12, *((i, i + 4) for i in range(4))),
         cycles(12, *((i, i + 4, i + 8) for i in range(4)))], 12, "C_4 wr S_3",
    ),
    "Klein wr S_2": (
        [cycles(8, (0, 1), (2, 3)), cycles(8, (0, 2), (1, 3)),
         cycles(8, *((i, i + 4) for i in range(4)))], 8, "(S_2 x S_2) wr S_2",
    ),
    "a wreath product beside a pair": (
        [*symmetric(range(3), 8), cycles(8, (0, 3), (1, 4), (2, 5)), cycles(8, (6, 7))], 8,
        "(S_3 wr S_2) x S_2",
    ),
    "a nameless factor": (
        [rotation(range(5), 7), cycles(7, (1, 2, 4, 3)), cycles(7, (5, 6))], 7,
        "(group of order 20) x S_2",
    ),
    "five pairs": ([cycles(10, (i, i + 1)) for i in range(0, 10, 2)], 10, "S_2^5"),
}  # fmt: skip


@pytest.mark.parametrize(("generators", "degree", "expected"), NAMES.values(), ids=NAMES)
def test_names(generators, degree, expected):
    assert name(generators, degree) == expected


def test_a_group_of_blocks_in_another_action_is_no_wreath_factor():
    top, degree = regular(S3, 3)  # S_3 on 6 blocks: S_2^6, not the S_2^3 of 'S_2 wr S_3'
    doubled = [tuple(2 * i + k for i in p for k in (0, 1)) for p in top]
    generators = [cycles(2 * degree, (0, 1)), *doubled]
    assert order(generators, 2 * degree) == 2**6 * 6
    assert name(generators, 2 * degree) == "group of order 384"


def side_by_side(left, m, right, n):
    return [(*p, *range(m, m + n)) for p in left] + [
        (*range(m), *(m + i for i in p)) for p in right
    ], m + n


def wreath(left, m, right, n):
    below = [(*p, *range(m, m * n)) for p in left]
    above = [tuple(m * k + i for k in p for i in range(m)) for p in right]
    return below + above, m * n


def called(text):
    """A group of that name, by its generators."""
    text = text.strip()
    for mark, combine in ((" x ", side_by_side), (" wr ", wreath)):
        depth = 0
        for k in range(len(text)):
            depth += {"(": 1, ")": -1}.get(text[k], 0)
            if depth == 0 and text.startswith(mark, k):
                return combine(*called(text[:k]), *called(text[k + len(mark) :]))
    if text.startswith("("):
        return called(text[1:-1])
    if text == "trivial":
        return [], 1
    letter, n, power = re.fullmatch(r"([SACD])_(\d+)(?:\^(\d+))?", text).groups()
    n = int(n)
    basic = {
        "S": symmetric(range(n), n),
        "A": [cycles(n, (0, 1, i)) for i in range(2, n)],
        "C": [rotation(range(n), n)],
        "D": [rotation(range(n), n), tuple(-i % n for i in range(n))],
    }[letter]
    result = [], 0
    for _ in range(int(power or 1)):
        result = side_by_side(*result, basic, n)
    return result


def element_order(permutation):
    """The least power that is the identity; sympy takes some fifty times as long."""
    power, count = permutation, 1
    while any(image != point for point, image in enumerate(power)):
        power, count = compose(power, permutation), count + 1
    return count


def fingerprint(generators, degree):
    """How many elements of each order, and how many pairs commute."""
    group = list(elements(generators, degree))
    orders = Counter(element_order(p) for p in group)
    some = group[: 4096 // len(group) + 1] if len(group) > 200 else group
    commuting = sum(compose(p, q) == compose(q, p) for p in some for q in group)
    return sorted(orders.items()), commuting if some is group else None


@pytest.mark.parametrize("seed", by_default(range(60), range(24)))
def test_names_of_random_groups_are_true(seed):
    chance = random.Random(seed)
    degree = chance.randint(3, 7)
    generators = random_group(chance, degree, 2)
    if seed % 2:  # powers make small groups, of which there are more kinds
        generators = [compose(p, p) for p in random_group(chance, degree, 3)]
    if seed % 3 == 0:
        generators = [compose(compose(p, p), p) for p in generators]
    found = name(generators, degree)
    size = order(generators, degree)
    if "group of order" in found:
        assert found == f"group of order {size:,}" or " x " in found
        return
    other, points = called(found)
    assert order(other, points) == size
    assert fingerprint(other, points) == fingerprint(generators, degree)
