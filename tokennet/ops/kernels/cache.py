"""Where what was compiled or measured on this machine is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder `tokennet` in the user's cache; XDG_CACHE_HOME says where that is.

    Raises:
        ValueError: XDG_CACHE_HOME is a relative path, another folder for each program.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    if named and not Path(named).is_absolute():
        raise ValueError(f"XDG_CACHE_HOME must be an absolute path, got {named!r}")
    return (Path(named) if named else Path.home() / ".cache") / "tokennet"
