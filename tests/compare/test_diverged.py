"""A run that diverges is marked, in tables, files and pictures; its scores are no numbers."""

import builtins
import csv
import io
import json
import math
from dataclasses import replace

import pytest
from torch import nn

from tests.axes import spread
from tests.compare.tasks_for_tests import Halves, Majority, a_run, fabric
from tokennet.compare import Metric, NetSpec, Width, compare
from tokennet.compare.metric import accuracy
from tokennet.compare.report import best_row, summarize, tables
from tokennet.compare.store import draw_curves
from tokennet.compare.train import Job, train

NET = NetSpec("mean", "full")


class Diverges(Majority):
    """From the second epoch on; only nets on "ring", and only the second seed of them."""

    factor = math.nan

    def splits(self, seed):
        self.seed, self.calls = seed, 0
        return super().splits(seed)

    def batch(self, index, graph):
        self.graph = graph
        return super().batch(index, graph)

    def loss(self, output, target):
        self.calls += 1
        spoiled = self.graph == "ring" and self.seed == 1 and self.calls > 3
        return super().loss(output, target) * (self.factor if spoiled else 1)


class DivergesToInfinity(Diverges):
    factor = math.inf


class DivergesAlways(Majority):
    def loss(self, output, target):
        return super().loss(output, target) * math.nan


class LastStep(Majority):
    """The loss is finite; its gradient, and so the weights after the only step, are not."""

    config = replace(Majority.config, epochs=1, batch_size=None)

    def loss(self, output, target):
        return super().loss(output, target) + (output * 0).abs().sum(1).sqrt()


class Overflows(Majority):
    """Finite weights, outputs that are not: on the test examples alone."""

    output = math.nan

    def build(self, net, config, width):
        built = super().build(net, config, width)

        def spoiled(module, given, output):
            return output if module.training else output * 0 + self.output

        built.register_forward_hook(spoiled)
        return built


class CallsTheNetItself(LastStep):
    """As a task that generates: what the net returns is not seen, its weights are."""

    def predict(self, model, batch):
        return model.net(batch.tokens)


class StrictAnswers(Overflows):
    def predict(self, model, batch):
        return Strict.predict(self, model, batch)


class Logits(Overflows):
    """A class that is ruled out: not a sign of anything."""

    output = -math.inf


class Clipped(DivergesAlways):
    config = replace(Majority.config, clip=1.0)


class Strict(DivergesAlways):
    """A loss and answers that cannot be computed of NaN, as matchings and samples."""

    def build(self, net, config, width):
        built = super().build(net, config, width)
        nn.init.constant_(next(built.parameters()), math.nan)
        return built

    def loss(self, output, target):
        return self.predict(lambda batch: output, None).sum(1)

    def predict(self, model, batch):
        output = model(batch)
        if not output.isfinite().all():
            raise RuntimeError("matrix contains invalid numeric entries")
        return output


class UndefinedScore(Majority):
    metrics = (Metric("score", lambda answer, target: answer.sum(-1) * math.nan), accuracy)


class UndefinedFurtherScore(Majority):
    metrics = (accuracy, Metric("score", lambda answer, target: answer.sum(-1) * math.nan))


def run_of(task, **config):
    config = replace(task.config, **config)
    return train(fabric(), Job(task, NET, config, Width(4, 8), 0))


@pytest.mark.parametrize(
    "task",
    [
        DivergesAlways,
        LastStep,
        CallsTheNetItself,
        Overflows,
        StrictAnswers,
        Clipped,
        Strict,
        UndefinedScore,
    ],
)
def test_whatever_is_not_finite_the_run_is_marked(task):
    run = run_of(task())
    assert run.diverged == (4 if task is UndefinedScore else 1)
    assert run.best_epoch is None
    assert set(run.scores.values()) == {None}
    assert list(run.scores) == [metric.name for metric in task.metrics]
    assert (run.relabeling_error, run.shuffling_error) == (None, None)
    assert run.declared["relabeling"] == "S_n"
    for curve in run.curves.values():
        assert len(curve) == run.diverged
        assert all(number is None or math.isfinite(number) for number in curve)


def test_infinite_outputs_are_marked_too():
    task = Overflows()
    task.output = math.inf
    assert run_of(task).diverged == 1


def test_what_is_ruled_out_or_undefined_is_no_divergence():
    assert run_of(Logits()).diverged is None
    run = run_of(UndefinedFurtherScore())
    assert run.diverged is None
    assert run.scores["accuracy"] is not None
    assert run.scores["score"] is None
    assert set(run.curves["val score"]) == {None}
    shown = text_of([*summarize([run])], UndefinedFurtherScore.metrics)
    assert "diverged" not in shown


def test_a_run_that_does_not_diverge_is_as_it_was():
    run = run_of(Majority())
    assert run.diverged is None
    assert run.curves["val"][run.best_epoch] == max(run.curves["val"])
    assert 0 <= run.scores["accuracy"] <= 1


def text_of(rows, metrics=(accuracy,)):
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*tables(rows, [], metrics, "title"))
    return console.export_text()


@pytest.mark.parametrize("task", spread([Diverges, DivergesToInfinity]))
def test_where_one_seed_diverges_its_net_has_no_mean(task, tmp_path):
    result = compare(task(), seeds=3, nets=["mean@ring", "mean@full"], out=tmp_path)
    ring, full = result.rows
    assert [run.diverged for run in result.runs] == [None, 2, None, None, None, None]
    assert (ring.diverged, ring.score, ring.scores_sd["accuracy"]) == (1, None, None)
    assert full.diverged == 0
    assert full.score is not None
    assert best_row(result.rows, accuracy) is full
    shown = text_of(result.rows)
    assert "diverged, 1 of 3" in " ".join(shown.split())
    assert "nan" not in shown

    text = (tmp_path / "results.json").read_text()
    written = json.loads(text, parse_constant=builtins.exit)  # NaN is no JSON
    assert written["nets"][0]["accuracy"] is None
    assert written["nets"][0]["diverged"] == 1
    assert written["runs"][1]["scores"] == {"accuracy": None}
    assert written["runs"][1]["diverged"] == 2
    assert written["runs"][1]["curves"]["loss"][-1] is None
    rows = [*csv.DictReader((tmp_path / "results.csv").open())]
    assert [row["diverged"] for row in rows] == ["", "2", "", "", "", ""]
    assert rows[1]["accuracy"] == ""
    assert sum(float(row["accuracy"]) for row in rows[3:]) / 3 == pytest.approx(full.score)
    again = compare(task(), seeds=3, nets=["mean@ring", "mean@full"], out=tmp_path)
    assert again.reused == 6  # also the run that diverged, whose file is valid
    assert again.runs == result.runs
    for path in (tmp_path / "runs").iterdir():
        json.loads(path.read_text(), parse_constant=builtins.exit)


def test_where_all_runs_diverge_there_are_results_too(tmp_path, drawn):
    result = compare(DivergesAlways(), seeds=2, out=tmp_path)
    assert [row.diverged for row in result.rows] == [2, 2]
    assert best_row(result.rows, accuracy) is result.rows[0]
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert text_of(result.rows).count("diverged") == 2


def test_a_net_that_diverged_has_no_artifacts(tmp_path):
    class Spoiled(Halves):
        def loss(self, output, target):
            return super().loss(output, target) * math.nan

        def write_artifacts(self, model, net, folder):
            pytest.fail("a net without a finite weight has nothing to show")

    compare(Spoiled(), seeds=1, out=tmp_path)
    assert not (tmp_path / "sample.txt").exists()


def test_ranking_takes_no_number_that_is_not_finite():
    for scores in ([0.5, None], [0.5, math.nan], [0.5, math.inf], [0.5, -math.inf]):
        for metric in (accuracy, replace(accuracy, higher_is_better=False)):
            assert metric.best(scores) == 0
            assert metric.best(scores[::-1]) == 1


def test_the_legend_of_the_picture_says_which_nets_diverged(monkeypatch):
    from matplotlib.axes import Axes

    labels, plot = [], Axes.plot

    def plotted(panel, epochs, values, label):
        labels.append((label, list(values)))
        return plot(panel, epochs, values, label=label)

    monkeypatch.setattr(Axes, "plot", plotted)
    runs = [
        a_run(curves={"loss": [2.0, 1.0], "val": [0.25, 0.5]}),
        a_run(net="mlp@full", curves={"loss": [2.0, 1.0], "val": [0.5, 0.5]}),
        a_run(net="mlp@full", diverged=1, curves={"loss": [None], "val": [None]}),
    ]
    settings = {"task": "task", "metrics": [{"name": "accuracy"}]}
    assert draw_curves(runs, [], settings)[:4] == b"\x89PNG"
    assert [label for label, _ in labels] == 2 * ["mean@full", "mlp@full (diverged)"]
    assert labels[0][1] == [2.0, 1.0]
    assert len(labels[1][1]) == 1
    assert math.isnan(labels[1][1][0])


@pytest.mark.parametrize(("task", "code"), [("Majority", 0), ("Diverges", 1), ("NotATask", 2)])
def test_the_exit_code_of_the_command(task, code, tokennet, tmp_path):
    module = "tasks_for_tests" if task != "Diverges" else "test_diverged"
    done = tokennet(
        "compare", f"tests.compare.{module}:{task}", "--seeds", 2, "--nets", "mean@ring",
        "--out", tmp_path, "--workers", 1,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    shown = " ".join(done.stdout.split())
    assert ("1 of 2 runs diverged: mean@ring seed 1" in shown) == (code == 1)
    assert ("diverged, 1 of 2" in shown) == (code == 1)
    assert (tmp_path / "results.json").exists() == (code != 2)


def test_the_page_of_default_runs_marks_a_net_that_diverged():
    from benchmarks.tasks import figures

    entry = {"accuracy": None, "accuracy sd": None, "diverged": 1, "seeds": 3}
    assert figures(entry, (accuracy,)) == "diverged, 1 of 3 seeds"
    assert figures({"accuracy": 0.5, "accuracy sd": None}, (accuracy,)) == "50.0 % accuracy"
