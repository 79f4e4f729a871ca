"""How reports name files: the same on every machine, where that is possible."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

INSTALLED = "/site-packages/"


def shown_path(file: str) -> str:
    """A path from the working folder, or from the folder of installed packages, or as it is."""
    path = Path(file)
    if INSTALLED in path.as_posix():
        return path.as_posix().rpartition(INSTALLED)[2]
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return path.as_posix()


def definition_of(model: Any) -> tuple[str, int] | None:
    """The file and line where a model is defined, None where there are none."""
    subject = type(model) if isinstance(model, nn.Module) else model
    try:
        return inspect.getsourcefile(subject) or "", inspect.getsourcelines(subject)[1]
    except (TypeError, OSError):
        return None
