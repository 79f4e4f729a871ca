"""The house: who may import whom, sizes, names, and that examples in docstrings run."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import tokennet

ROOT = Path(tokennet.__file__).parent
ROOMS = [
    "version",
    "checks",
    "graphs",
    "tokens",
    "ops",
    "symmetry",
    "layer",
    "positional",
    "mixers",
    "nets",
    "models",
    "tokenizers",
    "interop",
    "interpret",
    "testing",
    "compare",
    "bench",
    "cli",
    "__main__",
]
OPTIONAL = {
    "matplotlib",
    "pynauty",
    "scipy",
    "skimage",
    "sklearn",
    "statsmodels",
    "sympy",
    "tokenizers",
}
"""Heavy packages that may be imported where they are used."""
TRITON = "tokennet.ops.kernels.cuda"
"""The package whose modules import Triton, which a CPU does not need; no doctest is in it."""
MODULES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[ast.stmt, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            found.append((node, node.module))
    return found


def forbidden(path: Path, source: str) -> list[str]:
    """Imports of `source`, standing at `path`, that lead to the right or to oneself."""
    mine, wrong = room(path), []
    for node, name in imports(ast.parse(source)):
        parts = name.split(".")
        if parts[0] != "tokennet" or mine == "__init__":
            continue
        theirs = parts[1] if len(parts) > 1 else "__init__"
        inside = theirs == mine
        if not inside and (theirs not in ROOMS or ROOMS.index(theirs) >= ROOMS.index(mine)):
            wrong.append(f"{mine} imports {name} in line {node.lineno}")
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    assert room(path) in [*ROOMS, "__init__"]
    assert forbidden(path, path.read_text()) == []


def test_the_import_rule_can_fail():
    path = ROOT / "graphs" / "base.py"
    assert forbidden(path, "from tokennet.ops import attend")
    assert forbidden(path, "def f():\n    import tokennet.tokens")
    assert forbidden(path, "from tokennet import Tokens")
    assert not forbidden(path, "from tokennet.graphs.edges import Edges")


def test_backends_never_import_each_other():
    from tokennet.ops import BACKENDS

    for name in BACKENDS:
        source = (ROOT / "ops" / "backends" / f"{name}.py").read_text()
        others = {f"tokennet.ops.backends.{other}" for other in BACKENDS if other != name}
        assert not others & {module for _, module in imports(ast.parse(source))}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_import_only_what_is_heavy_and_optional(path):
    if room(path) == "cli":  # loads torch only for the commands that need it
        return
    tree = ast.parse(path.read_text())
    inside = [
        name if name.startswith(TRITON) else name.split(".")[0]
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for _, name in imports(function)
    ]
    assert set(inside) <= OPTIONAL | {TRITON}


def test_triton_is_imported_by_nothing_but_its_package():
    for path in MODULES:
        for node, name in imports(ast.parse(path.read_text())):
            if name.split(".")[0] == "triton" or name.startswith(TRITON):
                inside = TRITON.replace(".", "/") in path.as_posix()
                assert inside or node.col_offset > 0, f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_functions_and_signatures_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 40, f"{node.name} has {length} lines"
            if node.name == "__init__":
                arguments = node.args.args[1:] + node.args.kwonlyargs
                assert len(arguments) <= 8, f"{node.lineno}: {len(arguments)} arguments"


PUBLIC = (
    "",
    ".ops",
    ".compare",
    ".graphs",
    ".interop",
    ".mixers",
    ".models",
    ".nets",
    ".positional",
)
PUBLIC += (".testing", ".tokenizers")
"""Packages whose names people write. Those of `bench` and of the tasks are commands' own."""
RESULTS = {
    "tokennet.ops.Explanation",
    "tokennet.compare.Baseline",
    "tokennet.compare.Comparison",
    "tokennet.compare.ResultRow",
    "tokennet.mixers.EdgeWeights",
    "tokennet.testing.DeclaredReport",
    "tokennet.testing.GroupReport",
    "tokennet.testing.LieError",
    "tokennet.testing.Location",
    "tokennet.testing.ShiftTable",
    "tokennet.testing.SymmetryReport",
    "tokennet.testing.Verdict",
    "tokennet.testing.Witness",
    "tokennet.testing.LawReport",
}
"""What functions give: shown where it is made, made by nobody else."""


def public(package: str) -> dict[str, object]:
    """The classes and functions that a package exports, by their full names."""
    module = importlib.import_module(f"tokennet{package}")
    exported = {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
    kinds = (type, types.FunctionType)
    return {name: item for name, item in exported.items() if isinstance(item, kinds)}


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_has_a_docstring_with_an_example(package):
    found = public(package)
    assert len(found) >= 3
    for name, item in found.items():
        assert item.__doc__, name
        assert ">>>" in item.__doc__ or name in RESULTS, name


def test_what_needs_no_example_is_there():
    found = {name: item for package in PUBLIC for name, item in public(package).items()}
    for name in RESULTS:
        assert ">>>" not in found[name].__doc__, f"{name} has an example"


def test_doctests_are_there_and_run():
    finder, counted = doctest.DocTestFinder(exclude_empty=True), 0
    for module in pkgutil.walk_packages([str(ROOT)], "tokennet."):
        if module.name.startswith(f"{TRITON}."):
            continue
        loaded = importlib.import_module(module.name)
        for test in finder.find(loaded, module.name):
            if test.examples:
                result = doctest.DocTestRunner(
                    optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False
                ).run(test)
                assert result.failed == 0, test.name
                counted += result.attempted
    assert counted > 60


def test_import_loads_only_what_it_needs():
    script = (
        "import sys, tokennet; "
        "print([m for m in ('matplotlib', 'lightning_fabric', 'typer', 'rich', 'sklearn', "
        f"'torchvision', '{TRITON}') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
