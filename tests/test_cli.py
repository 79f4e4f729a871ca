"""The command line as a newcomer meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokennet.version import __version__

ROOT = Path(__file__).parent.parent


def tokennet(*args, cwd=ROOT, **environment):
    command = [sys.executable, "-c", "from tokennet.cli import main; main()", *args]
    env = {**os.environ, "COLUMNS": "80", **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)


def test_version():
    assert tokennet("--version").stdout.strip() == f"tokennet {__version__}"


def test_help_names_the_commands_and_their_options():
    text = tokennet("--help").stdout
    for command in ("compare", "tasks", "nets"):
        assert command in text
    text = tokennet("compare", "--help").stdout
    for option in ("--nets", "--seeds", "--match", "--size", "--epochs", "--device", "--out"):
        assert option in text


def test_lists():
    text = tokennet("tasks").stdout
    assert all(name in text for name in ("digits", "cora", "mutag", "attention@full"))
    text = tokennet("nets").stdout
    assert all(name in text for name in ("attention", "gat", "mlp", "S_n", "trivial"))


def test_compare_a_task_of_ones_own_from_another_folder(tmp_path):
    source = (ROOT / "tests/compare/tasks_for_tests.py").read_text()
    (tmp_path / "my_tasks.py").write_text(source)
    args = ("compare", "my_tasks:Majority", "--seeds", "2", "--epochs", "2")
    done = tokennet(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "attention@full" in done.stdout
    assert "Aut(graph)" in done.stdout
    shown = done.stdout[: done.stdout.index("Wrote ")]
    assert max(map(len, shown.splitlines())) <= 80
    folder = tmp_path / "tokennet-results" / "majority"
    assert len(json.loads((folder / "results.json").read_text())["runs"]) == 4
    again = tokennet(*args, cwd=tmp_path)
    assert again.returncode == 0
    tables = [
        text[text.index("majority:") : text.index("FLOPs: forward")]
        for text in (done.stdout, again.stdout)
    ]
    assert tables[0] == tables[1]
    assert "4 of 4 runs were in" in again.stdout
    assert "runs were in" not in done.stdout


def test_without_a_command_help_is_shown():
    done = tokennet()
    assert done.returncode == 2
    assert "compare" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("compare", "digit"), "task must be one of digits, cora, mutag or module:Class"),
        (("compare", "digits", "--nets", "magic@full"), "mixer must be one of"),
        (("compare", "digits", "--nets", "mean@star"), "graph must be one of full, grid"),
        (("compare", "digits", "--nets", "mean"), "a net is written mixer@graph"),
        (("compare", "digits", "--size", "10"), "size: no attention@full has 10 params"),
        (("compare", "digits", "--positions", "x"), "positions must be 'pos', 'index' or 'none'"),
        (
            ("compare", "digits", "--match", "time"),
            "'time' is not one of 'params'",
        ),
        (
            ("compare", "digits", "--seeds", "0"),
            "'--seeds': Input should be greater than or equal to 1",
        ),
        (("compare", "digits", "--precision", "3"), "Precision '3' is invalid"),
        (("compare",), "Missing argument"),
        (("unknown",), "No such command 'unknown'"),
    ],
)
def test_mistakes_are_told_without_a_traceback(args, message, tmp_path):
    done = tokennet(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("tokennet: ")
    assert done.stderr.count("\n") == 1


def test_cuda_that_is_not_there_is_refused(tmp_path):
    done = tokennet("compare", "digits", "--device", "cuda", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr == "tokennet: device cuda was asked for, but there is no CUDA device here\n"
