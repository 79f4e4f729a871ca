"""Axes of tests: each pair of their values by default, the whole product under `sweep`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest


def pairwise(**axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize a test by the product of axes that do not depend on each other.

    By default it runs on few rows in which each value of an axis meets each value of every other
    axis; the other rows are marked as `sweep`.
    """
    values = [list(axis) for axis in axes.values()]
    rows = list(product(*(range(len(axis)) for axis in values)))
    chosen = _covering(rows)
    params = []
    for row in rows:
        marks = [] if row in chosen else [pytest.mark.sweep]
        case = (axis[index] for axis, index in zip(values, row, strict=True))
        params.append(pytest.param(*case, marks=marks))
    return pytest.mark.parametrize(tuple(axes), params)


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
