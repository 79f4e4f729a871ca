"""The files of a comparison: what is read is believed only if it is the run asked for."""

import builtins
import errno
import json
import math
import multiprocessing
import os
import threading
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.axes import spread
from tests.compare.tasks_for_tests import Halves, Majority, a_run
from tokennet import _files
from tokennet._files import to_json, write_bytes, write_text
from tokennet.compare import compare
from tokennet.compare import workers as module
from tokennet.compare.report import summarize
from tokennet.compare.store import RunStore, write_results
from tokennet.compare.task import FOLDERS, RESULTS

SETTINGS = {
    "net": "mean@full", "seed": 0, "width": {"dim": 4, "hidden": 8},
    "metrics": [{"name": "accuracy"}],
}  # fmt: skip
OPTIONS = {"nets": ["mean@full"], "seeds": 2}
WHOLE = json.loads(to_json({"config": SETTINGS, "run": asdict(a_run())}))


def changed(**values):
    return json.dumps({**WHOLE, "run": {**WHOLE["run"], **values}})


def without(name):
    return json.dumps({**WHOLE, "run": {k: v for k, v in WHOLE["run"].items() if k != name}})


SPOILED = {
    "cut short": (to_json(WHOLE)[:50], "."),
    "empty": ("", "Expecting value"),
    "not json": ("hello", "Expecting value"),
    "a list": ("[1, 2]", "it must have the keys config and run"),
    "null": ("null", "it must have the keys config and run"),
    "deep": ("[" * 200_000, "recursion"),
    "not utf-8": (b"\xff\xfe{", "codec"),
    "no config": (json.dumps({"run": WHOLE["run"]}), "it must have the keys config and run"),
    "another config": (json.dumps({**WHOLE, "config": {"seed": 99}}), "config is another"),
    "run is a list": (json.dumps({**WHOLE, "run": []}), "run must have the keys net, seed"),
    "no scores": (without("scores"), "run must have the keys"),
    "another key": (changed(more=1), "run must have the keys"),
    "a string for a number": (changed(parameters="many"), "parameters must be int, got 'many'"),
    "a bool for a number": (changed(parameters=True), "parameters must be int, got 'True'"),
    "a fraction": (changed(dim=4.5), "dim must be int, got '4.5'"),
    "a string for a score": (changed(scores={"accuracy": "x"}), "scores must be dict"),
    "scores is a list": (changed(scores=[0.5]), "scores must be dict"),
    "NaN for a score": (changed(scores={"accuracy": math.nan}), "scores must be dict"),
    "no number of seconds": (changed(seconds=10**400), "too large"),
    "other scores": (changed(scores={"loss": 0.5}), "scores must be of accuracy, got loss"),
    "null without a reason": (changed(scores={"accuracy": None}), "must have scores"),
    "no metric": (changed(scores={}), "scores must be of accuracy, got "),
    "no best epoch": (changed(best_epoch=None), "must have scores"),
    "text in a curve": (changed(curves={"loss": ["x"]}), "curves must be dict"),
    "uneven curves": (
        changed(curves={"loss": [1.0], "val": []}),
        r"must have 1 numbers, got \[0, 1\]",
    ),
    "no curves": (changed(curves={}), "curves must have loss, got none"),
    "another net": (changed(net="mlp@full"), "net must be 'mean@full', got 'mlp@full'"),
    "another seed": (changed(seed=5), "seed must be 0, got 5"),
    "another width": (changed(dim=1), "dim must be 4, got 1"),
}


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path)
    store.prepare()
    return store


def test_the_example_itself_is_believed(store):
    """So that each of the files below can fail."""
    store._path(SETTINGS).write_text(json.dumps(WHOLE))
    assert store.load(SETTINGS) == a_run()


@pytest.mark.parametrize("kind", SPOILED)
def test_a_file_that_is_not_the_run_asked_for_is_set_aside(kind, store):
    content, reason = SPOILED[kind]
    content = content if isinstance(content, bytes) else content.encode()
    for number in range(2):  # nothing that was set aside before is lost
        store._path(SETTINGS).write_bytes(content)
        with pytest.warns(RuntimeWarning, match=f"holds no such run: .*{reason}") as caught:
            assert store.load(SETTINGS) is None
        assert len(caught) == 1
        assert len(str(caught[0].message).splitlines()) == 1
        assert store._path(SETTINGS).with_suffix(f".bad{number}").read_bytes() == content
        assert not store._path(SETTINGS).exists()
    store.save(SETTINGS, a_run())
    assert store.load(SETTINGS) == a_run()


def test_a_folder_for_a_file_is_set_aside(store):
    store._path(SETTINGS).mkdir()
    with pytest.warns(RuntimeWarning, match="holds no such run"):
        assert store.load(SETTINGS) is None
    store.save(SETTINGS, a_run())
    assert store.load(SETTINGS) == a_run()


def test_a_run_of_fewer_epochs_is_set_aside_unless_it_diverged(store):
    settings = {**SETTINGS, "training": {"epochs": 2}}
    store.save(settings, a_run())
    with pytest.warns(RuntimeWarning, match=r"curves must have 2 numbers, got \[1\]"):
        assert store.load(settings) is None
    diverged = a_run(diverged=1, best_epoch=None, scores={"accuracy": None})
    store.save(settings, diverged)
    assert store.load(settings) == diverged


def test_settings_that_are_not_finite_are_found_again(store):
    settings = {**SETTINGS, "training": {"clip": math.inf, "sizes": (1, 2)}}
    store.save(settings, a_run())
    assert store.load(settings) == a_run()
    assert store.load({**SETTINGS, "training": {"clip": None, "sizes": (1, 2)}}) is None


def test_one_spoiled_file_does_not_stop_a_comparison(tmp_path):
    before = compare(Majority(), **OPTIONS, out=tmp_path)
    spoiled, kept = sorted((tmp_path / "runs").iterdir())
    spoiled.write_text(spoiled.read_text()[:50])
    with pytest.warns(RuntimeWarning, match=f"{spoiled.name} holds no such run"):
        after = compare(Majority(), **OPTIONS, out=tmp_path)
    assert (before.reused, after.reused) == (0, 1)
    assert [run.scores for run in after.runs] == [run.scores for run in before.runs]
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {spoiled.name, kept.name, spoiled.with_suffix(".bad0").name}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare(Majority(), **OPTIONS, out=tmp_path).reused == 2


def test_the_command_says_so_in_one_line(tmp_path, tokennet):
    args = (
        "compare", "tests.compare.tasks_for_tests:Majority", "--seeds", 1, "--epochs", 1,
        "--nets", "mean@full", "--out", tmp_path,
    )  # fmt: skip
    assert tokennet(*args).returncode == 0
    (path,) = (tmp_path / "runs").iterdir()
    path.write_text("spoiled")
    done = tokennet(*args)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tokennet: {path} holds no such run: ")


def never(*args):
    pytest.fail("it trained")


def blocked(kind, folder):
    if kind == "a file":
        (folder / "out").write_text("mine")
    elif kind == "in a file":
        (folder / "file").write_text("mine")
        return folder / "file" / "out"
    elif kind == "runs is a file":
        (folder / "out").mkdir()
        (folder / "out" / "runs").write_text("mine")
    elif kind == "results.json is a folder":
        (folder / "out" / "results.json").mkdir(parents=True)
    elif kind == "too long":
        return folder / ("x" * 300)
    return folder / "out"


@pytest.mark.parametrize(
    "kind", ["a file", "in a file", "runs is a file", "results.json is a folder", "too long"]
)
def test_an_out_that_cannot_be_written_is_told_before_training(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "train", never)
    out = blocked(kind, tmp_path)
    with pytest.raises(OSError, match="out must be a folder that can be written to, got '/"):
        compare(Majority(), **OPTIONS, out=out)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that root cannot write")
def test_a_read_only_folder_is_told_before_training_in_one_line(tokennet, monkeypatch):
    monkeypatch.setattr(module, "train", never)
    task = "tests.compare.tasks_for_tests:Majority"
    done = tokennet("compare", task, "--out", "/proc/self/fdinfo")
    assert done.returncode == 2
    expected = "tokennet: out must be a folder that can be written to, got '/proc/self/fdinfo': "
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1


@pytest.fixture
def disk(monkeypatch):
    """A disk that is full as soon as `full.set()` was called: half of what is written fits."""
    full, opened = threading.Event(), Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opening(path, mode="r", *args, **options):
        file = opened(path, mode, *args, **options)
        return Full(file) if full.is_set() and set(mode) & set("wxa") else file

    monkeypatch.setattr(Path, "open", opening)
    return full


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_full_disk_is_told_before_training(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(module, "train", never)
    disk.set()
    with pytest.raises(OSError, match="out must be a folder .*: No space left on device"):
        compare(Majority(), **OPTIONS, out=tmp_path)
    assert contents(tmp_path) == {}


def test_a_disk_that_fills_up_loses_no_finished_run(tmp_path, disk, monkeypatch):
    train, trained = module.train, []

    def filling(fabric, job, *args):
        trained.append(str(job))
        run = train(fabric, job, *args)
        if len(trained) == 3:
            disk.set()
        return run

    compare(Majority(), nets=["mean@ring"], seeds=1, out=tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(module, "train", filling)
    with pytest.raises(OSError, match=r"cannot write .*runs/\w+.json: No space left on device"):
        compare(Majority(), seeds=2, out=tmp_path)
    after = contents(tmp_path)
    kept = 2  # the parameters and the answers, of the third run too
    assert len(after) == len(before) + 2 * (1 + kept) + kept
    assert {path: after[path] for path in before} == before
    disk.clear()
    resumed = compare(Majority(), seeds=2, out=tmp_path)
    assert resumed.reused == 3
    assert len(trained) == 4


@pytest.mark.parametrize("number", spread(range(len(RESULTS)), every=4))
def test_results_that_cannot_be_replaced_stay_as_they_were(number, tmp_path, disk, monkeypatch):
    compare(Majority(), **OPTIONS, out=tmp_path)
    before, replaced = contents(tmp_path), _files._replace
    written = []

    def some(path, content):
        if path.name == RESULTS[number]:
            disk.set()
        written.append(path.name)
        replaced(path, content)

    monkeypatch.setattr(_files, "_replace", some)
    with pytest.raises(OSError, match=f"cannot write .*{RESULTS[number]}: No space left"):
        compare(Majority(), nets=["mean@full", "mean@ring"], seeds=1, out=tmp_path)
    after = contents(tmp_path)
    for name in RESULTS[number:]:
        assert after[Path(name)] == before[Path(name)]
    assert {path.name for path in tmp_path.iterdir()} == {*RESULTS, *FOLDERS}


def in_one_folder(folder, barrier, nets):
    torch.set_num_threads(1)
    barrier.wait(60)
    for _ in range(3):
        compare(Halves() if nets is None else Majority(), nets=nets, seeds=2, out=folder)


@pytest.mark.parametrize(
    "nets",
    [
        pytest.param((["mean@full"], ["mean@full"]), id="the same"),
        pytest.param(
            (["mean@full"], ["mean@ring", "mean@full"]), id="others", marks=pytest.mark.sweep
        ),
        pytest.param((None, None), id="with artifacts", marks=pytest.mark.sweep),
    ],
)
def test_two_comparisons_in_one_folder_at_once(nets, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    children = [
        context.Process(target=in_one_folder, args=(tmp_path, barrier, each)) for each in nets
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(100)
    assert [child.exitcode for child in children] == [0, 0]
    results = json.loads((tmp_path / "results.json").read_text())
    assert json.loads((tmp_path / "config.json").read_text()) == results["config"]
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == [run["net"] for run in results["runs"]]
    for path in (tmp_path / "runs").glob("*.json"):
        run = json.loads(path.read_text())
        assert run["config"]["net"] == run["run"]["net"]
    runs = {"mean@full", "mean@ring"} if nets[0] != nets[1] else {1}
    assert len(list((tmp_path / "runs").glob("*.json"))) == 2 * len(runs)
    assert not list(tmp_path.rglob(".*"))
    if nets[0] is None:
        assert (tmp_path / "sample.txt").read_text() == "mean@full (1, 3, 1)"


def test_one_comparison_at_a_time_writes_its_results(tmp_path):
    """So that the table, the picture and the sample are of one and the same."""
    fcntl = pytest.importorskip("fcntl")
    another = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(another, fcntl.LOCK_EX)
    settings = {**SETTINGS, "task": "task"}
    given = (
        tmp_path,
        summarize([a_run()]),
        [a_run()],
        [],
        settings,
        tmp_path / "none",
        ["key"],
        {},
    )
    writer = threading.Thread(target=write_results, args=given)
    writer.start()
    writer.join(1)
    assert list(tmp_path.iterdir()) == []
    os.close(another)
    writer.join(60)
    assert {path.name for path in tmp_path.iterdir()} == set(RESULTS)


def test_what_is_written_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("sync") or fsync(file))
    monkeypatch.setattr(Path, "replace", lambda path, to: done.append("name") or replace(path, to))
    write_text(tmp_path / "new" / "file.txt", "é")
    assert done == ["sync", "name", "sync"]
    assert (tmp_path / "new" / "file.txt").read_bytes() == "é".encode()
    before = os.umask(0)
    os.umask(before)
    assert (tmp_path / "new" / "file.txt").stat().st_mode & 0o777 == 0o666 & ~before


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_bytes(tmp_path / "pipe", b"through")
    reader.join(20)
    assert read == [b"through"]
    assert (tmp_path / "pipe").is_fifo()


def test_json_has_no_nan():
    data = {"a": [math.nan, {"b": (math.inf, 1.5, "NaN", None, True)}], "c": -math.inf}
    want = {"a": [None, {"b": [None, 1.5, "NaN", None, True]}], "c": None}
    assert json.loads(to_json(data), parse_constant=builtins.exit) == want
