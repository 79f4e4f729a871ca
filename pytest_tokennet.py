"""Pytest plugin of tokennet: where the laws run, and a report of all of them.

A top-level module, as importing anything of the package imports torch: pytest loads the
plugin in every run, also in those that have nothing to do with tokennet.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float64", "float32", "bfloat16", "float16")
SETTINGS = ("device", "dtype", "seed")
PROPERTY = "symmetry"
"""Key of the reports among a test's `user_properties`; the values are JSON."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tokennet", "symmetry laws (tokennet)")
    group.addoption(
        "--symmetry-device", metavar="DEVICE", help="where laws run: cpu (default), cuda, cuda:1"
    )
    group.addoption("--symmetry-dtype", choices=DTYPES, help="precision that laws are decided in")
    group.addoption(
        "--symmetry-seed", type=int, metavar="SEED", help="seed of what laws draw (default: 0)"
    )
    group.addoption(
        "--symmetry-report", metavar="FILE", help="write the reports of all laws to this JSON file"
    )


def pytest_configure(config: pytest.Config) -> None:
    device, file = config.getoption("symmetry_device"), config.getoption("symmetry_report")
    if device is not None:
        _device(device)
    if file is not None and not hasattr(config, "workerinput"):  # not in a worker of xdist
        path = config.invocation_params.dir / file
        if path.is_dir():
            raise pytest.UsageError(f"--symmetry-report must name a file, got the folder {file}")
        config.pluginmanager.register(SymmetryReportFile(path), "tokennet-symmetry-report")


@pytest.fixture(scope="session")
def symmetry_device(pytestconfig: pytest.Config) -> torch.device:
    """The device that `--symmetry-device` names; cpu without it."""
    return _device(pytestconfig.getoption("symmetry_device") or "cpu")


@pytest.fixture(scope="session")
def symmetry_dtype(pytestconfig: pytest.Config) -> torch.dtype | str:
    """The precision that `--symmetry-dtype` names, or "auto", as `check` accepts it."""
    return _dtype(pytestconfig.getoption("symmetry_dtype") or "auto")


@pytest.fixture(scope="session")
def symmetry_seed(pytestconfig: pytest.Config) -> int:
    """The number of `--symmetry-seed`; 0 without it."""
    return pytestconfig.getoption("symmetry_seed") or 0


@pytest.fixture
def record_symmetry(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """Add a report, any with `to_dict()`, to those that `--symmetry-report` writes."""
    return functools.partial(_record, request.node)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Give the laws of `parametrize_with_checks` the options of the run; keep their reports."""
    laws = _laws(item)
    for law in laws:
        law.settings, law.report = _settings(item.config), None
    try:
        return (yield)
    finally:
        for law in laws:
            if law.report is not None:
                _record(item, law.report)


class SymmetryReportFile:
    """Collects the reports of all tests, those of xdist's workers too, and writes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
            for name, value in report.user_properties:
                if name == PROPERTY:
                    values = json.loads(str(value), parse_constant=str)  # JSON has no NaN
                    entry = {"test": report.nodeid, "outcome": outcome, "report": values}
                    self.entries.append(entry)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.entries.sort(key=lambda entry: entry["test"])  # workers finish in any order
        content = {name: session.config.getoption(f"symmetry_{name}") for name in SETTINGS}
        content["reports"] = self.entries
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(content, indent=1) + "\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_sep("-", f"{len(self.entries)} symmetry reports in {self.path}")


def _settings(config: pytest.Config) -> dict[str, Any]:
    """The options that were given, as arguments of `check`."""
    settings = {name: config.getoption(f"symmetry_{name}") for name in SETTINGS}
    if settings["device"] is not None:
        settings["device"] = _device(settings["device"])
    if settings["dtype"] is not None:
        settings["dtype"] = _dtype(settings["dtype"])
    return {name: value for name, value in settings.items() if value is not None}


def _laws(item: pytest.Item) -> list[Any]:
    module = sys.modules.get("tokennet.testing.parametrize")
    if module is None or not hasattr(item, "callspec"):
        return []
    return [value for value in item.callspec.params.values() if isinstance(value, module.BoundLaw)]


def _record(item: pytest.Item, report: Any) -> None:
    item.user_properties.append((PROPERTY, json.dumps(report.to_dict())))


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise pytest.UsageError(f"--symmetry-device: {name!r} is no device: {error}") from None
    count = torch.cuda.device_count() if device.type == "cuda" else None
    if count is not None and (device.index or 0) >= count:
        raise pytest.UsageError(
            f"--symmetry-device {name}: torch {torch.__version__} finds {count or 'no'} GPU here"
        )
    return device


def _dtype(name: str) -> torch.dtype | str:
    if name == "auto":
        return name
    import torch

    return getattr(torch, name)
