"""Permutation groups given by generators: orbits, order, membership, random elements.

A permutation p of n tokens is a tuple of n integers and acts on a tensor as `x[p]`, that
is `(P x)_i = x[p[i]]`. A group is a list of generators; the empty one is trivial.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Sequence
from math import factorial, prod
from types import ModuleType
from typing import Any

import numpy as np

from tokennet.checks import require

Permutation = tuple[int, ...]
Generators = Sequence[Sequence[int]]
Chain = list[tuple[int, dict[int, Permutation]]]


def compose(p: Sequence[int], q: Sequence[int]) -> Permutation:
    """The permutation r with `x[p][q] = x[r]`, r[i] = p[q[i]].

    >>> compose((1, 2, 0), (1, 0, 2))
    (2, 1, 0)
    """
    return tuple(p[i] for i in q)


def transposition(i: int, j: int, degree: int) -> Permutation:
    """The permutation that exchanges i and j."""
    p = list(range(degree))
    p[i], p[j] = j, i
    return tuple(p)


def orbits(generators: Generators, degree: int) -> list[tuple[int, ...]]:
    """The sets of points that the group carries into each other, by their first points.

    >>> orbits([(1, 0, 2, 4, 3)], 5)
    [(0, 1), (2,), (3, 4)]
    """
    generators = checked(generators, degree)
    pairs = ((i, image) for p in generators for i, image in enumerate(p))
    return blocks_of(merged(np.arange(degree), pairs))


def order(generators: Generators, degree: int) -> int:
    """The number of elements of the group.

    Transpositions in the group generate a product T of symmetric groups, a normal
    subgroup that contains every element which fixes each of its orbits as a set. So
    |G| = |T| |G on the orbits of T|. The rest is left to the algorithm of Schreier and
    Sims (Sims, 1970), which alone would take minutes for S_128.

    Raises:
        ValueError: a generator is no permutation of `degree` points.

    >>> order([(1, 0, 2, 3), (1, 2, 3, 0)], 4)
    24
    """
    generators = checked(generators, degree)
    blocks, quotient = _reduced(generators, degree)
    if len(blocks) == degree:
        return int(sympy_group(generators, degree).order())
    return prod(factorial(len(block)) for block in blocks) * order(quotient, len(blocks))


def contains(generators: Generators, p: Sequence[int]) -> bool:
    """Whether p is in the group.

    Raises:
        ValueError: a generator is no permutation of `len(p)` points, or p is none.

    >>> contains([(1, 2, 0)], (2, 0, 1)), contains([(1, 2, 0)], (1, 0, 2))
    (True, False)
    """
    degree = len(p)
    moved, generators = checked([p], degree), checked(generators, degree)
    if not moved:
        return True
    blocks, quotient = _reduced(generators, degree)
    if len(blocks) == degree:
        group = sympy_group(generators, degree)
        return bool(group.contains(_sympy().Permutation(list(moved[0]))))
    images = {tuple(sorted(p[i] for i in block)) for block in blocks}
    return images == set(blocks) and contains(quotient, on_blocks(p, blocks))


def sample(generators: Generators, degree: int, count: int = 1, seed: int = 0) -> list[Permutation]:
    """Independent elements of the group, uniformly at random.

    >>> sorted(set(sample([(1, 2, 0)], 3, count=20)))
    [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    """
    generators, chance = checked(generators, degree), random.Random(seed)
    return [_random_element(generators, degree, chance) for _ in range(count)]


def stabilizer_chain(generators: Generators, degree: int) -> Chain:
    """Base points b_1, b_2, ... and, of the group that fixes those before b_k, for each point
    of the orbit of b_k an element that carries b_k there.

    Every element of the group is u_1 u_2 ... with one u_k of each, in exactly one way.
    """
    group = sympy_group(checked(generators, degree), degree)
    return [
        (base, {point: tuple(u.array_form) for point, u in transversal.items()})
        for base, transversal in zip(group.base, group.basic_transversals, strict=True)
    ]


@functools.lru_cache(maxsize=64)
def sympy_group(generators: tuple[Permutation, ...], degree: int) -> Any:
    """The `PermutationGroup` of sympy, which has the algorithm of Schreier and Sims."""
    permutations = generators or (tuple(range(degree)),)
    return _sympy().PermutationGroup([_sympy().Permutation(list(p)) for p in permutations])


def checked(generators: Generators, degree: int) -> tuple[Permutation, ...]:
    """The generators as tuples, without the identity."""
    everything = tuple(range(degree))
    result = []
    for number, p in enumerate(generators):
        as_tuple = tuple(int(i) for i in p)
        if tuple(sorted(as_tuple)) != everything:
            raise ValueError(
                f"generators[{number}] must be a permutation of 0 .. {degree - 1}, got {as_tuple}"
            )
        if as_tuple != everything:
            result.append(as_tuple)
    return tuple(dict.fromkeys(result))


def merged(labels: np.ndarray, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Put the parts of a partition together that the pairs connect.

    A partition is an array that gives each point the first point of its part.
    """
    parent = labels.tolist()

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j in pairs:
        low, high = sorted((find(i), find(j)))
        parent[high] = low
    return np.array([find(i) for i in range(len(parent))], dtype=np.int64)


def invariant_partition(
    generators: Generators, degree: int, pairs: Iterable[tuple[int, int]]
) -> np.ndarray:
    """The finest partition that the group maps to itself and that connects the pairs."""
    labels = merged(np.arange(degree), pairs)
    moves = np.array([range(degree), *generators])  # (generators + 1, degree)
    while True:
        images = labels[moves]  # part of g(i)
        of_roots = images[:, labels]  # part of g(first point of the part of i)
        apart = images != of_roots
        if not apart.any():
            return labels
        together = np.unique(np.stack([images[apart], of_roots[apart]], 1), axis=0)
        labels = merged(labels, together.tolist())


def blocks_of(labels: np.ndarray) -> list[tuple[int, ...]]:
    """The parts of a partition, by their first points."""
    parts: dict[int, list[int]] = {}
    for i, label in enumerate(labels.tolist()):
        parts.setdefault(label, []).append(i)
    return [tuple(part) for part in parts.values()]


def on_blocks(p: Sequence[int], blocks: Sequence[tuple[int, ...]]) -> Permutation:
    """How p permutes blocks that it maps to each other."""
    number = {i: k for k, block in enumerate(blocks) for i in block}
    return tuple(number[p[block[0]]] for block in blocks)


@functools.lru_cache(maxsize=64)
def _reduced(
    generators: tuple[Permutation, ...], degree: int
) -> tuple[list[tuple[int, ...]], tuple[Permutation, ...]]:
    """Orbits of the transpositions that generators have as powers, and the group on these."""
    swaps = [swap for p in generators if (swap := _transposition_in(p))]
    if not swaps:
        return [(i,) for i in range(degree)], generators
    blocks = blocks_of(invariant_partition(generators, degree, swaps))
    quotient = checked([on_blocks(p, blocks) for p in generators], len(blocks))
    return blocks, quotient


def _transposition_in(p: Permutation) -> tuple[int, int] | None:
    """The pair that some odd power of p exchanges, all other points fixed."""
    lengths = _sympy().Permutation(list(p)).cycle_structure  # length: number of cycles
    if {length: count for length, count in lengths.items() if length % 2 == 0} != {2: 1}:
        return None
    return next((i, p[i]) for i in range(len(p)) if p[i] != i and p[p[i]] == i)


def _sympy() -> ModuleType:
    return require("sympy.combinatorics", "groups")


def _random_element(
    generators: tuple[Permutation, ...], degree: int, chance: random.Random
) -> Permutation:
    blocks, quotient = _reduced(generators, degree)
    result = list(range(degree))
    if len(blocks) == degree:
        for _, transversal in stabilizer_chain(generators, degree):
            result = list(compose(result, chance.choice(list(transversal.values()))))
        return tuple(result)
    images = _random_element(quotient, len(blocks), chance)
    for block, image in zip(blocks, images, strict=True):
        for i, to in zip(block, chance.sample(blocks[image], len(block)), strict=True):
            result[i] = to
    return tuple(result)
