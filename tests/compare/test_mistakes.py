"""What is wrong with a task is said before training, by the name of the attribute."""

from dataclasses import replace

import pytest

from tests.compare.tasks_for_tests import Majority
from tokennet.compare import compare


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


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (BareTensor, "tokens must be a Tokens, got a tensor"),
        (OneString, "task majority: nets must be a list of names, as a tuple, got 'mean@full'"),
        (WithoutNets, "task WithoutNets must set nets"),
        (DictInterface, "task majority: interface must be an IOSpec, got dict"),
        (OtherSize, "task majority: interface.num_tokens must be the tokens of each set, 5; got 6"),
        (Unsized, "num_tokens must be given: mixer 'mlp'"),
    ],
)
def test_mistakes_name_the_attribute(task, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        compare(task(), out=tmp_path)
    assert not list(tmp_path.rglob("*.json"))
