"""`Representation`: how a motion of space acts on a tensor: as scalars, vectors, points, irreps.

Needed to say what a tensor is, as a string in `roles` or `outputs` of `check`.
"""

from __future__ import annotations

import functools
import importlib
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import lookup, require
from tokennet.testing.geometry.motions import Motion

KINDS = {
    "scalar": "does not change",
    "pseudoscalar": "changes its sign under reflections",
    "vector": "moves as g v",
    "pseudovector": "moves as det(g) g v, as a cross product does",
    "points": "moves as g x + t",
    "matrix": "moves as g M g^T",
    "eigenvectors": "the columns change by signs or by a basis of their space",
    "eigenvalues": "say which eigenvectors share a space",
    "other": "is held still, or left out where it is an output",
}
_IRREPS = re.compile(r"^\d*x?\d+[eo](\s*\+\s*\d*x?\d+[eo])*$")
_STILL = ("scalar", "other", "eigenvalues")


@dataclass(frozen=True)
class Representation:
    """What a tensor holds: `KIND[:dimension]` as a string, or irreps of e3nn.

    Attributes:
        name: one of `KINDS`, or irreps such as "8x0e + 4x1o".
        dim: the dimension of the coordinates, of a matrix the last of its two.
        sizes: of the eigenspaces, where they are given ("eigenvectors:2,1,3").

    >>> str(Representation.parse("roles['v']", "vector:-2"))
    'vector:-2'
    """

    name: str
    dim: int = -1
    sizes: tuple[int, ...] = ()

    @staticmethod
    def parse(argument: str, given: Any) -> Representation:
        """The kind that a string says.

        Raises:
            TypeError: it is no string.
            ValueError: there is no such kind or its dimension is no negative number.
        """
        if not isinstance(given, str):
            raise TypeError(f"{argument} must be a string such as 'vector', got {given!r}")
        name, _, part = (piece.strip() for piece in given.partition(":"))
        if _IRREPS.match(name):
            require("e3nn", "geometry")
        else:
            lookup(argument, name, KINDS, also="or irreps of e3nn, '8x0e + 4x1o'")
        numbers = [piece.strip() for piece in part.split(",")] if part else []
        if name == "eigenvectors" and numbers:
            if not all(number.isdigit() and int(number) > 0 for number in numbers):
                raise ValueError(f"{argument} must list sizes of eigenspaces, got {given!r}")
            return Representation(name, -1, tuple(map(int, numbers)))
        if not numbers:
            return Representation(name)
        if len(numbers) > 1 or not re.fullmatch(r"-[1-9]", numbers[0]):
            raise ValueError(f"{argument} must end in a dimension such as ':-2', got {given!r}")
        return Representation(name, int(numbers[0]))

    def __str__(self) -> str:
        if self.sizes:
            return f"{self.name}:{','.join(map(str, self.sizes))}"
        return self.name if self.dim == -1 else f"{self.name}:{self.dim}"

    @property
    def is_still(self) -> bool:
        """Whether no motion changes it."""
        return self.name in _STILL

    @property
    def has_parity(self) -> bool:
        """Whether reflections act on it with a further sign."""
        return self.name.startswith("pseudo")

    def fits(self, tensor: Tensor, n: int) -> bool:
        """Whether a tensor can be of this kind, for n coordinates."""
        if self.is_still or self.name == "pseudoscalar":
            return True
        if not tensor.is_floating_point() or tensor.dim() < -self.dim:
            return False
        size = tensor.shape[self.dim]
        if _IRREPS.match(self.name):
            return size == width_of(self.name)
        if self.name == "matrix":
            dims = tensor.dim() > -self.dim and tensor.shape[self.dim - 1] == size
            return dims and size == n
        return size > 0 and size % n == 0

    def apply(self, tensor: Tensor, motion: Motion) -> Tensor:
        """The tensor after a motion."""
        if self.is_still:
            return tensor
        sign = motion.parity if self.has_parity else 1.0
        if self.name == "pseudoscalar":
            return sign * tensor
        matrix = sign * self._matrix(motion)
        moved = along(tensor, matrix, self.dim)
        if self.name == "matrix":
            moved = along(moved, matrix, self.dim - 1)
        if self.name == "points" and bool(motion.shift.any()):
            moved = moved + _along_dim(motion.shift, tensor, self.dim)
        return moved.contiguous()  # as the input was: models use `view`

    def sizes_after(self, sizes: Tensor, motion: Motion) -> Tensor:
        """How large entries can be after a motion, given |entries| before: |g| sizes."""
        if self.is_still or self.name == "pseudoscalar":
            return sizes
        matrix = self._matrix(motion).abs()
        moved = along(sizes, matrix, self.dim)
        return along(moved, matrix, self.dim - 1) if self.name == "matrix" else moved

    def _matrix(self, motion: Motion) -> Tensor:
        return irreps_matrix(self.name, motion) if _IRREPS.match(self.name) else motion.matrix

    def code(self, name: str, tensor: Tensor, n: int, *, shifted: bool) -> str:
        """The tensor `name` after the motion `g`, `t`, as an expression."""
        if self.is_still:
            return name
        sign = "g.det().sign() * " if self.has_parity else ""
        if self.name == "pseudoscalar":
            return f"{sign}{name}"
        matrix, count = "g.T", tensor.shape[self.dim] // n
        if _IRREPS.match(self.name):
            matrix = f"o3.Irreps({self.name!r}).D_from_matrix(g).to(g).T"
        elif count > 1:
            matrix = f"torch.kron(torch.eye({count}).to(g), g).T"
        shift = " + t" if self.name == "points" and shifted else ""
        if count > 1 and shift:
            shift = f" + t.repeat({count})"
        if self.name == "matrix" and self.dim == -1:
            return f"g @ {name} @ g.T"
        if self.dim == -1:
            return f"{sign}{name} @ {matrix}{shift}"
        return f"({sign}{name}.movedim({self.dim}, -1) @ {matrix}{shift}).movedim(-1, {self.dim})"


def along(tensor: Tensor, matrix: Tensor, dim: int, *, outside: bool = False) -> Tensor:
    """A matrix applied along one dimension, which may hold several vectors.

    Args:
        outside: these are laid out as (x x y y z z), not as (x y z x y z).
    """
    n = len(matrix)
    moved = tensor.movedim(dim, -1)
    count = moved.shape[-1] // n
    if count == 1:
        return (moved @ matrix.to(tensor).T).movedim(-1, dim)
    parts = moved.unflatten(-1, (n, count) if outside else (count, n))
    parts = (parts.mT @ matrix.to(tensor).T).mT if outside else parts @ matrix.to(tensor).T
    return parts.flatten(-2).movedim(-1, dim)


def _along_dim(shift: Tensor, tensor: Tensor, dim: int) -> Tensor:
    shape = [1] * tensor.dim()
    shape[dim] = tensor.shape[dim]
    return shift.repeat(tensor.shape[dim] // len(shift)).to(tensor).view(shape)


class NotScaled(ValueError):
    """Irreps do not say what scaling does."""


@functools.lru_cache(maxsize=256)
def irreps_of(name: str) -> tuple[tuple[int, int, int], ...]:
    """Multiplicity, degree l and parity p of each part of irreps."""
    o3 = importlib.import_module("e3nn.o3")
    return tuple((part.mul, part.ir.l, part.ir.p) for part in o3.Irreps(name))


def width_of(irreps: str) -> int:
    """The number of channels of irreps."""
    return sum(count * (2 * degree + 1) for count, degree, _ in irreps_of(irreps))


def irreps_matrix(name: str, motion: Motion) -> Tensor:
    """D(g), block by block, in float64.

    Raises:
        NotScaled: the motion scales, and irreps say nothing of that.
    """
    if motion.factor is not None:
        raise NotScaled(f"irreps {name} do not say what scaling does; say 'vector' or 'scalar'")
    parts = [
        torch.kron(torch.eye(count, dtype=torch.float64), sign * wigner(degree, motion))
        for count, degree, parity in irreps_of(name)
        if count and (sign := motion.parity if parity < 0 else 1.0)
    ]
    return torch.block_diag(*parts)


def wigner(degree: int, motion: Motion) -> Tensor:
    """D_l of the rotation part of a motion, exact to rounding (e3nn's own has errors of 3e-7)."""
    rotation = motion.parity * motion.matrix
    return _wigner(degree, tuple(map(tuple, rotation.tolist())))


@functools.lru_cache(maxsize=512)
def _wigner(degree: int, rows: tuple[tuple[float, ...], ...]) -> Tensor:
    """The solution D of Y(R x) = D Y(x) for spherical harmonics Y at random x."""
    if degree == 0:
        return torch.ones(1, 1, dtype=torch.float64)
    rotation = torch.tensor(rows, dtype=torch.float64)
    if degree == 1:
        return rotation
    o3 = importlib.import_module("e3nn.o3")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8 * degree, 3, generator=generator, dtype=torch.float64)
    x = torch.nn.functional.normalize(x, dim=-1)
    before, after = (o3.spherical_harmonics(degree, at, False) for at in (x, x @ rotation.T))
    return torch.linalg.lstsq(before, after).solution.T.contiguous()
