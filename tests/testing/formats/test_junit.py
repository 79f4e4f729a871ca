"""JUnit XML that any reader parses, with the right counts."""

from xml.etree import ElementTree

from tests.testing.formats.reports import HOSTILE, report, result
from tokennet.testing import LawReport, Verdict
from tokennet.testing.formats import to_junit


def cases(text):
    root = ElementTree.fromstring(text)
    (suite,) = root
    return suite, {case.get("name"): case for case in suite}


def test_a_break_is_a_failure_and_what_is_undecided_is_skipped():
    suite, found = cases(to_junit(report("models.py"), "models:Mean"))
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "2", "errors": "0", "skipped": "2"}
    kinds = {name: [part.tag for part in case] for name, case in found.items()}
    assert kinds == {
        "node_permutation": [],
        "batch_composition": ["failure"],
        "padding": ["failure"],
        "causality": ["skipped"],
        "tied_inputs": ["skipped"],
    }
    broken = found["batch_composition"]
    assert (broken.get("classname"), broken.get("line")) == ("models:Mean", "6")
    assert "BROKEN: off by 0.5" in broken[0].get("message")
    assert "smallest counterexample" in broken[0].text


def test_a_known_break_is_skipped():
    suite, found = cases(to_junit(report("models.py"), "models:Mean", {"padding"}))
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "3")
    assert found["padding"][0].get("message").startswith("known break: BROKEN")


def test_a_law_that_waits_for_an_answer_is_a_failure():
    """As `passed` is False, and the exit code is not 0."""
    asked = result("padding", Verdict.INCONCLUSIVE, "read as padding", question="pass roles")
    suite, found = cases(to_junit(LawReport("Mean", "", {"padding": asked}, 1.0), "models:Mean"))
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "0")
    (failure,) = found["padding"]
    assert (failure.tag, failure.get("type")) == ("failure", "QUESTION")
    assert "read as padding" in failure.get("message")


def test_any_text_is_valid_xml():
    _, found = cases(to_junit(report("models.py", HOSTILE), f"models:{HOSTILE}"))
    assert "<script>" in found["batch_composition"][0].get("message")
