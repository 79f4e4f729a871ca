"""The README tells the truth: its snippets run, its commands are those of the project."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda p: p.name)
def test_snippets_run_one_after_the_other_and_print_what_they_say(page, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", "\n".join(snippets(page))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"print\(.*\)\s+# (.*)", "\n".join(snippets(page)))
    assert promised
    for line in promised:
        assert line in done.stdout


def test_there_are_snippets_to_run():
    assert len(snippets(ROOT / "README.md")) >= 4


def test_the_two_commands_are_there():
    assert "pip install -c constraints.txt -e . && tokennet compare digits" in README
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in README


def test_links_lead_somewhere():
    links = [
        (page, link)
        for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())
    ]
    assert len(links) >= 5
    for page, link in links:
        assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_examples_run_and_end_in_a_figure(tmp_path):
    scripts = sorted((ROOT / "examples").glob("*.py"))
    assert len(scripts) >= 4
    for script in scripts:
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, f"{script.name}: {done.stderr}"
        assert re.search(r"\d", done.stdout.splitlines()[-1]), script.name


def test_nothing_is_left_to_fill_in():
    for page in PAGES:
        assert "@@" not in page.read_text(), page.name
