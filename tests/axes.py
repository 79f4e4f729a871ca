"""Axes of tests: each pair of their values by default, the whole product under `sweep`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest


def pairwise(**axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize a test by the product of axes that do not depend on each other.

    By default it runs on few rows in which each value of an axis meets each value of every other
    axis; the other rows are marked as `sweep`, as are those of a value that has a mark itself.
    """
    given = [list(axis) for axis in axes.values()]
    values = [[_value(value) for value in axis] for axis in given]
    unmarked = [[i for i, value in enumerate(axis) if not _marks(value)] for axis in given]
    rows = list(product(*(range(len(axis)) for axis in values)))
    chosen = _covering(list(product(*unmarked)))
    params = []
    for row in rows:
        marks = [] if row in chosen else [pytest.mark.sweep]
        case = (axis[index] for axis, index in zip(values, row, strict=True))
        params.append(pytest.param(*case, marks=marks))
    return pytest.mark.parametrize(tuple(axes), params)


def in_turn(**axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize a test by axes of which the first matters: each value meets one of every other.

    They take turns; the rest of the product is marked as `sweep`.
    """
    values = [list(axis) for axis in axes.values()]
    params = []
    for number, first in enumerate(values[0]):
        chosen = []
        for axis in values[1:]:
            chosen.append(number % len(axis))
            number //= len(axis)
        for row in product(*(range(len(axis)) for axis in values[1:])):
            marks = [] if list(row) == chosen else [pytest.mark.sweep]
            others = (axis[index] for axis, index in zip(values[1:], row, strict=True))
            params.append(pytest.param(first, *others, marks=marks))
    return pytest.mark.parametrize(tuple(axes), params)


def spread(values: Iterable[Any], every: int = 2) -> list[Any]:
    """Values to parametrize by: each `every`-th by default, the others marked as `sweep`."""
    return [
        pytest.param(value, marks=pytest.mark.sweep if number % every else ())
        for number, value in enumerate(values)
    ]


def _value(value: Any) -> Any:
    return value.values[0] if hasattr(value, "marks") else value


def _marks(value: Any) -> Any:
    return getattr(value, "marks", ())


def _covering(rows: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Rows that have all the pairs of all rows: always the one with most pairs still missing."""
    pairs = {row: set(combinations(enumerate(row), 2)) for row in rows}
    missing = set().union(*pairs.values())
    chosen = set()
    while missing:
        best = max(rows, key=lambda row: len(pairs[row] & missing))
        chosen.add(best)
        missing -= pairs[best]
    return chosen
