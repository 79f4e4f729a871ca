"""Hypothesis strategies: graphs, tokens, permutations and ragged batches, for property tests.

Structure (sizes, edges, permutations) is drawn item by item, so that it shrinks. Values
come from a drawn seed, so that drawing large tensors costs no more than a seed.
"""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable, Sequence
from math import gcd

import torch
from hypothesis import find, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning, NoSuchExample
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from tokennet.graphs import (
    Causal,
    Cycle,
    Dilated,
    Edges,
    Full,
    Global,
    Grid,
    Offsets,
    Random,
    Self,
    TokenGraph,
    Window,
)
from tokennet.testing.engine.draws import SCALES, Draw, Draws
from tokennet.tokens import Tokens

Size = int | SearchStrategy[int]

TOKEN_KINDS = ("generic", "duplicates", "zeros", "large")
GRAPH_KINDS = ("symbolic", "listed", "symmetric")
_UP_TO_FIVE, _UP_TO_SIX, _UP_TO_TEN = st.integers(0, 5), st.integers(0, 6), st.integers(0, 10)
_SEEDS = st.integers(0, 2**32 - 1)
SHRINKS = 4
"""Draws that `ShrinkingDraws` makes to shrink one, in units of its count, at most."""
_LARGE = 2.0**12  # exact in every type; a normal value of it still fits into float16


@st.composite
def permutations(draw: st.DrawFn, n: int) -> Tensor:
    """Permutations of n tokens, (n,) int64; each of S_n can be drawn.

    Drawn as at most n - 1 transpositions, so that a failure shrinks to the identity or,
    where that passes, to the fewest transpositions that fail.

    >>> from hypothesis import find
    >>> sorted(find(permutations(5), lambda perm: perm.tolist() != [0, 1, 2, 3, 4]).tolist())
    [0, 1, 2, 3, 4]
    """
    perm = list(range(n))
    if n > 1:
        token = st.integers(0, n - 1)
        for i, j in draw(st.lists(st.tuples(token, token), max_size=n - 1)):
            perm[i], perm[j] = perm[j], perm[i]
    return torch.tensor(perm, dtype=torch.long)


@st.composite
def listed_graphs(draw: st.DrawFn, num_tokens: Size = _UP_TO_SIX, max_edges: int = 14) -> Edges:
    """Any list of edges: repeats, self-loops, isolated tokens, no edges or tokens at all.

    >>> from hypothesis import find
    >>> find(listed_graphs(), lambda graph: graph.has_multi_edges).has_multi_edges
    True
    """
    n = draw(_strategy(num_tokens))
    token = st.integers(0, n - 1) if n else st.nothing()
    pairs = draw(st.lists(st.tuples(token, token), max_size=max_edges if n else 0))
    return Edges(torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t(), n)


@st.composite
def symbolic_graphs(draw: st.DrawFn, num_tokens: Size = _UP_TO_SIX) -> TokenGraph:
    """Formulas, and combinations of up to three of them by `&`, `|`, `~`, `.T` and `relabel`.

    >>> from hypothesis import find
    >>> find(symbolic_graphs(3), lambda graph: not graph.dense().any()).num_edges
    0
    """
    return draw(_combined_formulas(draw(_strategy(num_tokens))))


@functools.lru_cache(maxsize=64)  # to make a strategy takes longer than to draw from it
def _combined_formulas(n: int) -> SearchStrategy[TokenGraph]:
    def combined(children: SearchStrategy[TokenGraph]) -> SearchStrategy[TokenGraph]:
        pairs = st.tuples(children, children)
        return st.one_of(
            pairs.map(lambda pair: pair[0] & pair[1]),
            pairs.map(lambda pair: pair[0] | pair[1]),
            children.map(lambda graph: ~graph),
            children.map(lambda graph: graph.T),
            st.tuples(children, permutations(n)).map(lambda pair: pair[0].relabel(pair[1])),
        )

    return st.recursive(_formulas(n), combined, max_leaves=3)


@functools.lru_cache(maxsize=64)
def _formulas(n: int) -> SearchStrategy[TokenGraph]:
    size = st.integers(0, n)
    divisors = [d for d in range(1, n + 1) if n % d == 0] or [1]
    sides: list[tuple[int, ...]] = [(n // d, d) for d in divisors]
    sides += [
        (n // d, d // e, e) for d in divisors for e in divisors if d % e == 0 and 1 < e < d < n
    ]
    return st.one_of(
        st.just(Full(n)),
        st.just(Causal(n)),
        st.just(Self(n)),
        size.map(lambda radius: Window(n, radius)),
        size.map(lambda radius: Cycle(n, radius)),
        size.map(lambda k: Global(n, k)),
        st.builds(
            lambda sizes, **options: Grid(*sizes, **options),
            st.sampled_from(sides), radius=st.integers(0, 2), periodic=st.booleans(),
            neighborhood=st.sampled_from(("box", "cross")),
        ),
        st.builds(Dilated, st.just(n), radius=size, dilation=st.integers(1, max(n, 1))),
        st.builds(
            Offsets, st.just(n), st.lists(st.integers(-n, n), max_size=4), periodic=st.booleans()
        ),
        st.builds(Random, st.just(n), k=st.integers(0, max(n - 1, 0)), seed=st.integers(0, 99)),
    )  # fmt: skip


@st.composite
def symmetric_graphs(draw: st.DrawFn, num_tokens: Size = _UP_TO_TEN) -> TokenGraph:
    """Undirected graphs whose automorphisms map every token to every other, with random indices.

    Message passing cannot distinguish the tokens of such a graph, so a model that does so
    depends on the index or on the order of edges.

    - circulant graphs: i - j is in a set of jumps, modulo n;
    - circular skip links, n >= 5: a cycle and the cycle of steps of length `skip`, coprime
      to n (Murphy et al., 2019, arXiv 1903.02541);
    - generalized Petersen graphs, even n >= 6: an outer cycle of k = n / 2 tokens, spokes,
      and inner steps of s, with s^2 = 1 or -1 modulo k (Frucht et al., 1971). s = 1 makes
      the prisms, n = 10 and s = 2 the Petersen graph.

    >>> from hypothesis import find
    >>> find(symmetric_graphs(6), lambda graph: graph.num_edges == 18)  # a prism, 3 neighbors each
    Edges(6): 6 tokens, 18 edges, density 0.5
    """
    n = draw(_strategy(num_tokens))
    both_ways = sorted({edge for i, j in draw(_symmetric(n)) for edge in ((i, j), (j, i))})
    graph = Edges(torch.tensor(both_ways, dtype=torch.long).reshape(-1, 2).t(), n)
    return graph.relabel(draw(permutations(n)))


@functools.lru_cache(maxsize=64)
def _symmetric(n: int) -> SearchStrategy[set[tuple[int, int]]]:
    """Edges, each in one direction, of graphs of the families of `symmetric_graphs`."""
    jump = st.integers(1, n // 2) if n > 1 else st.nothing()
    families = [st.sets(jump).map(lambda jumps: _circulant(n, jumps))]
    skips = [skip for skip in range(2, n // 2 + 1) if gcd(skip, n) == 1]
    if skips:
        families.append(st.sampled_from(skips).map(lambda skip: _circulant(n, {1, skip})))
    k = n // 2
    steps = [s for s in range(1, (k + 1) // 2) if s * s % k in (1, k - 1)]
    if n % 2 == 0 and steps:
        families.append(st.sampled_from(steps).map(lambda s: _generalized_petersen(k, s)))
    return st.one_of(families)


def _circulant(n: int, jumps: set[int]) -> set[tuple[int, int]]:
    return {(i, (i + jump) % n) for i in range(n) for jump in jumps}


def _generalized_petersen(k: int, s: int) -> set[tuple[int, int]]:
    outer = {(i, (i + 1) % k) for i in range(k)}
    spokes = {(i, k + i) for i in range(k)}
    return outer | spokes | {(k + i, k + (i + s) % k) for i in range(k)}


@st.composite
def token_graphs(
    draw: st.DrawFn, num_tokens: Size = _UP_TO_SIX, kinds: Sequence[str] = GRAPH_KINDS
) -> TokenGraph:
    """Graphs of every kind on one set of tokens.

    Args:
        num_tokens: a number, or a strategy for it.
        kinds: some of "symbolic", "listed" and "symmetric"; see the strategy of each.

    Raises (when drawn):
        ValueError: a kind is not one of these.

    >>> from hypothesis import find
    >>> find(token_graphs(4), lambda graph: graph.is_explicit).num_targets
    4
    """
    _check_kinds(kinds, GRAPH_KINDS)
    n = draw(_strategy(num_tokens))
    strategies: dict[str, SearchStrategy[TokenGraph]] = {
        "symbolic": symbolic_graphs(n),
        "listed": listed_graphs(n),
        "symmetric": symmetric_graphs(n),
    }
    return draw(st.one_of([strategies[kind] for kind in kinds]))


@st.composite
def token_sets(
    draw: st.DrawFn,
    num_tokens: Size = _UP_TO_SIX,
    dim: Size = 4,
    *,
    kinds: Sequence[str] = TOKEN_KINDS,
    batch: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Sets of vectors, (*batch, N, D).

    Args:
        num_tokens: N, a number or a strategy for it.
        dim: D, a number or a strategy for it.
        kinds: some of "generic", normal values; "duplicates", where some tokens are equal;
            "zeros", where some tokens, perhaps all, are zero; "large", values in the thousands.
        batch: leading dimensions.
        dtype: floating-point type. The same seed draws the same values, rounded to it.

    Raises (when drawn):
        ValueError: a kind is not one of these, or `dtype` is not a floating-point type.

    >>> from hypothesis import find
    >>> z = find(token_sets(3, 2, kinds=["duplicates"]), lambda z: True)
    >>> z.shape, len(z.unique(dim=0)) < 3
    (torch.Size([3, 2]), True)
    """
    _check_kinds(kinds, TOKEN_KINDS)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    n, d = draw(_strategy(num_tokens)), draw(_strategy(dim))
    kind = draw(st.sampled_from(kinds))
    generator = torch.Generator().manual_seed(draw(_SEEDS))
    z = torch.randn(*batch, n, d, generator=generator, dtype=torch.float64)
    if kind == "duplicates" and n > 1:
        distinct = torch.randint(1, n, (), generator=generator)  # 1 .. n - 1 of n tokens
        z = z[..., torch.randperm(n, generator=generator) % distinct, :]
    elif kind == "zeros" and n:
        count = int(torch.randint(1, n + 1, (), generator=generator))
        z[..., torch.randperm(n, generator=generator)[:count], :] = 0
    elif kind == "large":
        z = z * _LARGE
    return z.to(dtype)


@st.composite
def tokens(
    draw: st.DrawFn,
    graphs: SearchStrategy[TokenGraph] | None = None,
    dim: Size = 4,
    *,
    pos_dim: Size | None = None,
    kinds: Sequence[str] = TOKEN_KINDS,
    batch: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Tokens:
    """`Tokens`: z (*batch, N, D) of any kind, on any graph, with positions (N, P) if `pos_dim`.

    Args:
        graphs: a strategy for square graphs; by default `token_graphs()`.
        dim: D, a number or a strategy for it.
        pos_dim: P, a number or a strategy for it; None draws no positions.
        kinds, batch, dtype: see `token_sets`. Positions are uniform in [0, 1], of that type.

    >>> from hypothesis import given, settings
    >>> @settings(max_examples=20, database=None)
    ... @given(tokens(token_graphs(5), dim=3, pos_dim=2))
    ... def permuting_back_and_forth(example):
    ...     back = example.permute([1, 2, 3, 4, 0]).permute([4, 0, 1, 2, 3])
    ...     assert torch.equal(back.z, example.z) and torch.equal(back.pos, example.pos)
    >>> permuting_back_and_forth()
    """
    graph = draw(token_graphs() if graphs is None else graphs)
    n = graph.num_targets
    z = draw(token_sets(n, dim, kinds=kinds, batch=batch, dtype=dtype))
    if pos_dim is None:
        return Tokens(z, graph)
    generator = torch.Generator().manual_seed(draw(_SEEDS))
    pos = torch.rand(n, draw(_strategy(pos_dim)), generator=generator, dtype=torch.float64)
    return Tokens(z, graph, pos.to(dtype))


@st.composite
def ragged_batches(
    draw: st.DrawFn,
    num_tokens: Size = _UP_TO_FIVE,
    dim: Size = 4,
    *,
    max_sets: int = 4,
    pos_dim: int | None = None,
    kinds: Sequence[str] = TOKEN_KINDS,
    graph_kinds: Sequence[str] = GRAPH_KINDS,
    dtype: torch.dtype = torch.float32,
) -> Tokens:
    """One to `max_sets` sets of different sizes side by side on a `Disjoint` graph.

    Args:
        num_tokens: the size of each set, a number or a strategy; by default 0 to 5.
        dim: D, the same for all sets.
        max_sets: the largest number of sets, at least 1.
        pos_dim: P of positions (N, P), the same for all sets; None draws none.
        kinds, dtype: see `token_sets`.
        graph_kinds: see `token_graphs`.

    >>> from hypothesis import find
    >>> batch = find(ragged_batches(), lambda batch: len(set(batch.graph.sizes)) > 1)
    >>> len(batch.unbatch()) > 1
    True
    """
    d = draw(_strategy(dim))
    tokens_of_set = tokens(
        token_graphs(num_tokens, graph_kinds), d, pos_dim=pos_dim, kinds=kinds, dtype=dtype
    )
    return Tokens.batch(draw(st.lists(tokens_of_set, min_size=1, max_size=max_sets)))


def _strategy(value: Size) -> SearchStrategy[int]:
    return value if isinstance(value, SearchStrategy) else st.just(value)


def _check_kinds(kinds: Sequence[str], known: tuple[str, ...]) -> None:
    if not kinds or not set(kinds) <= set(known):
        raise ValueError(f"kinds must be some of {', '.join(known)}, got {kinds!r}")


class ShrinkingDraws(Draws):
    """Draws of other content for `check` that Hypothesis makes, and shrinks where a law breaks.

    They are the same each time. `parametrize_with_checks` uses it where hypothesis is installed.

    >>> ShrinkingDraws(20).first(lambda draw: draw.seed >= 3)
    Draw(seed=3, scale=1.0)
    """

    def first(self, fails: Callable[[Draw], bool]) -> Draw | None:
        known: dict[Draw, bool] = {}

        def breaks(draw: Draw) -> bool:
            """Each draw is made once; shrinking makes a few times as many at most."""
            if draw not in known:
                known[draw] = len(known) < SHRINKS * self.count and fails(draw)
            return known[draw]

        drawn = st.builds(Draw, st.integers(self.seed, 2**16), st.sampled_from(SCALES))
        options = settings(max_examples=self.count, database=None, deadline=None, derandomize=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HypothesisWarning)
            try:
                return find(drawn, breaks, settings=options, random=random.Random(self.seed))
            except NoSuchExample:
                return None
