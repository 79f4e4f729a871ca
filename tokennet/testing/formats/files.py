"""How reports name files: the same on every machine, where that is possible."""

from __future__ import annotations

import ast
import inspect
import linecache
from pathlib import Path
from typing import Any

from torch import nn

INSTALLED = "/site-packages/"


def shown_path(file: str) -> str:
    """A path from the working folder, or from the folder of installed packages, or as it is.

    >>> shown_path("/usr/lib/python3/site-packages/timm/layers/mlp.py")
    'timm/layers/mlp.py'
    """
    path = Path(file)
    if INSTALLED in path.as_posix():
        return path.as_posix().rpartition(INSTALLED)[2]
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return path.as_posix()


def scope_of(file: str, line: int) -> tuple[str, int]:
    """The function that holds a line, as `Mean.forward`, and the number of its statement there.

    That is 1 for the first statement of its text in the function, 2 for the second.
    """
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return "", 1
    scopes = [
        node
        for node in ast.walk(tree)  # from the outermost in
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.lineno <= line <= (node.end_lineno or line)
    ]
    inside = [n for n in ast.walk(scopes[-1] if scopes else tree) if isinstance(n, ast.stmt)]
    texts = [ast.unparse(n) for n in inside if n.lineno == line]
    same = [n.lineno for n in inside if texts and n.lineno <= line and ast.unparse(n) == texts[0]]
    return ".".join(node.name for node in scopes), max(len(same), 1)


def definition_of(model: Any) -> tuple[str, int] | None:
    """The file and line where a model is defined, None where there are none."""
    subject = type(model) if isinstance(model, nn.Module) else model
    try:
        return inspect.getsourcefile(subject) or "", inspect.getsourcelines(subject)[1]
    except (TypeError, OSError):
        return None
