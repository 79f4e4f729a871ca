"""Calibration of the planner: how often `attend` chooses the fastest backend, and its constants.

A grid of calls is measured on every backend that supports them. Constants of the cost model
are fitted to one half of it (non-negative least squares of relative errors); the other
half shows how often the predicted choice is within a factor of the best.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from tokennet._files import to_json, write_text
from tokennet.bench.graphs import random_edges, sets
from tokennet.bench.measure import host_milliseconds, timer_for
from tokennet.graphs import Causal, Cycle, Edges, Global, Grid, TokenGraph, Window, from_mask
from tokennet.ops import BACKENDS
from tokennet.ops import planner as cost
from tokennet.ops.call import Call, make_call
from tokennet.ops.kernels.cache import cache_root
from tokennet.ops.planner import Work, choices

Constants = dict[str, dict[str, list[float]]]
"""By backend and mode."""

MODES = ("forward", "training")
WITHIN = 1.2
SECONDS = 0.1
"""Time for which each backend is measured on each call, at least three times."""

_PAIRS = {"dense": 2**26, "flex": 2**21}
_GATHERED = {"reference": 2**22}
_FEWEST_COMPILED = 1024
"""Tokens from which on a kernel that is compiled for each graph is measured."""


HEADS = [(1, 16), (4, 16), (8, 8), (4, 32), (8, 64)]
"""Heads and channels, in rotation."""


class GridCase(NamedTuple):
    """One call of the grid."""

    name: str
    half: int
    """0: constants are fitted to it; 1: they are tested on it."""
    graph: TokenGraph
    heads: int
    channels: int


def _skewed(n: int, degree: int) -> TokenGraph:
    """Targets drawn by a power law: a few receive a large part of all edges."""
    generator = torch.Generator().manual_seed(n)
    target = (torch.rand(n * degree, generator=generator) ** 3 * n).long()
    return Edges(torch.stack([torch.randint(0, n, (n * degree,), generator=generator), target]), n)


def _mask(n: int, percent: int) -> TokenGraph:
    generator = torch.Generator().manual_seed(n)
    return from_mask(100 * torch.rand(n, n, generator=generator) < percent)


FAMILIES: dict[str, tuple[Callable[..., TokenGraph], str]] = {
    "window": (Window, "64,4 256,16 512,64 1024,8 2048,128 4096,32 8192,256 8192,64"),
    "causal window": (
        lambda n, radius: Causal(n) & Window(n, radius),
        "128,16 512,32 1024,256 4096,128 4096,512",
    ),
    "cycle": (Cycle, "32,1 512,4 4096,16"),
    "grid": (lambda n, radius: Grid(n, n, radius=radius), "8,1 16,2 32,3 64,3 64,6"),
    "hubs": (lambda n, k: Global(n, k) | Window(n, 4), "128,2 1024,4 4096,2"),
    "random": (
        lambda n, degree: random_edges(n, n * degree, seed=n + degree),
        "32,4 100,8 300,8 1000,16 1000,100 3000,5 5000,40 20000,20 60000,8",
    ),
    "skewed": (_skewed, "200,8 2000,8 20000,10"),
    "sets": (
        lambda count, low, high: sets(count, low, high, seed=count),
        "4,16,16 16,8,64 64,30,30 256,8,64 512,20,24 8,100,300 4,512,512 32,128,128",
    ),
    "mask": (_mask, "64,10 64,90 512,2 512,20 1024,10 1024,50 2048,5 3000,30"),
}
"""How graphs are made, and of which arguments."""


def grid() -> Iterator[GridCase]:
    """Every graph of every family, with two widths each."""
    for family, (make, sizes) in FAMILIES.items():
        for position, size in enumerate(sizes.split()):
            graph = make(*map(int, size.split(",")))
            for half, step in enumerate((0, 2)):
                heads, channels = HEADS[(position + step) % len(HEADS)]
                name = f"{family} {graph.num_targets} / {graph.num_edges}, {heads} x {channels}"
                yield GridCase(name, half, graph, heads, channels)


@dataclass(frozen=True)
class Measurement:
    """One call on one backend."""

    case: str
    half: int
    mode: str
    backend: str
    work: Work
    seconds: float


def measure(
    on_case: Callable[[str], None] = lambda name: None, device: str = "cpu"
) -> list[Measurement]:
    """Measure the grid, the backends alternately: in float32 on a CPU, in bfloat16 on a GPU."""
    found = []
    for case in grid():
        for mode in MODES:
            call = _call(case, mode == "training", device)
            for backend, seconds in _times(call).items():
                work = BACKENDS[backend].work(call)
                found.append(Measurement(case.name, case.half, mode, backend, work, seconds))
        on_case(case.name)
    return found


def _call(case: GridCase, training: bool, device: str) -> Call:
    n, m = case.graph.num_targets, case.graph.num_sources
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    draw = partial(torch.randn, device=device, dtype=dtype, requires_grad=training)
    q, k, v = (draw(size, case.heads, case.channels) for size in (n, m, m))
    return make_call(q, k, v, case.graph)


def _times(call: Call) -> dict[str, float]:
    """Median seconds of each backend that can run the call within reason."""
    able = [name for name in BACKENDS if _within_reason(name, call)]
    grad, timer = torch.randn_like(call.q), timer_for(call.q.device.type)
    taken: dict[str, list[float]] = {name: [] for name in able}
    for name in able:
        _step(name, call, grad)
    hosts = dict.fromkeys(able, 0.0)
    if call.q.is_cuda:
        hosts = {name: host_milliseconds(partial(_step, name, call, grad)) for name in able}
    for _ in range(50):
        for name in able:
            if sum(taken[name]) < SECONDS or len(taken[name]) < 3:
                taken[name].append(1e-3 * timer(partial(_step, name, call, grad), hosts[name]))
    return {name: statistics.median(values) for name, values in taken.items()}


def _within_reason(name: str, call: Call) -> bool:
    pairs = call.groups * call.graph.num_targets * call.graph.num_sources
    gathered = call.groups * call.graph.num_edges * call.q.shape[-1]
    few = pairs <= _PAIRS.get(name, pairs) and gathered <= _GATHERED.get(name, gathered)
    if name == "flex" and call.q.is_cuda:  # compiles for seconds, for each graph
        few = not call.graph.is_explicit and call.graph.num_targets >= _FEWEST_COMPILED
    return few and BACKENDS[name].unsupported(call) is None


def _step(name: str, call: Call, grad: Tensor) -> None:
    if call.q.requires_grad:
        out = BACKENDS[name].run(call)
        torch.autograd.grad(out, [call.q, call.k, call.v], grad)
    else:
        with torch.no_grad():
            BACKENDS[name].run(call)


def fit(measurements: list[Measurement]) -> Constants:
    """Constants of each backend and mode that make the relative errors least."""
    constants: Constants = {}
    for backend in BACKENDS:
        for mode in MODES:
            rows = [m for m in measurements if (m.backend, m.mode) == (backend, mode)]
            if not rows:
                if backend in constants:  # FlexAttention has no backward on a CPU
                    constants[backend][mode] = [3 * x for x in constants[backend]["forward"]]
                continue
            work = np.array([row.work for row in rows])
            seconds = np.array([row.seconds for row in rows])
            solution, _ = nnls(work / seconds[:, None], np.ones(len(rows)))
            constants.setdefault(backend, {})[mode] = [float(f"{x:.4g}") for x in solution]
    return constants


def evaluate(measurements: list[Measurement], constants: Constants) -> list[dict[str, Any]]:
    """One row for each case and mode: what is chosen, what is best, and the ratio of times."""
    cases: dict[tuple[str, int, str], list[Measurement]] = {}
    for m in measurements:
        cases.setdefault((m.case, m.half, m.mode), []).append(m)
    rows = []
    for (case, half, mode), found in cases.items():
        predicted = {m.backend: float(np.dot(constants[m.backend][mode], m.work)) for m in found}
        seconds = {m.backend: m.seconds for m in found}
        chosen = min(choices(list(predicted)), key=predicted.__getitem__)
        best = min(seconds, key=seconds.__getitem__)
        rows.append({
            "case": case, "half": half, "mode": mode, "chosen": chosen, "best": best,
            "ratio": seconds[chosen] / seconds[best], "seconds": seconds, "predicted": predicted,
        })  # fmt: skip
    return rows


def share_within(rows: list[dict[str, Any]], factor: float = WITHIN) -> float:
    """Share of cases in which the choice takes at most `factor` times the best."""
    return sum(row["ratio"] <= factor for row in rows) / len(rows)


def save(constants: Constants, device: str) -> Path:
    """Keep constants on this machine, where `attend` finds them."""
    path = cache_root() / "costs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        kept = {}
    write_text(path, to_json({**kept, device: constants}) + "\n")
    cost.load.cache_clear()
    return path
