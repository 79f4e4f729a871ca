"""Measure which properties of a good positional encoding an encoding has."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor, nn

from tokennet.graphs import Grid, Window
from tokennet.positional.absolute import LearnedEncoding, SinusoidalEncoding
from tokennet.positional.coordinate import IntegerEncoding, UnitIntervalEncoding
from tokennet.positional.random_walk import RandomWalkEncoding
from tokennet.positional.rotary import Rotary
from tokennet.positional.spectral import LaplacianEncoding
from tokennet.tokens import Tokens

DIM = 32
SIZE = 64
"""Number of tokens that an encoding is made for; a quarter and four times it are measured too."""

Encoding = Callable[[Tokens], Tokens]
Layout = Callable[[int], Tokens]
"""A number of tokens to tokens with z = 0, on a graph, with their positions in `pos`."""

_EQUAL = 1e-5


def line(n: int) -> Tokens:
    """Tokens 0 .. n - 1 in a row, each joined to the next."""
    pos = torch.arange(n, dtype=torch.float64)[:, None]
    return Tokens(torch.zeros(n, DIM), Window(n, radius=1), pos)


def square(n: int) -> Tokens:
    """The points of a square grid of n tokens, row by row, with (row, column) as positions."""
    side = round(n**0.5)
    if side * side != n:
        raise ValueError(f"n must be a square number, got {n}")
    ticks = torch.arange(side, dtype=torch.float64)
    return Tokens(torch.zeros(n, DIM), Grid(side, side), torch.cartesian_prod(ticks, ticks))


@dataclass(frozen=True)
class Properties:
    """Which properties of a good encoding an encoding was measured to have."""

    unique: bool
    """No two tokens of a set have the same encoding."""
    bounded: bool
    """The largest entry less than doubles as a set gets four times longer."""
    consistent_distance: bool
    """Any two tokens an equal offset apart have encodings an equal distance apart, greater
    than 0, wherever they are and in sets of any length."""
    deterministic: bool
    """The same tokens get the same encodings at every call, in training too."""
    extends: bool
    """A set four times longer than the encoding was made for is encoded without an error."""


def measure_properties(encoding: Encoding, layout: Layout = line, size: int = SIZE) -> Properties:
    r"""Measure the properties of a good positional encoding, before you train with it.

    That of token i in a set of n tokens is e_n(i) = encoding(layout(n)).z_i, as z is 0. It is
    taken for n = size / 4, size and 4 size, in training mode; lengths that the encoding refuses
    with a ValueError are left out. Equal means to 1e-5 of the largest entry.

    The list is the usual one of what sinusoidal encodings (Vaswani et al., 2017,
    arXiv 1706.03762) were chosen for; distances are held to more than the usual "consistent
    across lengths".

    Args:
        encoding: a layer that adds encodings to z, made for sets of `size` tokens.
        layout: where tokens are; `line` or `square`.
        size: a number of tokens that 4 divides; for `square`, a square number.

    Raises:
        ValueError: the encoding refuses its own `size`.

    >>> measure_properties(SinusoidalEncoding(32)).consistent_distance
    True
    >>> measure_properties(LearnedEncoding(32, 64)).extends
    False
    """
    if isinstance(encoding, nn.Module):
        encoding = copy.deepcopy(encoding).train()
    own = encoding(layout(size)).z
    found = {size: own.detach().double()}
    for n in (size // 4, 4 * size):
        with suppress(ValueError):  # the encoding has no such size
            found[n] = encoding(layout(n)).z.detach().double()
    found = dict(sorted(found.items()))
    largest = [float(code.abs().max()) for code in found.values()]
    equal = _EQUAL * max(*largest, torch.finfo(torch.float64).tiny)
    return Properties(
        unique=all(float(torch.pdist(code).min()) > equal for code in found.values()),
        bounded=all(longer < 2 * shorter + equal for shorter, longer in pairwise(largest)),
        consistent_distance=_is_consistent([(layout(n).pos, c) for n, c in found.items()], equal),
        deterministic=torch.equal(encoding(layout(size)).z, own),
        extends=4 * size in found,
    )


def _is_consistent(sets: list[tuple[Tensor | None, Tensor]], equal: float) -> bool:
    """Whether the distance of encodings is a function of the offset alone, above 0."""
    offsets, distances = [], []
    for pos, code in sets:
        assert pos is not None
        i, j = torch.triu_indices(len(code), len(code), offset=1)
        offsets.append(pos[j] - pos[i])  # (pairs, P)
        distances.append((code[j] - code[i]).norm(dim=-1))
    distance = torch.cat(distances)
    _, kind = torch.cat(offsets).unique(dim=0, return_inverse=True)
    least, most = (
        distance.new_zeros(int(kind.max()) + 1).scatter_reduce(
            0, kind, distance, extreme, include_self=False
        )
        for extreme in ("amin", "amax")
    )
    return bool((most - least).max() <= equal and least.min() > equal)


def rotated(rotary: Rotary) -> Encoding:
    """The encoding that rotary positions amount to: a vector of ones, rotated as a query is."""

    def encoding(tokens: Tokens) -> Tokens:
        ones = torch.ones(tokens.num_tokens, 1, DIM)  # (N, H, C)
        return tokens.replace(z=rotary.rotate(ones, rotary.read(tokens.pos, ones)).squeeze(1))

    return encoding


ENCODINGS: dict[str, tuple[Callable[[], Encoding], Layout]] = {
    "none": (lambda: lambda tokens: tokens, line),
    "integer": (lambda: IntegerEncoding(DIM), line),
    "unit interval": (lambda: UnitIntervalEncoding(DIM), line),
    "sinusoidal": (lambda: SinusoidalEncoding(DIM), line),
    "sinusoidal, 2-D": (lambda: SinusoidalEncoding(DIM, num_coordinates=2), square),
    "learned": (lambda: LearnedEncoding(DIM, SIZE), line),
    "rotary": (lambda: rotated(Rotary("pos")), line),
    "rotary, 2-D": (lambda: rotated(Rotary("pos", num_coordinates=2)), square),
    "Laplacian eigenvectors": (lambda: LaplacianEncoding(DIM, k=8), line),
    "Laplacian, fixed signs": (lambda: LaplacianEncoding(DIM, k=8, signs="fixed"), line),
    "Laplacian, determined": (lambda: LaplacianEncoding(DIM, k=8, signs="determined"), line),
    "random-walk probabilities": (lambda: RandomWalkEncoding(DIM, steps=16), line),
}
"""The rows of `table`: how to make an encoding for `SIZE` tokens, and where tokens are."""


def table() -> str:
    """The properties of all encodings in `ENCODINGS`, as a table in Markdown."""
    properties = [field.name for field in fields(Properties)]
    rows = [["encoding", *(name.replace("_", " ") for name in properties)], 6 * ["---"]]
    for name, (make, layout) in ENCODINGS.items():
        found = measure_properties(make(), layout)
        rows.append([name, *("yes" if getattr(found, each) else "no" for each in properties)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
