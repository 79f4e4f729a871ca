"""`discover_geometry`: which motions of space a model commutes with, by running it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from tokennet.testing.engine.content import new_content
from tokennet.testing.engine.differences import difference
from tokennet.testing.engine.run import Runner, accepted_content
from tokennet.testing.engine.tolerance import (
    UNDECIDED,
    errors_against_tolerance,
    first_line,
    runnable,
)
from tokennet.testing.engine.verdict import name_of, verdict_on_error
from tokennet.testing.geometry.constants import effect_of_constants
from tokennet.testing.geometry.intervention import MotionIntervention
from tokennet.testing.geometry.laws import (
    HOPELESS,
    LARGEST_ROUNDING,
    declared_outputs,
    motions_of,
)
from tokennet.testing.geometry.motions import AXES, DRAWN, Motion, linear, rotation_in_plane
from tokennet.testing.geometry.outputs import chosen, output_kinds
from tokennet.testing.geometry.reading import Reading, read_points
from tokennet.testing.geometry.representations import NotScaled, Representation

SEEN = 1e-6
"""Relative errors below this are not seen in the search for signed permutations."""
SEEN_EPSILONS = 1024
"""Nor those below this number of epsilons, where the model does not run in float64."""
SIGNED = "signed permutations"
LARGEST = 5
"""Signed permutations of up to this number of coordinates are searched, 3840 of them."""

Signed = tuple[int, ...]


@dataclass(frozen=True)
class GeometryReport:
    """The motions of space that a model commutes with, a table. Made by `discover_geometry`."""

    subject: str
    num_coordinates: int
    reading: str
    """What inputs and outputs were read as."""
    holds: dict[str, bool | None]
    """By law whether it holds, None where the error may be rounding."""
    errors: dict[str, float]
    """The largest error of each law, relative to what points do to the output."""
    signed_permutations: tuple[Signed, ...]
    """Generators, as (2, -1, 3) for (x, y, z) -> (y, -x, z)."""
    signed_order: int | None
    """The number of signed permutations of the coordinates that hold; None: not searched."""
    raised: dict[str, str] = field(default_factory=dict)
    """By law what was raised on moved points: by the model, or as the law cannot be asked."""

    @property
    def name(self) -> str:
        """The group, as far as it is a common one."""
        turns, mirrors, moves = (bool(self.holds.get(law)) for law in
                                 ("rotations", "reflections", "translations"))  # fmt: skip
        family = {(True, True): "O", (True, False): "SO"}.get((turns, mirrors), "")
        if family:
            family = {"O": "E", "SO": "SE"}[family] if moves else family
            found = [f"{family}({self.num_coordinates})"]
        else:
            found = [law for law, holds in self.holds.items() if holds and law != "scale"]
            if self.signed_order and self.signed_order > 1:
                found.append(f"{self.signed_order} signed permutations of the coordinates")
        found += ["scale"] if self.holds.get("scale") else []
        return ", ".join(found) or "none"

    def __str__(self) -> str:
        words = {True: "holds", False: "broken", None: "may be rounding"}
        width = max(map(len, [*self.holds, SIGNED]))
        lines = [f"{self.subject}: {self.name}", f"  read as {self.reading}"]
        for law, holds in self.holds.items():
            found = f"{words[holds]}, error {self.errors[law]:.2g}"
            if law in self.raised:
                found = f"{'not asked' if holds is None else words[holds]}: {self.raised[law]}"
            lines.append(f"  {law:{width}}  {found}")
        if self.signed_order is not None:
            told = f": {self.raised[SIGNED]}" if SIGNED in self.raised else ""
            lines.append(f"  {SIGNED:{width}}  {self.signed_order} hold{told}")
        return "\n".join(lines)


def discover_geometry(
    model: Callable[..., Any],
    example: Any,
    *,
    roles: Mapping[str, str] | None = None,
    outputs: Any = None,
    seed: int = 0,
) -> GeometryReport:
    """Which of translations, rotations, reflections and scale a model commutes with.

    For use when it is not known which symmetry a model has; `check(..., group=...)` holds it to
    one. Beside the whole groups it tries rotations about each axis, where rotations are broken,
    and all signed permutations of up to 5 coordinates (those of three are the symmetries of a
    cube): each is run on two inputs, except where a product of others decides it.

    Args:
        example, roles, outputs: as in `check_group`.

    Raises:
        TypeError, ValueError: as `check_group`.

    >>> report = discover_geometry(lambda pos: pos.abs().sum(-1), torch.randn(5, 3))
    >>> report.name
    '48 signed permutations of the coordinates'
    """
    reading = read_points(model, example, roles, n=None)
    reading, said = chosen(reading, outputs)
    with accepted_content(reading.call, reading.inputs):
        return _report(reading, said, declared_outputs(model), name_of(model), seed)


def _report(
    reading: Reading,
    said: Mapping[str, Representation],
    declared: Sequence[str],
    subject: str,
    seed: int,
) -> GeometryReport:
    laws = [law for law in DRAWN if law not in ("rotations", "reflections") or reading.n > 1]
    drawn = {law: motions_of(law, reading, seed) for law in laws}
    told = [drawn[law][0] for law in laws if law != "scale"]
    kinds = output_kinds(reading, said, declared, told)
    # Vectors may grow with the points or, as directions do, stay.
    scaled = output_kinds(reading, said, declared, drawn["scale"][:1])
    tried = {
        law: _tried(reading, scaled if law == "scale" else kinds, motions, seed)
        for law, motions in drawn.items()
    }
    if not tried.get("rotations", _Tried(True)).holds and reading.n == 3:
        for axis, motions in _about_axes().items():
            tried[axis] = _tried(reading, kinds, motions, seed)
    raised = {law: attempt.raised for law, attempt in tried.items() if attempt.raised}
    found, order = _signed_permutations(reading, kinds, seed, raised)
    pairs = zip(reading.function.outputs, kinds, strict=True)
    return GeometryReport(
        subject,
        reading.n,
        f"{reading} -> {', '.join(f'{name}: {kind}' for name, kind in pairs)}",
        {law: attempt.holds for law, attempt in tried.items()},
        {law: attempt.error for law, attempt in tried.items()},
        tuple(found),
        order,
        raised,
    )


def _about_axes() -> dict[str, list[Motion]]:
    planes = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}
    return {
        f"rotations about {axis}": [
            linear(rotation_in_plane(3, *planes[axis], degrees), "") for degrees in (37, 101, 200)
        ]
        for axis in AXES
    }


class _Tried(NamedTuple):
    holds: bool | None
    error: float = 0.0
    raised: str = ""


def _tried(
    reading: Reading, kinds: tuple[Representation, ...], motions: list[Motion], seed: int
) -> _Tried:
    """Whether the motions hold up to rounding, the largest error, and what was raised."""
    interventions = [MotionIntervention(motion, reading.kinds, kinds) for motion in motions]
    runner = Runner(reading.call, reading.inputs, interventions, seed)
    dtype = runnable(runner, "auto")[0]
    try:
        errors = errors_against_tolerance(runner, runner.measure(dtype), [])
    except NotScaled as error:
        return _Tried(None, math.nan, str(error))
    except Exception as error:  # whatever a model of other people raises on moved points
        return _Tried(False, math.inf, verdict_on_error(error).reason)
    excess = max(errors.excess)
    if excess <= 1:
        return _Tried(True, errors.error)
    if errors.error < HOPELESS and dtype == torch.float64:
        rounded = effect_of_constants(reading.call, reading.inputs, interventions, seed)
        if errors.error <= LARGEST_ROUNDING * rounded:
            return _Tried(True, errors.error)
    return _Tried(None if excess <= UNDECIDED[errors.rounds_in] else False, errors.error)


def _signed_permutations(
    reading: Reading, kinds: tuple[Representation, ...], seed: int, raised: dict[str, str]
) -> tuple[list[Signed], int | None]:
    """Generators and order of the group of those that hold; adds the first error to `raised`."""
    n = reading.n
    if n > LARGEST:
        return [], None
    first = reading.inputs[0]
    contents = [reading.inputs, (new_content(first, seed), *reading.inputs[1:])]
    runners = [Runner(reading.call, inputs, jitter=seed) for inputs in contents]
    dtype, identity = runnable(runners[0], "auto")[0], tuple(range(1, n + 1))
    generators, group, broken = [identity], {identity}, set[Signed]()
    for element in _elements(n):
        if element in group or element in broken:
            continue
        if all(_holds(runner, dtype, reading, kinds, element, raised) for runner in runners):
            generators.append(element)
            group = _closure(generators)
            broken = {_product(b, h) for b in broken for h in group}
        else:  # nor does a product of it with one that holds
            broken |= {_product(element, h) for h in group}
    return generators, len(group)


def _elements(n: int) -> Iterator[Signed]:
    for perm in itertools.permutations(range(1, n + 1)):
        for signs in itertools.product((1, -1), repeat=n):
            yield tuple(s * p for s, p in zip(signs, perm, strict=True))


def _product(first: Signed, second: Signed) -> Signed:
    """x -> first(second(x))."""
    return tuple((1 if p > 0 else -1) * second[abs(p) - 1] for p in first)


def _closure(generators: list[Signed]) -> set[Signed]:
    found, waiting = set(generators), list(generators)
    while waiting:
        element = waiting.pop()
        for generator in generators:
            product = _product(element, generator)
            if product not in found:
                found.add(product)
                waiting.append(product)
    return found


def _holds(
    runner: Runner,
    dtype: torch.dtype,
    reading: Reading,
    kinds: tuple[Representation, ...],
    element: Signed,
    raised: dict[str, str],
) -> bool:
    n = len(element)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for row, entry in enumerate(element):
        matrix[row, abs(entry) - 1] = 1 if entry > 0 else -1
    intervention = MotionIntervention(linear(matrix, ""), reading.kinds, kinds)
    with runner.at(dtype) as x:
        wanted = intervention.expected(runner.run(x))
        try:
            got = runner.run(intervention.apply(x))
        except Exception as error:  # whatever a model of other people raises on moved points
            told = f"the first of others raises {type(error).__name__}: {first_line(error)}"
            raised.setdefault(SIGNED, told)
            return False
    return difference(wanted, got) < max(SEEN, SEEN_EPSILONS * torch.finfo(dtype).eps)
