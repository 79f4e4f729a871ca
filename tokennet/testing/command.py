"""What `tokennet check` prints and writes of a report, and its exit code."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from tokennet._files import to_json, write_text
from tokennet.checks import lookup
from tokennet.testing._check import LawReport
from tokennet.testing.formats import Baseline, read_baseline, to_html, to_junit, to_sarif
from tokennet.testing.formats.baseline import breaks_of, decided, without_line
from tokennet.testing.formats.files import definition_of
from tokennet.testing.laws import LAWS
from tokennet.testing.report import Verdict
from tokennet.testing.zoo import ZooModel, is_zoo_name

BROKEN, NOTHING_SHOWN = 1, 3
"""Exit codes; 0 is that no law is broken, 2 wrong usage."""
PATIENCE = 10
"""Seconds until the line of progress says how to be faster."""


class Files(NamedTuple):
    """The files to write; `baseline` only to replace it."""

    json: Path | None = None
    junit: Path | None = None
    sarif: Path | None = None
    html: Path | None = None
    baseline: Path | None = None


def list_laws() -> None:
    """Print the laws with their summaries."""
    width = max(map(len, LAWS))
    for name, law in LAWS.items():
        print(f"{name:{width}}  {law.summary}")


def explain_law(name: str) -> None:
    """Print what there is to know of a law.

    Raises:
        ValueError: there is no such law.
    """
    law = lookup("--why", name, LAWS)
    print(f"{name}: {law.summary}\n\n{law.why.strip()}")


def known_breaks(file: Path | None, update: bool) -> Baseline:
    """The baseline of a file, or an empty baseline.

    Raises:
        ValueError: there is no file, or none to update.
    """
    if update and file is None:
        raise ValueError("--update-baseline needs --baseline FILE, got none")
    if file is None or (update and not file.exists()):
        return Baseline()
    if not file.exists():
        raise ValueError(f"--baseline {file} does not exist; --update-baseline makes it")
    return read_baseline(file)


class _Shown(logging.Handler):
    """Shows messages in a status line; after some seconds, how to be faster."""

    def __init__(self, status: Status) -> None:
        super().__init__(logging.INFO)
        self._status, self._started = status, time.perf_counter()

    def emit(self, record: logging.LogRecord) -> None:
        seconds = time.perf_counter() - self._started
        slow = " (a smaller example is checked faster)" if seconds > PATIENCE else ""
        self._status.update(f"{record.getMessage()}, {seconds:.0f} s{slow}")


@contextmanager
def progress() -> Iterator[None]:
    """Within the context a terminal shows which law is being checked."""
    logger = logging.getLogger("tokennet.check")
    console, level = Console(stderr=True), logger.level
    with console.status("the example is read") as status:
        shown = _Shown(status)
        logger.addHandler(shown)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(shown)
            logger.setLevel(level)


def report_on(
    report: LawReport, name: str, subject: ZooModel, baseline: Baseline, files: Files
) -> int:
    """Write and print a report, and return the exit code.

    Args:
        name: of the model, as the user wrote it.
    """
    report = _with_whole_scripts(report, name)
    found, laws = breaks_of(name, report), decided(report)
    if files.baseline is not None:
        baseline = baseline.updated(name, found.values(), laws)
        write_text(files.baseline, baseline.to_json())
    known = baseline.known(found.values())
    _write(report, name, known, subject, files)
    _print(report, known, subject.notes)
    for gone in baseline.mended(name, found.values(), laws):
        print(f"In the baseline, and no longer found: {gone.law} at {gone.at}")
    if set(report.broken) - known:
        return BROKEN
    return NOTHING_SHOWN if report.shows_nothing or report.questions else 0


def _with_whole_scripts(report: LawReport, name: str) -> LawReport:
    """The report with scripts that make the model by its name, so that they run as they are."""
    module, make = "resolve", f"resolve_model({name!r})"
    if is_zoo_name(name):
        module, make = "zoo", f"make_zoo_model({name!r}).model"
    lines = f"from tokennet.testing.{module} import {make.partition('(')[0]}\nmodel = {make}"
    reports = {}
    for law, result in report.reports.items():
        shown = result.counterexample
        if shown is not None:
            script = re.sub(r"^# model = .*$", lambda _: lines, shown.script, flags=re.M)
            shown = dataclasses.replace(shown, script=script)
        reports[law] = dataclasses.replace(result, counterexample=shown)
    return dataclasses.replace(report, reports=reports)


def _write(
    report: LawReport, name: str, known: Collection[str], subject: ZooModel, files: Files
) -> None:
    if files.json is not None:
        write_text(files.json, to_json(report.to_dict()) + "\n")
    if files.junit is not None:
        write_text(files.junit, to_junit(report, name, known))
    if files.sarif is not None:
        log = to_sarif(report, name, known, definition_of(subject.model))
        write_text(files.sarif, to_json(log) + "\n")
    if files.html is not None:
        write_text(files.html, to_html(report, name, known))


def _print(report: LawReport, known: Collection[str], notes: tuple[str, ...]) -> None:
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(_law_table(report))
    lines = [f"\n{text}" for text in (report.read_as, *report.details()) if text]
    lines += [f"note: {note}" for note in notes]
    if known:
        lines.append(f"{len(known)} of {len(report.broken)} breaks are in the baseline.")
        lines += [
            f"{law} is known by its reason alone, as no line is known: {report.reports[law].reason}"
            for law in sorted(without_line(report).intersection(known))
        ]
    lines += [report.hint] if report.hint else []
    for line in [*lines, report.summary()]:
        console.print(line)


def _law_table(report: LawReport) -> Table:
    table = Table("law", "verdict", "finding", title=f"{report.subject} on {report.example}")
    colors = {Verdict.PASS: "green", Verdict.BROKEN: "bold red"}
    for law, result in report.reports.items():
        color = colors.get(result.verdict, "yellow")
        finding = Text(result.reason)
        if result.location is not None:
            finding.append(f"\nat {Path(result.location.file).name}:{result.location.line}")
        for note in result.notes:
            finding.append(f"\nnote: {note}")
        table.add_row(law, Text(str(result.verdict), color), finding)
    return table
