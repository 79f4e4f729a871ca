"""What is kept of runs: loaded, asked again, continued, exported, shared."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import CSVLogger
from torch import nn

from tests.compare.tasks_for_tests import Halves, Majority, Nodes, Sets
from tokennet import Tokens
from tokennet.compare import (
    TASKS,
    Budget,
    NetSpec,
    OwnNet,
    Width,
    compare,
    load_run,
    load_task,
    task_from,
)
from tokennet.compare.kept import read_answers, read_model

TEXT = "What is the city but the people? True, the people are the city.\n" * 60
QUICK = Budget(epochs=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("kept")
    compare(Majority(), seeds=2, budget=QUICK, out=out)
    return out


def test_a_run_is_loaded_with_its_task_scores_and_answers(folder):
    run = load_run(folder, "mean@ring", seed=1)
    stored = json.loads((folder / "results.json").read_text())["runs"][3]
    assert (str(run.spec), run.run.seed, type(run.task)) == ("mean@ring", 1, Majority)
    assert run.metrics == stored["scores"]
    test = run.task.splits(1)["test"]
    assert run.answers["index"].tolist() == sorted(test.tolist())
    order = test.argsort()
    torch.testing.assert_close(run.answers["answer"], run.predict()[order])
    assert run.answers["accuracy"].mean() == run.metrics["accuracy"]
    assert torch.equal(run.answers["target"], run.task.label[run.answers["index"]])
    assert not run.net.training
    assert str(load_run(folder).spec) in {"attention@full", "mean@ring"}


def test_tensors_are_tokens_on_the_graph_of_the_task(folder):
    run = load_run(folder, "mean@ring")
    z = torch.rand(3, 5, 1)
    on = run.task.batch(torch.tensor([0]), "ring").tokens
    torch.testing.assert_close(run.predict(z), run.net(Tokens(z, on.graph, on.pos)))
    with pytest.raises(ValueError, match=r"data must have shape \(n, 5, C\), got \(3, 4, 1\)"):
        run.predict(z[:, :4])


@pytest.mark.parametrize(
    ("net", "seed", "message"),
    [
        ("mean@rong", 0, "net must be one of attention@full, mean@ring; .*did you mean mean@ring"),
        ("mean@ring", 2, "seed must be one of 0, 1, got 2"),
    ],
)
def test_a_run_that_there_is_not_is_told(net, seed, message, folder):
    with pytest.raises(ValueError, match=message):
        load_run(folder, net, seed)


def test_an_interrupted_comparison_has_the_runs_that_ended(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "results.json").unlink()
    assert load_run(tmp_path, "mean@ring", 1).metrics == load_run(folder, "mean@ring", 1).metrics
    with pytest.raises(ValueError, match="must hold results.json of a comparison that ended"):
        load_run(tmp_path, None, 1)


def test_parameters_that_are_missing_or_spoiled_are_told(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for kept in (tmp_path / "kept").iterdir():
        (kept / "model.safetensors").write_bytes(b"spoiled")
    with pytest.raises(ValueError, match="holds the parameters of another net"):
        load_run(tmp_path, "mean@ring")
    shutil.rmtree(tmp_path / "kept")
    with pytest.raises(ValueError, match=r"holds no model.safetensors"):
        load_run(tmp_path, "mean@ring")
    assert read_answers(tmp_path) == {}
    with pytest.raises(ValueError, match="of another net"):
        read_model(nn.Linear(3, 3), next((folder / "kept").iterdir()))


def test_other_data_are_refused(folder):
    task = Majority()
    task.z = task.z + 1
    with pytest.raises(ValueError, match="task majority has other data than mean@ring"):
        load_run(folder, "mean@ring", task=task)


def test_nets_and_tasks_that_were_objects_have_to_be_given(tmp_path):
    task = task_from((torch.randn(40, 3, 1), torch.arange(40) % 2), name="noise")
    budget = Budget(epochs=1, size=4_000)
    compare(task, nets=[OwnNet(Sets, "own")], seeds=1, budget=budget, out=tmp_path)
    with pytest.raises(ValueError, match="task must be given: noise was made of data"):
        load_run(tmp_path, "own@full")
    with pytest.raises(ValueError, match="own must be given: own@full was an object"):
        load_run(tmp_path, "own@full", task=task)
    with pytest.raises(ValueError, match="own must be the net own@full, got Sets@full"):
        load_run(tmp_path, "own@full", task=task, own=Sets)
    run = load_run(tmp_path, "own@full", task=task, own=OwnNet(Sets, "own"))
    torch.testing.assert_close(run.answers["answer"], run.predict())
    with pytest.raises(ValueError, match="must be a net of blocks"):
        run.save_pretrained(tmp_path / "saved")


def test_tasks_and_nets_by_name_are_made_again(tmp_path):
    task = load_task("tests.compare.test_from_data:two_arrays", TASKS, {"name": "two"})
    net = "tests.compare.tasks_for_tests:Sized"
    compare(task, nets=[net], seeds=1, budget=Budget(epochs=1, size=600), out=tmp_path)
    run = load_run(tmp_path, "Sized@full")
    assert run.task.name == "two"
    torch.testing.assert_close(run.answers["answer"], run.predict())


def test_tasks_with_a_source_or_rows_are_loaded_too(tmp_path):
    compare(Halves(), seeds=1, out=tmp_path / "halves")
    run = load_run(tmp_path / "halves")
    torch.testing.assert_close(run.answers["answer"], run.predict())
    with pytest.raises(ValueError, match="task halves has a source"):
        run.export()
    compare(Nodes(), nets=["mean@ring"], seeds=1, budget=QUICK, out=tmp_path / "nodes")
    run = load_run(tmp_path / "nodes")
    assert run.predict().shape == (4, 2)
    assert run.export().module()(run.task.z).shape == (16, 2)


def test_an_exported_net_computes_the_same(folder, tmp_path):
    run = load_run(folder, "attention@full")
    run.export(tmp_path / "net.pt2", batch=4)
    z = torch.rand(4, 5, 1)
    torch.testing.assert_close(torch.export.load(tmp_path / "net.pt2").module()(z), run.predict(z))


def test_a_net_is_saved_and_loaded_as_a_folder_of_hugging_face(folder, tmp_path):
    from tokennet.compare.hub import PretrainedNet

    run = load_run(folder, "attention@full")
    run.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    net = PretrainedNet.from_pretrained(str(tmp_path))
    tokens = run.task.batch(torch.arange(3), "full").tokens
    torch.testing.assert_close(net(tokens), run.net(tokens))
    assert not net.training


def test_the_extra_for_sharing_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "tokennet.compare.hub", raising=False)
    with pytest.raises(ImportError, match=r'pip install "tokennet\[hub\]"'):
        load_run(folder, "mean@ring").save_pretrained("x")


def test_a_text_is_continued(tmp_path, tokennet):
    (tmp_path / "plays.txt").write_text(TEXT)
    given = ("--set", f"path={tmp_path / 'plays.txt'}", "window=16", "radius=4")
    quick = ("--nets", "attention@causal", "--epochs", 1, "--size", 6_000, "--workers", 1)
    done = tokennet("compare", "shakespeare", *given, *quick, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "out")
    text = run.complete("What is", 20, seed=3)
    assert (text[:7], len(text)) == ("What is", 27)
    assert run.complete("What is", 20, seed=3) == text
    greedy = run.complete("What is", 5, temperature=0)
    assert greedy == run.complete("What is", 5, temperature=0, seed=7)
    done = tokennet("complete", tmp_path / "out", "What is", "--length", 20, "--draw", 3)
    assert done.stdout == text + "\n"
    done = tokennet("complete", tmp_path / "out", "")
    assert (done.returncode, "prompt must have" in done.stderr) == (2, True)


def test_only_texts_are_continued(folder, tokennet):
    done = tokennet("complete", folder, "to be")
    assert done.stderr == "tokennet: task majority does not continue texts\n"


def test_predictions_in_the_shell(folder, tmp_path, tokennet):
    done = tokennet("predict", folder, "--net", "mean@ring", "--out", tmp_path / "a.csv")
    assert "mean@ring seed 0: accuracy" in done.stdout
    run = load_run(folder, "mean@ring")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    index, answers = run.task.splits(0)["test"].tolist(), run.predict().argmax(-1).tolist()
    assert lines == ["index,answer", *(f"{n},{a}" for n, a in zip(index, answers, strict=True))]
    np.save(tmp_path / "z.npy", run.task.z[:3].numpy())
    done = tokennet("predict", folder, "--net", "mean@ring", "--data", tmp_path / "z.npy")
    expected = run.predict(run.task.z[:3]).argmax(-1).tolist()
    assert done.stdout.splitlines()[1:] == [f"{n},{a}" for n, a in enumerate(expected)]
    (tmp_path / "z.npy").write_bytes(b"no array")
    done = tokennet("predict", folder, "--data", tmp_path / "z.npy")
    assert (done.returncode, "--data must be a .npy or .pt file" in done.stderr) == (2, True)


def test_loggers_of_fabric_receive_the_curves(tmp_path):
    logger = CSVLogger(tmp_path, name="log", version="0")
    fabric = Fabric(accelerator="cpu", devices=1, loggers=logger)
    given = {"nets": ["mean@ring"], "seeds": 1, "budget": QUICK, "fabric": fabric}
    result = compare(Majority(), **given, out=tmp_path / "out")
    logger.save()
    rows = list(csv.DictReader((tmp_path / "log" / "0" / "metrics.csv").open()))
    logged = [float(row["mean@ring seed 0/loss"]) for row in rows]
    assert logged == pytest.approx(result.runs[0].curves["loss"])
    assert [int(row["step"]) for row in rows] == [1, 2]
    with pytest.raises(ValueError, match="workers must be 1 with loggers, got 2"):
        compare(Majority(), **given, workers=2, out=tmp_path / "out")


def test_a_run_that_diverged_keeps_nothing(tmp_path):
    class Diverges(Majority):
        def loss(self, output, target):
            return super().loss(output, target) * torch.nan

    compare(Diverges(), nets=["mean@full"], seeds=1, out=tmp_path)
    assert not (tmp_path / "kept").exists()


def test_named_nets_of_blocks_have_their_width_back():
    spec = NetSpec("mean", "ring")
    assert (spec.name, spec.code(Width(4, 4))) == ("mean@ring", None)
