"""`discover_geometry`: which motions of space a model commutes with, by running it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tokennet.testing.engine.content import new_content
from tokennet.testing.engine.differences import difference
from tokennet.testing.engine.run import Runner
from tokennet.testing.engine.tolerance import UNDECIDED, errors_against_tolerance, runnable
from tokennet.testing.engine.verdict import name_of
from tokennet.testing.geometry.constants import effect_of_constants
from tokennet.testing.geometry.intervention import MotionIntervention
from tokennet.testing.geometry.kinds import Kind
from tokennet.testing.geometry.laws import (
    HOPELESS,
    LARGEST_ROUNDING,
    declared_outputs,
    motions_of,
)
from tokennet.testing.geometry.motions import AXES, DRAWN, Motion, linear, rotation_in_plane
from tokennet.testing.geometry.outputs import chosen, output_kinds
from tokennet.testing.geometry.reading import Reading, read_points

SEEN = 1e-6
"""Relative errors below this are not seen in the search for signed permutations."""
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
        width = max(map(len, [*self.holds, "signed permutations"]))
        lines = [f"{self.subject}: {self.name}", f"  read as {self.reading}"]
        lines += [
            f"  {law:{width}}  {words[holds]}, error {self.errors[law]:.2g}"
            for law, holds in self.holds.items()
        ]
        if self.signed_order is not None:
            lines.append(f"  {'signed permutations':{width}}  {self.signed_order} hold")
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
    laws = [law for law in DRAWN if law not in ("rotations", "reflections") or reading.n > 1]
    drawn = {law: motions_of(law, reading, seed) for law in laws}
    told = [drawn[law][0] for law in laws if law != "scale"]
    kinds = output_kinds(reading, said, declared_outputs(model), told)
    # Vectors may grow with the points or, as directions do, stay.
    scaled = output_kinds(reading, said, declared_outputs(model), drawn["scale"][:1])
    tried = {
        law: _tried(reading, scaled if law == "scale" else kinds, motions, seed)
        for law, motions in drawn.items()
    }
    if not tried.get("rotations", (True, 0.0))[0] and reading.n == 3:
        for axis, motions in _about_axes().items():
            tried[axis] = _tried(reading, kinds, motions, seed)
    found, order = _signed_permutations(reading, kinds, seed)
    pairs = zip(reading.function.outputs, kinds, strict=True)
    return GeometryReport(
        name_of(model),
        reading.n,
        f"{reading} -> {', '.join(f'{name}: {kind}' for name, kind in pairs)}",
        {law: holds for law, (holds, _) in tried.items()},
        {law: error for law, (_, error) in tried.items()},
        tuple(found),
        order,
    )


def _about_axes() -> dict[str, list[Motion]]:
    planes = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}
    return {
        f"rotations about {axis}": [
            linear(rotation_in_plane(3, *planes[axis], degrees), "") for degrees in (37, 101, 200)
        ]
        for axis in AXES
    }


def _tried(
    reading: Reading, kinds: tuple[Kind, ...], motions: list[Motion], seed: int
) -> tuple[bool | None, float]:
    """Whether the motions hold up to rounding, and the largest error."""
    interventions = [MotionIntervention(motion, reading.kinds, kinds) for motion in motions]
    runner = Runner(reading.call, reading.inputs, interventions, seed)
    dtype = runnable(runner, "auto")[0]
    try:
        errors = errors_against_tolerance(runner, runner.measure(dtype), [])
    except ValueError:  # irreps do not say what scaling does
        return False, float("inf")
    excess = max(errors.excess)
    if excess <= 1:
        return True, errors.error
    if errors.error < HOPELESS:
        rounded = effect_of_constants(reading.call, reading.inputs, interventions, seed)
        if errors.error <= LARGEST_ROUNDING * rounded:
            return True, errors.error
    return (None if excess <= UNDECIDED[errors.rounds_in] else False), errors.error


def _signed_permutations(
    reading: Reading, kinds: tuple[Kind, ...], seed: int
) -> tuple[list[Signed], int | None]:
    """Generators and order of the group of those that hold."""
    n = reading.n
    if n > LARGEST:
        return [], None
    first = reading.inputs[0]
    contents = [reading.inputs, (new_content(first, seed), *reading.inputs[1:])]
    runners = [Runner(reading.call, inputs, jitter=seed) for inputs in contents]
    identity = tuple(range(1, n + 1))
    generators, group, broken = [identity], {identity}, set[Signed]()
    for element in _elements(n):
        if element in group or element in broken:
            continue
        if all(_holds(runner, reading, kinds, element) for runner in runners):
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


def _holds(runner: Runner, reading: Reading, kinds: tuple[Kind, ...], element: Signed) -> bool:
    n = len(element)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for row, entry in enumerate(element):
        matrix[row, abs(entry) - 1] = 1 if entry > 0 else -1
    intervention = MotionIntervention(linear(matrix, ""), reading.kinds, kinds)
    with runner.at(torch.float64) as x:
        wanted = intervention.expected(runner.run(x))
        got = runner.run(intervention.apply(x))
    return difference(wanted, got) < SEEN
