"""From a running operation to the statement in the model's code that called it."""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import os
import re
import sys
import sysconfig
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from tokennet.testing.report import Location

_TESTING = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TOKENNET = os.path.dirname(_TESTING) + os.sep
_CHECKER = _TESTING + os.sep
_RUNS_THE_MODEL = os.path.join(_TESTING, "engine", "run.py")
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_GENERATED = "torch_geometric."
"""PyG writes the code of `propagate` to temporary files of such names."""
_LIBRARY = sysconfig.get_paths()["stdlib"] + os.sep
_PACKAGES = tuple({sysconfig.get_paths()[key] + os.sep for key in ("purelib", "platlib")})


@dataclass(frozen=True)
class Site:
    """Where an operation was called: the statement to blame, and the innermost module.

    The line is the innermost one in code that is not installed as a package; where there
    is none, as in a net of library layers, the innermost one outside of torch.
    """

    file: str = "<unknown>"
    line: int = 0
    module: str = ""


def user_site(names: dict[int, str]) -> Site:
    """The statement in the model's code from which torch is being called.

    Args:
        names: of modules by id.
    """
    frame: FrameType | None = sys._getframe(1)
    lines: list[tuple[str, int]] = []
    module = ""
    while frame is not None and frame.f_code.co_filename != _RUNS_THE_MODEL:
        if not is_internal(frame.f_code.co_filename):
            lines.append((frame.f_code.co_filename, frame.f_lineno))
        if not module and frame.f_code.co_name == "_call_impl":
            module = names.get(id(frame.f_locals.get("self")), "")
        frame = frame.f_back
    if not lines:  # the backward pass is called by no line of the model
        node = torch._C._current_autograd_node()
        lines = forward_lines(node) if node is not None else []
    return Site(*blamed(lines), module)


def forward_lines(node: Any) -> list[tuple[str, int]]:
    """Lines of the model that made a node of the autograd graph, from the innermost out.

    They are known where forward ran in torch's anomaly mode.
    """
    text = "".join(node.metadata.get("traceback_", []))
    lines = [(file, int(line)) for file, line in re.findall(r'File "(.+?)", line (\d+)', text)]
    inner = itertools.takewhile(lambda at: at[0] != _RUNS_THE_MODEL, reversed(lines))
    return [(file, line) for file, line in inner if not is_internal(file)]


def blamed(lines: list[tuple[str, int]]) -> tuple[str, int]:
    """Of lines from the innermost out, the first that is not in a package, or the first."""
    installed = (*_PACKAGES, _TOKENNET)
    own = [at for at in lines if os.path.exists(at[0]) and not at[0].startswith(installed)]
    return next(iter([*own, *lines]), ("<unknown>", 0))


def location_at(
    operation: str,
    lines: list[tuple[str, int]],
    *,
    module: str = "",
    error_in: float = 0.0,
    error_out: float,
) -> Location | None:
    """The statement to blame for lines from the innermost out; None where there are none."""
    if not lines:
        return None
    file, line = blamed(lines)
    start, end, source = statement_at(file, line)
    return Location(operation, module, file, start, end, source, error_in, error_out)


@functools.lru_cache(maxsize=4096)
def is_internal(file: str) -> bool:
    """Whether a file is torch's, the standard library's or the checker's own."""
    if file.startswith("<") and not linecache.getline(file, 1):
        return True
    if file.startswith((_TORCH, _CHECKER)) or os.path.basename(file).startswith(_GENERATED):
        return True
    return file.startswith(_LIBRARY) and not file.startswith(_PACKAGES)


def statement_at(file: str, line: int) -> tuple[int, int, str]:
    """First line, last line and text of the statement that holds a line of a file."""
    around = [span for span in _statements(file) if span[0] <= line <= span[1]]
    start, end = min(around, key=lambda span: span[1] - span[0], default=(line, line))
    text = "".join(linecache.getline(file, n).strip() + " " for n in range(start, end + 1))
    return start, end, text.strip()


@functools.lru_cache(maxsize=64)
def _statements(file: str) -> list[tuple[int, int]]:
    """Line ranges of the simple statements, and of the headers of the others."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return []
    ranges = []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno
            ranges.append((node.lineno, max(node.lineno, last or node.lineno)))
    return ranges
