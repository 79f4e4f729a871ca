"""`compare`: budgets, runs, resuming, files, devices."""

import csv
import importlib
import json
import linecache
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric

from tests.axes import spread
from tests.compare.tasks_for_tests import Majority, Nodes, a_run, fabric
from tests.families import honors
from tokennet import Cycle, Edges, Tokens, Window
from tokennet.compare import TASKS, Budget, Metric, NetSpec, TrainConfig, Width, compare, load_task
from tokennet.compare.budget import example, find_widths, flops_of
from tokennet.compare.data import data_root, load
from tokennet.compare.fingerprint import code_of, fingerprint
from tokennet.compare.metric import squares
from tokennet.compare.report import summarize
from tokennet.compare.store import RunStore, run_key
from tokennet.compare.train import Job, _converged, _rate, train
from tokennet.mixers import MIXERS
from tokennet.nets import count_parameters


def check_widths(mixers, match, size):
    task = TASKS["digits"]()
    size = size * 30 if match == "flops" else size
    graphs = {name: task.batch(torch.tensor([0]), name).tokens.graph for name in task.graphs}
    nets = [
        NetSpec(
            mixer, next(name for name, graph in graphs.items() if honors(make(8, 2, 16), graph))
        )
        for mixer, make in mixers.items()
    ]
    for net, width in find_widths(task, nets, task.config, match, size).items():
        built = task.build(net, task.config, width)
        tokens = task.batch(torch.tensor([0]), net.graph).tokens
        cost = count_parameters(built) if match == "params" else built.flops(tokens)
        assert abs(cost / size - 1) <= 0.02, (net, width, cost)


BUDGETS = [(match, size) for match in ("params", "flops") for size in (20_000, 60_000, 250_000)]


@pytest.mark.parametrize("number", spread(range(len(BUDGETS)), every=3))
def test_widths_agree_within_two_percent(number):
    """Every mixer at one of the budgets, and every budget with some of the mixers."""
    mixers = dict(list(MIXERS.items())[number :: len(BUDGETS)])
    check_widths(mixers, *BUDGETS[number])


@pytest.mark.sweep
@pytest.mark.parametrize(("match", "size"), BUDGETS)
def test_widths_of_all_mixers_agree_within_two_percent(match, size):
    check_widths(MIXERS, match, size)


class Frozen(Majority):
    """Nets whose first layer stays in eval mode, as one that was trained before."""

    def build(self, net, config, width):
        built = super().build(net, config, width)
        built.layers[0].eval()
        return built


def test_a_submodule_in_eval_mode_stays_in_it():
    task, net, width = Frozen(), NetSpec("attention", "full"), Width(8, 8)
    built = task.build(net, task.config, width)
    flops_of(built, example(task, net))
    assert built.training
    assert [layer.training for layer in built.layers] == [False] + [True] * (len(built.layers) - 1)
    modes = {0: set(), 1: set()}

    def watched(self, net, config, width):
        built = Frozen.build(self, net, config, width)
        for number, found in modes.items():
            layer = built.layers[number]
            layer.register_forward_hook(
                lambda layer, *given, found=found: found.add(layer.training)
            )
        return built

    task = type("Watched", (Frozen,), {"build": watched})()
    train(fabric(), Job(task, net, replace(task.config, epochs=1), width, 0))
    assert modes == {0: {False}, 1: {True, False}}


def test_match_none_takes_the_width_as_given():
    task = Majority()
    net = NetSpec("mean", "ring")
    assert find_widths(task, [net], task.config, "none", 12)[net] == Width(12, 24)
    with pytest.raises(ValueError, match="size must be a multiple of 2 for match none, got 13"):
        find_widths(task, [net], task.config, "none", 13)


def test_sizes_by_default_come_from_the_recipe_or_the_first_net():
    task, nets = Majority(), [NetSpec("attention", "full"), NetSpec("mean", "ring")]
    by_params = find_widths(task, nets, task.config, "params", None)
    for net, width in by_params.items():
        assert abs(count_parameters(task.build(net, task.config, width)) / 4_000 - 1) <= 0.02
    by_width = find_widths(task, nets, task.config, "none", None)
    assert {width.dim for width in by_width.values()} == {by_params[nets[0]].dim}
    example = task.batch(torch.tensor([0]), "full").tokens
    flops = [
        task.build(net, task.config, width).flops(example)
        for net, width in find_widths(task, nets, task.config, "flops", None).items()
        if net.graph == "full"
    ]
    first = task.build(nets[0], task.config, by_params[nets[0]]).flops(example)
    assert abs(flops[0] / first - 1) <= 0.02


def test_a_size_that_nothing_has_is_refused():
    task, net = Majority(), NetSpec("mean", "ring")
    with pytest.raises(ValueError, match="size: no mean@ring has 40 params within 2 %"):
        find_widths(task, [net], task.config, "params", 40)
    with pytest.raises(ValueError, match="has 60 params within 2 %; the nearest has 56"):
        find_widths(task, [net], task.config, "params", 60)
    with pytest.raises(ValueError, match="match must be one of params, flops, none; got 'time'"):
        find_widths(task, [net], task.config, "time", 40)


def test_compare_writes_what_it_shows(tmp_path, drawn):
    seen = []
    result = compare(
        Majority(), seeds=2, out=tmp_path, on_progress=lambda *progress: seen.append(progress)
    )
    assert [row.net for row in result.rows] == ["attention@full", "mean@ring"]
    assert [(run.net, run.seed) for run in result.runs] == [
        ("attention@full", 0), ("attention@full", 1), ("mean@ring", 0), ("mean@ring", 1),
    ]  # fmt: skip
    assert seen[-1] == ("mean@ring seed 1", 16, 16)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["nets"] == [row.to_dict() for row in result.rows]
    assert written["config"]["versions"]["torch"] == torch.__version__
    assert written["config"]["seeds"] == 2
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["net"], row["seed"]) for row in rows] == [
        ("attention@full", "0"), ("attention@full", "1"), ("mean@ring", "0"), ("mean@ring", "1"),
    ]  # fmt: skip
    assert [float(row["accuracy"]) for row in rows] == [r.scores["accuracy"] for r in result.runs]
    frame = result.frame()
    assert list(frame.columns) == list(rows[0])
    assert frame["accuracy"].tolist() == [run.scores["accuracy"] for run in result.runs]
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "config.json").read_text()) == written["config"]


def test_results_say_what_the_nets_are_symmetric_to(tmp_path):
    attention, mean = compare(Majority(), seeds=1, out=tmp_path).rows
    assert (attention.declared_relabeling, attention.declared_shuffling) == ("S_n", "S_n")
    assert mean.declared_shuffling == "Aut(graph)"
    assert attention.relabeling_error < 1e-12
    assert attention.shuffling_error < 1e-12 < 1e-4 < mean.shuffling_error
    index = Budget(positions="index")
    by_index = compare(Majority(), nets=["mean@full"], seeds=1, budget=index, out=tmp_path).rows[0]
    assert by_index.declared_relabeling == "trivial"
    assert by_index.relabeling_error > 1e-4


def test_a_second_call_reads_and_an_interrupted_one_resumes(tmp_path, monkeypatch):
    from tokennet.compare import workers as module

    trained = []

    def counted(fabric, job, on_epoch, *folders):
        if len(trained) == stop_after:
            raise KeyboardInterrupt
        trained.append(str(job))
        return train(fabric, job, on_epoch, *folders)

    monkeypatch.setattr(module, "train", counted)
    stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        compare(Majority(), seeds=2, out=tmp_path)
    assert len(trained) == 3
    stop_after = None
    resumed = compare(Majority(), seeds=2, out=tmp_path)
    assert len(trained) == len(set(trained)) == 4
    again = compare(Majority(), seeds=2, out=tmp_path)
    assert len(trained) == 4
    assert again.rows == resumed.rows
    compare(Majority(), seeds=3, out=tmp_path)
    assert len(trained) == 6
    compare(Majority(), seeds=1, budget=Budget(epochs=5), out=tmp_path)
    assert len(trained) == 8


def test_the_key_depends_on_everything_that_determines_a_run():
    config = {"task": "a", "net": "b", "config": {"lr": 0.1}, "seed": 0}
    keys = {
        run_key({**config, **change}) for change in ({}, {"seed": 1}, {"net": "c"}, {"task": 0})
    }
    assert len(keys) == 4
    assert run_key(config) == run_key(dict(reversed(config.items())))


class Opposite(Majority):
    """The same name, the same file, other labels."""

    def batch(self, index, graph):
        batch = super().batch(index, graph)
        return replace(batch, target=1 - batch.target)


def test_tasks_of_one_name_do_not_share_their_runs(tmp_path):
    first = compare(Majority(), nets=["mean@full"], seeds=1, out=tmp_path)
    second = compare(Opposite(), nets=["mean@full"], seeds=1, out=tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert first.runs[0].curves != second.runs[0].curves


class Noisy(Majority):
    """The same class and file; other data."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.z = self.z + noise * torch.randn(self.z.shape)


def test_other_data_are_another_run(tmp_path):
    first = compare(Noisy(0.0), nets=["mean@full"], seeds=1, out=tmp_path)
    second = compare(Noisy(1.0), nets=["mean@full"], seeds=1, out=tmp_path)
    again = compare(Noisy(0.0), nets=["mean@full"], seeds=1, out=tmp_path)
    assert (first.reused, second.reused, again.reused) == (0, 0, 1)
    assert again.runs == first.runs != second.runs


def test_the_fingerprint_sees_examples_edges_classes_positions_and_splits():
    def of(**changes):
        task = Majority()
        for name, value in changes.items():
            setattr(task, name, value)
        return fingerprint(task, "ring", 0)

    ring = Majority().on["ring"]
    listed, reordered = (
        Edges(edges, 5) for edges in (ring.edge_index(), ring.edge_index().flip(1))
    )
    seen = {
        of(),
        of(z=Majority().z + 1),
        of(label=1 - Majority().label),
        of(on={"ring": listed}),
        of(on={"ring": reordered}),
        of(on={"ring": listed.with_edge_attr(torch.ones(15))}),
        of(on={"ring": listed.with_edge_type(torch.ones(15).long())}),
        of(on={"ring": Cycle(5, 2)}),
        fingerprint(Majority(), "ring", 1),
    }
    assert len(seen) == 9
    assert of() in seen


class OtherLoss(Majority):
    def loss(self, output, target):
        return 2 * super().loss(output, target)


class OtherConstant(Majority):
    def loss(self, output, target):
        # The same but for a number and this comment.
        return 3 * super().loss(output, target)


class Documented(Majority):
    def loss(self, output, target):
        """What is minimized."""

        return 2 * super().loss(output, target)


def test_another_loss_is_another_run_and_a_comment_is_not():
    codes = [code_of(task()) for task in (Majority, OtherLoss, OtherConstant)]
    assert len(set(codes)) == 3
    assert code_of(Documented()) == code_of(OtherLoss()) == codes[1]


def test_a_task_with_another_metric_is_another_run():
    def with_metrics(*metrics):
        task = Majority()
        task.metrics = metrics
        return code_of(task)

    one = Metric("accuracy", lambda answer, target: answer.argmax(-1) == target)
    other = Metric("accuracy", lambda answer, target: answer.argmin(-1) == target)
    codes = {
        with_metrics(one),
        with_metrics(other),
        with_metrics(one, other),
        with_metrics(replace(one, reduce=lambda rows: float(rows.sum()))),
        with_metrics(replace(one, values=partial(squares, 2))),
        with_metrics(replace(one, values=partial(squares, 3))),
    }
    assert len(codes) == 6


def test_a_function_that_a_task_names_is_part_of_it(monkeypatch):
    task = TASKS["sets-clusters"](examples=8)
    before = code_of(task)
    assert code_of(TASKS["sets-clusters"](examples=8)) == before

    def log_likelihood(answer, target):
        return target.sum() - answer.sum()

    module = sys.modules[type(task).__module__]
    log_likelihood.__module__ = module.__name__
    monkeypatch.setattr(module, "log_likelihood", log_likelihood)
    assert code_of(task) != before


HELPING = {
    "by name": ("from helping import scale\n", "scale()"),
    "by module": ("import helping\n", "helping.scale()"),
    "by a module of its own": ("import between\n", "between.helping.scale()"),
}


@pytest.mark.parametrize("how", HELPING)
def test_what_a_task_imports_from_a_file_beside_it_is_part_of_it(how, tmp_path, monkeypatch):
    imports, call = HELPING[how]
    (tmp_path / "between.py").write_text("import helping\n")
    (tmp_path / "helped.py").write_text(
        f"from tests.compare.tasks_for_tests import Majority\n{imports}\n"
        "class Helped(Majority):\n"
        "    def loss(self, output, target):\n"
        f"        return {call} * super().loss(output, target)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    codes = []
    for scale in ("2", "2  # the same", "3"):
        (tmp_path / "helping.py").write_text(f"def scale():\n    return {scale}\n")
        for module in ("helped", "helping", "between"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        linecache.clearcache()
        importlib.invalidate_caches()
        codes.append(code_of(importlib.import_module("helped").Helped()))
    assert codes[0] == codes[1] != codes[2]


def test_graphs_that_read_alike_have_their_edges_looked_at():
    def of(perm):
        task = Majority()
        task.on = {"ring": Window(5, 1).relabel(torch.tensor(perm))}
        return fingerprint(task, "ring", 0)

    assert of([1, 0, 2, 3, 4]) != of([0, 2, 1, 3, 4])
    assert of([1, 0, 2, 3, 4]) == of([1, 0, 2, 3, 4])


def typed(factor):
    """A task typed in at a prompt, which has no file."""
    prompt = {"__name__": "prompt", "Majority": Majority}
    loss = f"    def loss(self, *given):\n        return {factor} * super().loss(*given)"
    exec(f"class Typed(Majority):\n    name = 'typed'\n{loss}", prompt)
    return prompt["Typed"]()


def test_a_task_without_a_file_is_run_once(tmp_path):
    options = {"nets": ["mean@full"], "seeds": 1, "out": tmp_path}
    assert [compare(typed(factor), **options).reused for factor in (1, 1, 2)] == [0, 1, 0]


class Needs(Majority):
    def __init__(self, n):
        super().__init__()


class NoTest(Majority):
    def splits(self, seed):
        return {"train": torch.arange(4)}


class WrongWidth(Majority):
    def batch(self, index, graph):
        batch = super().batch(index, graph)
        return replace(batch, tokens=batch.tokens.replace(z=batch.tokens.z.repeat(1, 1, 2)))


class ListSplits(Majority):
    def splits(self, seed):
        return {"train": [0, 1], "test": [2]}


class TupleBatch(Majority):
    def batch(self, index, graph):
        return self.z[index], self.label[index]


class TooManyClasses(Majority):
    def __init__(self):
        super().__init__()
        self.label = self.label + 1


class WrongTarget(Majority):
    def batch(self, index, graph):
        return replace(super().batch(index, graph), target=torch.zeros(len(index)))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (NoTest, "task majority: splits must have an int64 tensor of examples in 'test', got None"),
        (ListSplits, r"int64 tensor of examples in 'train', got \[0, 1\]"),
        (TupleBatch, "task majority: batch must return a Batch, got tuple"),
        (TooManyClasses, "task majority: target must be below out_features = 2, got 2"),
        (WrongWidth, "task majority: tokens must have in_features = 1 channels, got 2"),
        (WrongTarget, r"target must be int64 of shape \(2,\), got torch.float32 of shape \(2,\)"),
    ],
)
def test_tasks_that_do_not_fit_together_are_refused_before_training(task, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare(task(), out=tmp_path)


def test_the_store_gives_back_what_it_was_given(tmp_path):
    store, config = RunStore(tmp_path), {"seed": 3}
    run = a_run(seed=3, scores={"accuracy": 0.25})
    assert store.load(config) is None
    store.save(config, run)
    assert store.load(config) == run
    assert store.load({"seed": 4}) is None
    assert [path.suffix for path in (tmp_path / "runs").iterdir()] == [".json"]


def test_lines_are_means_over_seeds():
    runs = [
        a_run(net=net, seed=seed, scores={"accuracy": accuracy})
        for net, seed, accuracy in [
            ("mean@full", 0, 0.4), ("mean@full", 1, 0.6), ("mlp@full", 0, 1.0),
        ]
    ]  # fmt: skip
    first, second = summarize(runs)
    assert (first.net, first.seeds, first.score) == ("mean@full", 2, 0.5)
    assert first.scores_sd["accuracy"] == pytest.approx(0.1 * 2**0.5)
    assert second.scores_sd["accuracy"] is None


def test_training_learns_and_repeats_itself():
    config = replace(Majority.config, epochs=60)
    job = Job(Majority(), NetSpec("attention", "full"), config, Width(16, 32), 0)
    run, again = train(fabric(), job), train(fabric(), job)
    assert run.curves["loss"][-1] < 0.1 < 0.5 < run.curves["loss"][0]
    assert run.curves == again.curves
    assert run.curves["val"][run.best_epoch] == max(run.curves["val"])
    assert run.steps == 60 * 3  # 22 of the 24 training examples, in batches of 8
    assert run.tokens_per_second > 0


def test_with_a_validation_split_the_best_epoch_is_chosen_by_it():
    job = Job(Nodes(), NetSpec("mean", "ring"), replace(Nodes.config, epochs=12), Width(8, 16), 0)
    run = train(fabric(), job)
    best = max(run.curves["val"])
    assert best > min(run.curves["val"])
    assert run.curves["val"][run.best_epoch] == best
    assert best not in run.curves["val"][run.best_epoch + 1 :]


class Revealed(Majority):
    """The validation is the test, and each look at its examples is noted."""

    name = "revealed"

    def __init__(self):
        super().__init__()
        self.seen = []

    def splits(self, seed):
        train, test = super().splits(seed).values()
        return {"train": train, "val": test, "test": test}

    def batch(self, index, graph):
        self.seen.append(index.tolist())
        return super().batch(index, graph)


def test_the_test_is_read_once_with_the_parameters_of_the_best_epoch():
    task = Revealed()
    job = Job(task, NetSpec("mean", "ring"), replace(task.config, epochs=9, lr=0.1), Width(8, 8), 0)
    run = train(fabric(), job)
    assert run.scores["accuracy"] == max(run.curves["val"]) > run.curves["val"][-1]
    looks = task.seen.count(task.splits(0)["test"].tolist())
    assert looks == 9 + 1


@pytest.mark.parametrize(
    ("losses", "converged"),
    [
        ([], None),
        ([1.0], False),
        ([3.0, 2.0, 1.5, 1.2, 1.0], False),
        ([3.0, 2.0, 1.0, 1.0, 0.995], True),
        ([3.0, 2.0, 1.0, 1.0, 0.985], False),
        ([3.0, 1.0, 2.0, 2.0, 2.0], True),
        ([2.0, None, 1.0, 1.0, 1.0], False),
        ([5.0, 1.0, *4 * [1.0], 0.5, 0.5, *3 * [0.499]], True),
    ],
)
def test_a_run_has_converged_if_the_last_fifth_made_nothing_better(losses, converged):
    assert _converged(losses) is converged


def test_the_rate_rises_and_falls():
    rates = [_rate(step, warmup=4.0, steps=20) for step in range(20)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1.0
    assert rates[12] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.02
    assert _rate(0, warmup=0.0, steps=20) == 1.0


def test_tasks_of_ones_own_are_loaded_by_module_and_class():
    assert load_task("tests.compare.tasks_for_tests:Majority", TASKS).name == "majority"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "digit",
            "task must be one of arrows, .*, or module:Class, .*; got 'digit'; did you mean digits",
        ),
        ("nowhere:Task", "task 'nowhere:Task': No module named 'nowhere'"),
        ("tests.compare.tasks_for_tests:Nothing", "has no 'Nothing'"),
        ("tests.compare.tasks_for_tests:NotATask", "must be a Task, got"),
        (
            "tests/compare/tasks_for_tests.py:Majority",
            "write tasks_for_tests:Majority, in the folder",
        ),
        ("tests.compare.test_compare:Needs", "cannot be made with no arguments: .* 'n'"),
        ("tokennet.compare:Task", "task 'tokennet.compare:Task' must define batch, splits"),
    ],
)
def test_tasks_that_do_not_exist_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        load_task(name, TASKS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "attention",
            "a net is written mixer@graph, .* or none; got 'attention'",
        ),
        ("magic@full", "mixer must be one of attention, .*; got 'magic'"),
        ("mean@star", "graph must be one of full, ring; got 'star'"),
        ("mean@rings", "graph must be .*; got 'rings'; did you mean ring?"),
    ],
)
def test_nets_that_do_not_exist_are_named(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare(Majority(), nets=[text], out=tmp_path)


def test_seeds_must_be_some(tmp_path):
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        compare(Majority(), seeds=0, out=tmp_path)


@pytest.mark.gpu
def test_compare_on_cuda(tmp_path):
    cuda = Fabric(accelerator="cuda", devices=1)
    rows = compare(Majority(), seeds=1, fabric=cuda, out=tmp_path).rows
    assert rows[0].relabeling_error < 1e-12


def test_digits_are_patches_of_the_images_on_a_grid():
    task = TASKS["digits"]()
    batch = task.batch(torch.tensor([0, 5]), "grid")
    assert batch.tokens.z.shape == (2, 16, 4)
    from sklearn.datasets import load_digits

    image = torch.tensor(load_digits().images[5]) / 16
    patch = image[2:4, 4:6].flatten().float()  # row 1, column 2 of the grid
    assert torch.equal(batch.tokens.z[1, 1 * 4 + 2], patch)
    assert batch.tokens.pos[1 * 4 + 2].tolist() == [1.0, 2.0]
    splits = task.splits(0)
    assert {name: len(index) for name, index in splits.items()} == {
        "train": 1212, "val": 135, "test": 450,
    }  # fmt: skip
    assert len(torch.cat(list(splits.values())).unique()) == 1797


@pytest.mark.data
def test_cora_is_one_graph_whose_tokens_are_the_examples(cache):
    task = TASKS["cora"]()
    assert {name: len(index) for name, index in task.splits(0).items()} == {
        "train": 140, "val": 500, "test": 1000,
    }  # fmt: skip
    batch = task.batch(torch.tensor([3, 7]), "citation")
    assert batch.tokens.z.shape == (2708, 1433)
    assert batch.tokens.graph.num_edges == 10556 + 2708
    assert batch.rows.tolist() == [3, 7]
    assert torch.equal(batch.target, task.data.y[[3, 7]])
    assert cache.exists()


@pytest.mark.data
def test_mutag_is_a_ragged_batch(cache):
    task = TASKS["mutag"]()
    batch = task.batch(torch.tensor([0, 1, 5]), "bonds")
    assert batch.tokens.graph.num_graphs == 3
    assert isinstance(batch.tokens, Tokens)
    assert batch.tokens.z.shape[1] == 7
    tests = [set(task.splits(seed)["test"].tolist()) for seed in range(10)]
    assert set.union(*tests) == set(range(188))
    assert sum(map(len, tests)) == 188
    run = train(
        fabric(),
        Job(task, NetSpec("sum", "bonds"), TrainConfig(epochs=1, batch_size=64), Width(8, 8), 0),
    )
    assert run.relabeling_error < 1e-10


def test_a_download_that_fails_says_what_else_can_be_done(monkeypatch, cache):
    monkeypatch.delenv("TOKENNET_DATA", raising=False)
    roots = []

    def offline(root):
        roots.append(root)
        raise OSError("no route to host")

    with pytest.raises(OSError, match=r"Cora could not be .*no route to host\); set TOKENNET"):
        load("Cora", offline)
    assert roots == [str(cache / "tokennet")]


def test_local_data_are_copied_anew_when_they_change(monkeypatch, tmp_path, cache):
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    monkeypatch.setenv("TOKENNET_DATA", str(tmp_path))
    (raw / "a").write_text("old")
    first = data_root("Cora")
    assert data_root("Cora") == first
    (raw / "a").write_text("newer")
    assert (data_root("Cora") / "Cora" / "raw" / "a").read_text() == "newer"


def test_a_relative_cache_is_refused(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    with pytest.raises(ValueError, match="XDG_CACHE_HOME must be an absolute path, got 'cache'"):
        data_root("Cora")


def test_data_that_is_not_there_is_named(monkeypatch, tmp_path, cache):
    monkeypatch.setenv("TOKENNET_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="TOKENNET_DATA must hold the folder Cora/raw, got"):
        TASKS["cora"]()


@pytest.mark.sweep
def test_workers_train_what_one_process_trains(tmp_path):
    told = []
    nets, budget = ["mean@full", "mean@ring"], Budget(epochs=2, size=2_000)
    both = compare(
        Majority(), nets=nets, seeds=2, budget=budget, workers=2, out=tmp_path / "two",
        on_progress=lambda *news: told.append(news),
    )  # fmt: skip
    alone = compare(Majority(), nets=nets, seeds=2, budget=budget, out=tmp_path / "one")
    assert [run.curves for run in both.runs] == [run.curves for run in alone.runs]
    assert [run.scores for run in both.runs] == [run.scores for run in alone.runs]
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1:] == (8, 8)
    again = compare(Majority(), nets=nets, seeds=2, budget=budget, workers=2, out=tmp_path / "two")
    assert again.reused == 4
    assert again.runs == both.runs


class Dies(Majority):
    """A worker that trains the second net is killed, as by a system short of memory."""

    def build(self, net, config, width):
        if net.graph == "ring" and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().build(net, config, width)


@pytest.mark.sweep
def test_a_killed_worker_loses_no_finished_run(tmp_path):
    nets, budget = ["mean@full", "mean@ring"], Budget(epochs=1, size=2_000)
    with pytest.raises(RuntimeError, match="a worker was killed, .* use fewer workers"):
        compare(Dies(), nets=nets, seeds=1, budget=budget, workers=2, out=tmp_path)
    assert multiprocessing.active_children() == []
    again = compare(Dies(), nets=nets, seeds=1, budget=budget, out=tmp_path)
    assert again.reused <= 1
    assert len(again.runs) == 2


def test_a_task_that_cannot_be_sent_needs_one_worker(tmp_path):
    task = Majority()
    task.draw = lambda: None
    with pytest.raises(ValueError, match="workers must be 1: task majority cannot be sent"):
        compare(task, seeds=1, workers=2, out=tmp_path)


def test_a_net_that_does_not_mix_has_the_same_budget_and_is_chance(tmp_path):
    task = TASKS["arrows"](examples=640)
    (row,) = compare(task, nets=["none"], seeds=1, budget=Budget(epochs=1), out=tmp_path).rows
    assert (row.net, row.declared_relabeling) == ("none@full", "S_n")
    assert row.parameters == pytest.approx(task.config.size, rel=0.02)
    assert row.score < 0.2
