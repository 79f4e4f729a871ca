"""Several processes compute what one computes."""

import json
from dataclasses import asdict
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric

from tests.compare.tasks_for_tests import Halves, Majority, Nodes, fabric
from tokennet.compare import NetSpec, TrainConfig, Width
from tokennet.compare.train import Job, Run, train

TASKS = (Majority, Nodes, Halves)
"""Batches of 5, and a last one of 4, 3 or 2: shares differ in size between the processes."""


def run(fabric, task):
    config = TrainConfig(epochs=3, batch_size=5, lr=1e-2, num_heads=2)
    return train(fabric, Job(task(), NetSpec("attention", "full"), config, Width(8, 16), 0))


def run_and_save(fabric, folder):
    torch.set_num_threads(1)
    for task in TASKS:
        found = run(fabric, task)
        if fabric.is_global_zero:
            (folder / f"{task.name}.json").write_text(json.dumps(asdict(found)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs of two processes."""
    folder = tmp_path_factory.mktemp("runs")
    two = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    two.launch(partial(run_and_save, folder=folder))
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_have_the_losses_and_metrics_of_one_at_the_same_global_batch(task, folder):
    single = run(fabric(), task)
    double = Run(**json.loads((folder / f"{task.name}.json").read_text()))
    assert double.curves["loss"] == pytest.approx(single.curves["loss"], rel=1e-5)
    assert double.curves["test"] == pytest.approx(single.curves["test"], rel=1e-5)
    assert double.scores == pytest.approx(single.scores, rel=1e-5)
    assert len(set(single.curves["loss"])) == 3
