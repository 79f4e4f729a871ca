"""The tables of speed are those of the figures that are kept."""

import json

import pytest

from benchmarks.pages import DOCS
from benchmarks.speed import RESULTS, gpu_rows, rows


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_table_is_that_of_the_figures(name):
    found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    expected = list(rows(found["cases"]) if name == "cpu" else gpu_rows(found))
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    start, end = {
        "cpu": ("<!-- speed -->", "<!-- end of speed -->"),
        "gpu": ("<!-- speed on a GPU -->", "<!-- end of speed on a GPU -->"),
    }[name]
    table = page.split(start)[1].split(end)[0].strip().splitlines()
    assert table[2:] == expected
