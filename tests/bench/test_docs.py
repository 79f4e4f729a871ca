"""The tables of speed are those of the figures that are kept."""

import json

import pytest

from benchmarks.pages import DOCS
from benchmarks.speed import RESULTS, gpu_rows, rows


@pytest.mark.parametrize(
    ("name", "mark"),
    [("cpu", "speed"), ("gpu", "speed on a GPU")],
    ids=["processor", "device"],  # the name of a mark would be taken for the mark
)
def test_the_table_is_that_of_the_figures(name, mark):
    found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    expected = list(rows(found["cases"]) if name == "cpu" else gpu_rows(found))
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    table = page.split(f"<!-- {mark} -->")[1].split(f"<!-- end of {mark} -->")[0]
    assert table.strip().splitlines()[2:] == expected
