"""The house: who may import whom, circles, hidden modules, sizes, docstrings, what is loaded."""

import ast
import dataclasses
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
    "_compiling",
    "_files",
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
    "distributed",
    "tokenizers",
    "interop",
    "interpret",
    "drawing",
    "testing",
    "compare",
    "claims",
    "bench",
    "cli",
    "__main__",
]
"""A folder imports only from those before it."""
HEAVY = {
    "e3nn",
    "hypothesis",
    "lightning_fabric",
    "matplotlib",
    "networkx",
    "pynauty",
    "rich",
    "scipy",
    "skimage",
    "sklearn",
    "statsmodels",
    "sympy",
    "transformers",
    "tokenizers",
    "torch_geometric",
    "typer",
}
"""Packages that `import tokennet` does not load: they are imported where they are used."""
TRITON = "tokennet.ops.kernels.cuda"
"""The package whose modules import Triton, which a CPU does not need; no doctest is in it."""
LAZY = {
    TRITON,
    "tokennet.interop._mixer_conv",
    "torch.nn.attention.varlen",
    "torch.utils.flop_counter",
}
"""Modules, by their whole names, that load Triton, the compiler or PyG: imported where used."""
MODULES = sorted(ROOT.rglob("*.py"))
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_ARGUMENTS = 400, 50, 9


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = ["tokennet", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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
    """Imports of `source`, which is the file `path`, that lead to the right or to the package."""
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


def test_imports_point_one_way():
    assert {room(path) for path in MODULES} <= {*ROOMS, "__init__"}
    wrong = {relative(path): forbidden(path, path.read_text()) for path in MODULES}
    assert {path: found for path, found in wrong.items() if found} == {}


def test_the_import_rule_can_fail():
    path = ROOT / "graphs" / "base.py"
    assert forbidden(path, "from tokennet.ops import attend")
    assert forbidden(path, "def f():\n    import tokennet.tokens")
    assert forbidden(path, "from tokennet import Tokens")
    assert not forbidden(path, "from tokennet.graphs.edges import Edges")


def imported_modules(source: str, known: set[str], package: str) -> set[str]:
    """The modules of the package that a source names in imports, inside functions too.

    `from tokennet.graphs import Full` in graphs/ itself would lead to graphs/__init__.py; from
    elsewhere it does not count, since a package's face only hands names on.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (members & known) or {node.module}
    return {name for name in found & known if name.split(".")[1:2] == package.split(".")[1:2]}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other in a circle."""
    import networkx as nx

    directed = nx.DiGraph((a, b) for a, others in graph.items() for b in others)
    loops = [node for node in directed if directed.has_edge(node, node)]
    rings = [sorted(ring) for ring in nx.strongly_connected_components(directed) if len(ring) > 1]
    return rings + [[node] for node in loops]


def test_no_module_imports_itself_round_about():
    names = {name_of(path): path for path in MODULES}
    graph = {
        name: imported_modules(path.read_text(), set(names), name)
        for name, path in names.items()
        if path.name != "__init__.py"  # a face imports its modules
    }
    assert circles(graph) == []


def test_the_rule_against_circles_can_fail():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"a"}}) == [["a"]]
    known = {"tokennet.nets.text", "tokennet.nets.net"}
    inside = "def f():\n    from tokennet.nets import text"
    assert imported_modules(inside, known, "tokennet.nets.net") == {"tokennet.nets.text"}


def hidden_modules(package: types.ModuleType) -> list[str]:
    """Modules that attribute access does not reach, because a name of a package hides them."""
    hidden = []
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name.startswith(f"{TRITON}.") or module.name.endswith("__main__"):
            continue
        found = importlib.import_module(module.name)
        value = package
        for part in module.name.split(".")[1:]:
            value = getattr(value, part, None)
        if value is not found:
            hidden.append(module.name)
    return hidden


def test_no_module_is_hidden_by_a_name():
    assert hidden_modules(tokennet) == []


def test_the_rule_against_hidden_modules_can_fail(monkeypatch):
    monkeypatch.setattr(tokennet.ops, "planner", tokennet.attend)
    assert hidden_modules(tokennet) == ["tokennet.ops.planner"]


def test_tests_share_helpers_and_not_test_modules():
    for path in sorted((Path(__file__).parent).rglob("*.py")):
        for _, name in imports(ast.parse(path.read_text())):
            assert not (name or "").split(".")[-1].startswith("test_"), f"{path} imports {name}"


def test_backends_never_import_each_other():
    from tokennet.ops import BACKENDS

    for name in BACKENDS:
        source = (ROOT / "ops" / "backends" / f"{name}.py").read_text()
        others = {f"tokennet.ops.backends.{other}" for other in BACKENDS if other != name}
        assert not others & {module for _, module in imports(ast.parse(source))}


def imported_by_functions(path: Path) -> set[str]:
    return {
        name if name in LAZY else name.split(".")[0]
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for _, name in imports(function)
    }


def test_functions_import_only_what_is_heavy():
    found = {
        relative(path): imported_by_functions(path) - HEAVY - LAZY
        for path in MODULES
        if room(path) not in ("cli", "__main__")  # load torch only for commands that need it
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_triton_is_imported_by_nothing_but_its_package():
    for path in MODULES:
        for node, name in imports(ast.parse(path.read_text())):
            if name.split(".")[0] == "triton" or name.startswith(TRITON):
                inside = TRITON.replace(".", "/") in path.as_posix()
                assert inside or node.col_offset > 0, f"{path} imports {name}"


def too_large(text: str) -> list[str]:
    """What of a source is longer than it may be."""
    lines = text.count("\n")
    found = [f"{lines} lines"] if lines > MOST_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if length > MOST_LINES_OF_A_FUNCTION:
                found.append(f"{node.name} has {length} lines")
            arguments = node.args.args[1:] + node.args.kwonlyargs
            if node.name == "__init__" and len(arguments) > MOST_ARGUMENTS:
                found.append(f"line {node.lineno}: {len(arguments)} arguments")
    return found


def test_files_functions_and_signatures_stay_small():
    large = {relative(path): too_large(path.read_text()) for path in MODULES}
    assert {path: found for path, found in large.items() if found} == {}


def test_the_rule_on_sizes_can_fail():
    function = "def f():\n" + "    x = 1\n" * 51
    assert too_large(function) == ["f has 51 lines"]
    assert too_large("x = 1\n" * 401) == ["401 lines"]
    arguments = ", ".join(f"a{n}" for n in range(10))
    assert too_large(f"def __init__(self, {arguments}):\n    pass\n") == ["line 1: 10 arguments"]


def loaded() -> list[types.ModuleType]:
    names = [name_of(path) for path in MODULES if path.name != "__main__.py"]
    return [importlib.import_module(name) for name in names if not name.startswith(TRITON)]


def test_frozen_dataclasses_do_not_override_init():
    for module in loaded():
        for kind in vars(module).values():
            if isinstance(kind, type) and "__dataclass_params__" in vars(kind):
                frozen = kind.__dataclass_params__.frozen and kind.__dataclass_params__.init
                by_hand = getattr(kind.__init__, "__module__", None) and not hasattr(
                    kind.__init__, "__wrapped__"
                )
                written = frozen and by_hand and kind.__init__.__code__.co_filename != "<string>"
                assert not written, f"{kind.__qualname__} writes __init__ itself"


def test_the_rule_on_frozen_dataclasses_can_fail():
    @dataclasses.dataclass(frozen=True)
    class Plain:
        x: int

    @dataclasses.dataclass(frozen=True)
    class ByHand:
        x: int

        def __init__(self):
            object.__setattr__(self, "x", 1)

    files = [kind.__init__.__code__.co_filename for kind in (Plain, ByHand)]
    assert files == ["<string>", __file__]


PUBLIC = ("", ".ops", ".compare", ".graphs", ".interop", ".interpret", ".mixers", ".models")
PUBLIC += (".nets", ".positional", ".testing", ".tokenizers")
"""Packages whose names people write. Those of `bench` and of the tasks are commands' own."""


def public(package: str) -> dict[str, object]:
    """The classes and functions that a package exports, by their full names."""
    module = importlib.import_module(f"tokennet{package}")
    exported = {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
    kinds = (type, types.FunctionType)
    return {name: item for name, item in exported.items() if isinstance(item, kinds)}


def is_result(item: object) -> bool:
    """Whether a class is what functions return: it says so, and nobody else makes one."""
    return "Made by `" in (item.__doc__ or "")


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_has_a_docstring_with_an_example(package):
    found = public(package)
    assert found
    for name, item in found.items():
        assert item.__doc__, name
        assert (">>>" in item.__doc__) != is_result(item), name


@pytest.mark.parametrize("package", PUBLIC)
def test_every_package_says_what_it_is_for(package):
    module = importlib.import_module(f"tokennet{package}")
    assert module.__doc__
    assert sorted(module.__all__) == sorted(set(module.__all__))


def test_doctests_are_there():
    finder = doctest.DocTestFinder(exclude_empty=True)
    count = sum(len(test.examples) for module in loaded() for test in finder.find(module))
    assert count > 300


def test_import_loads_only_what_it_needs():
    names = sorted(
        {*HEAVY, "torchvision", "pandas", "tokennet.testing", "tokennet.compare", TRITON}
    )
    script = f"import sys, tokennet; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_subpackages_are_there_without_an_import_of_their_own():
    script = "import tokennet; print(tokennet.testing.check.__name__, tokennet.nets.mlp.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["check", "mlp"]
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        tokennet.no_such_name  # noqa: B018


def test_the_public_surface_is_small():
    assert 40 <= len(tokennet.__all__) <= 50
    assert all(hasattr(tokennet, name) for name in tokennet.__all__)
