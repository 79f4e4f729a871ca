"""The table of default runs on the page about comparing."""

import json

import pytest

from benchmarks.tasks import read, rows
from tokennet.compare import TASKS


def results(epochs=None):
    nets = [
        {"net": net, "parameters": 60018, "seeds": 1, "seconds": 14.6, "exact match": 0.996,
         "exact match sd": None, "accuracy": 0.9988, "accuracy sd": 0.0004}
        for net in TASKS["sort"].nets
    ]  # fmt: skip
    budget = {"match": "params", "size": None, "epochs": epochs, "positions": None}
    baseline = {"name": "most frequent", "exact match": 0.0, "accuracy": 0.3636}
    return {"config": {"budget": budget}, "nets": nets, "baselines": [baseline]}


def test_rows_have_all_metrics_and_trivial_models():
    first, *others, last = rows("sort", results())
    shown = "99.6 % exact match, 99.9 ± 0.0 % accuracy"
    assert first == f"| `sort` | `attention@full` | 60,018 | {shown} | 1 | 15 |"
    assert len(others) == 4
    assert all(line.startswith("|  | `") for line in others)
    assert last == "|  | most frequent |  | 0.0 % exact match, 36.4 % accuracy |  |  |"


def test_a_run_of_other_settings_is_refused(tmp_path):
    file = tmp_path / "sort" / "results.json"
    file.parent.mkdir()
    file.write_text(json.dumps(results()))
    assert read(tmp_path, "sort") == results()
    file.write_text(json.dumps(results(epochs=1)))
    with pytest.raises(ValueError, match="must hold a default run, got .*'epochs': 1"):
        read(tmp_path, "sort")
