"""The least work of a case, and the machine it runs on: its ceilings, memory and versions."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch_geometric

from tokennet.bench.measure import Timer
from tokennet.bench.workloads import Workload
from tokennet.graphs import TokenGraph

_INDEX = 4
"""Bytes of the index of an edge."""


class Ceilings(NamedTuple):
    """The best rates measured on this machine."""

    gflops: float
    """10^9 floating-point operations a second, of a large matrix product."""
    gbytes: float
    """10^9 bytes a second, read and written, of a large copy."""


class Work(NamedTuple):
    """Operations and bytes of one step."""

    flop: float
    bytes: float
    """Each input read and each output written once."""
    gathered: float
    """Bytes of keys and values, fetched for each edge anew: the traffic without a cache."""

    def milliseconds(self, ceilings: Ceilings) -> float:
        """The longer of computing and moving; less is possible where all is in the cache."""
        return 1e3 * max(self.flop / (1e9 * ceilings.gflops), self.bytes / (1e9 * ceilings.gbytes))


def count_work(workload: Workload, graph: TokenGraph, level: str, direction: str) -> Work:
    """The least work, with N targets, M sources, E edges, F = heads x channels, s bytes a number.

    Attention, forward: 4 E F FLOP for scores and sums, or 5 E F where scores are additive;
    s F (2 N + 2 M) bytes for q, k, v and the output, and 4 E for the sources of edges that
    are a list; a gather of s 2 E F, or s E F where keys are the values.

    Backward, with the weights kept: twice the FLOP, two products for each of the two of the
    forward; s F (3 N + 4 M) + 4 E bytes, for q, k, v and the gradients of the output, of
    q, k and v; a gather of twice as much. (Two deterministic passes that recompute the weights
    take 14 E F FLOP.)

    D features of each edge: read once. Where scores are products, W q and the sum of the
    features are taken for each target: 4 H D FLOP an edge and 4 D F a target; where they
    are additive, 2 D F an edge.

    Projections: 2 F^2 FLOP a token and map, three times that with backward. In a layer q,
    k and v need not be written; the tokens are read, and their gradients written.
    """
    batch, f, edges = workload.batch, workload.dim, graph.num_edges
    n, m, e = batch * graph.num_targets, batch * graph.num_sources, batch * edges
    back, dot = direction == "both", workload.score == "dot"
    listed = edges if graph.is_explicit else 0
    flop = (4 if dot else 5) * e * f
    moved = f * (2 * n + 2 * m + back * (3 * n + 4 * m))
    if level == "layer":
        maps, tokens = (3 if dot else 2) * f**2, n if graph.is_square else n + m
        flop += 2 * f**2 * (n + 2 * m if dot else n + m)
        moved = f * (n + tokens) + maps + back * (f * (n + 2 * tokens) + 2 * maps)
    if workload.edge_dim is not None:
        flop += workload.edge_dim * (4 * (e * workload.heads + n * f) if dot else 2 * e * f)
        moved += (1 + back) * workload.edge_dim * e
    gathered = (2 if dot else 1) * e * f
    times = 3 if back else 1
    size = workload.dtype.itemsize
    moved = size * moved + _INDEX * (1 + back) * listed
    return Work(times * flop, moved, times * size * gathered)


def ceilings(timer: Timer, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Ceilings:
    """Measure a large copy and a product of large square matrices, the best of five.

    Of 256 MB and 2048 x 2048 on a CPU. Of 4 GB and 8192 x 8192 on a GPU, whose cache holds much
    of a smaller copy, and which is idle for much of a smaller product. Of numbers at random:
    a device has less to do, and takes less power, where all are the same.
    """
    count, n = (2**26, 2048) if device == "cpu" else (2**30, 8192)
    source, square = torch.randn(count, device=device), torch.randn(n, n, device=device).to(dtype)
    target, product = torch.empty_like(source), torch.empty_like(square)
    copy = min(timer(lambda: target.copy_(source)) for _ in range(5))
    multiply = min(timer(lambda: torch.mm(square, square, out=product)) for _ in range(5))
    return Ceilings(2 * n**3 / 1e6 / multiply, 2 * 4 * count / 1e6 / copy)


def available_memory(device: str = "cpu") -> float:
    """Bytes that are free for use; infinity where the system does not say."""
    if device == "cuda":
        torch.cuda.empty_cache()  # what PyTorch holds in reserve is free too
        return float(torch.cuda.mem_get_info()[0])
    kilobytes = system_value("meminfo", "MemAvailable")
    return float("inf") if kilobytes is None else 1024 * float(kilobytes.split()[0])


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions and machine, to be stored with measurements."""
    versions = {"torch": torch.__version__, "torch_geometric": torch_geometric.__version__}
    if device == "cuda":
        versions |= {"cuda": str(torch.version.cuda), "triton": version("triton")}
    processor = system_value("cpuinfo", "model name") or platform.processor() or "unknown"
    return {
        "versions": {"python": platform.python_version(), **versions},
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor,
        "threads": torch.get_num_threads(),
    }


def system_value(file: str, name: str) -> str | None:
    """The first value of that name in a file under /proc; None where the system has none."""
    try:
        lines = Path("/proc", file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
