"""What a law is, and what several laws share. To add a law: a file here, a line in `LAWS`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tokennet.testing.engine.intervention import Inputs
from tokennet.testing.engine.wrapped import GradientOf, NoGradient
from tokennet.testing.example.case import Case
from tokennet.testing.report import SymmetryReport, Verdict

Options = dict[str, Any]
"""`dtype`, `jitter`, `seed` and `draws`, as given to `check`."""


class Law(NamedTuple):
    """A law that `check` asks of a model: needed to add one to `LAWS`.

    Args:
        summary: what the law says, in a line.
        applies: whether it can be asked of a case, and whether the model claims to be causal.
        check: its verdict on a case.
        why: what `tokennet check --why` prints: what the law says, how it is measured, typical
            causes of a break, and how to mend them.
    """

    summary: str
    applies: Callable[[Case, bool], bool]
    check: Callable[[Case, Options], SymmetryReport]
    why: str = ""


def with_gradients(
    check: Callable[[Case, Options, GradientOf | None], SymmetryReport],
) -> Callable[[Case, Options], SymmetryReport]:
    """The law asked of values, and where it holds, of gradients.

    Args:
        check: its third argument is the gradient as a function, or None for the values.
    """

    def checked(case: Case, options: Options) -> SymmetryReport:
        report = check(case, options, None)
        if report.verdict is not Verdict.PASS:
            return report
        try:
            gradients = check(case, {**options, "draws": 0}, GradientOf(case.function))
        except NoGradient as error:
            return dataclasses.replace(report, notes=(*report.notes, f"values only: {error}"))
        if gradients.verdict in (Verdict.PASS, Verdict.VACUOUS):
            told = [note for note in gradients.notes if "gradient" in note]
            return dataclasses.replace(report, notes=(*report.notes, *told))
        reason = f"values agree, the gradient: {gradients.reason}"
        return dataclasses.replace(gradients, reason=reason)

    return checked


def worst(reports: Iterable[SymmetryReport]) -> SymmetryReport:
    """The report with the worst verdict; none is made after the first that is BROKEN."""
    order = (Verdict.PASS, Verdict.VACUOUS, Verdict.INCONCLUSIVE, Verdict.BROKEN)
    found = []
    for report in reports:
        found.append(report)
        if report.verdict is Verdict.BROKEN:
            break
    return max(found, key=lambda report: order.index(report.verdict))


def token_dim(case: Case) -> int:
    """The dimension of the first input that counts tokens."""
    return case.example.token_dim


def on_views(law: Law) -> Law:
    """The law asked of each set of tokens of a case; the worst report says of which set it is."""

    def checked(case: Case, options: Options) -> SymmetryReport:
        views = [view for view in case.views if law.applies(view, False)]
        if len(views) < 2:
            return law.check((views or [case])[0], options)
        reports = []
        for view in views:
            report = law.check(view, options)
            if report.verdict is not Verdict.PASS:
                reason = f"in {view.example.set}: {report.reason}"
                report = dataclasses.replace(report, reason=reason)
            reports.append(report)
        found = worst(reports)
        return dataclasses.replace(found, runs=sum(report.runs for report in reports))

    return law._replace(
        applies=lambda case, causal: any(law.applies(view, causal) for view in case.views),
        check=checked,
    )


def as_inputs(inputs: Any) -> Inputs:
    """A tuple of inputs."""
    values = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    if not values:
        raise ValueError("inputs must hold at least one input, got none")
    return values
