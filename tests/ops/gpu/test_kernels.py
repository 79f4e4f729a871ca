"""The kernels in Triton, each set of cases in a process of its own.

Whether Triton interprets or compiles is settled when it is imported, and a driver that stands
in for a device is there for the whole process.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
FOLDER = Path(__file__).parent


def run(file: str, *options: str, **variables: str) -> str:
    """Run the cases of a file by pytest; they must all pass, and none be skipped."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", "-Wignore",
         str(FOLDER / file), *options],
        capture_output=True, text=True, check=False, env={**os.environ, **variables},
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
    return done.stdout


@pytest.mark.sweep
@pytest.mark.parametrize("cases", ["test_families", "not test_families"])
def test_interpreted_on_a_cpu(cases):
    run("kernel_cases.py", "-k", cases, TRITON_INTERPRET="1", DEVICE="cpu")


@pytest.mark.sweep
def test_compiled_without_a_device():
    """Shown by `pytest -s`: registers, and bytes spilled, of each kernel."""
    run("compiled_cases.py", "-s", TRITON_INTERPRET="0", DEVICE="cpu")


@pytest.mark.gpu
def test_on_a_device():
    # In several processes: each of many kinds of kernel is compiled.
    run("kernel_cases.py", "-n8", TRITON_INTERPRET="0", DEVICE="cuda")
