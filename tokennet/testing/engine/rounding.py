"""Whether rounding explains a break: a choice among numbers that tie, or an unstable solution.

A comparison of two numbers that are equal in exact arithmetic is decided by their last bits,
and a linear system that is nearly singular multiplies them. Both look like a broken law.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tokennet.testing.engine.channels import gaps, largest, relative
from tokennet.testing.engine.differences import OUTLIER
from tokennet.testing.engine.finding import Finding
from tokennet.testing.engine.tolerance import MARGIN, UNDECIDED
from tokennet.testing.report import Verdict

CHOICES = {
    *("sort", "argsort", "topk", "argmax", "argmin", "max", "min", "kthvalue", "median", "mode"),
    *("ge", "gt", "le", "lt", "eq", "ne", "sign", "floor", "ceil", "round", "trunc", "frac"),
    *("fmod", "remainder", "searchsorted", "bucketize", "heaviside", "msort", "cummax", "cummin"),
    *("isclose", "unique", "_unique2", "unique_dim", "floor_divide"),
}
"""Operations whose results jump where two numbers change their order."""
BY_INDEX = {"sort", "argsort", "topk", "argmax", "argmin", "max", "min", "kthvalue", "median"}
"""Those that decide by index where numbers are equal."""
SOLVERS = (
    "linalg", "cholesky", "triangular", "lu_solve", "lu_unpack", "lu_with_info", "svd", "geqrf",
    "ormqr", "matrix_exp",
)  # fmt: skip
"""Parts of the names of operations that a matrix may make unstable."""
EQUAL = 64
"""Epsilons of the largest number between numbers that only rounding tells apart."""
NUDGE = 4
"""Epsilons of the largest number by which inputs of an unstable operation are moved."""


class _Altered(TorchDispatchMode):
    """Gives operations altered inputs; `altered` says whether it has."""

    altered = False

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def concerns(self, name: str) -> bool:
        raise NotImplementedError

    def inputs(self, args: Any) -> Any:
        raise NotImplementedError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else ""
        if self.concerns(name) and not func._schema.is_mutable:  # a copy would not be written to
            self.altered = True
            args, kwargs = self.inputs((args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class ExactTies(_Altered):
    """Numbers that differ by rounding are made equal before operations that choose."""

    def concerns(self, name: str) -> bool:
        return name in CHOICES

    def inputs(self, args: Any) -> Any:
        given = [x for x in tree_leaves(args) if _is_real(x)]
        if not given:
            return args
        values = torch.cat([x.detach().flatten().double() for x in given]).unique()
        values = values[values.isfinite()]
        if not len(values):
            return args
        sizes = values.abs()
        usual = sizes[sizes <= OUTLIER * sizes.median()]  # without what a mask writes for infinity
        apart = EQUAL * self.eps * (usual if len(usual) else sizes).max()
        firsts = values[values.diff(prepend=values[:1] - 2 * apart - 1) > apart]

        def tied(x: Any) -> Any:
            if not _is_real(x):
                return x
            number = torch.searchsorted(firsts, x.double().contiguous(), right=True) - 1
            equal = firsts[number.clamp(0, len(firsts) - 1)]
            return torch.where(x.isfinite(), equal, x.double()).to(x.dtype)

        return tree_map(tied, args)


class UnstableSolvers(_Altered):
    """Inputs of linear algebra are moved by a few epsilons of their largest entry."""

    def __init__(self, eps: float, seed: int) -> None:
        super().__init__(eps)
        self._generator = torch.Generator().manual_seed(seed)

    def concerns(self, name: str) -> bool:
        return any(part in name for part in SOLVERS)

    def inputs(self, args: Any) -> Any:
        def nudged(x: Any) -> Any:
            if not _is_real(x) or not x.numel():
                return x
            noise = torch.rand(x.shape, generator=self._generator, dtype=torch.float64) * 2 - 1
            size = x.detach().abs().nan_to_num(0.0, 0.0, 0.0).max()
            return x + NUDGE * self.eps * size * noise.to(x)

        return tree_map(nudged, args)


class Ties(_Altered):
    """Alters nothing; `found` says whether an operation chose among equal numbers by index."""

    found = False

    def concerns(self, name: str) -> bool:
        self.name = name
        return name in BY_INDEX

    def inputs(self, args: Any) -> Any:
        (x, *rest), named = args
        after = rest[1:] if self.name in ("topk", "kthvalue") else rest  # the number k
        extreme = "max" in self.name or "min" in self.name
        dim = named.get("dim", next(iter(after), None if extreme else -1))
        if _is_real(x) and x.numel() and (dim is None or isinstance(dim, int)):
            self.found |= self._has_ties(x.detach(), dim)
        return args

    def _has_ties(self, x: Tensor, dim: int | None) -> bool:
        """Whether equal numbers along a dimension leave the choice to their order."""
        if dim is None or not x.dim():
            if self.name in ("max", "min"):
                return False  # the value alone, which no order changes
            x, dim = x.flatten(), 0
        if "max" in self.name or "min" in self.name:
            best = x.amax(dim, keepdim=True) if "max" in self.name else x.amin(dim, keepdim=True)
            return bool(((x == best).sum(dim) > 1).any())
        return bool((x.sort(dim).values.diff(dim=dim) == 0).any())


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def explained_by_rounding(found: Finding, notes: list[str]) -> Finding:
    """A break that goes where ties are exact is none; one that a solver explains is unknown.

    Where tokens tie, the law is asked again with numbers that differ by rounding made equal
    before they are compared. A model that chooses by index breaks it then too.
    """
    if _holds_with_exact_ties(found):
        notes.append(
            f"{found.reason}, where numbers that are equal up to rounding are compared; it holds "
            "where they are equal"
        )
        return replace(found, verdict=Verdict.PASS, reason="holds up to rounding of ties")
    moved = _moved_by_solvers(found)
    if found.error > UNDECIDED[found.rounds_in] * MARGIN[found.rounds_in] * moved:
        return found
    reason = f"{found.reason}; rounding in an ill-conditioned solution explains it"
    if found.in_float32_only:
        notes.append(reason)
        return replace(found, verdict=Verdict.PASS, reason="holds in float64, up to rounding")
    return replace(found, verdict=Verdict.INCONCLUSIVE, reason=reason)


def _holds_with_exact_ties(found: Finding) -> bool:
    runner, limit = found.runner, found.tolerance * UNDECIDED[found.rounds_in]
    with runner.at(found.dtype) as x:
        for number in found.broken:
            intervention = runner.interventions[number]
            with ExactTies(torch.finfo(found.dtype).eps) as ties:
                runner.run(x)
                if not ties.altered or not runner.error(x, intervention) <= limit:
                    return False
    return True


def _moved_by_solvers(found: Finding) -> float:
    """How far the output moves, in units, where inputs of solvers are rounded in float64."""
    intervention = found.runner.interventions[found.broken[0]]
    if found.in_float32_only:
        unit = found.measured.largest_units(intervention)
    else:
        unit = found.measured.units(intervention)
    decided, moved = found.measured.dtype, 0.0
    with found.runner.at(decided) as x:
        for seed in range(2):
            solvers = UnstableSolvers(torch.finfo(found.dtype).eps, seed)
            try:
                with solvers:
                    nudged = found.runner.run(x)
            except Exception:  # a matrix that rounding makes singular
                return math.inf if solvers.altered else 0.0
            if not solvers.altered:
                return 0.0
            off = intervention.sizes(gaps(found.measured.outputs, nudged))
            moved = max(moved, largest(relative(off, unit)))
    return moved
