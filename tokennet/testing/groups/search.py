"""`Search`: closes in on a model's group, between verified and not excluded permutations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokennet.testing.groups.coloring import Coloring, one_token, two_tokens, uniform
from tokennet.testing.groups.graph_automorphisms import automorphisms_of_coloring
from tokennet.testing.groups.permutations import (
    Chain,
    Permutation,
    compose,
    contains,
    orbits,
    order,
    sample,
    stabilizer_chain,
    transposition,
)
from tokennet.testing.groups.probe import Answer, Probe

_MAX_SAMPLES = 300
_CONFIRMATIONS = 64
_SILENT_CHECKS = 8


class Search:
    """Generators of the verified group (`lower`) and of one that contains the group (`upper`)."""

    def __init__(self, probe: Probe, budget: int, seed: int) -> None:
        n = probe.num_tokens
        least = probe.evaluations + 6 * n + 9 + 2 * (_SILENT_CHECKS + _CONFIRMATIONS)
        if budget < least:
            raise ValueError(f"budget must be at least {least} for {n} tokens, got {budget}")
        self.probe, self.budget, self.seed = probe, budget, seed
        self.lower: list[Permutation] = []
        self.upper: list[Permutation] = []
        self.refuted: dict[Permutation, None] = {}
        self.exhausted = False
        self.coloring = one_token(probe)
        # The colors are wrong where f is another function for equal tokens: it then commutes
        # with a transposition of neighbors that they exclude.
        swaps = [transposition(i, i + 1, n) for i in range(n - 1)]
        self.refinable = not any(self.holds(p) for p in swaps if not _keeps(self.coloring, p))
        if not self.refinable:
            self.coloring = uniform(n)

    @property
    def left(self) -> int:
        """Evaluations left for the search, without those reserved for confirmation."""
        kept = self.probe.num_tokens + 2 * (_SILENT_CHECKS + _CONFIRMATIONS)
        return self.budget - self.probe.evaluations - kept

    @property
    def index(self) -> int:
        """Cosets of the verified group in the group that is not excluded."""
        n = self.probe.num_tokens
        return order(self.upper, n) // order(self.lower, n)

    def run(self) -> bool:
        """Search; returns whether every permutation is either verified or excluded.

        A permutation that a few random inputs do not refute may still not hold, if f depends
        on few tokens at a time, the largest for instance. Then more inputs are drawn.
        """
        while True:
            exact = self._search()
            if self._is_confirmed():
                return exact
            self.lower = []
            if self.left < 4 * len(self.probe.examples):
                return False
            inputs = [self.probe.random() for _ in self.probe.examples]
            self.probe.examples += [(z, self.probe.answer(z)) for z in inputs]

    def _search(self) -> bool:
        n = self.probe.num_tokens
        self._bound()
        if self.index == 1:
            return True
        self._add_transpositions()
        if self.refinable and 3 * n * (n - 1) < min(self.left, self.index):
            self.coloring, self.refinable = self.coloring & two_tokens(self.probe), False
            self._bound()
        return self._search_cosets()

    def _is_confirmed(self) -> bool:
        """Whether random elements of the verified group hold on other random inputs."""
        if not self.lower:
            return True
        n, seed = self.probe.num_tokens, self.seed + self.probe.evaluations
        drawn = sample(self.lower, n, 2 * _CONFIRMATIONS, seed=seed)
        moving = [p for p in drawn if p != tuple(range(n))]
        for p in moving[:_CONFIRMATIONS]:
            z = self.probe.random()
            if not self._agrees(p, z, self.probe.answer(z)):
                return False
        return True

    def holds(self, p: Permutation) -> bool:
        """Whether f(P x) = P f(x) on random inputs; False also if the budget is used up."""
        examples = self.probe.examples
        if p in self.refuted:
            return False
        if self.left < len(examples):
            self.exhausted = True
            return False
        if all(self._agrees(p, z, answer) for z, answer in examples):
            return True
        self.refuted[p] = None
        return False

    def _agrees(self, p: Permutation, z: Tensor, answer: Answer) -> bool:
        moves = torch.tensor(p)
        expected = Answer(answer.rows[moves], answer.pooled)
        return self.probe.answer(z[moves.to(z.device)]).gap(expected) <= self.probe.resolution

    def silent(self) -> list[int]:
        """Tokens without influence on the outputs, neither orbit by orbit nor all together."""
        found: list[int] = []
        z, answer = self.probe.examples[0]
        for orbit in orbits(self.lower, self.probe.num_tokens):
            if self._is_same(z, answer, list(orbit)):
                found += orbit
        for _ in range(_SILENT_CHECKS if found else 0):
            z = self.probe.random()
            if not self._is_same(z, self.probe.answer(z), found):
                return []
        return sorted(found)

    def _is_same(self, z: Tensor, answer: Answer, tokens: list[int]) -> bool:
        """Whether other values of some tokens leave the outputs as they are."""
        changed = z.clone()
        while torch.equal(changed, z):
            changed[tokens] = self.probe.random(len(tokens))
        return self.probe.answer(changed).gap(answer) <= self.probe.resolution

    def _bound(self) -> None:
        self.upper = automorphisms_of_coloring(*self.coloring)
        verified = [p for p in self.upper if self.holds(p)]
        if len(verified) == len(self.upper):
            self.lower = verified
        else:
            self.lower += [p for p in verified if p not in self.lower]

    def _add_transpositions(self) -> None:
        """Try transpositions; exchangeable tokens form classes, so one token of each is tried."""
        n, failed = self.probe.num_tokens, 0
        classes: list[int] = []
        for j in range(n):
            for i in classes:
                p = transposition(i, j, n)
                if failed > 4 * n or not _keeps(self.coloring, p):
                    continue
                if self.holds(p):
                    self._add(p)
                    break
                failed += 1
            else:
                classes.append(j)

    def _add(self, p: Permutation) -> bool:
        if contains(self.lower, p):
            return False
        self.lower.append(p)
        return True

    def _search_cosets(self) -> bool:
        n = self.probe.num_tokens
        while self.index > 1:
            if self.index > self.left:  # too many cosets: random elements of the upper group
                count, seed = min(self.left, _MAX_SAMPLES), self.seed + self.probe.evaluations
                drawn = sample(self.upper, n, count, seed=seed)
                if not any(self.holds(p) and self._add(p) for p in drawn):
                    return False
            elif not self._try_cosets():
                return not self.exhausted
        return True

    def _try_cosets(self) -> bool:
        """Try one element of each coset; whether the verified group grew."""
        chain = stabilizer_chain(self.lower, self.probe.num_tokens)
        refuted = {_representative(p, chain) for p in self.refuted}
        queue = [_representative(range(self.probe.num_tokens), chain)]
        seen = set(queue)
        for coset in queue:
            for p in self.upper:
                other = _representative(compose(p, coset), chain)
                if other in seen:
                    continue
                seen.add(other)
                queue.append(other)
                if other not in refuted and self.holds(other):
                    return self._add(other)
        return False


def _representative(p: Sequence[int], chain: Chain) -> Permutation:
    """The element of the coset p K with the smallest images of the base of K."""
    smallest = tuple(p)
    for _, transversal in chain:
        point = min(transversal, key=smallest.__getitem__)
        smallest = compose(smallest, transversal[point])
    return smallest


def _keeps(coloring: Coloring, p: Permutation) -> bool:
    vertices, pairs = coloring
    moves = list(p)
    return bool((vertices[moves] == vertices).all() and (pairs[moves][:, moves] == pairs).all())
