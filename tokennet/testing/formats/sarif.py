"""A report as SARIF 2.1.0, which code hosts show as annotations on lines: a break is a result.

INCONCLUSIVE and VACUOUS are no results but notifications, as they are no defects of a line; a law
that waits for an answer is a warning among these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tokennet.testing._check import LawReport
from tokennet.testing.formats.baseline import Break, breaks_of
from tokennet.testing.formats.files import shown_path
from tokennet.testing.laws import LAWS
from tokennet.testing.report import SymmetryReport, Verdict
from tokennet.version import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(
    report: LawReport,
    name: str,
    known: Collection[str] = (),
    definition: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """The log, as plain values for JSON.

    Args:
        name: of the model, as the user wrote it.
        known: laws whose breaks are in the baseline: they are suppressed.
        definition: file and line of the model, for breaks without a line of their own.
    """
    breaks, rules = breaks_of(name, report), list(report.reports)
    results = [
        _result(report.reports[law], each, rules.index(law), law in known, definition)
        for law, each in breaks.items()
    ]
    notifications = [
        {
            "descriptor": {"id": law, "index": rules.index(law)},
            "level": "warning" if law in report.questions else "note",
            "message": {"text": f"{law} {result.verdict}: {result.reason}"},
        }
        for law, result in report.reports.items()
        if result.verdict not in (Verdict.PASS, Verdict.BROKEN)
    ]
    invocation = {"executionSuccessful": True, "toolExecutionNotifications": notifications}
    driver = {"name": "tokennet", "version": __version__, "rules": [_rule(law) for law in rules]}
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"tokennet/{name}/"},
        "columnKind": "unicodeCodePoints",
        "invocations": [invocation],
        "results": results,
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(law: str) -> dict[str, Any]:
    known = LAWS.get(law)
    summary = known.summary if known else law
    return {
        "id": law,
        "name": "".join(word.capitalize() for word in law.split("_")),
        "shortDescription": {"text": summary},
        "fullDescription": {"text": summary},
        "help": {"text": (known.why if known else "") or summary},
        "defaultConfiguration": {"level": "error"},
    }


def _result(
    result: SymmetryReport,
    found: Break,
    index: int,
    is_known: bool,
    definition: tuple[str, int] | None,
) -> dict[str, Any]:
    told = f"{result.subject} breaks {found.law}: {result.reason}"
    if result.counterexample is not None:
        told += f". Smallest counterexample: {result.counterexample}"
    value: dict[str, Any] = {
        "ruleId": found.law,
        "ruleIndex": index,
        "kind": "fail",
        "level": "error",
        "message": {"text": f"{told}."},
        "partialFingerprints": {
            "tokennetBreak/v1": hashlib.sha256("\n".join(found).encode()).hexdigest()
        },
    }
    where = _location(result, definition)
    if where:
        value["locations"] = [where]
    if is_known:
        value["suppressions"] = [{"kind": "external", "justification": "in the baseline"}]
    return value


def _location(result: SymmetryReport, definition: tuple[str, int] | None) -> Mapping[str, Any]:
    location = result.location
    if location is None or not location.line:
        if definition is None or not definition[0]:
            return {}
        return {"physicalLocation": _physical(definition[0], {"startLine": max(definition[1], 1)})}
    region = {"startLine": location.line, "endLine": max(location.end_line, location.line)}
    region_with_text = {**region, "snippet": {"text": location.source}}
    found: dict[str, Any] = {"physicalLocation": _physical(location.file, region_with_text)}
    if location.module:
        found["logicalLocations"] = [{"fullyQualifiedName": location.module, "kind": "module"}]
    return found


def _physical(file: str, region: dict[str, Any]) -> dict[str, Any]:
    """Relative to the working folder, where code hosts look for files; else absolute."""
    path = Path(file)
    inside = path.is_absolute() and path.is_relative_to(Path.cwd())
    if inside:
        uri = quote(path.relative_to(Path.cwd()).as_posix())
    elif path.is_absolute():
        uri = path.as_uri()
    else:
        uri = quote(shown_path(file))
    return {"artifactLocation": {"uri": uri}, "region": region}
