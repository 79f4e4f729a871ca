"""The snippets of README and docs and the examples run, and print what they say."""

import ast
import re
import runpy
import warnings
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SLOW = {"compare.md", "karate_club.py", "my_task.py", "pyg_laws.py", "tolerances.py"}
"""Pages and examples that take more than some seconds."""


def snippets(page: Path) -> str:
    """The Python snippets of a page, as one program."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return "\n".join(found)


def expected_output(program: str) -> list[str]:
    """The lines of the comment after each `print(...)`, beside it and below it.

    >>> expected_output("print(1)  # 1\\nprint(\\n    2\\n)  # 2\\nx = 3  # no output")
    ['1', '2']
    >>> expected_output("print(x)\\n#   a\\n#     b\\ny = 1")
    ['  a', '    b']
    """
    lines = program.splitlines()
    found = []
    for node in ast.walk(ast.parse(program)):
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "print":
            end = lines[call.end_lineno - 1].encode()[call.end_col_offset :].decode()
            below = takewhile(lambda line: line.startswith("#"), lines[call.end_lineno :])
            found += [end.partition("# ")[2], *(line[2:] for line in below)]
    return [line for line in found if line]


def run(script: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a script in this process, where torch is loaded already, and return what it prints."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        runpy.run_path(str(script), run_name=name)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.sweep] * (page.name in SLOW))
        for page in PAGES
        if snippets(page) and page.name != "CONTRIBUTING.md"
    ],
)
def test_snippets_run_in_order_and_print_what_they_say(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    program = snippets(page)
    script = tmp_path / f"{page.stem}.py"
    script.write_text(program)
    output = run(script, "snippets", capsys)
    expected = expected_output(program)
    assert expected
    for line in expected:
        assert line in output


def test_there_are_snippets_on_most_pages():
    assert snippets(ROOT / "README.md").count("import") >= 5
    assert sum(bool(snippets(page)) for page in PAGES) >= 10


def test_a_multi_line_print_has_an_expected_output():
    program = "print(\n    1\n)  # 1\nprint('é')  # é\nprint(2)\nx = 3  # none"
    assert expected_output(program) == ["1", "é"]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, marks=[pytest.mark.sweep] if path.name in SLOW else [])
        for path in EXAMPLES
    ],
    ids=lambda path: path.name,
)
def test_examples_run_and_end_with_a_number(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    output = run(script, "__main__", capsys)
    assert re.search(r"\d", output.splitlines()[-1])


def test_slow_examples_exist():
    assert {path.name for path in (*EXAMPLES, *PAGES)} > SLOW


def test_links_lead_to_files():
    links = [
        (page, link)
        for page in PAGES
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())
        if "://" not in link
    ]
    assert len(links) >= 30
    for page, link in links:
        assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_architecture_names_every_room_in_the_order_of_imports():
    """The rooms, from left to right, are those that `tests/test_layout.py` enforces."""
    page = (ROOT / "docs/architecture.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("`checks < "))
    rooms = [room for room in line.strip("`").split(" < ") if room != "interpret"]
    package = ROOT / "tokennet"
    modules = {path.stem for path in package.glob("[!_]*.py")} - {"version"}
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert {*rooms} == (modules | folders) - {"interpret"}
    for path in re.findall(r"^\| `([\w/.]+)`", page, flags=re.M):
        if not path.startswith("interpret"):
            assert (package / path).exists(), path


def test_nothing_is_left_to_fill_in():
    for page in PAGES:
        assert "@@" not in page.read_text(), page.name
