"""The worked examples of CONTRIBUTING.md, executed from the page in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MOST_FILES = 3
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


class Change(NamedTuple):
    """A block of the page: a new file, lines at the end of one, or lines within one."""

    path: str
    kind: str
    text: str


class Example(NamedTuple):
    """A section of the page: what it changes, and the tests that then run."""

    name: str
    changes: list[Change]
    command: str

    @property
    def files(self) -> set[str]:
        return {change.path for change in self.changes}

    @property
    def lines(self) -> int:
        return sum(len(added(change).strip().splitlines()) for change in self.changes)


def added(change: Change) -> str:
    if change.kind != "diff":
        return change.text
    return "\n".join(line[1:] for line in change.text.splitlines() if line.startswith("+"))


def examples(page: str) -> list[Example]:
    """The sections of the page that add something to the package."""
    found = []
    for section in page.split("\n## ")[1:]:
        changes, command, path, start = [], "", "", 0
        for fence in FENCE.finditer(section):
            language, text = fence.groups()
            paths = re.findall(r"`([\w/]+\.py)`", section[start : fence.start()])
            path, start = paths[-1] if paths else path, fence.end()
            if language == "":
                command = text.strip()
            else:
                changes.append(Change(path, language, text))
        if changes:
            found.append(Example(section.splitlines()[0].split()[-1], changes, command))
    return found


EXAMPLES = examples((ROOT / "CONTRIBUTING.md").read_text())


def apply(change: Change, root: Path) -> None:
    file = root / change.path
    if change.kind == "python":
        before = f"{file.read_text().rstrip()}\n\n\n" if file.exists() else ""
        file.write_text(before + change.text)
        return
    lines, position, heads = file.read_text().splitlines(), 0, []
    for line in change.text.splitlines():
        if not line.startswith("+"):  # context, which must be there
            position = lines.index(line[1:], position)
            lines[position:position] = heads
            position, heads = position + len(heads) + 1, []
        elif position == 0:
            heads.append(line[1:])
        else:
            lines.insert(position, line[1:])
            position += 1
    file.write_text("\n".join(lines) + "\n")


def test_the_page_has_an_example_for_each_thing_to_add():
    assert [example.name for example in EXAMPLES] == ["graph", "mixer", "backend", "task", "law"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_touches_few_files(example):
    assert len(example.files) <= MOST_FILES
    assert example.command.startswith("pytest tests/")
    assert example.lines > 5


@pytest.mark.sweep
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_what_an_example_adds_passes_the_tests_it_inherits(example, tmp_path):
    copy = tmp_path / "repository"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", "results"))
    for change in example.changes:
        apply(change, copy)
    command = [sys.executable, "-m", *example.command.split(), "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-q", "-m", "sweep or not sweep"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    assert passed is not None
    assert int(passed[1]) >= 4
    print(f"{example.name}: {len(example.files)} files, {example.lines} lines, {passed[0]}")
