"""By default tests meet each pair of the values of their axes, under `sweep` the whole product."""

from itertools import combinations, product

from tests.axes import pairwise

AXES = {"a": "xyzw", "b": range(3), "c": (True, False), "d": (None, 1.0)}


def test_each_pair_is_met_by_default_and_every_row_once():
    names, params = pairwise(**AXES).args
    assert names == tuple(AXES)
    assert {param.values for param in params} == set(product(*AXES.values()))
    assert len(params) == 48
    default = [param.values for param in params if not param.marks]
    for (i, first), (j, second) in combinations(enumerate(AXES.values()), 2):
        assert {(row[i], row[j]) for row in default} == set(product(first, second))
    assert len(default) <= 16  # 12 at least: four values times three
    assert all(mark.name == "sweep" for param in params for mark in param.marks)
