"""What `tokennet compare` passes on, and what it says of nets that have not converged."""

import json
from dataclasses import replace

import pytest

from tests.compare.tasks_for_tests import Majority, a_run, shown
from tokennet.compare import TASKS, Budget, TrainConfig, compare, load_task
from tokennet.compare.report import recipe, summarize, tables

TASK = "tests.compare.test_command:Bits"
QUICK = ("--seeds", "1", "--epochs", "1", "--nets", "mean@full", "--workers", "1")


class Bits(Majority):
    """Its number of copies can be set."""

    name = "bits"

    def __init__(self, copies: int = 1, label: str = "") -> None:
        super().__init__()
        self.z = self.z.repeat(1, 1, copies)
        self.interface = replace(self.interface, in_features=copies)


@pytest.mark.parametrize("given", [("--set", "copies=3", "label=x y"), ("--set", "copies=3")])
def test_set_reaches_the_class_of_the_task(given, tokennet, tmp_path):
    done = tokennet("compare", TASK, *given, *QUICK, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["interface"]["in_features"] == 3
    expected = {"copies": 3, "label": "x y"} if len(given) > 2 else {"copies": 3}
    assert config["arguments"] == expected
    assert config["task_class"] == TASK


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("copy=3",), "set must be one of copies, label; got 'copy'; did you mean copies?"),
        (("copies",), "--set must be NAME=VALUE, as patch=4, got 'copies'"),
        (("copies=1", "copies=2"), "--set must name 'copies' once, got 'copies=2' too"),
    ],
)
def test_a_wrong_argument_of_a_task_is_told(given, message, tokennet, tmp_path):
    done = tokennet("compare", TASK, "--set", *given, *QUICK, "--out", tmp_path)
    assert (done.returncode, done.stderr) == (2, f"tokennet: {message}\n")


def test_a_task_without_arguments_has_nothing_to_set():
    with pytest.raises(ValueError, match="has nothing to set, got size"):
        load_task("tests.compare.test_command:Nothing", TASKS, {"size": 3})
    with pytest.raises(TypeError, match="Nothing takes no arguments"):
        Nothing(3)


class Nothing(Bits):
    __init__ = object.__init__


def test_a_task_knows_what_it_was_called_with(tmp_path):
    assert Bits().arguments == {}
    assert Bits(2, label="a").arguments == {"copies": 2, "label": "a"}
    assert Bits(2, label=["a"]).arguments is None
    assert TASKS["shakespeare"](_text(tmp_path), 16).arguments["window"] == 16


def _text(folder):
    (folder / "text.txt").write_text("to be or not to be? " * 60)
    return folder / "text.txt"


def test_images_of_digits_are_cut_as_asked():
    task = TASKS["digits"](patch=4, stride=2, blur=3)
    assert task.z.shape == (1797, 9, 16)
    assert (task.interface.in_features, task.interface.num_tokens) == (16, 9)
    assert TASKS["digits"](patch=8).z.shape == (1797, 1, 64)


def test_depth_and_learning_rate_of_all_nets(tmp_path):
    budget = Budget(depth=3, lr=1e-3, epochs=1)
    result = compare(Majority(), nets=["mean@full"], seeds=1, budget=budget, out=tmp_path)
    assert (result.config.depth, result.config.lr) == (3, 1e-3)
    training = json.loads((tmp_path / "config.json").read_text())["training"]
    assert (training["depth"], training["lr"]) == (3, 1e-3)


def test_full_trains_for_longer():
    assert Budget(full=True).config_for(Majority()).epochs == 4 * Majority.config.epochs
    long = type("Long", (Majority,), {"full_epochs": 30})
    assert Budget(full=True).config_for(long()).epochs == 30
    with pytest.raises(ValueError, match="epochs must be left out with full, got 3"):
        Budget(full=True, epochs=3).config_for(Majority())


def test_scores_of_nets_that_have_not_converged_are_marked_in_every_table():
    runs = [
        a_run(converged=True, steps=20),
        a_run(seed=1, converged=False, steps=20),
        a_run(net="sum@full", converged=True, steps=30),
        a_run(net="max@full", converged=None, steps=30),
        a_run(net="gin@full", converged=False, steps=1_030),
    ]
    scores = {"accuracy": 0.5, "exact match": 0.25}
    rows = summarize([replace(run, scores=scores) for run in runs])
    assert [row.converged for row in rows] == [False, True, None, False]
    assert [row.steps for row in rows] == [20, 30, 30, 1_030]
    text = shown(tables(rows, [], TASKS["copy"].metrics, "title"))
    assert " ".join(text.split()).count("* not converged after 20 to 1,030 steps") == 2
    for net, marked in {"mean": True, "sum": False, "max": False, "gin": True}.items():
        lines = [line for line in text.splitlines() if f"{net}@full" in line][:2]
        assert all(("*" in line) is marked for line in lines), lines
    text = shown(tables(rows[1:3], [], TASKS["copy"].metrics, "title"))
    assert "not converged" not in text


def test_the_recipe_is_said_below_the_tables(tokennet, tmp_path):
    config = TrainConfig(epochs=7, lr=2e-3, warmup=0.1)
    assert "7 epochs, full batches, Adam with learning rate 0.002, warm-up 0.1" in recipe(config)
    done = tokennet("compare", TASK, *QUICK, "--lr", "0.5", "--out", tmp_path)
    assert "learning rate 0.5" in " ".join(done.stdout.split())
