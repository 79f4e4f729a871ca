"""What a task may choose: targets, metrics, net, readout, baselines, artifacts."""

import csv
import json
from dataclasses import replace

import pytest
import torch

from tests.compare.tasks_for_tests import Halves, Majority, fabric
from tokennet import Tokens
from tokennet.compare import NetSpec, Width, compare
from tokennet.compare.fingerprint import fingerprint
from tokennet.compare.report import best_row, summarize, tables
from tokennet.compare.train import Job, train


def test_a_task_of_another_kind_is_trained_measured_and_shown(tmp_path):
    result = compare(Halves(), out=tmp_path)
    (row,) = result.rows
    assert row.seeds == Halves.seeds == 2
    assert list(row.scores) == ["mean absolute error", "largest error"]
    assert row.scores["largest error"] > row.score > 0
    assert (row.declared_relabeling, row.relabeling_error) == (None, None)
    run = result.runs[0]
    assert list(run.curves) == ["loss", "val loss", "val", "val largest error"]
    assert run.curves["val"][run.best_epoch] == min(run.curves["val"])
    (baseline,) = result.baselines
    assert baseline.scores == {"mean absolute error": 1.0, "largest error": 1.0}
    assert (tmp_path / "sample.txt").read_text() == "mean@full (1, 3, 1)"
    assert tmp_path / "sample.txt" in result.files
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["baselines"] == [{"name": "half", **baseline.scores}]
    assert written["config"]["metrics"][0]["higher_is_better"] is False
    entries = [*csv.DictReader((tmp_path / "results.csv").open())]
    assert [float(entry["largest error"]) for entry in entries] == [
        run.scores["largest error"] for run in result.runs
    ]
    assert written["nets"][0]["largest error sd"] == row.scores_sd["largest error"]


def test_artifacts_are_written_again_when_runs_are_read(tmp_path):
    compare(Halves(), out=tmp_path)
    (tmp_path / "sample.txt").unlink()
    again = compare(Halves(), out=tmp_path)
    assert again.reused == 2
    assert (tmp_path / "sample.txt").exists()


def test_numbers_are_learned_from_the_source():
    task = Halves()
    job = Job(task, NetSpec("mean", "full"), replace(task.config, epochs=60), Width(8, 32), 0)
    run = train(fabric(), job)
    assert run.scores["mean absolute error"] < 0.1 < run.curves["val"][0]


def test_the_fingerprint_sees_the_source():
    class Other(Halves):
        def batch(self, index, graph):
            batch = super().batch(index, graph)
            return replace(batch, source=Tokens(self.ids[index]))

    assert fingerprint(Other(), "full", 0) != fingerprint(Halves(), "full", 0)


class Pooled(Majority):
    readouts = ("mean", "max")


def test_a_readout_may_follow_the_graph(tmp_path):
    rows = compare(Pooled(), nets=["mean@full/max", "mean@full"], seeds=1, out=tmp_path).rows
    assert [row.net for row in rows] == ["mean@full/max", "mean@full"]
    job = Job(Pooled(), NetSpec("mean", "full", "max"), Pooled.config, Width(8, 8), 0)
    built = job.task.build(job.net, job.config, job.width)
    assert type(built.readout).__name__ == "MaxReadout"
    with pytest.raises(ValueError, match="readout must be one of mean, max; got 'x'"):
        compare(Pooled(), nets=["mean@full/x"], out=tmp_path)
    with pytest.raises(ValueError, match="readout must be left out for this task; got 'max'"):
        compare(Majority(), nets=["mean@full/max"], out=tmp_path)


def test_the_best_net_is_the_one_the_metric_prefers():
    task = Halves()
    job = Job(task, NetSpec("mean", "full"), task.config, Width(4, 4), 0)
    runs = [replace(train(fabric(), job), net=name) for name in ("a", "b")]
    runs[0].scores["mean absolute error"] = 9.0
    rows = summarize(runs)
    assert best_row(rows, task.metrics[0]).net == "b"
    shown = tables(rows, [], task.metrics, "title")
    assert [table.title for table in shown] == ["title", "further metrics"]


class WrongLoss(Halves):
    def loss(self, output, target):
        return super().loss(output, target).mean()


class WrongBaseline(Halves):
    def baselines(self, seed):
        return {"half": {"error": 0.0}}


class WrongNumber(Halves):
    def batch(self, index, graph):
        batch = super().batch(index, graph)
        return replace(batch, target=batch.target[:1])


class WrongIds(Halves):
    def batch(self, index, graph):
        return replace(super().batch(index, graph), source=Tokens(torch.zeros(len(index), 3, 4)))


class NoMetrics(Halves):
    metrics = ()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (WrongLoss, r"task halves: loss must have shape \(8,\), one for each example; got \(\)"),
        (WrongBaseline, "baseline 'half' must have scores for largest error, mean abs.*got error"),
        (WrongNumber, r"target must have shape \(2, ...\) for 2 examples, got \(1, 3\)"),
        (WrongIds, "tokens must have 1 channel of ids, got 4"),
        (NoMetrics, "metrics must hold at least one Metric, got none"),
    ],
)
def test_tasks_that_do_not_fit_together_are_refused(task, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare(task(), out=tmp_path)
