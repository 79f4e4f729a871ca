"""The backends of `attend`, by name: a file each, and none imports another."""

from __future__ import annotations

from types import ModuleType

from tokennet.ops.backends import banded, dense, flex, fused, ragged, reference, sparse

BACKENDS: dict[str, ModuleType] = {
    "dense": dense,
    "ragged": ragged,
    "banded": banded,
    "fused": fused,
    "sparse": sparse,
    "flex": flex,
    "reference": reference,
}
"""Each has `unsupported(call)`, `work(call)` and `run(call)`; see `planner.py`."""

__all__ = ["BACKENDS"]
