"""A baseline: the breaks that are known, so that a check fails for no others.

A break is known by its model, law and statement of code; numbers of lines do not matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokennet._files import to_json
from tokennet.testing._check import LawReport
from tokennet.testing.formats.files import shown_path

VERSION = 1
FORM = '{"version": 1, "breaks": [{"model": ..., "law": ..., "at": ...}, ...]}'


class Break(NamedTuple):
    """A break of a law: `at` is the file and the statement, empty where they are unknown."""

    model: str
    law: str
    at: str


def breaks_of(name: str, report: LawReport) -> dict[str, Break]:
    """The breaks in a report, by law.

    Args:
        name: of the model, as the user wrote it.
    """
    found = {}
    for law in report.broken:
        location = report.reports[law].location
        at = ""
        if location is not None:
            source = " ".join(location.source.split())
            at = f"{shown_path(location.file)}: {source}" if location.line else location.operation
        found[law] = Break(name, law, at)
    return found


@dataclass(frozen=True)
class Baseline:
    """The known breaks of all models of a project. Made by `read_baseline`."""

    breaks: frozenset[Break] = frozenset()

    def known(self, found: Iterable[Break]) -> set[str]:
        """The laws whose breaks are known."""
        return {each.law for each in found if each in self.breaks}

    def mended(self, name: str, found: Iterable[Break], laws: Iterable[str]) -> list[Break]:
        """The breaks of a model that are no longer there, of the laws that were checked."""
        checked, present = set(laws), set(found)
        mine = [b for b in self.breaks if b.model == name and b.law in checked]
        return sorted(b for b in mine if b not in present)

    def updated(self, name: str, found: Iterable[Break], laws: Iterable[str]) -> Baseline:
        """With the breaks of a model in the laws that were checked, and those of other models."""
        checked = set(laws)
        kept = {b for b in self.breaks if b.model != name or b.law not in checked}
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
        raise ValueError(f"{told}; got version {version!r}")
    try:
        breaks = [Break(**{k: str(v) for k, v in item.items()}) for item in content["breaks"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{told}: {error}") from error
    return Baseline(frozenset(breaks))
