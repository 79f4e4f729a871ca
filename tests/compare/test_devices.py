"""Several processes compute what one computes."""

import json
import math
from dataclasses import asdict
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric

from tests.compare.tasks_for_tests import Halves, Majority, Nodes, fabric
from tokennet.compare import NetSpec, TrainConfig, Width
from tokennet.compare.data import with_validation
from tokennet.compare.train import Job, Run, train


class Overflows(Majority):
    """The net cannot answer the second example of the validation, which the second process has."""

    name = "overflows"

    def build(self, net, config, width):
        built = super().build(net, config, width)
        spoiled = self.z[with_validation(self.splits(0))["val"][1]]

        def overflow(module, given, output):
            rows = (given[0].z == spoiled).flatten(1).all(1)
            return output if module.training else output.masked_fill(rows[:, None], math.nan)

        built.register_forward_hook(overflow)
        return built


TASKS = (Majority, Nodes, Halves)
"""Batches of 5, and a last one of 4, 3 or 2: shares differ in size between the processes."""


def run(fabric, task):
    config = TrainConfig(epochs=3, batch_size=5, lr=1e-2, num_heads=2)
    return train(fabric, Job(task(), NetSpec("attention", "full"), config, Width(8, 16), 0))


def run_and_save(fabric, folder):
    torch.set_num_threads(1)
    for task in (*TASKS, Overflows):
        found = run(fabric, task)
        if fabric.is_global_zero:
            (folder / f"{task.name}.json").write_text(json.dumps(asdict(found)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs of two processes."""
    folder = tmp_path_factory.mktemp("runs")
    # Forked processes have imported all already; a process that has used CUDA cannot be forked.
    strategy = "ddp_spawn" if torch.cuda.is_initialized() else "ddp_fork"
    two = Fabric(accelerator="cpu", devices=2, strategy=strategy)
    two.launch(partial(run_and_save, folder=folder))
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_have_the_losses_and_metrics_of_one_at_the_same_global_batch(task, folder):
    single = run(fabric(), task)
    double = Run(**json.loads((folder / f"{task.name}.json").read_text()))
    assert double.curves["loss"] == pytest.approx(single.curves["loss"], rel=1e-5)
    for name in ("val", "val loss"):
        assert double.curves[name] == pytest.approx(single.curves[name], rel=1e-5)
    assert double.scores == pytest.approx(single.scores, rel=1e-5)
    assert len(set(single.curves["loss"])) == 3


def test_all_processes_know_that_a_run_diverged_on_one(folder):
    double = json.loads((folder / "overflows.json").read_text())
    assert double["diverged"] == run(fabric(), Overflows).diverged == 1
    assert double["scores"] == {"accuracy": None}
