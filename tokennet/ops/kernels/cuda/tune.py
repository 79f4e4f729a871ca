"""How large a tile is best: a few sizes are tried when a kind of call first comes along.

Another tile adds in another order. So a choice is kept, in the process and in the user's cache
for the processes to come: on one machine a call gives the same bits on every run. The first size
is taken, whatever was chosen, where a choice would cost more than it can give (small calls), and
under `torch.use_deterministic_algorithms(True)`, which wants the same on every machine. Nothing can
be tried while a CUDA graph is captured: run a large call once before, or it is captured with the
first size, and gives other bits than later calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch

from tokennet._files import write_text
from tokennet.ops.kernels.cache import cache_root
from tokennet.ops.kernels.cuda.segments import Segments
from tokennet.ops.kernels.problem import Problem

Result = TypeVar("Result")

ENTRIES = (1024, 512, 2048)
"""Of k, or of v, that a program of one warp brings in at once; 1024 are 32 a thread."""
_WORTH = 2**24
"""Numbers gathered, from which on a choice is worth its time."""


def run_fastest(
    name: str, problem: Problem, segments: Segments, run: Callable[[int], Result]
) -> Result:
    """Run one pass with the number of entries that is best for calls of this kind."""
    q, terms = problem.q, problem.terms
    gathered = len(q) * problem.plan.num_edges * q.shape[2:].numel()
    if not q.is_cuda or gathered < _WORTH or torch.are_deterministic_algorithms_enabled():
        return run(ENTRIES[0])
    sizes = (*q.shape[2:], *problem.v.shape[2:], problem.num_features, segments.at_once)
    kinds = (terms.weight is not None, terms.bias is not None)
    key = _key(q.get_device(), name, q.dtype, *sizes, *kinds)
    if key not in _kept():
        if torch.cuda.is_current_stream_capturing():
            return run(ENTRIES[0])
        with torch.cuda.device_of(q):
            times = {entries: _milliseconds(run, entries) for entries in ENTRIES}
        _keep(key, min(times, key=times.__getitem__))
    return run(_kept()[key])


@cache
def _key(device: int, *kind: object) -> str:
    """All that the tiles and the work on them depend on, but the size of the graph."""
    return " ".join(map(str, (torch.cuda.get_device_name(device), *kind)))


def _milliseconds(run: Callable[[int], object], entries: int) -> float:
    """The best of three, after a first one that compiles."""
    run(entries)
    times = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(entries)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)


@cache
def _kept() -> dict[str, int]:
    try:
        found = json.loads((cache_root() / "tiles.json").read_text())
        return {key: entries for key, entries in found.items() if entries in ENTRIES}
    except (OSError, RuntimeError, ValueError, AttributeError):
        return {}  # nothing was chosen here yet, or the file is spoiled


def _keep(key: str, entries: int) -> None:
    _kept()[key] = entries
    try:
        path = cache_root() / "tiles.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(_kept(), indent=1, sort_keys=True) + "\n")
    except (OSError, RuntimeError, ValueError):
        pass  # then the next process chooses again
