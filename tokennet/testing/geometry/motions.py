"""`Motion`: a linear map or a translation of coordinates, and how groups of them are drawn.

Needed to add a group: a function that draws its elements, and a line in `DRAWN`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

AXES = "xyz"
ANGLES = (90, 45, 30, 10)
"""Round angles in degrees, tried in this order for a smaller counterexample."""


@dataclass(frozen=True)
class Motion:
    """x -> g x + t on coordinates, one element of a group.

    Attributes:
        matrix: g, (n, n) in float64.
        shift: t, (n,).
        words: what it does, for reports.
        simpler: motions of the same group that are easier to read, the simplest first.
    """

    matrix: Tensor
    shift: Tensor
    words: str
    simpler: tuple[Motion, ...] = field(default=(), repr=False, compare=False)

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return len(self.matrix)

    @property
    def parity(self) -> float:
        """The sign of det g: -1 where the motion is no rotation."""
        return float(torch.linalg.det(self.matrix).sign())

    @property
    def factor(self) -> float | None:
        """s where g = s times the identity, and s is neither 1 nor negative."""
        first = float(self.matrix[0, 0])
        is_scaling = torch.equal(self.matrix, first * torch.eye(self.size, dtype=torch.float64))
        return first if is_scaling and first > 0 and first != 1 else None


def linear(matrix: Tensor, words: str, simpler: tuple[Motion, ...] = ()) -> Motion:
    """x -> g x."""
    matrix = matrix.contiguous()
    return Motion(matrix, torch.zeros(len(matrix), dtype=torch.float64), words, simpler)


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _unit(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def random_orthogonal(n: int, generator: torch.Generator, parity: int = 1) -> Tensor:
    """An orthogonal matrix (n, n) of determinant `parity`, uniform (Mezzadri, 2007)."""
    q, r = torch.linalg.qr(_normal(n, n, generator=generator))
    q = q * r.diagonal().sign()
    if float(torch.linalg.det(q)) * parity < 0:
        q[:, 0] = -q[:, 0]
    return q


def rotation_in_plane(n: int, i: int, j: int, degrees: float) -> Tensor:
    """The rotation by an angle in the plane of coordinates i and j; exact for 90 and 180.

    >>> rotation_in_plane(2, 0, 1, 90).tolist()
    [[0.0, -1.0], [1.0, 0.0]]
    """
    quarter = {90: (0.0, 1.0), 180: (-1.0, 0.0)}
    angle = math.radians(degrees)
    c, s = quarter.get(int(degrees), (math.cos(angle), math.sin(angle)))
    matrix = torch.eye(n, dtype=torch.float64)
    matrix[i, i], matrix[j, j], matrix[i, j], matrix[j, i] = c, c, -s, s
    return matrix


def _rotations_about_axes(n: int) -> Iterator[Motion]:
    planes = [(0, 1), (1, 2), (2, 0)] if n == 3 else [(i, j) for j in range(n) for i in range(j)]
    about = {(0, 1): " about z", (1, 2): " about x", (2, 0): " about y"} if n == 3 else {}
    for degrees in ANGLES:
        for i, j in planes:
            where = about.get((i, j), "" if n == 2 else f" in the plane of coordinates {i}, {j}")
            words = f"rotating by {degrees} degrees{where}"
            yield linear(rotation_in_plane(n, i, j, degrees), words)


def _rotations(n: int, size: float, generator: torch.Generator) -> Iterator[Motion]:
    if n < 2:
        raise ValueError(f"rotations need at least 2 coordinates, got {n}")
    simpler = tuple(_rotations_about_axes(n))
    while True:
        yield linear(random_orthogonal(n, generator), "a random rotation", simpler)


def _mirrors(n: int) -> Iterator[Motion]:
    for i in range(n):
        diagonal = torch.ones(n, dtype=torch.float64)
        diagonal[i] = -1
        name = AXES[i] if n <= 3 else f"coordinate {i}"
        yield linear(diagonal.diag(), f"changing the sign of {name}")


def _reflections(n: int, size: float, generator: torch.Generator) -> Iterator[Motion]:
    simpler = tuple(_mirrors(n))
    if n % 2 and n > 1:
        yield linear(-torch.eye(n, dtype=torch.float64), "changing all signs", simpler)
    while True:  # I - 2 u u^T
        u = torch.nn.functional.normalize(_normal(n, generator=generator), dim=0)
        matrix = torch.eye(n, dtype=torch.float64) - 2 * u[:, None] * u
        yield linear(matrix, "reflecting in a random plane", simpler)


def _translations(n: int, size: float, generator: torch.Generator) -> Iterator[Motion]:
    identity = torch.eye(n, dtype=torch.float64)
    names = AXES if n <= 3 else [f"coordinate {i}" for i in range(n)]
    simpler = tuple(
        Motion(identity, identity[i].clone(), f"moving by 1 along {names[i]}") for i in range(n)
    )
    for stretch in (1.0, 1.0, 3.0, 1.0, 3.0, 10.0):
        shift = stretch * size * _normal(n, generator=generator)
        yield Motion(identity, shift, "a random translation", simpler)


def _scale(n: int, size: float, generator: torch.Generator) -> Iterator[Motion]:
    identity = torch.eye(n, dtype=torch.float64)
    simpler = (linear(2 * identity, "scaling by 2"),)
    for factor in (1.7, 0.6, 1.2, 0.9, 3.1, 0.3):
        yield linear(factor * identity, f"scaling by {factor}", simpler)


def signs(sizes: tuple[int, ...], generator: torch.Generator) -> Iterator[Motion]:
    """Signs of eigenvectors: v_j -> +-v_j. `sizes` are those of the eigenspaces."""
    n = sum(sizes)
    flips = []
    for i in range(n):
        diagonal = torch.ones(n, dtype=torch.float64)
        diagonal[i] = -1
        flips.append(linear(diagonal.diag(), f"changing the sign of eigenvector {i}"))
    yield from flips[:2]
    while True:
        drawn = torch.randint(0, 2, (n,), generator=generator) * 2 - 1
        drawn[0] = -1  # the identity shows nothing
        yield linear(drawn.double().diag(), "changing signs of eigenvectors", tuple(flips))


def bases(sizes: tuple[int, ...], generator: torch.Generator) -> Iterator[Motion]:
    """Bases of eigenspaces: V_j -> V_j Q_j with Q_j orthogonal; `sizes` are their dimensions."""
    n, start, simpler = sum(sizes), 0, []
    for size in sizes:
        if size > 1:
            matrix = rotation_in_plane(n, start, start + 1, 90)
            words = f"rotating eigenvectors {start} and {start + 1} of one space by 90 degrees"
            simpler.append(linear(matrix, words))
            matrix = rotation_in_plane(n, start, start + 1, 45)
            simpler.append(linear(matrix, words.replace("90", "45")))
        start += size
    flips = next(signs(sizes, generator)), *simpler
    while True:
        parts = [
            random_orthogonal(size, generator, parity=-1 if k % 2 else 1) if size > 1 else _unit(-1)
            for k, size in enumerate(sizes)
        ]
        blocks = torch.block_diag(*(part.reshape(len(part), -1) for part in parts))
        yield linear(blocks, "other bases of the eigenspaces", flips)


DRAWN: dict[str, Callable[[int, float, torch.Generator], Iterator[Motion]]] = {
    "rotations": _rotations,
    "reflections": _reflections,
    "translations": _translations,
    "scale": _scale,
}
"""By law, its motions of n coordinates of points of some size, drawn by a generator."""
