"""The page of leaks: what was measured is on it, and every leak is confirmed by hand."""

import json

import pytest

from benchmarks.pages import DOCS

leaks = pytest.importorskip("benchmarks.leaks", exc_type=ImportError)
RESULTS = json.loads(leaks.RESULTS.read_text())
MEASURED = [r for r in RESULTS["models"] if "laws" in r]
KNOWN = ["pyg:SGFormer", "pyg:Polynormer, global", leaks.PERFORMER, "hf-tiny:NystromformerModel"]


def test_the_page_says_what_was_measured():
    page = (DOCS / "leaks.md").read_text()
    for lines in leaks.tables(RESULTS).values():
        assert "\n".join(lines) in page


def test_there_are_sixty_models_of_three_libraries():
    names = [r["model"] for r in MEASURED]
    assert len(names) >= 60
    assert {name.partition(":")[0] for name in names} == {"pyg", "hf-tiny", "timm"}
    assert [r["model"] for r in RESULTS["models"]] == leaks.MODELS


def test_every_leak_is_confirmed_by_hand():
    found = {
        (r["model"], law)
        for r in MEASURED
        for law, result in r["laws"].items()
        if result["verdict"] == "BROKEN" and r["model"] not in leaks.BY_DESIGN
        if law not in leaks.SYMMETRY or not leaks.expected(r["model"])
    }
    assert found == leaks.BY_HAND.keys()
    assert {(name, "batch_composition") for name in KNOWN} <= leaks.BY_HAND.keys()


@pytest.mark.sweep
@pytest.mark.parametrize("broken", leaks.BY_HAND, ids=" ".join)
def test_a_confirmation_shows_the_leak(broken):
    assert leaks.BY_HAND[broken]() > 1e-4


@pytest.mark.sweep
@pytest.mark.parametrize("name", KNOWN)
def test_known_leaks_are_found(name):
    assert leaks.measure(name)["laws"]["batch_composition"]["verdict"] == "BROKEN"
