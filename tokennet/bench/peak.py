"""The peak memory of one peer: python -m tokennet.bench.peak CASE LEVEL PEER SCALE.

Prints, as JSON, the MB by which the peak of this process grows in one step of each
direction, after a first step has built what stays: tokens, the forms of the graph, compiled
kernels.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path

import torch

from tokennet.bench.peers import PEERS
from tokennet.bench.setting import Peer, prepare
from tokennet.bench.workloads import WORKLOADS


def peaks(case: str, level: str, peer: str, scale: float) -> dict[str, float | None]:
    """Growth of the peak in MB by direction; None where it cannot be measured."""
    workload = WORKLOADS[case]
    built = PEERS[peer](prepare(workload, level, workload.make(scale)))
    if not isinstance(built, Peer):
        raise ValueError(f"{peer} does not run {case} at the level {level}: {built}")
    return {direction: growth(built, direction) for direction in built.directions}


def growth(peer: Peer, direction: str) -> float | None:
    """MB by which the peak of this process grows in one step after another; Linux only."""
    try:
        peer.step(direction)
        peer.forget()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # or the step reuses what the last step left
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    except (OSError, AttributeError):
        return None
    before = _status("VmRSS")
    peer.step(direction)
    return (_status("VmHWM") - before) / 1024


def growth_on_device(peer: Peer, direction: str) -> float:
    """MB by which the peak of what is allocated on the current GPU grows in one step."""
    peer.step(direction)
    peer.forget()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    peer.step(direction)
    torch.cuda.synchronize()
    peer.forget()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def _status(field: str) -> int:
    """A field of this process's status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    case, level, peer, scale = sys.argv[1:]
    print(json.dumps(peaks(case, level, peer, float(scale))))
