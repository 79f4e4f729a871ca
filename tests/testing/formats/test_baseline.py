"""Baselines: what is known, what is new, what is mended, and files of another form."""

import linecache

import pytest

from tests.testing.formats.reports import report, result
from tokennet.testing import LawReport, Location, Verdict
from tokennet.testing.formats import Baseline, read_baseline
from tokennet.testing.formats.baseline import Break, breaks_of, decided, without_line


@pytest.fixture
def found():
    return breaks_of("models:Mean", report("models.py"))


def test_a_break_is_named_by_its_statement_or_its_reason(found):
    at = "models.py, norm (Mean): return (x - x.mean(0))"
    assert found["batch_composition"] == Break("models:Mean", "batch_composition", at)
    assert found["padding"] == Break("models:Mean", "padding", "raises ValueError")


TWICE = """class Net:
    def forward(self, x):
        x = x + self.pos
        x = x.relu()
        x = x + self.pos
        return x

    def other(self, x):
        x = x + self.pos
        return x
"""


def at(path, line, module="", reason="off by 0.5"):
    location = Location("add", module, str(path), line, line, "x = x + self.pos", 0.0, 1.0)
    law = result("padding", Verdict.BROKEN, reason, location=location if line else None)
    return breaks_of("Net", LawReport("Net", "x", {"padding": law}, 0.1))["padding"].at


def test_two_breaks_of_a_law_in_different_lines_are_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.py"
    path.write_text(TWICE)
    names = [at(path, line) for line in (3, 5, 9)]
    assert names == [
        "net.py, Net.forward: x = x + self.pos",
        "net.py, Net.forward: x = x + self.pos (number 2)",
        "net.py, Net.other: x = x + self.pos",
    ]
    assert at(path, 3, "layers.0 (Net)") != at(path, 3, "layers.1 (Net)")
    path.write_text("import torch\n\n\n" + TWICE)
    linecache.checkcache()
    assert [at(path, line) for line in (6, 8, 12)] == names


def test_a_break_without_a_line_is_known_by_its_reason_with_its_numbers():
    known = at("", 0, reason="off by 0.53 of what tokens do to the output")
    assert known == at("", 0, reason="off by 0.53 of what tokens do to the output")
    assert known != at("", 0, reason="off by 0.61 of what tokens do to the output")
    assert known != at("", 0, reason="values agree, the gradient: off by 0.53")


def test_an_operation_without_a_line_is_known_by_its_reason_too():
    location = Location("add", "scripted", "", 0, 0, "", 0.0, 1.0)
    laws = [result("padding", Verdict.BROKEN, f"off by {n}", location=location) for n in (1, 2)]
    reports = [LawReport("Net", "x", {"padding": law}, 0.1) for law in laws]
    one, two = (breaks_of("Net", told)["padding"] for told in reports)
    assert one.at == "add, scripted: off by 1"
    assert one != two
    assert without_line(reports[0]) == {"padding"}


def test_only_what_was_decided_is_mended():
    laws = {law: result(law, verdict) for law, verdict in zip("abcd", Verdict, strict=True)}
    report = LawReport("Net", "x", laws, 0.1)
    assert [str(laws[law].verdict) for law in decided(report)] == ["PASS", "BROKEN", "VACUOUS"]
    known = {law: Break("Net", law, "gone") for law in "abcde"}
    baseline = Baseline(frozenset(known.values()))
    found = breaks_of("Net", report)
    gone = [known[law] for law in "abd"]
    assert baseline.mended("Net", found.values(), decided(report)) == gone
    updated = baseline.updated("Net", found.values(), decided(report))
    assert updated.breaks == {known["c"], known["e"], found["b"]}


def test_only_the_same_break_of_the_same_model_is_known(found):
    baseline = Baseline(frozenset(found.values()))
    assert baseline.known(found.values()) == set(found)
    other = [each._replace(model="models:Other") for each in found.values()]
    moved = [each._replace(at="models.py: return x") for each in found.values()]
    assert baseline.known(other) == set()
    assert baseline.known(moved) == set()


def test_an_update_keeps_other_models_and_laws_that_were_not_checked(found, tmp_path):
    others = {Break("models:Other", "padding", ""), Break("models:Mean", "causality", "x")}
    stale = Break("models:Mean", "padding", "gone")
    baseline = Baseline(frozenset({*others, stale}))
    assert baseline.mended("models:Mean", found.values(), found) == [stale]
    updated = baseline.updated("models:Mean", found.values(), found)
    assert updated.breaks == {*others, *found.values()}
    path = tmp_path / "baseline.json"
    path.write_text(updated.to_json())
    assert read_baseline(path) == updated
    assert updated.to_json() == read_baseline(path).to_json()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 3, "breaks": []}', '{"version": 2}',
     '{"version": 2, "breaks": [{"model": "x"}]}', '{"version": 2, "breaks": ["x"]}',
     '{"version": 2, "breaks": [{"model": "x", "law": "y", "at": "z", "more": 1}]}'],
)  # fmt: skip
def test_files_of_another_form_are_refused(text, tmp_path):
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="must hold"):
        read_baseline(path)


def test_a_file_of_the_form_before_is_made_anew(tmp_path):
    path = tmp_path / "baseline.json"
    path.write_text('{"version": 1, "breaks": []}')
    with pytest.raises(ValueError, match="--update-baseline makes it anew"):
        read_baseline(path)
