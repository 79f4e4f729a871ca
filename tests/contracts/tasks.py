"""`TaskContract`: what holds for every task of `tokennet.compare`; a test class inherits it.

class TestMyTask(TaskContract):
    @pytest.fixture
    def make(self):
        return MyTask
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from lightning_fabric import Fabric

from tokennet.compare import Width
from tokennet.compare.budget import find_widths
from tokennet.compare.check import check_task
from tokennet.compare.fingerprint import code_of, fingerprint
from tokennet.compare.report import Baseline, summarize, tables
from tokennet.compare.train import Job, train
from tokennet.nets import count_parameters


class TaskContract:
    """A subclass defines the fixture `make`: a function that makes the task, small."""

    @pytest.fixture
    def task(self, make):
        return make()

    @pytest.fixture
    def nets(self, task):
        return [task.parse(text) for text in task.nets]

    def test_its_parts_fit_together(self, task, nets):
        check_task(task, nets)
        assert task.name
        assert task.summary
        assert {net.graph for net in nets} <= set(task.graphs)
        splits = {split: set(index.tolist()) for split, index in task.splits(0).items()}
        for first, second in pairwise(splits.values()):
            assert not first & second

    def test_every_graph_has_batches(self, task):
        index = task.splits(0)["train"][:2]
        for graph in task.graphs:
            batch = task.batch(index, graph)
            assert len(batch.target) == 2
            assert all(torch.isfinite(tokens.z).all() for tokens in batch.given)

    def test_it_is_the_same_each_time(self, task, make):
        again = make()
        for graph in task.graphs:
            assert fingerprint(task, graph, 0) == fingerprint(again, graph, 0)
        assert code_of(task) == code_of(again)
        assert task.baselines(0) == again.baselines(0)

    def test_trivial_models_have_the_first_metric(self, task):
        known = {metric.name for metric in task.metrics}
        for scores in task.baselines(0).values():
            assert task.metrics[0].name in scores
            assert set(scores) <= known

    def test_nets_have_the_size_of_its_config(self, task, nets):
        nets = [nets[0], nets[-1]]
        widths = find_widths(task, nets, task.config, "params", None)
        assert list(widths) == nets
        with torch.device("meta"):
            built = task.build(nets[-1], task.config, widths[nets[-1]])
        assert count_parameters(built) == pytest.approx(task.config.size, rel=0.02)

    def test_a_net_learns_and_has_rows_and_artifacts(self, task, nets, tmp_path):
        batch_size = min(16, task.config.batch_size or len(task.splits(0)["train"]))
        config = replace(task.config, epochs=2, batch_size=batch_size, dropout=0.0)
        job = Job(task, nets[0], config, Width(16, 16), 0)
        run = train(Fabric(accelerator="cpu", devices=1), job, artifacts=tmp_path / "artifacts")
        assert run.curves["loss"][1] < run.curves["loss"][0]
        assert list(run.scores) == [metric.name for metric in task.metrics]
        assert run.flops > 0
        if run.declared is not None:
            for action, group in run.declared.items():
                error = getattr(run, f"{action}_error")
                assert error is None or error >= 0
                assert group != "S_n" or error is None or error < 1e-9
        baselines = Baseline.of(task, 1)
        assert len(tables(summarize([run]), baselines, task.metrics, task.summary)) == (
            1 + (len(task.metrics) > 1) + (run.declared is not None)
        )
        if task.has_artifacts:
            (file,) = (tmp_path / "artifacts").iterdir()
            assert file.stat().st_size > 50
        else:
            assert not (tmp_path / "artifacts").exists()
