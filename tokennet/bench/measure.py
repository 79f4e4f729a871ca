"""Timing of peers by turns, so that other load of the machine falls on all of them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from tokennet.bench.setting import Peer

FEWEST_ROUNDS = 5
"""Smallest number of rounds, also of a slow peer."""

_CYCLES = 2_000_000
"""Clock cycles of about a millisecond of a GPU."""

_LONG = 500.0
"""Milliseconds of a first step beyond which that step alone tells the pace."""


class Timer(Protocol):
    """Runs a step and returns its milliseconds."""

    def __call__(self, step: Callable[[], object], host_ms: float = 0.0) -> float:
        """On a GPU, `host_ms` is the milliseconds in which the host launches such a step."""


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    rounds: int = 40
    """At most."""
    seconds: float = 10.0
    """For the peers of one case, level and direction together, beyond the fewest rounds."""
    scale: float = 1.0
    """Of the number of tokens of each graph."""
    memory: bool = True
    """Whether to measure peaks too, which takes a fresh process for each peer."""
    without: frozenset[str] = frozenset()
    """Peers to leave out."""


@dataclass(frozen=True)
class Timing:
    """The measurements of one peer in one direction at one level."""

    level: str
    direction: str
    peer: str
    times: Mapping[int, float]
    """Milliseconds in each round the peer took part in."""
    ours: Mapping[int, float] = field(repr=False)
    """Milliseconds of tokennet in each round."""
    peak_mb: float | None = None
    host_ms: float | None = None
    """Milliseconds in which the host launches a step on a GPU."""

    @property
    def median(self) -> float:
        return statistics.median(self.times.values())

    @property
    def quartiles(self) -> tuple[float, float]:
        return _quartiles(list(self.times.values()))

    @property
    def ratios(self) -> list[float]:
        """Over tokennet in the same round: above 1 where tokennet is faster."""
        return [time / self.ours[number] for number, time in self.times.items()]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def ratio_quartiles(self) -> tuple[float, float]:
        return _quartiles(self.ratios)

    def to_dict(self) -> dict[str, Any]:
        return {
            "level": self.level, "direction": self.direction, "peer": self.peer,
            "rounds": len(self.times), "median_ms": self.median, "quartiles_ms": self.quartiles,
            "ratio": self.ratio, "ratio_quartiles": self.ratio_quartiles,
            "ratio_of_medians": self.median / statistics.median(self.ours.values()),
            "peak_mb": self.peak_mb,
            **({} if self.host_ms is None else {"host_ms": self.host_ms}),
        }  # fmt: skip


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def timer_for(device: str) -> Timer:
    return _cuda_events if device == "cuda" else _wall_clock


def _wall_clock(step: Callable[[], object], host_ms: float = 0.0) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def _cuda_events(step: Callable[[], object], host_ms: float = 0.0) -> float:
    """Of the device alone, with nothing of the step in its cache.

    The device is kept busy while the host launches the step, or its waiting for the host would
    be measured: launching takes longer than small kernels take to run.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(int(_CYCLES * (0.5 + 2 * host_ms)))  # type: ignore[no-untyped-call]
    _beyond_the_cache().zero_()
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


@cache
def _beyond_the_cache() -> Tensor:
    return torch.empty(2**28, dtype=torch.uint8, device="cuda")


def host_milliseconds(
    step: Callable[[], object], forget: Callable[[], object] = lambda: None
) -> float:
    """Milliseconds in which the host launches a step; a device that takes less waits."""
    times = []
    for _ in range(5):
        forget()
        torch.cuda.synchronize()
        times.append(_wall_clock(step))
    forget()
    return statistics.median(times)


def take_turns(
    peers: Mapping[str, Peer],
    direction: str,
    plan: Plan,
    timer: Timer,
    hosts: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, dict[int, float]]:
    """Milliseconds of each peer in each round it takes part in; the first peer is in all rounds.

    First steps warm up and tell how slow each peer is: the first alone where it took long, as
    it may have compiled or filled a cache. The time of the plan is shared equally: a slow peer
    takes part in some of the rounds, evenly spread, and in no fewer than `FEWEST_ROUNDS` of
    them. The order changes from round to round. A step of less than two milliseconds is run
    several times in its turn, for the median. `hosts` has, of each peer on a GPU, the
    milliseconds in which the host launches a step.
    """
    able = {name: peer for name, peer in peers.items() if direction in peer.directions}

    def timed(name: str, times: int = 1) -> float:
        """The median of several steps, each without gradients of another."""
        taken = []
        for _ in range(times):
            able[name].forget()
            taken.append(timer(partial(able[name].step, direction), hosts.get(name, 0.0)))
        return statistics.median(taken)

    names, total_ms = list(able), 1e3 * plan.seconds
    pace = {}
    for name in names:
        first = timed(name)
        pace[name] = max(first if first > _LONG else timed(name, 3), 1e-3)
    times = {name: min(max(int(2 / pace[name]), 1), 25) for name in names}
    fits = {name: int(total_ms / len(names) / (times[name] * pace[name])) for name in names}
    total = max(min(fits[names[0]], plan.rounds), min(FEWEST_ROUNDS, plan.rounds))
    parts = {name: max(fits[name], min(FEWEST_ROUNDS, total)) for name in names}
    taken: dict[str, dict[int, float]] = {name: {} for name in names}
    for number in range(total):
        for turn in range(len(names)):
            name = names[(number + turn) % len(names)]
            # True in `parts` of the rounds, evenly spread; in all if there are fewer.
            if (number + 1) * parts[name] // total > number * parts[name] // total:
                taken[name][number] = timed(name, times[name])
    for peer in able.values():
        peer.forget()
    return taken


def measure_peaks(case: str, level: str, peer: str, scale: float) -> dict[str, float | None]:
    """MB by which the peak of a fresh process grows in a step, by direction."""
    command = [sys.executable, "-m", "tokennet.bench.peak", case, level, peer, str(scale)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:  # the system ended it: it needed too much memory
        return {}
    if done.returncode:
        raise RuntimeError(f"the peak of {peer} on {case} was not measured: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
