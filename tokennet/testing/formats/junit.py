"""A report as JUnit XML, which CI servers show as tests: a law is a test case.

A law that waits for an answer is a failure of type QUESTION, as the check has not passed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from xml.etree import ElementTree

from tokennet.testing._check import LawReport
from tokennet.testing.formats.files import shown_path
from tokennet.testing.report import Verdict

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: LawReport, name: str, known: Collection[str] = ()) -> str:
    """The XML: a break or a question is a failure; what is known or undecided is skipped.

    Args:
        name: of the model, as the user wrote it.
        known: laws whose breaks are in the baseline.
    """
    failed = {law: "BROKEN" for law in report.broken if law not in known}
    failed |= dict.fromkeys(report.questions, "QUESTION")
    passed = [law for law, r in report.reports.items() if r.verdict is Verdict.PASS]
    counts = {
        "tests": str(len(report.reports)),
        "failures": str(len(failed)),
        "errors": "0",
        "skipped": str(len(report.reports) - len(failed) - len(passed)),
        "time": f"{report.seconds:.3f}",
    }
    suites = ElementTree.Element("testsuites", {"name": "tokennet", **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _clean(name), **counts})
    for law, result in report.reports.items():
        given = {"classname": _clean(name), "name": law, "time": f"{result.seconds:.3f}"}
        location = result.location
        if location is not None and location.line:
            given |= {"file": shown_path(location.file), "line": str(location.line)}
        test = ElementTree.SubElement(suite, "testcase", given)
        told = _clean(f"{result.verdict}: {result.reason}")
        if law in failed:
            failure = {"message": told, "type": failed[law]}
            ElementTree.SubElement(test, "failure", failure).text = _clean(str(result))
        elif result.verdict is Verdict.BROKEN:
            ElementTree.SubElement(test, "skipped", {"message": f"known break: {told}"})
        elif result.verdict is not Verdict.PASS:
            ElementTree.SubElement(test, "skipped", {"message": told})
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Without characters that XML cannot hold."""
    return _NOT_IN_XML.sub("\ufffd", text)
