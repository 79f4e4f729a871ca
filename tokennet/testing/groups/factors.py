"""Direct factors of a small group, found from its elements; needed to name a group."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import factorial, prod
from typing import NamedTuple

import numpy as np

from tokennet.testing.groups.permutations import Generators, Permutation, compose, sympy_group

_SEARCH_STEPS = 1000


def listed(generators: Generators, degree: int) -> list[Permutation]:
    """All elements of a group, the identity first."""
    elements = {tuple(range(degree)): None}
    queue = list(elements)
    for element in queue:
        for p in generators:
            following = compose(element, p)
            if following not in elements:
                elements[following] = None
                queue.append(following)
    return queue


def abelian_factors(generators: Generators, degree: int) -> list[int]:
    """Orders a, b, ... of an abelian group C_a x C_b x ..., each dividing the one before.

    >>> abelian_factors([(1, 0, 2, 3, 4), (0, 1, 3, 4, 2)], 5)
    [6]
    """
    powers: dict[int, list[int]] = {}
    for q in sorted(sympy_group(tuple(generators), degree).abelian_invariants(), reverse=True):
        prime = next(p for p in range(2, q + 1) if q % p == 0)
        powers.setdefault(prime, []).append(q)
    return [prod(parts) for parts in itertools.zip_longest(*powers.values(), fillvalue=1)]


class Factor(NamedTuple):
    name: str
    """'S_n', n > 2, or 'A_4', 'A_5'."""
    rest: list[Permutation]
    """Generators of the other factor."""


def symmetric_factor(elements: list[Permutation]) -> Factor | None:
    """A subgroup S = S_n or A_n whose centralizer C makes the group S x C.

    S_n (n > 2) and A_4, A_5 have no center: with |S| |C(S)| = |G| the group is S x C(S).
    The subgroup is found by relations that define it (Coxeter's for S_n, those of the
    triangle groups for A_4 and A_5). No proper quotient has elements and products of
    exactly these orders, so whatever generators are found generate the group itself.
    """
    array = np.array(elements)
    for label, count, tuples in _candidates(array):
        for subgroup in tuples:
            commuting = array
            for s in subgroup:
                commuting = commuting[(commuting[:, s] == s[commuting]).all(1)]
            if len(commuting) * count == len(array):
                return Factor(label, _few_generators(commuting.tolist()))
    return None


def _candidates(elements: np.ndarray) -> Iterator[tuple[str, int, list[list[np.ndarray]]]]:
    """Name and order of a possible factor, and tuples that may generate it, the largest first."""
    size = len(elements)
    for n in range(7, 2, -1):
        if size % factorial(n) == 0:
            yield f"S_{n}", factorial(n), _coxeter_tuples(elements, n)
        if n in (4, 5) and size % (factorial(n) // 2) == 0:
            yield f"A_{n}", factorial(n) // 2, _triangle_pairs(elements, 2 * n - 5)


def _coxeter_tuples(elements: np.ndarray, n: int) -> list[list[np.ndarray]]:
    """Involutions s_1 .. s_{n-1}: neighbors have a product of order 3, others commute."""
    involutions = elements[_orders(elements) == 2]

    def following(chosen: list[np.ndarray]) -> np.ndarray:
        fits = involutions[_orders(chosen[-1][involutions]) == 3]
        for s in chosen[:-1]:
            fits = fits[_orders(s[fits]) == 2]
        return fits

    tuples = [[s] for s in _up_to_conjugation(involutions, elements)]
    for _ in range(n - 2):
        longer = ([*chosen, s] for chosen in tuples for s in following(chosen))
        tuples = list(itertools.islice(longer, _SEARCH_STEPS))
    return tuples


def _triangle_pairs(elements: np.ndarray, k: int) -> list[list[np.ndarray]]:
    """Pairs a, b with a^2 = b^3 = (a b)^k = 1: A_4 for k = 3, A_5 for k = 5."""
    orders = _orders(elements)
    involutions, threes = elements[orders == 2], elements[orders == 3]
    return [
        [a, b]
        for a in _up_to_conjugation(involutions, elements)
        for b in threes[_orders(a[threes]) == k][:_SEARCH_STEPS]
    ]


def _orders(elements: np.ndarray) -> np.ndarray:
    """Order of each permutation (M, n), 0 where it is above 5."""
    power, result = elements, np.zeros(len(elements), dtype=np.int64)
    for k in range(1, 6):
        is_one = (power == np.arange(elements.shape[1])).all(1)
        result[is_one & (result == 0)] = k
        power = np.take_along_axis(elements, power, axis=1)
    return result


def _up_to_conjugation(permutations: np.ndarray, elements: np.ndarray) -> list[np.ndarray]:
    """One permutation of each conjugacy class."""
    found, seen = [], set()
    for s in permutations:
        if s.tobytes() not in seen:
            found.append(s)
            conjugates = np.take_along_axis(elements, s[np.argsort(elements, 1)], axis=1)
            seen |= {row.tobytes() for row in conjugates}
    return found


def _few_generators(elements: list[list[int]]) -> list[Permutation]:
    chosen: list[Permutation] = []
    known: set[Permutation] = set()
    for element in map(tuple, elements):
        if element not in known:
            chosen.append(element)
            known = set(listed(chosen, len(element)))
    return chosen
