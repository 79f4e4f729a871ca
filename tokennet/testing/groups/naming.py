"""`name`: the name of a permutation group, where order and structure leave no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import factorial
from typing import NamedTuple

import numpy as np

from tokennet.testing.groups.factors import abelian_factors, listed, symmetric_factor
from tokennet.testing.groups.permutations import (
    Generators,
    Permutation,
    blocks_of,
    checked,
    contains,
    invariant_partition,
    merged,
    on_blocks,
    orbits,
    order,
    sympy_group,
)

LARGEST_LISTED = 5040
"""Order up to which a group's elements are listed to find out what it is."""

_MOST_PARTITIONS = 64


class _Named(NamedTuple):
    name: str
    natural: bool
    """Whether the name also says how the group acts on its points."""


def name(generators: Generators, degree: int) -> str:
    """The name of a group up to isomorphism, or its order.

    - 'trivial', 'S_n' (2 points: 'S_2'), 'A_n', 'C_n', 'D_n' of order 2 n;
    - 'S_8 x S_24': factors that move different tokens, by their first tokens, or factors
      of a group whose elements can be listed, as 'S_4 x S_2' for the cube;
    - 'S_4 wr S_8': wreath product, the right group permuting copies of the left one
      (Kaluzhnin and Krasner, 1951: a transitive group with blocks is contained in one,
      so that it is one if the order agrees);
    - otherwise 'group of order 168'.

    A name is given only if order and structure leave no other; isomorphic names are the
    same group ('D_4' is 'S_2 wr S_2').

    Raises:
        ValueError: a generator is no permutation of `degree` points.

    >>> name([(1, 2, 3, 0)], 4), name([(1, 0, 3, 2), (2, 3, 0, 1)], 4)
    ('C_4', 'S_2 x S_2')
    >>> name([(1, 0, 2, 3, 4), (0, 1, 3, 4, 2)], 5)
    'S_2 x C_3'
    """
    factors = [
        _indecomposable(part, len(part[0])).name
        for part in _disjoint_factors(checked(generators, degree), degree)
    ]
    return _product(factors)


def _product(factors: Sequence[str]) -> str:
    """'A x B', and 'A^5 x B' where there are many."""
    if len(factors) < 2:
        return factors[0] if factors else "trivial"
    factors = [f"({f})" if " wr " in f or f.startswith("group of") else f for f in factors]
    if len(factors) > 4:
        count = {factor: factors.count(factor) for factor in factors}
        factors = [factor if k == 1 else f"{factor}^{k}" for factor, k in count.items()]
    return " x ".join(factors)


def _disjoint_factors(
    generators: tuple[Permutation, ...], degree: int
) -> Iterator[list[Permutation]]:
    """The finest direct factors that move different points, each on its own points.

    Orbit by orbit (Chang and Jefferson, 2022, arXiv 2004.11618): a factor of the group on
    the orbits so far remains a factor unless some of its elements move the new orbit too.
    """
    parts: list[tuple[int, ...]] = []
    so_far: tuple[int, ...] = ()
    for orbit in orbits(generators, degree):
        if len(orbit) == 1:
            continue
        so_far = tuple(sorted((*so_far, *orbit)))
        joint = restrict(generators, so_far)
        linked, free = list(orbit), []
        for part in parts:
            alone = [tuple(k if i in part else i for i, k in enumerate(p)) for p in generators]
            if all(contains(joint, p) for p in restrict(alone, so_far)):
                free.append(part)
            else:
                linked += part
        parts = [*free, tuple(sorted(linked))]
    yield from (restrict(generators, part) for part in sorted(parts))


def restrict(generators: Generators, points: Sequence[int]) -> list[Permutation]:
    """The group on points that it maps to each other, numbered 0, 1, ... in their order."""
    number = {point: k for k, point in enumerate(points)}
    result = [tuple(number[p[point]] for point in points) for p in generators]
    return list(checked(result, len(points)))


def _indecomposable(generators: list[Permutation], degree: int) -> _Named:
    size, parts = order(generators, degree), orbits(generators, degree)
    if len(parts) == 1:
        return _transitive(generators, degree, size)
    for part in parts:
        faithful = restrict(generators, part)
        if order(faithful, len(part)) == size:
            return _Named(_transitive(faithful, len(part), size).name, False)
    return _Named(_abstract(generators, size), False)


def _transitive(generators: list[Permutation], degree: int, size: int) -> _Named:
    if size == factorial(degree):
        return _Named(f"S_{degree}", True)
    group = sympy_group(tuple(generators), degree)
    if size == degree and group.is_cyclic:
        return _Named(f"C_{degree}", True)
    if 2 * size == factorial(degree):  # the even ones: the sign is the only map onto S_2
        return _Named(f"A_{degree}", True)
    if size == 2 * degree and group.is_dihedral:  # what fixes a point is a reflection
        return _Named(f"D_{degree}", True)
    return _wreath(generators, degree, size) or _Named(_abstract(generators, size), False)


def _wreath(generators: list[Permutation], degree: int, size: int) -> _Named | None:
    for blocks in _block_systems(generators, degree):
        top = list(checked([on_blocks(p, blocks) for p in generators], len(blocks)))
        bottom, width = _block_stabilizer(generators, blocks), len(blocks[0])
        top_size = order(top, len(blocks))
        if size != order(bottom, width) ** len(blocks) * top_size:
            continue
        above = _transitive(top, len(blocks), top_size)
        if above.natural:
            below = _indecomposable(bottom, width)
            left = f"({below.name})" if " " in below.name else below.name
            return _Named(f"{left} wr {above.name}", below.natural)
    return None


def _block_systems(generators: list[Permutation], degree: int) -> list[list[tuple[int, ...]]]:
    """Partitions that a transitive group maps to themselves, those with small blocks first."""
    found: dict[tuple[int, ...], np.ndarray] = {}
    for j in range(1, degree):
        labels = invariant_partition(generators, degree, [(0, j)])
        found.setdefault(tuple(labels.tolist()), labels)
    queue = list(found.values())
    while queue and len(found) < _MOST_PARTITIONS:
        labels = queue.pop()
        for other in list(found.values()):
            join = merged(labels, enumerate(other.tolist()))
            if tuple(join.tolist()) not in found:
                found[tuple(join.tolist())] = join
                queue.append(join)
    systems = [blocks_of(labels) for labels in found.values() if labels.any()]
    return sorted(systems, key=len, reverse=True)


def _block_stabilizer(
    generators: list[Permutation], blocks: list[tuple[int, ...]]
) -> list[Permutation]:
    """The group on the first block of those elements that keep it (lemma of Schreier)."""
    number = {i: k for k, block in enumerate(blocks) for i in block}
    reached = {0: blocks[0]}  # block: where an element that carries the first there puts it
    queue, found = [0], set()
    for current in queue:
        for p in generators:
            image = tuple(p[i] for i in reached[current])
            target = number[image[0]]
            if target not in reached:
                reached[target] = image
                queue.append(target)
            found.add(tuple(reached[target].index(i) for i in image))
    return list(checked(sorted(found), len(blocks[0])))


def _abstract(generators: list[Permutation], size: int) -> str:
    """A name from the elements, whatever points they act on."""
    if size <= LARGEST_LISTED:
        degree = len(generators[0])
        group = sympy_group(tuple(generators), degree)
        if group.is_abelian:
            orders = abelian_factors(generators, degree)
            return _product([f"C_{k}" if k > 2 else "S_2" for k in orders])
        if size > 6 and group.is_dihedral:
            return f"D_{size // 2}"
        if split := symmetric_factor(listed(generators, degree)):
            rest = name(split.rest, degree)
            return split.name if rest == "trivial" else _product([split.name, rest])
    return f"group of order {size:,}"
