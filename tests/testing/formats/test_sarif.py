"""SARIF by the rules of its schema, version 2.1.0, and of code hosts that show it."""

import json
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from tests.testing.formats.reports import MODEL, report, result
from tokennet._files import to_json
from tokennet.testing import LAWS, LawReport, Verdict
from tokennet.testing.formats import to_sarif

RULES = {
    "log": ({"version", "runs"}, {"$schema"}),
    "run": ({"tool"}, {"results", "automationDetails", "columnKind", "invocations"}),
    "tool": ({"driver"}, set()),
    "toolComponent": ({"name"}, {"version", "rules", "informationUri", "semanticVersion"}),
    "reportingDescriptor": (
        {"id"},
        {"name", "shortDescription", "fullDescription", "help", "helpUri", "defaultConfiguration"},
    ),
    "reportingConfiguration": (set(), {"level", "enabled", "rank"}),
    "message": (set(), {"text", "markdown", "id", "arguments"}),
    "result": (
        {"message"},
        {"ruleId", "ruleIndex", "kind", "level", "locations", "partialFingerprints",
         "suppressions"},
    ),
    "location": (set(), {"physicalLocation", "logicalLocations", "message", "id"}),
    "physicalLocation": (set(), {"artifactLocation", "region", "contextRegion"}),
    "artifactLocation": (set(), {"uri", "uriBaseId", "index"}),
    "region": (set(), {"startLine", "endLine", "startColumn", "endColumn", "snippet"}),
    "artifactContent": (set(), {"text", "binary"}),
    "logicalLocation": (set(), {"name", "fullyQualifiedName", "kind"}),
    "suppression": ({"kind"}, {"status", "justification", "guid"}),
    "runAutomationDetails": (set(), {"id", "guid", "description"}),
    "invocation": ({"executionSuccessful"}, {"toolExecutionNotifications"}),
    "notification": ({"message"}, {"descriptor", "level", "locations"}),
    "reportingDescriptorReference": (set(), {"id", "index"}),
}  # fmt: skip
"""Properties that an object must have and may have; the schema allows no others."""
LEVELS = ("none", "note", "warning", "error")
KINDS = ("notApplicable", "pass", "fail", "review", "open", "informational")


def hold(value, kind):
    """Assert the rules of an object of the schema."""
    assert isinstance(value, dict), kind
    required, optional = RULES[kind]
    assert required <= set(value) <= required | optional, (kind, set(value))
    return value


def hold_message(value):
    assert hold(value, "message")["text"].strip()


def hold_location(value):
    physical = hold(hold(value, "location")["physicalLocation"], "physicalLocation")
    uri = hold(physical["artifactLocation"], "artifactLocation")["uri"]
    parsed = urlparse(uri)
    assert parsed.scheme in ("", "file")
    assert " " not in uri
    assert "\\" not in uri
    assert not (parsed.scheme == "" and uri.startswith("/"))
    region = hold(physical["region"], "region")
    assert 1 <= region["startLine"] <= region.get("endLine", region["startLine"])
    if "snippet" in region:
        hold(region["snippet"], "artifactContent")
    for logical in value.get("logicalLocations", []):
        hold(logical, "logicalLocation")
    return uri, region["startLine"]


def hold_log(log):
    """Assert all of them, and return the results."""
    hold(log, "log")
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    hold(run, "run")
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    assert hold(run["automationDetails"], "runAutomationDetails")["id"].endswith("/")
    driver = hold(hold(run["tool"], "tool")["driver"], "toolComponent")
    ids = [hold(rule, "reportingDescriptor")["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids))
    for rule in driver["rules"]:
        level = hold(rule["defaultConfiguration"], "reportingConfiguration")["level"]
        assert level in LEVELS
        for part in ("shortDescription", "fullDescription", "help"):
            hold_message(rule[part])
    for found in run["results"]:
        hold(found, "result")
        hold_message(found["message"])
        assert found["level"] in LEVELS
        assert found["kind"] in KINDS
        assert ids[found["ruleIndex"]] == found["ruleId"]
        assert all(isinstance(v, str) for v in found["partialFingerprints"].values())
        for suppression in found.get("suppressions", []):
            assert hold(suppression, "suppression")["kind"] in ("inSource", "external")
    for invocation in run["invocations"]:
        assert hold(invocation, "invocation")["executionSuccessful"] in (True, False)
        for note in invocation["toolExecutionNotifications"]:
            hold_message(hold(note, "notification")["message"])
            assert note["level"] in LEVELS
            index = hold(note["descriptor"], "reportingDescriptorReference")["index"]
            assert ids[index] == note["descriptor"]["id"]
    return run["results"]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my models" / "mean.py"
    path.parent.mkdir()
    path.write_text(MODEL)
    return path


def test_a_break_is_an_annotation_on_its_line(file):
    log = json.loads(to_json(to_sarif(report(file), "models:Mean", definition=(str(file), 4))))
    results = hold_log(log)
    assert [r["ruleId"] for r in results] == ["batch_composition", "padding"]
    places = [hold_location(r["locations"][0]) for r in results]
    assert places == [("my%20models/mean.py", 6), ("my%20models/mean.py", 4)]
    assert results[0]["locations"][0]["physicalLocation"]["region"]["endLine"] == 7
    told = [r["message"]["text"] for r in results]
    assert told[0].startswith(
        "Mean breaks batch_composition: off by 0.5. Smallest counterexample: "
    )
    assert told[1] == "Mean breaks padding: raises ValueError."
    notes = log["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert [n["descriptor"]["id"] for n in notes] == ["causality", "tied_inputs"]
    help_text = log["runs"][0]["tool"]["driver"]["rules"][1]["help"]["text"]
    assert help_text == LAWS["batch_composition"].why


def test_a_law_that_waits_for_an_answer_is_a_warning(file):
    asked = result("padding", Verdict.INCONCLUSIVE, "read as padding", question="pass roles")
    undecided = result("causality", Verdict.INCONCLUSIVE)
    reports = {"padding": asked, "causality": undecided}
    log = json.loads(to_json(to_sarif(LawReport("Mean", "", reports, 1.0), "models:Mean")))
    assert hold_log(log) == []
    notes = log["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert [n["level"] for n in notes] == ["warning", "note"]
    assert notes[0]["message"]["text"] == "padding INCONCLUSIVE: read as padding"


def test_files_outside_of_the_working_folder_have_a_whole_address(file, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    results = hold_log(to_sarif(report(file), "models:Mean"))
    uri, _ = hold_location(results[0]["locations"][0])
    assert uri.startswith("file:///")
    assert Path(unquote(urlparse(uri).path)) == file


def test_a_break_without_any_line_has_no_location(file):
    results = hold_log(to_sarif(report(file), "models:mean", definition=None))
    assert "locations" not in results[1]


def test_known_breaks_are_suppressed(file):
    results = hold_log(to_sarif(report(file), "models:Mean", known={"padding"}))
    assert ["suppressions" in r for r in results] == [False, True]


def test_fingerprints_follow_the_statement_and_not_its_line(file):
    first = to_sarif(report(file), "models:Mean")["runs"][0]["results"]
    file.write_text("# a comment\n" + MODEL)
    moved = report(file)
    object.__setattr__(moved.reports["batch_composition"].location, "line", 7)
    second = to_sarif(moved, "models:Mean")["runs"][0]["results"]
    prints = [[r["partialFingerprints"] for r in results] for results in (first, second)]
    assert prints[0] == prints[1]
    assert prints[0][0] != prints[0][1]


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run["results"][0].pop("message"),
        lambda run: run["results"][0].update(ruleIndex=0),
        lambda run: run["results"][0].update(level="fatal"),
        lambda run: run["results"][0].update(file="x"),
        lambda run: run["tool"]["driver"].pop("name"),
        lambda run: run["invocations"][0].pop("executionSuccessful"),
    ],
)
def test_the_rules_can_fail(file, change):
    log = to_sarif(report(file), "models:Mean")
    change(log["runs"][0])
    with pytest.raises((AssertionError, KeyError)):
        hold_log(log)
