"""Where what was compiled or measured on this machine is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder `tokennet` in the user's cache; XDG_CACHE_HOME says where that is."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokennet"
