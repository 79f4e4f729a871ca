"""`run_suite`: every case of a suite is prepared, checked against its peers, and timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from tokennet.bench.floor import Ceilings, Work, available_memory, ceilings, count_work, environment
from tokennet.bench.measure import (
    Plan,
    Timer,
    Timing,
    host_milliseconds,
    measure_peaks,
    take_turns,
    timer_for,
)
from tokennet.bench.peak import growth_on_device
from tokennet.bench.peers import build_peers, first_line
from tokennet.bench.setting import DIRECTIONS, Peer, Setting, check_agreement, differences, prepare
from tokennet.bench.workloads import SUITES, Workload, choose
from tokennet.checks import lookup
from tokennet.ops import explain

CASE = "the case"
MEMORY_SHARE = 0.7
"""Share of the free memory that a peer may take."""


@dataclass
class Case:
    """The measurements of one workload."""

    workload: Workload
    targets: int
    sources: int
    edges: int
    work: dict[tuple[str, str], Work]
    """By level and direction."""
    timings: list[Timing] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Peers that could not run, and why; under `CASE`, the error that ended the case on a GPU."""
    remarks: dict[str, str] = field(default_factory=dict)
    """Peers that are off in bfloat16, and how much."""
    backends: dict[str, str] = field(default_factory=dict)
    """What `attend` chose, by direction."""


@dataclass
class Results:
    """The measurements of a suite."""

    suite: str
    plan: Plan
    ceilings: Ceilings
    half: Ceilings | None = None
    """Ceilings of bfloat16, where a case is in it."""
    cases: list[Case] = field(default_factory=list)

    @property
    def device(self) -> str:
        return SUITES[self.suite].device

    def floor(self, case: Case, level: str, direction: str) -> float:
        """Milliseconds that a step takes at the least."""
        is_half = case.workload.dtype == torch.bfloat16
        ceilings = self.half if is_half and self.half is not None else self.ceilings
        return case.work[level, direction].milliseconds(ceilings)

    def gather(self, case: Case, level: str, direction: str) -> float:
        """Milliseconds to fetch keys and values from memory, for each edge anew."""
        return 1e-6 * case.work[level, direction].gathered / self.ceilings.gbytes

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the result has no date."""
        plan = {**dataclasses.asdict(self.plan), "without": sorted(self.plan.without)}
        return {
            "suite": self.suite,
            "plan": plan,
            **environment(self.device),
            "ceilings": self.ceilings._asdict(),
            **({} if self.half is None else {"bfloat16_ceilings": self.half._asdict()}),
            "cases": [self._case(case) for case in self.cases],
        }

    def _case(self, case: Case) -> dict[str, Any]:
        of_workload = ("name", "summary", "batch", "heads", "channels")
        return {
            **{key: getattr(case.workload, key) for key in of_workload},
            **{key: getattr(case, key) for key in ("targets", "sources", "edges")},
            **{key: getattr(case, key) for key in ("backends", "left_out")},
            **({"remarks": case.remarks} if case.remarks else {}),
            "floors": [
                {"level": level, "direction": direction, **work._asdict()}
                | {"ms": self.floor(case, level, direction)}
                for (level, direction), work in case.work.items()
            ],
            "timings": [timing.to_dict() for timing in case.timings],
        }


def device_of(suite: str) -> str:
    """The device of a suite.

    Raises:
        ValueError: there is no such suite, or no such device.
    """
    device = lookup("suite", suite, SUITES).device
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"suite {suite} needs a CUDA device, and there is none here")
    return device


def run_suite(
    suite: str = "cpu",
    cases: Sequence[str] | None = None,
    *,
    plan: Plan | None = None,
    timer: Timer | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
    on_case: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Time this library and its peers by turns, after their results were found equal.

    Args:
        suite: a name in `SUITES`.
        cases: names or patterns of cases; all of the suite by default.
        plan: how much to measure.
        timer: runs a step and returns its milliseconds.
        on_progress: called with what comes next.
        on_case: called with the results so far, after each case.

    Raises:
        ValueError: there is no such suite or case, or no device for it.
        RuntimeError: a peer computes something else than this library; the message names it. On
            a GPU it is left out instead, and a case that fails does not end the run.
    """
    chosen, plan, device = choose(suite, cases), plan or Plan(), device_of(suite)
    timer = timer or timer_for(device)
    results = Results(suite, plan, ceilings(timer, device))
    if any(workload.dtype == torch.bfloat16 for workload in chosen):
        results.half = ceilings(timer, device, torch.bfloat16)
    memory, graph, make = MEMORY_SHARE * available_memory(device), None, None
    for workload in chosen:
        if graph is None or workload.make is not make:  # one graph for both types
            graph, make = workload.make(plan.scale), workload.make
        work = {
            (level, direction): count_work(workload, graph, level, direction)
            for level in workload.levels
            for direction in DIRECTIONS
        }
        # Without the graph, so that its memory is given back.
        case = Case(workload, graph.num_targets, graph.num_sources, graph.num_edges, work)
        try:
            for level in workload.levels:
                on_progress(f"{workload.name}, {level}")
                _measure(case, prepare(workload, level, graph, device, memory), plan, timer)
        except Exception as error:
            if device == "cpu":
                raise
            case.left_out[CASE] = first_line(error)
        results.cases.append(case)
        on_case(results)
    return results


def _measure(case: Case, setting: Setting, plan: Plan, timer: Timer) -> None:
    peers, left_out = build_peers(setting, plan.without)
    case.left_out |= left_out
    on_device = setting.device.type == "cuda"
    if on_device:
        case.left_out |= _drop_unable(peers)
    if on_device and setting.workload.dtype == torch.float32:
        off = differences(peers, setting)
        case.left_out |= off
        peers = {name: peer for name, peer in peers.items() if name not in off}
    else:
        case.remarks |= check_agreement(peers, setting)
    if setting.level == "attend":
        q, k, v = setting.given
        for direction in DIRECTIONS:
            with torch.set_grad_enabled(direction == "both"):
                case.backends[direction] = explain(q, k, v, setting.graph).chosen
    hosts: dict[str, dict[str, float]] = {direction: {} for direction in DIRECTIONS}
    timed = {}
    for direction in DIRECTIONS:
        if on_device:
            hosts[direction] = {
                peer: host_milliseconds(partial(built.step, direction), built.forget)
                for peer, built in peers.items()
                if direction in built.directions
            }
        timed[direction] = take_turns(peers, direction, plan, timer, hosts[direction])
    name, level = case.workload.name, setting.level
    peaks: dict[str, dict[str, float | None]] = {}
    for peer, built in peers.items() if plan.memory else ():
        if on_device:
            peaks[peer] = {d: growth_on_device(built, d) for d in built.directions}
        else:
            peaks[peer] = measure_peaks(name, level, peer, plan.scale)
    for direction, taken in timed.items():
        ours = next(iter(taken.values()))
        for peer, times in taken.items():
            peak, host = peaks.get(peer, {}).get(direction), hosts[direction].get(peer)
            case.timings.append(Timing(level, direction, peer, times, ours, peak, host))


def _drop_unable(peers: dict[str, Peer]) -> dict[str, str]:
    """Remove the peers, or their backward, that raise on a GPU; return the reasons."""
    reasons = {}
    for name in list(peers)[1:]:
        found = {
            direction: _failure(peers[name], direction) for direction in peers[name].directions
        }
        if found["forward"] is not None:
            reasons[name] = found["forward"]
            del peers[name]
        elif found.get("both") is not None:
            reasons[f"backward of {name}"] = str(found["both"])
            peers[name] = dataclasses.replace(peers[name], grad=None)
    return reasons


def _failure(peer: Peer, direction: str) -> str | None:
    """The error of a step, such as too little memory, or None."""
    try:
        peer.step(direction)
    except Exception as error:
        return first_line(error)
    finally:
        peer.forget()
    return None
