"""The laws of space: `check_group` holds a model to translations, rotations, reflections, scale.

`check(model, points, group="E(3)")` runs them. A model obeys "at least under G" where each law
of G passes; it may have more symmetry, which `discover_geometry` looks for.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import lookup, lookup_all
from tokennet.testing.engine.draws import COUNT, Draws
from tokennet.testing.engine.run import accepted_content
from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.engine.verdict import name_of, run_law, verdict_on_error
from tokennet.testing.engine.wrapped import GradientOf, NoGradient
from tokennet.testing.example.reading import ReadingLine
from tokennet.testing.example.values import describe, map_tensors, tensors_of
from tokennet.testing.geometry.constants import effect_of_constants
from tokennet.testing.geometry.intervention import MotionIntervention
from tokennet.testing.geometry.motions import DRAWN, Motion, bases, signs
from tokennet.testing.geometry.outputs import chosen, output_kinds
from tokennet.testing.geometry.reading import Reading, read_points
from tokennet.testing.geometry.representations import Representation
from tokennet.testing.geometry.shifts import SHIFTS, check_shifts
from tokennet.testing.report import SymmetryReport, Verdict

GROUPS = {
    "SO": ("rotations",),
    "O": ("rotations", "reflections"),
    "SE": ("rotations", "translations"),
    "E": ("rotations", "reflections", "translations"),
}
"""The laws of SO(n), O(n), SE(n) and E(n), whose motions together generate the group."""
SPECTRAL = {"signs": signs, "bases": bases}
NAMES = dict.fromkeys(["SO(3)", "O(3)", "SE(3)", "E(3)", *DRAWN, *SPECTRAL, *SHIFTS])
"""Names of groups, for messages; other numbers of coordinates than 3 are known too."""
NUM_MOTIONS = 5
LARGEST_ROUNDING = 8.0
"""How many times the effect of rounded constants an error may be."""
HOPELESS = 1e-3
"""No rounding of constants makes an error as large as this."""


def laws_of_group(group: str) -> tuple[str, ...]:
    """The laws that together say "equivariant at least under this group".

    Raises:
        TypeError: the group is no string.
        ValueError: it is unknown.

    >>> laws_of_group("SE(3)")
    ('rotations', 'translations')
    """
    if not isinstance(group, str):
        raise TypeError(f"group must be a name such as 'E(3)', got {group!r}")
    name, number = _parsed(group)
    if number is None:
        lookup("group", group, NAMES, also="or of tokens S_n, A_n, C_n, D_n")
        return (group,)
    return GROUPS[name]


def _parsed(group: str) -> tuple[str, int | None]:
    """The family and number of coordinates of SO(n), O(n), SE(n), E(n)."""
    match = re.fullmatch(r"(SO|O|SE|E)\(([2-9])\)", group)
    return (match[1], int(match[2])) if match else (group, None)


def check_group(
    model: Callable[..., Any],
    example: Any,
    group: str,
    *,
    roles: Mapping[str, str] | None = None,
    outputs: Any = None,
    laws: Sequence[str] | None = None,
    dtype: str | torch.dtype = "auto",
    jitter: bool = True,
    seed: int = 0,
    draws: int | Draws = COUNT,
) -> dict[str, SymmetryReport]:
    """Hold a model to the laws of a group; `check(model, example, group=...)` calls this.

        f(g x) = g f(x)

    Args:
        example: points (N, 3) or (B, N, 3), (z, pos, batch), PyG `Data` with `pos`, `Tokens`
            with `pos`, or a dict by argument.
        group: "SO(3)", "O(3)", "SE(3)", "E(3)" (or another number of coordinates),
            "translations", "rotations", "reflections", "scale"; of eigenvectors "signs",
            "bases"; of grids "circular_shifts", "shifts". An output that is coarser than the
            grid, as by a stride of 2, is asked for shifts by multiples of 2 alone, as a note and
            the reading say: it has no shift by one half. See also `shift_table`.
        roles: kinds of inputs by name or index: "points", "vector", "pseudovector", "matrix",
            "scalar", "other", irreps of e3nn such as "8x0e + 4x1o", "eigenvectors:2,1" with
            sizes of eigenspaces; ":-2" at the end names another dimension than the last.
        outputs: names of the outputs to compare, or a dict from names to their kinds.
        laws: some of the group's.
        draws: on how much other content shifts of a grid are tried. Laws of points and of
            eigenvectors are measured on the example alone, which decides what is near.

    Raises:
        TypeError, ValueError: the group is unknown, or the example cannot be read.

    >>> center = lambda pos: pos - pos.mean(-2, keepdim=True)
    >>> reports = check_group(center, torch.randn(5, 3), "E(3)")
    >>> [str(report.verdict) for report in reports.values()]
    ['PASS', 'PASS', 'PASS']
    """
    given: dict[str, Any] = {"roles": roles, "outputs": outputs, "laws": laws}
    options: dict[str, Any] = {"dtype": dtype, "jitter": jitter, "seed": seed, "draws": draws}
    return read_and_check_group(model, example, group, **given, **options)[0]


def read_and_check_group(
    model: Callable[..., Any],
    example: Any,
    group: str,
    *,
    roles: Mapping[str, str] | None,
    outputs: Any,
    laws: Sequence[str] | None,
    **options: Any,
) -> tuple[dict[str, SymmetryReport], tuple[ReadingLine, ...]]:
    """The reports of `check_group`, and how inputs and outputs were read."""
    names = laws_of_group(group)
    if laws is not None:
        names = lookup_all("laws", laws, dict.fromkeys(names))
    if group in SHIFTS:
        report, line = check_shifts(group, model, example, roles, outputs, **options)
        return {group: report}, (line,)
    options = {**options, "draws": 0}
    spectral = group in SPECTRAL
    reading = read_points(model, example, roles, n=_parsed(group)[1], spectral=spectral)
    reading, said = chosen(reading, outputs)
    drawn = {law: motions_of(law, reading, options["seed"]) for law in names}
    declared = declared_outputs(model)
    motions = [motion for law in names for motion in drawn[law][:1]]
    kinds = output_kinds(reading, said, declared, motions, options["dtype"])
    subject = name_of(model)
    with accepted_content(reading.call, reading.inputs):
        reports = {law: _check(law, reading, kinds, drawn[law], options, subject) for law in names}
    return reports, _lines(reading, kinds)


def _lines(reading: Reading, outs: tuple[Representation, ...]) -> tuple[ReadingLine, ...]:
    """How inputs and outputs were read, for the report."""
    with sandboxed(reading.function, dtype=None), torch.no_grad():
        found = reading.function(*map_tensors(torch.clone, reading.inputs))
    given = list(zip(reading.names, reading.inputs, reading.kinds, strict=True))
    returned = zip(reading.function.outputs, tensors_of(found), outs, strict=True)
    return tuple(
        ReadingLine(name, describe(value), str(kind), _text(kind), is_output=n >= len(given))
        for n, (name, value, kind) in enumerate([*given, *returned])
    )


def _text(kind: Representation) -> str:
    if "scalar" in kind.name:
        return f"a {kind.name}"
    if kind.is_still:
        return f"{kind.name}: held still"
    return f"{kind.name}, coordinates along dimension {kind.dim}"


def declared_outputs(model: Any) -> list[str]:
    """The irreps that a model declares for its outputs, empty where it says none."""
    irreps = getattr(model, "irreps_out", None)
    values = irreps if isinstance(irreps, list) else [irreps]
    return [str(value) if type(value).__name__ == "Irreps" else "" for value in values]


def motions_of(law: str, reading: Reading, seed: int) -> list[Motion]:
    """The motions by which a model is held to a law."""
    generator = torch.Generator().manual_seed(seed)
    if law in SPECTRAL:
        drawn = SPECTRAL[law](_eigenspaces(law, reading), generator)
    else:
        drawn = DRAWN[law](reading.n, _spread(reading), generator)
    return list(itertools.islice(drawn, NUM_MOTIONS))


def _spread(reading: Reading) -> float:
    """How far points are from their mean: the size of translations."""
    first, kind = reading.inputs[0], reading.kinds[0]
    if not isinstance(first, Tensor) or kind.name != "points":
        return 1.0
    points = first.movedim(kind.dim, -1).reshape(-1, first.shape[kind.dim]).double()
    return float((points - points.mean(0)).square().mean().sqrt()) or 1.0


def _eigenspaces(law: str, reading: Reading) -> tuple[int, ...]:
    """Sizes of the eigenspaces: as given in the role, or by equal eigenvalues."""
    kind = next(kind for kind in reading.kinds if kind.name == "eigenvectors")
    if kind.sizes:
        if sum(kind.sizes) != reading.n:
            raise ValueError(
                f"roles must give sizes of eigenspaces that sum to {reading.n}, got {kind.sizes}"
            )
        return kind.sizes
    if law == "signs":
        return (1,) * reading.n
    number = next((k for k, kind in enumerate(reading.kinds) if kind.name == "eigenvalues"), None)
    if number is None:
        raise ValueError(
            "bases needs eigenvalues among the inputs (a role 'eigenvalues'), or the sizes of "
            "eigenspaces in the role of the eigenvectors, as 'eigenvectors:2,1'"
        )
    values = reading.inputs[number].double().reshape(-1, reading.n)
    close = (values.diff(dim=-1).abs() < 1e-5 * values.abs().max().clamp(min=1.0)).all(0)
    sizes = [1]
    for same in close.tolist():
        if same:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return tuple(sizes)


def _check(
    law: str,
    reading: Reading,
    outs: tuple[Representation, ...],
    motions: Sequence[Motion],
    options: dict[str, Any],
    subject: str,
) -> SymmetryReport:
    read = f"read as {reading} -> {_listed(reading, outs)}"
    try:
        report = _run(law, reading, outs, motions, options)
        still = all(kind.is_still for kind in outs)
        if report.verdict is Verdict.PASS and still and reading.kinds[0].name != "eigenvectors":
            report = _with_gradient(report, law, reading, motions, options)
    except Exception as error:  # whatever a model of other people raises
        report = verdict_on_error(error)
    notes = tuple(note for note in report.notes if "nothing mixes tokens" not in note)
    return dataclasses.replace(report, law=law, subject=subject, notes=(read, *notes))


def _listed(reading: Reading, outs: tuple[Representation, ...]) -> str:
    return ", ".join(
        f"{name}: {kind}" for name, kind in zip(reading.function.outputs, outs, strict=True)
    )


def _run(
    law: str,
    reading: Reading,
    outs: tuple[Representation, ...],
    motions: Sequence[Motion],
    options: dict[str, Any],
    function: Callable[..., Any] | None = None,
) -> SymmetryReport:
    """The engine's verdict; in float32 where constants of the model are rounded to float32."""
    function = function or reading.call
    interventions = [
        MotionIntervention(motion, reading.kinds, outs, reading.irreps) for motion in motions
    ]
    report = run_law(law, function, reading.inputs, interventions, swaps=False, **options)
    undecided = report.verdict in (Verdict.BROKEN, Verdict.INCONCLUSIVE)
    if not undecided or report.dtype != "float64" or not report.error < HOPELESS:
        return report
    if report.error > LARGEST_ROUNDING * effect_of_constants(
        function, reading.inputs, interventions, options["seed"] if options["jitter"] else None
    ):
        return report
    first = report.error
    report = run_law(law, function, reading.inputs, interventions, swaps=False,
                     **{**options, "dtype": torch.float32})  # fmt: skip
    note = (
        f"an error of {first:.1g} in float64 is the rounding of constants that the model keeps in "
        "float32 (make the model in float64 to see more); decided in float32"
    )
    return dataclasses.replace(report, notes=(*report.notes, note))


def _with_gradient(
    report: SymmetryReport,
    law: str,
    reading: Reading,
    motions: Sequence[Motion],
    options: dict[str, Any],
) -> SymmetryReport:
    """Where outputs are scalars, their gradient is a vector for each point."""
    first = reading.kinds[0]
    if law == "scale" or first.name not in ("points", "vector"):
        return report
    gradient = GradientOf(reading.call)
    try:
        found = _run(
            law, reading, (Representation("vector", first.dim),), motions, options, gradient
        )
    except NoGradient as error:
        return dataclasses.replace(report, notes=(*report.notes, f"values only: {error}"))
    if found.verdict is not Verdict.BROKEN:
        return report
    return dataclasses.replace(found, reason=f"values agree, the gradient: {found.reason}")
