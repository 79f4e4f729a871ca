"""A baseline: the breaks that are known, so that a check fails for no others.

A break is known by its model, law and statement of code: the file, the function, the module of
the net and the text, with a number where the function has the same text again. Numbers of lines
do not matter. A break without a line is known by its reason and all numbers in it, the size of the
error among them, so that another break without a line is not taken for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokennet._files import to_json
from tokennet.testing._check import LawReport
from tokennet.testing.formats.files import scope_of, shown_path
from tokennet.testing.report import SymmetryReport, Verdict

VERSION = 2
FORM = f'{{"version": {VERSION}, "breaks": [{{"model": ..., "law": ..., "at": ...}}, ...]}}'


class Break(NamedTuple):
    """A break of a law: `at` is the statement in its function and module, or else the reason."""

    model: str
    law: str
    at: str


def breaks_of(name: str, report: LawReport) -> dict[str, Break]:
    """The breaks in a report, by law.

    Args:
        name: of the model, as the user wrote it.
    """
    return {law: Break(name, law, _place(report.reports[law])) for law in report.broken}


def _place(report: SymmetryReport) -> str:
    location = report.location
    if location is None:
        return report.reason
    module = [location.module] if location.module else []
    if not location.line:
        return f"{', '.join([location.operation, *module])}: {report.reason}"
    function, number = scope_of(location.file, location.line)
    source = " ".join(location.source.split())
    again = f" (number {number})" if number > 1 else ""
    parts = [shown_path(location.file), *filter(None, [function]), *module]
    return f"{', '.join(parts)}: {source}{again}"


def without_line(report: LawReport) -> set[str]:
    """The laws whose break has no line, and is known by its reason alone."""
    places = {law: report.reports[law].location for law in report.broken}
    return {law for law, place in places.items() if place is None or not place.line}


def decided(report: LawReport) -> list[str]:
    """The laws of which a report shows whether a known break is still there.

    A break is gone where the law holds, where the output depends on no token any more (VACUOUS), or
    where another statement breaks it. INCONCLUSIVE runs show nothing, and a law that was not
    asked, or does not apply, says nothing either: its breaks stay in the baseline.
    """
    reports = report.reports.items()
    return [law for law, found in reports if found.verdict is not Verdict.INCONCLUSIVE]


@dataclass(frozen=True)
class Baseline:
    """The known breaks of all models of a project. Made by `read_baseline`."""

    breaks: frozenset[Break] = frozenset()

    def known(self, found: Iterable[Break]) -> set[str]:
        """The laws whose breaks are known."""
        return {each.law for each in found if each in self.breaks}

    def mended(self, name: str, found: Iterable[Break], laws: Iterable[str]) -> list[Break]:
        """The breaks of a model that are no longer there, of the laws that were decided."""
        decided_laws, present = set(laws), set(found)
        mine = [b for b in self.breaks if b.model == name and b.law in decided_laws]
        return sorted(b for b in mine if b not in present)

    def updated(self, name: str, found: Iterable[Break], laws: Iterable[str]) -> Baseline:
        """With the breaks of a model in the laws that were decided, and all others as they are."""
        decided_laws = set(laws)
        kept = {b for b in self.breaks if b.model != name or b.law not in decided_laws}
        return Baseline(frozenset({*kept, *found}))

    def to_json(self) -> str:
        """The text of the file."""
        breaks = [each._asdict() for each in sorted(self.breaks)]
        return to_json({"version": VERSION, "breaks": breaks}) + "\n"


def read_baseline(path: Path) -> Baseline:
    """The baseline of a file.

    Raises:
        ValueError: the file has another form.
        OSError: it cannot be read.
    """
    told = f"--baseline {path} must hold {FORM}"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{told}: {error}") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        version = content.get("version") if isinstance(content, dict) else content
        older = "; remove the file, and --update-baseline makes it anew" if version == 1 else ""
        raise ValueError(f"{told}; got version {version!r}{older}")
    try:
        breaks = [Break(**{k: str(v) for k, v in item.items()}) for item in content["breaks"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{told}: {error}") from error
    return Baseline(frozenset(breaks))
