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
"""A backend is a module with

- `unsupported(call)`: why it cannot run a call, or None; it may read of the call what
  `planner.signature` lists, since the choice is remembered by that,
- `work(call)`: a `planner.Work`, from which its time is predicted,
- `run(call)`: the output (B, N, H, Cv),
- and optionally `note(call)`: what else it does to a call, for `explain`.

`tokennet bench --calibrate` measures its constants; without them it is a last resort.
"""

__all__ = ["BACKENDS"]
