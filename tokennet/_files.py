"""Files that are written whole or not at all, and JSON that every reader accepts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step: after a crash or on a full disk the old one is still there.

    What is no file, such as /dev/stdout, is written to as it is.

    Raises:
        OSError: it could not be written, with the path and the reason.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            _replace(path.resolve(), content)
    except OSError as error:
        told = OSError(f"cannot write {path}: {error.strerror or error}")
        told.errno = error.errno
        raise told from error


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")  # several processes may write
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        with suppress(OSError):
            unfinished.unlink()
    with suppress(OSError):  # not every system can make the new name survive a crash
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode())


def to_json(data: Any) -> str:
    """Valid JSON: what is not a finite number is null, for which JSON has no other word.

    >>> to_json({"loss": [0.5, float("nan"), float("-inf")]}).split()
    ['{', '"loss":', '[', '0.5,', 'null,', 'null', ']', '}']
    """
    return json.dumps(_finite(data), indent=1, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
