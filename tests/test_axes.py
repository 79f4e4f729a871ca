"""By default tests meet each pair of the values of their axes, under `sweep` the whole product."""

from itertools import combinations, product

import pytest

from tests.axes import in_turn, pairwise, spread

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


def test_rows_of_a_value_with_a_mark_are_not_run_by_default():
    values = [*"xy", pytest.param("z", marks=pytest.mark.sweep)]
    params = pairwise(a=values, b=range(3)).args[1]
    default = {param.values for param in params if not param.marks}
    assert default == set(product("xy", range(3)))
    assert {param.values for param in params} - default == set(product("z", range(3)))


def test_in_turn_each_value_of_the_first_axis_is_met_once_by_default():
    params = in_turn(**AXES).args[1]
    assert {param.values for param in params} == set(product(*AXES.values()))
    default = [param.values for param in params if not param.marks]
    assert [row[0] for row in default] == list("xyzw")
    assert [row[1] for row in default] == [0, 1, 2, 0]
    assert {row[2] for row in default} == {True, False}


def test_of_many_values_some_are_met_by_default_and_all_under_sweep():
    params = spread("abcde", every=2)
    assert [param.values for param in params] == [("a",), ("b",), ("c",), ("d",), ("e",)]
    assert [bool(param.marks) for param in params] == [False, True, False, True, False]
