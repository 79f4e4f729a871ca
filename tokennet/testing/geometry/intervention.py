"""`MotionIntervention`: f(g x) = g f(x), the intervention of all laws of space."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from tokennet.testing.engine.differences import difference
from tokennet.testing.engine.intervention import Code, Inputs, Intervention, Outputs
from tokennet.testing.geometry.motions import Motion
from tokennet.testing.geometry.representations import (
    Representation,
    along,
    irreps_matrix,
    irreps_of,
    width_of,
    wigner,
)

SAME = 1e-13
"""A discrepancy below this is rounding: no other alignment is tried."""
POWERS = (1, 2, -1, -2, 3, -3, 4, 6, -6, 0.5, -0.5)
"""Powers of the factor by which a scaling may change an intermediate tensor."""


@dataclass(frozen=True)
class MotionIntervention(Intervention):
    """f(g x) = g f(x): each input and output moved by the same motion, each as its kind says.

    Attributes:
        irreps: layouts of intermediate tensors that the model's modules declare.
    """

    motion: Motion
    ins: tuple[Representation, ...]
    outs: tuple[Representation, ...]
    irreps: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return self.motion.words

    def apply(self, inputs: Inputs) -> Inputs:
        pairs = zip(self.ins, inputs, strict=True)
        return tuple(value if kind.is_still else kind.apply(value, self.motion)
                     for kind, value in pairs)  # fmt: skip

    def expected(self, outputs: Outputs) -> Outputs:
        return [kind.apply(y, self.motion) for kind, y in self._pairs(outputs)]

    def sizes(self, sizes: Outputs) -> Outputs:
        return [kind.sizes_after(y, self.motion) for kind, y in self._pairs(sizes)]

    def _pairs(self, outputs: Outputs) -> list[tuple[Representation, Tensor]]:
        return list(zip(self.outs, outputs, strict=True))

    def simpler(self) -> Iterator[Intervention]:
        for motion in self.motion.simpler:
            yield dataclasses.replace(self, motion=motion)

    def code(self, names: list[str], inputs: Inputs, outputs: Outputs, worst: int) -> Code:
        n, pairs = self.motion.size, self._pairs(outputs)
        shifted = bool(self.motion.shift.any())
        lines = [f"g = torch.tensor({self.motion.matrix.tolist()}).to(x)"]
        arguments = [
            name if kind.is_still else kind.code(name, value, n, shifted=shifted)
            for name, kind, value in zip(names, self.ins, inputs, strict=True)
        ]
        kind, y = pairs[worst]
        texts = [*arguments, before := kind.code("y", y, n, shifted=shifted)]
        if any(" + t" in text for text in texts):
            lines.append(f"t = torch.tensor({self.motion.shift.tolist()}).to(x)")
        imports = ["from e3nn import o3"] if any("o3." in text for text in texts) else []
        before = before if kind.is_still else f"({before})"
        return Code(imports, lines, arguments, before, "moved")

    def discrepancy(self, before: Tensor, after: Tensor, enough: float = 0.0) -> float:
        if before.dim() != after.dim():
            return float("inf")
        least = float("inf")
        for a, b in self.alignments(before, after):
            least = min(least, difference([a], [b]))
            if least <= max(enough, SAME):
                break
        return least

    def alignments(self, before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Unchanged, or moved along one or two dimensions; by a power of the factor if scaled."""
        if before.shape != after.shape:
            return
        yield before, after
        if not before.is_floating_point() or not before.numel():
            return
        if (factor := self.motion.factor) is not None:
            for power in POWERS:
                yield factor**power * before, after
            return
        if bool(self.motion.shift.any()):
            yield from self._shifted(before, after)
            return
        signs = (1.0, -1.0) if self.motion.parity < 0 else (1.0,)
        if self.motion.parity < 0:
            yield -before, after
        dims = [dim for dim in range(-before.dim(), 0) if self._maps(before.shape[dim])]
        chosen = [*((dim,) for dim in reversed(dims)), *itertools.combinations(dims, 2)]
        for some in chosen:
            for maps in itertools.product(*(self._maps(before.shape[dim]) for dim in some)):
                moved = before
                for dim, (matrix, outside) in zip(some, maps, strict=True):
                    moved = along(moved, matrix, dim, outside=outside)
                for sign in signs:
                    yield sign * moved, after

    def _maps(self, size: int) -> list[tuple[Tensor, bool]]:
        """How a dimension may be moved: as vectors, as known irreps; and whether inside out."""
        n = self.motion.size
        known = [name for name in self.irreps if width_of(name) == size]
        found = [(irreps_matrix(name, self.motion), False) for name in known]
        degrees = {1, *(degree for name in self.irreps for _, degree, _ in irreps_of(name))} - {0}
        for degree in sorted(degrees):
            width = n if degree == 1 else 2 * degree + 1
            if size and size % width == 0:
                base = self.motion.matrix if degree == 1 else wigner(degree, self.motion)
                found += [(base, False), (base, True)] if size > width else [(base, False)]
        return found

    def _shifted(self, before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        shift, n = self.motion.shift.to(before), self.motion.size
        for dim in reversed(range(-before.dim(), 0)):
            count, rest = divmod(before.shape[dim], n)
            if count and not rest:
                shape = [1] * before.dim()
                shape[dim] = -1
                yield before + shift.repeat(count).view(shape), after
                if count > 1:
                    yield before + shift.repeat_interleave(count).view(shape), after
