"""The workflows in examples/ci: YAML of the form of GitHub Actions, with commands that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from tokennet.cli import app

yaml = pytest.importorskip("yaml")
FOLDER = Path(__file__).parent.parent / "examples" / "ci"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))


def load(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["on"] = content.pop(True, None) or content.get("on")  # YAML 1.1 reads `on` as a bool
    return content


def steps(content):
    return [step for job in content["jobs"].values() for step in job["steps"]]


def commands(content):
    """The calls of tokennet, with an example for what GitHub fills in."""
    for step in steps(content):
        for line in step.get("run", "").splitlines():
            words = shlex.split(re.sub(r"\$\{\{.*?\}\}", "models:Mean", line))
            if words[:1] == ["tokennet"]:
                yield words[1:]


def parsed(arguments):
    """The options of a call, as the command line parses them, without running anything."""
    group = typer.main.get_command(app)
    name, command, rest = group.resolve_command(
        group.make_context("tokennet", list(arguments)), arguments
    )
    return name, command.make_context(name, rest).params


def test_there_are_workflows():
    assert WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_the_form_of_github_actions(path):
    content = load(path)
    assert {"name", "on", "jobs", "permissions"} <= set(content)
    assert content["permissions"]["security-events"] == "write"
    for step in steps(content):
        assert ("run" in step) != ("uses" in step)
        assert re.fullmatch(r"[\w./-]+@v\d+", step.get("uses", "a/b@v1"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_its_commands_parse_and_write_what_later_steps_read(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".github").mkdir()
    content = load(path)
    calls = [parsed(call) for call in commands(content)]
    assert calls
    written = {str(value) for _, params in calls for value in params.values() if value}
    for step in steps(content):
        read = step.get("with", {})
        for file in [read.get("sarif_file", ""), *read.get("path", "").split()]:
            assert not file or file in written


def test_a_command_that_does_not_exist_is_found():
    with pytest.raises(typer.exceptions.TyperException):
        parsed(["check", "models:Mean", "--sarf", "x"])
