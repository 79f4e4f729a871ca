"""The name of this folder is a keyword of its tests, and no mark."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") is None:
            item.own_markers[:] = [
                mark
                for mark in item.own_markers
                if mark.kwargs.get("reason") != "needs a CUDA device"
            ]
