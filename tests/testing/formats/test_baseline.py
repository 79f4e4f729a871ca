"""Baselines: what is known, what is new, what is mended, and files of another form."""

import pytest

from tests.testing.formats.reports import report
from tokennet.testing.formats import Baseline, read_baseline
from tokennet.testing.formats.baseline import Break, breaks_of


@pytest.fixture
def found():
    return breaks_of("models:Mean", report("models.py"))


def test_a_break_is_named_by_its_statement(found):
    at = "models.py: return (x - x.mean(0))"
    assert found["batch_composition"] == Break("models:Mean", "batch_composition", at)
    assert found["padding"] == Break("models:Mean", "padding", "")


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
    ["", "[]", "{}", '{"version": 2, "breaks": []}', '{"version": 1}',
     '{"version": 1, "breaks": [{"model": "x"}]}', '{"version": 1, "breaks": ["x"]}',
     '{"version": 1, "breaks": [{"model": "x", "law": "y", "at": "z", "more": 1}]}'],
)  # fmt: skip
def test_files_of_another_form_are_refused(text, tmp_path):
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="must hold"):
        read_baseline(path)
