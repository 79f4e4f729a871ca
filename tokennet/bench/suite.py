"""Every case of a suite: prepared, checked, timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tokennet.attend import explain
from tokennet.bench.floor import Ceilings, Work, available_memory, ceilings, count_work, environment
from tokennet.bench.measure import (
    DIRECTIONS,
    Figure,
    Plan,
    Timer,
    measure_peaks,
    take_turns,
    timer_for,
)
from tokennet.bench.peak import growth_on_device
from tokennet.bench.peers import build_peers
from tokennet.bench.setting import Peer, Setting, check_agreement, prepare
from tokennet.bench.workloads import SUITES, Workload, choose
from tokennet.graphs import TokenGraph

MEMORY_SHARE = 0.7
"""Share of the free memory that a peer may take."""


@dataclass
class Case:
    """What was measured of one workload."""

    workload: Workload
    targets: int
    sources: int
    edges: int
    work: dict[tuple[str, str], Work]
    """By level and direction."""
    figures: list[Figure] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Peers that could not run, and why."""
    remarks: dict[str, str] = field(default_factory=dict)
    """Peers that are off in bfloat16, and how much."""
    backends: dict[str, str] = field(default_factory=dict)
    """What `attend` chose, by direction."""


@dataclass
class Results:
    """What was measured of a suite."""

    suite: str
    plan: Plan
    ceilings: Ceilings
    half: Ceilings | None = None
    """The same of bfloat16, where a case is in it."""
    cases: list[Case] = field(default_factory=list)

    @property
    def device(self) -> str:
        return SUITES[self.suite].device

    def _ceilings(self, case: Case) -> Ceilings:
        is_half = case.workload.dtype == torch.bfloat16 and self.half is not None
        return self.half if is_half else self.ceilings  # type: ignore[return-value]

    def floor(self, case: Case, level: str, direction: str) -> float:
        """Milliseconds that a step takes at the least."""
        return case.work[level, direction].milliseconds(self._ceilings(case))

    def gather(self, case: Case, level: str, direction: str) -> float:
        """Milliseconds to fetch keys and values from memory, for each edge anew."""
        return 1e-6 * case.work[level, direction].gathered / self.ceilings.gbytes

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON; nothing in it depends on the day."""
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
        workload = case.workload
        floors = [
            {
                "level": level,
                "direction": direction,
                "ms": self.floor(case, level, direction),
                **work._asdict(),
            }
            for (level, direction), work in case.work.items()
        ]
        return {
            "name": workload.name,
            "summary": workload.summary,
            "targets": case.targets,
            "sources": case.sources,
            "edges": case.edges,
            "batch": workload.batch,
            "heads": workload.heads,
            "channels": workload.channels,
            "backends": case.backends,
            "left_out": case.left_out,
            **({"remarks": case.remarks} if case.remarks else {}),
            "floors": floors,
            "figures": [figure.to_dict() for figure in case.figures],
        }


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
        on_progress: told what comes next.
        on_case: given the results so far, after each case.

    Raises:
        ValueError: there is no such suite or case, or no device for it.
        RuntimeError: a peer computes something else than this library, by name.
    """
    chosen, plan = choose(suite, cases), plan or Plan()
    device = SUITES[suite].device
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"suite {suite} needs a CUDA device, and there is none here")
    timer = timer or timer_for(device)
    results = Results(suite, plan, ceilings(timer, device))
    if any(workload.dtype == torch.bfloat16 for workload in chosen):
        results.half = ceilings(timer, device, torch.bfloat16)
    memory = MEMORY_SHARE * available_memory(device)
    for workload in chosen:
        graph = workload.make(plan.scale)
        case = _case(workload, graph)
        for level in workload.levels:
            on_progress(f"{workload.name}, {level}")
            _measure(case, prepare(workload, level, graph, device, memory), plan, timer)
        results.cases.append(case)
        on_case(results)
    return results


def _case(workload: Workload, graph: TokenGraph) -> Case:
    """An empty case; without the graph, so that its memory is given back."""
    work = {
        (level, direction): count_work(workload, graph, level, direction)
        for level in workload.levels
        for direction in DIRECTIONS
    }
    return Case(workload, graph.num_targets, graph.num_sources, graph.num_edges, work)


def _measure(case: Case, setting: Setting, plan: Plan, timer: Timer) -> None:
    peers, left_out = build_peers(setting, plan.without)
    case.left_out |= left_out
    on_device = setting.device.type == "cuda"
    if on_device:
        case.left_out |= _drop_unable(peers)
    case.remarks |= check_agreement(peers, setting)
    if setting.level == "attend":
        case.backends = {name: _backend(setting, name) for name in DIRECTIONS}
    timed = {direction: take_turns(peers, direction, plan, timer) for direction in DIRECTIONS}
    name, level = case.workload.name, setting.level
    asked = peers if plan.memory else {}
    if on_device:
        peaks = {peer: _peaks_on_device(peers[peer]) for peer in asked}
    else:
        peaks = {peer: measure_peaks(name, level, peer, plan.scale) for peer in asked}
    for direction, taken in timed.items():
        ours = next(iter(taken.values()))
        for peer, times in taken.items():
            peak = peaks.get(peer, {}).get(direction)
            case.figures.append(Figure(level, direction, peer, times, ours, peak))


def _drop_unable(peers: dict[str, Peer]) -> dict[str, str]:
    """Take away other hands' peers that a device cannot run, and say why."""
    reasons = {}
    for name in list(peers)[1:]:
        try:
            peers[name].step("forward" if peers[name].grad is None else "both")
        except RuntimeError as error:  # out of memory, or no kernel for this
            reasons[name] = str(error).splitlines()[0]
            del peers[name]
        else:
            peers[name].forget()
    return reasons


def _peaks_on_device(peer: Peer) -> dict[str, float | None]:
    able = [name for name in DIRECTIONS if name == "forward" or peer.grad is not None]
    return {direction: growth_on_device(peer, direction) for direction in able}


def _backend(setting: Setting, direction: str) -> str:
    with torch.set_grad_enabled(direction == "both"):
        q, k, v = setting.given
        return explain(q, k, v, setting.graph).chosen
