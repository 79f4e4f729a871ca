"""What is wrong with a task is said before training, by the name of the attribute."""

from dataclasses import replace

import pytest
import torch

from tests.compare.tasks_for_tests import Majority
from tokennet.compare import Budget, compare
from tokennet.compare.metric import accuracy
from tokennet.compare.task import FOLDERS, RESULTS


class BareTensor(Majority):
    def batch(self, index, graph):
        return replace(super().batch(index, graph), tokens=self.z[index])


class OneString(Majority):
    nets = "mean@full"


class DictInterface(Majority):
    interface = {"in_features": 1, "out_features": 2}  # noqa: RUF012


class OtherSize(Majority):
    interface = replace(Majority.interface, num_tokens=6)


class Unsized(Majority):
    interface = replace(Majority.interface, num_tokens=None)
    nets = ("mlp@full",)


class WithoutNets(Majority):
    @property
    def nets(self):
        raise AttributeError


def called(*names):
    """A task with metrics of these names."""
    metrics = tuple(replace(accuracy, name=name) for name in names)
    return type("Named", (Majority,), {"metrics": metrics})


class SplitCalledLoss(Majority):
    def splits(self, seed):
        return {**super().splits(seed), "loss": torch.arange(4)}


@pytest.mark.parametrize(
    "names", [["seconds"], ["diverged"], ["accuracy", "name"], ["net"], ["a", "a"], ["a", "a sd"]]
)
def test_metrics_are_not_called_as_other_columns(names, tmp_path):
    wrong = f"task majority: metrics must have names .* other columns, got {names[-1]}"
    with pytest.raises(ValueError, match=wrong):
        compare(called(*names)(), out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*RESULTS, *FOLDERS])
def test_artifacts_are_not_called_as_the_results(name, tmp_path):
    class Overwriting(Majority):
        def write_artifacts(self, model, net, folder):
            (folder / name).write_text("mine")

    wrong = f"task majority: write_artifacts must not write {name}, which the comparison writes"
    budget = Budget(size=4_000, epochs=1)
    with pytest.raises(ValueError, match=wrong):
        compare(Overwriting(), nets=["mean@full"], seeds=1, budget=budget, out=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (BareTensor, "tokens must be a Tokens, got a tensor"),
        (OneString, "task majority: nets must be a list of names, as a tuple, got 'mean@full'"),
        (WithoutNets, "task WithoutNets must set nets"),
        (DictInterface, "task majority: interface must be an IOSpec, got dict"),
        (OtherSize, "task majority: interface.num_tokens must be the tokens of each set, 5; got 6"),
        (SplitCalledLoss, "task majority: splits must not be called 'loss', as the curve is"),
        (Unsized, "num_tokens must be given: mixer 'mlp'"),
    ],
)
def test_mistakes_name_the_attribute(task, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        compare(task(), out=tmp_path)
    assert not list(tmp_path.rglob("*.json"))
