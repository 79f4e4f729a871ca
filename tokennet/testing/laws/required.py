"""The requirement "equivariant at least under G", G a group of space or of permutations.

`check(model, example, group=...)` asks it; `discover_group` and `discover_geometry` find all of G.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokennet.testing.engine.verdict import name_of, verdict_on_error
from tokennet.testing.example.case import Case, make_case
from tokennet.testing.example.reading import ReadingLine
from tokennet.testing.geometry.laws import laws_of_group, read_and_check_group
from tokennet.testing.laws.equivariance import check_equivariance
from tokennet.testing.report import SymmetryReport

PERMUTATIONS = "permutations"
"""The name of the law where the group is one of permutations of the tokens."""


def _cycle(n: int) -> list[int]:
    return [*range(1, n), 0]


TOKEN_GROUPS: dict[str, Callable[[int], list[list[int]] | None]] = {
    "S_n": lambda n: None,
    "A_n": lambda n: [[1, 2, 0, *range(3, n)], _cycle(n) if n % 2 else [0, *range(2, n), 1]],
    "C_n": lambda n: [_cycle(n)],
    "D_n": lambda n: [_cycle(n), list(range(n))[::-1]],
}
"""Generators of groups of permutations of n tokens, by name; None for all permutations."""


def required_laws(group: Any) -> tuple[str, ...]:
    """The laws of a required group.

    Raises:
        TypeError, ValueError: there is no such group.

    >>> required_laws("E(3)"), required_laws([[1, 2, 0]])
    (('rotations', 'reflections', 'translations'), ('permutations',))
    """
    if isinstance(group, str) and group not in TOKEN_GROUPS:
        return laws_of_group(group)
    if not isinstance(group, str | Sequence):
        raise TypeError(f"group must be a name or a list of permutations, got {group!r}")
    return (PERMUTATIONS,)


def check_required(
    model: Callable[..., Any],
    example: Any,
    group: Any,
    *,
    roles: Mapping[str, str] | None,
    outputs: Any,
    laws: Sequence[str] | None,
    **options: Any,
) -> tuple[dict[str, SymmetryReport], tuple[ReadingLine, ...]]:
    """Hold a model to a group: its reports by law, and how the example was read.

    Args:
        group: as in `check_group`; or "S_n", "A_n", "C_n" (the rotations of a ring), "D_n" of
            the n tokens, or a list of permutations that generate it.

    Raises:
        TypeError, ValueError: there is no such group, or the example cannot be read.
    """
    if required_laws(group) != (PERMUTATIONS,):
        given: dict[str, Any] = {"roles": roles, "outputs": outputs, "laws": laws, **options}
        return read_and_check_group(model, example, group, **given)
    if roles is not None or outputs is not None:
        raise ValueError("roles and outputs say what coordinates are: they need a group of space")
    case = make_case(model, example)
    try:
        report = _permutations(case, group, options)
    except Exception as error:  # whatever a model of other people raises
        report = verdict_on_error(error)
    return {PERMUTATIONS: report}, case.reading


def _permutations(case: Case, group: Any, options: dict[str, Any]) -> SymmetryReport:
    generators = TOKEN_GROUPS[group](case.example.num_tokens) if isinstance(group, str) else group
    report = check_equivariance(
        case.function,
        case.inputs,
        group=generators,
        in_action=case.example.actions,
        out_action=case.out_actions,
        **options,
    )
    return dataclasses.replace(report, law=PERMUTATIONS, subject=name_of(case.model))
