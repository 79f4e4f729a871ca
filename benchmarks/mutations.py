"""Power of the tests: small faults are put into the package, and the default tests should fail.

    python -m benchmarks.mutations --seed 1

First the default tests run once under coverage, which notes the tests that reach each line
(needs pytest-cov; kept in `--contexts FILE` for the next call). Then `--count` faults are drawn
with a fixed seed from the functions of the package. For each, the tests that reach its line run in
a copy of the repository until the first one fails, in a fork of this process that has the libraries
loaded. Faults that no test sees are listed to be read
one by one: some change nothing that can be observed, the others are gaps.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("graphs", "ops", "layer.py", "mixers", "nets", "compare", "testing")
COMPARED = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
COMPARED |= {ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"}
CALCULATED = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*"}
CALCULATED |= {ast.BitAnd: "|", ast.BitOr: "&", ast.Pow: "*", ast.MatMult: "*"}
LONGEST = 12
"""Lines of a statement."""
UNSEEN_KEYWORDS = {"strict", "frozen", "figsize", "fontsize", "dpi"}
"""Arguments that change no result: checks of what cannot happen, and the look of pictures."""
LIBRARIES = (
    "torch._dynamo", "torch.export", "torch_geometric.nn", "torch_geometric.data",
    "torch_geometric.datasets", "transformers", "hypothesis", "matplotlib.pyplot", "networkx",
    "pandas", "rich", "scipy.stats", "sklearn.datasets", "sympy", "typer",
)  # fmt: skip
"""Loaded once, which takes longer than most tests that find a fault."""
SKIPPED = ("kernels/cuda/", "kernels/cpu/build.py")
"""Files whose code a machine without a GPU does not run, or that call the compiler."""


@dataclass(frozen=True)
class Fault:
    """A piece of a file, and what stands there in its place."""

    path: str
    line: int
    start: int
    end: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.old!r} -> {self.new!r}"


def faults_of(path: Path) -> list[Fault]:
    """All faults that can be put into the functions of a file."""
    source = path.read_text()
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in _own_nodes(function):
                found += list(_faults(node, path, source.encode(), starts))
    return found


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function's body, without those of functions inside, types and messages."""
    body = list(function.body)  # type: ignore[attr-defined]
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    waiting: list[ast.AST] = body
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Raise | ast.JoinedStr):
            continue
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            waiting += [node.target, node.value]
            yield node
            continue
        yield node
        children = ast.iter_child_nodes(node)
        waiting += [x for x in children if getattr(x, "arg", None) not in UNSEEN_KEYWORDS]


def _faults(node: ast.AST, path: Path, source: bytes, starts: list[int]) -> Iterator[Fault]:
    def fault(first: ast.AST, last: ast.AST, new: str) -> Fault:
        start = starts[first.lineno - 1] + first.col_offset  # type: ignore[attr-defined]
        end = starts[last.end_lineno - 1] + last.end_col_offset  # type: ignore[attr-defined]
        old = source[start:end].decode()
        name = path.relative_to(ROOT).as_posix()
        return Fault(name, first.lineno, start, end, old, new)  # type: ignore[attr-defined]

    def text(part: ast.AST) -> str:
        return ast.unparse(part)

    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARED:
            yield fault(node, node, f"({text(left)} {COMPARED[type(op)]} {text(right)})")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in CALCULATED:
            if not (isinstance(left, ast.Constant | ast.JoinedStr) and isinstance(op, ast.Mod)):
                yield fault(node, node, f"({text(left)} {CALCULATED[type(op)]} {text(right)})")
        case ast.BoolOp(op=op, values=values):
            other = " or " if isinstance(op, ast.And) else " and "
            yield fault(node, node, f"({other.join(f'({text(value)})' for value in values)})")
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield fault(node, node, f"({text(operand)})")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield fault(node, node, f"({text(operand)})")
        case ast.Constant(value=bool(value)):
            yield fault(node, node, str(not value))
        case ast.Constant(value=int(value) | float(value)):
            yield fault(node, node, f"({value} + 1)")
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield fault(test, test, f"(not ({text(test)}))")
        case ast.Return(value=ast.AST() as value):
            if not (isinstance(value, ast.Constant) and value.value is None):
                yield fault(node, node, "return None")
        case ast.Expr(value=ast.Call()):
            yield fault(node, node, "pass")


def draw(seed: int, count: int, rooms: Sequence[str] = ROOMS) -> list[Fault]:
    """`count` faults, each room with a share that grows with its number of possible faults."""
    everything = []
    for room in rooms:
        place = ROOT / "tokennet" / room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for file in files:
            if not any(part in file.as_posix() for part in SKIPPED):
                everything += faults_of(file)
    return random.Random(seed).sample(everything, count)


def tests_by_line(contexts: Path) -> dict[tuple[str, int], set[str]]:
    """The tests that reach each line, by file and line; measured if `contexts` is not there."""
    if not contexts.exists():
        data = contexts.with_suffix(".coverage")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--cov=tokennet"]
        command += ["--cov-context=test", "--cov-report="]
        environment = {**os.environ, "COVERAGE_FILE": str(data), "COVERAGE_CORE": "ctrace"}
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        contexts.write_text(json.dumps(_read_coverage(data)))
    reached: dict[tuple[str, int], set[str]] = {}
    for file, lines in json.loads(contexts.read_text()).items():
        for line, tests in lines.items():
            reached[file, int(line)] = set(tests)
    return reached


def _read_coverage(data: Path) -> dict[str, dict[int, list[str]]]:
    import coverage

    read = coverage.CoverageData(str(data))
    read.read()
    found = {}
    for file in read.measured_files():
        name = Path(file).resolve().relative_to(ROOT).as_posix()
        lines = read.contexts_by_lineno(file)
        found[name] = {
            line: sorted({test.split("|")[0] for test in tests if test})
            for line, tests in lines.items()
        }
    return found


def reaching(reached: dict[tuple[str, int], set[str]], fault: Fault) -> set[str]:
    """The tests that reach a fault; coverage may know a long statement by an earlier line only."""
    lines = range(fault.line, fault.line - LONGEST, -1)
    return next((found for n in lines if (found := reached.get((fault.path, n)))), set())


@dataclass(frozen=True)
class Outcome:
    """What the tests said of a fault: killed (by which test), survived, or unreached."""

    fault: Fault
    outcome: str
    tests: int
    seconds: float
    by: str = ""


class Trial:
    """A fault in a copy of the repository, and a process that runs the tests that reach it."""

    def __init__(self, fault: Fault, tests: set[str], copy: Path) -> None:
        self.fault, self.copy, self.count = fault, copy, len(tests)
        self.file, self.output = copy / fault.path, copy / "output.txt"
        self.source, self.started = (copy / fault.path).read_bytes(), time.perf_counter()
        broken = self.source[: fault.start] + fault.new.encode() + self.source[fault.end :]
        self.file.write_bytes(broken)
        room = fault.path.split("/")[1].removesuffix(".py")
        near_first = sorted(tests, key=lambda test: (f"/{room}/" not in test, test))
        (copy / "tests-to-run.txt").write_text("\n".join(near_first))
        self.pid = os.fork()
        if self.pid == 0:
            self._run_tests()

    def _run_tests(self) -> NoReturn:
        """In the new process, which has the libraries and nothing of the package."""
        code = 1
        try:
            os.setsid()
            os.chdir(self.copy)
            os.environ["PYTHONPATH"] = str(self.copy)
            sys.path.insert(0, str(self.copy))
            with self.output.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            command = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
            code = int(pytest.main([*command, "@tests-to-run.txt"]))
        finally:
            os._exit(code)

    def outcome(self, timeout: float) -> Outcome | None:
        """What the tests said, once they have."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.perf_counter() - self.started
        if pid == 0 and seconds <= timeout:
            return None
        by = ""
        if pid == 0:
            os.killpg(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            by = f"no end within {timeout:.0f} s"
        self.file.write_bytes(self.source)
        for line in self.output.read_text().splitlines():
            if line.startswith(("FAILED", "ERROR")):
                by = line.split(" ", 1)[1].split(" - ")[0]
        killed = os.waitstatus_to_exitcode(status) != 0
        return Outcome(self.fault, "killed" if killed else "survived", self.count, seconds, by)


def outcomes_of(
    faults: list[Fault], reached: dict[tuple[str, int], set[str]], options: argparse.Namespace
) -> Iterator[Outcome]:
    """Each as soon as it is known, `options.workers` at a time."""
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / str(number) / "repository" for number in range(options.workers)]
        for copy in copies:
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git"))
        waiting, running = list(reversed(faults)), list[Trial]()
        while waiting or running:
            while waiting and copies:
                fault = waiting.pop()
                tests = reaching(reached, fault)
                if tests:
                    running.append(Trial(fault, tests, copies.pop()))
                else:
                    yield Outcome(fault, "unreached", 0, 0.0)
            time.sleep(0.1)
            for trial in list(running):
                found = trial.outcome(options.timeout)
                if found is not None:
                    running.remove(trial)
                    copies.append(trial.copy)
                    yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--rooms", default=",".join(ROOMS), help="folders and files, by comma")
    parser.add_argument("--contexts", type=Path, default=Path(tempfile.gettempdir()) / "lines.json")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one fault")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    options = parser.parse_args()
    reached = tests_by_line(options.contexts)
    faults = draw(options.seed, options.count, options.rooms.split(","))
    # Compiled files are neither written nor read where the source has just changed.
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
    sys.modules.pop("benchmarks", None)
    outcomes = []
    for outcome in outcomes_of(faults, reached, options):
        outcomes.append(outcome)
        number, fault = len(outcomes), outcome.fault
        print(f"{number:3} {outcome.outcome:9} {outcome.seconds:5.0f} s {fault}", flush=True)
    killed = sum(outcome.outcome == "killed" for outcome in outcomes)
    print(f"seed {options.seed}: killed {killed} of {len(outcomes)}")
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))


if __name__ == "__main__":
    main()
