"""Rounds, figures and floors, on a clock that the tests set."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.bench.clock import Clock
from tokennet import Full, Window
from tokennet.bench.floor import Ceilings, Work, available_memory, ceilings, count_work, environment
from tokennet.bench.measure import (
    Plan,
    Timing,
    _wall_clock,
    host_milliseconds,
    measure_peaks,
    take_turns,
    timer_for,
)
from tokennet.bench.peak import growth, peaks
from tokennet.bench.setting import Peer
from tokennet.bench.workloads import WORKLOADS, Workload

linux = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")


@pytest.fixture
def clock():
    return Clock()


def test_all_take_part_in_every_round_and_the_first_only_warms_up(clock):
    peers = {"ours": clock.peer("ours", 900, 2), "theirs": clock.peer("theirs", 501, 6)}
    taken = take_turns(peers, "both", Plan(rounds=4, seconds=100), clock.timer)
    assert taken == {"ours": dict.fromkeys(range(4), 2), "theirs": dict.fromkeys(range(4), 6)}
    turns = [tuple(clock.steps[start : start + 2]) for start in range(2, 10, 2)]
    assert turns == [("ours", "theirs"), ("theirs", "ours")] * 2
    assert all(peer.given[0].grad is None for peer in peers.values())


def test_the_slow_take_part_in_fewer_rounds_evenly_spread_and_in_five_at_least(clock):
    peers = {name: clock.peer(name, ms) for name, ms in (("a", 10), ("b", 30), ("c", 5000))}
    taken = take_turns(peers, "forward", Plan(rounds=20, seconds=0.9), clock.timer)
    assert list(taken["a"]) == list(range(20))
    assert list(taken["b"]) == list(range(1, 20, 2))
    assert list(taken["c"]) == [3, 7, 11, 15, 19]


def test_no_peer_takes_part_in_more_rounds_than_the_first(clock):
    peers = {"ours": clock.peer("ours", 5000), "theirs": clock.peer("theirs", 1)}
    taken = take_turns(peers, "forward", Plan(rounds=40, seconds=1), clock.timer)
    assert [len(times) for times in taken.values()] == [5, 5]
    taken = take_turns(peers, "forward", Plan(rounds=2, seconds=1), clock.timer)
    assert [len(times) for times in taken.values()] == [2, 2]


def test_a_short_step_is_taken_several_times_for_the_median(clock):
    compiling, pace, turn = (40,), (0.5, 0.5, 0.5), (0.1, 0.2, 0.3, 0.9)
    peers = {"ours": clock.peer("ours", *compiling, *pace, *turn)}
    taken = take_turns(peers, "forward", Plan(rounds=1), clock.timer)
    assert taken["ours"][0] == pytest.approx(0.25)
    assert len(clock.steps) == 1 + 3 + 4


def test_who_has_no_backward_sits_it_out(clock):
    peers = {"ours": clock.peer("ours", 2), "theirs": clock.peer("theirs", 3, backward=False)}
    assert list(take_turns(peers, "both", Plan(rounds=1), clock.timer)) == ["ours"]
    assert list(take_turns(peers, "forward", Plan(rounds=1), clock.timer)) == ["ours", "theirs"]


def test_a_figure_compares_within_rounds():
    figure = Timing("layer", "both", "pyg", {0: 4.0, 2: 40.0, 3: 6.0}, {0: 2.0, 1: 9, 2: 10, 3: 3})
    assert figure.ratios == [2.0, 4.0, 2.0]
    assert figure.ratio == 2.0
    stored = figure.to_dict()
    assert stored["median_ms"] == 6.0
    assert stored["quartiles_ms"] == (5.0, 23.0)
    assert stored["ratio_quartiles"] == (2.0, 3.0)
    assert stored["ratio_of_medians"] == pytest.approx(6.0 / 6.0)
    assert stored["rounds"] == 3


def test_one_round_has_quartiles_too():
    assert Timing("layer", "both", "pyg", {0: 4.0}, {0: 2.0}).quartiles == (4.0, 4.0)


def test_a_device_is_kept_busy_for_longer_than_the_host_takes(monkeypatch):
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            done.append("event")

        def synchronize(self):
            done.append("wait")

        def elapsed_time(self, end):
            return 3.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: done.append(cycles))
    monkeypatch.setattr("tokennet.bench.measure._beyond_the_cache", lambda: torch.ones(1))
    timer = timer_for("cuda")
    assert timer(lambda: done.append("step"), 3.0) == 3.5
    assert done[1:] == ["event", "step", "event", "wait"]
    assert done[0] >= 3.0 * 2e6  # 2 GHz are more than the clocks of GPUs that there are
    timer(lambda: None)
    assert 0 < done[5] < done[0]


def test_the_timer_belongs_to_the_device():
    assert timer_for("cpu") is _wall_clock
    assert timer_for("cuda") is not _wall_clock
    steps = []
    assert _wall_clock(lambda: steps.append(1)) > 0
    assert steps == [1]


@linux
def test_growth_is_that_of_the_peak_in_one_step():
    megabytes = 64

    def run(x):
        return x + torch.ones(megabytes * 2**18).sum()

    peer = Peer(run, (torch.zeros(1, requires_grad=True),), torch.ones(1))
    assert 0.9 * megabytes < growth(peer, "both") < 1.5 * megabytes


@linux
def test_growth_counts_what_the_last_step_left_behind():
    kept = []

    def run(x):
        blocks = [torch.ones(25_000) for _ in range(640)]  # 64 MB, in pieces that stay in the heap
        kept.append(torch.ones(25_000))  # above them
        return x + blocks[-1].sum()

    peer = Peer(run, (torch.zeros(1, requires_grad=True),), torch.ones(1))
    assert growth(peer, "forward") > 50


@linux
@pytest.mark.sweep
def test_peaks_come_from_a_fresh_process():
    taken = measure_peaks("tiny", "attend", "sdpa", 1.0)
    assert list(taken) == ["forward", "both"]
    assert all(0 <= peak < 50 for peak in taken.values())


def test_peaks_of_a_peer_that_is_not_meant_for_the_case_are_refused():
    with pytest.raises(ValueError, match="nested does not run tiny at the level attend"):
        peaks("tiny", "attend", "nested", 1.0)


def test_a_process_that_the_system_ended_has_no_peak_and_one_that_failed_is_told(monkeypatch):
    ended = SimpleNamespace(returncode=-9, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: ended)
    assert measure_peaks("tiny", "attend", "sdpa", 1.0) == {}
    ended.returncode, ended.stderr = 1, "no such thing"
    with pytest.raises(RuntimeError, match="sdpa on tiny was not measured: no such thing"):
        measure_peaks("tiny", "attend", "sdpa", 1.0)


def test_work_by_hand():
    full = Workload("", "", lambda scale: Full(3, 5), heads=2, channels=4)
    # N = 3, M = 5, E = 15, F = 8
    assert count_work(full, Full(3, 5), "attend", "forward") == Work(
        4 * 15 * 8, 4 * 8 * 16, 8 * 15 * 8
    )
    flop, moved = 3 * 4 * 15 * 8, 4 * 8 * (16 + 3 * 3 + 4 * 5)
    assert count_work(full, Full(3, 5), "attend", "both") == Work(flop, moved, 24 * 15 * 8)
    layer = 4 * 15 * 8 + 2 * 64 * (3 + 2 * 5)
    moved = 4 * (8 * (3 + 5 + 3) + 3 * 64)
    assert count_work(full, Full(3, 5), "layer", "forward") == Work(layer, moved, 8 * 15 * 8)
    moved += 4 * (8 * (3 + 2 * 8) + 2 * 3 * 64)
    assert count_work(full, Full(3, 5), "layer", "both") == Work(3 * layer, moved, 24 * 15 * 8)


def test_work_of_listed_edges_batches_and_additive_scores():
    window = Workload("", "", lambda scale: Window(6, 1), heads=1, channels=2)
    batched = Workload("", "", lambda scale: Window(6, 1), heads=1, channels=2, batch=3)
    one, three = (count_work(each, Window(6, 1), "attend", "both") for each in (window, batched))
    assert three == Work(3 * one.flop, 3 * one.bytes, 3 * one.gathered)
    listed = Window(6, 1) & WORKLOADS["sparse-20k-400k"].make(6 / 20_000)
    silent = count_work(window, Full(6), "attend", "forward").bytes
    assert count_work(window, listed, "attend", "forward").bytes == silent + 4 * listed.num_edges
    additive = Workload("", "", lambda scale: Full(6), 1, 2, score="additive", edge_dim=3)
    flop = 5 * 36 * 2 + 2 * 4 * (6 + 6) + 2 * 2 * 3 * 36
    moved = 4 * (2 * (6 + 6) + 2 * 4 + 3 * 36)
    assert count_work(additive, Full(6), "layer", "forward") == Work(flop, moved, 4 * 36 * 2)
    dot = Workload("", "", lambda scale: Full(6), 1, 2, edge_dim=3)
    flop = 4 * 36 * 2 + 2 * 4 * (6 + 12) + 4 * 3 * (36 * 1 + 6 * 2)
    assert count_work(dot, Full(6), "layer", "both").flop == 3 * flop


def test_the_floor_is_the_longer_of_computing_and_moving():
    assert Work(2e9, 1e9, 0).milliseconds(Ceilings(gflops=1, gbytes=1)) == 2000
    assert Work(2e9, 1e9, 0).milliseconds(Ceilings(gflops=4, gbytes=1)) == 1000


def test_ceilings_take_the_best_of_five(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *size, device: torch.zeros(2))
    monkeypatch.setattr(torch, "mm", lambda *args, out: None)
    times = iter([4, 2, 8, 8, 8, 10, 10, 5, 10, 10])
    found = ceilings(lambda step: next(times))
    assert found.gbytes == pytest.approx(8 * 2**26 / 2e-3 / 1e9)
    assert found.gflops == pytest.approx(2 * 2048**3 / 5e-3 / 1e9)


def test_the_host_is_timed_apart_on_a_device(monkeypatch, clock):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(len(clock.steps)))
    peer = clock.peer("ours", 2)
    assert host_milliseconds(lambda: peer.step("both"), peer.forget) >= 0
    assert waits == [0, 1, 2, 3, 4]
    figure = Timing("layer", "both", "pyg", {0: 4.0}, {0: 2.0}, host_ms=0.3)
    assert figure.to_dict()["host_ms"] == 0.3
    assert "host_ms" not in Timing("layer", "both", "pyg", {0: 4.0}, {0: 2.0}).to_dict()


def test_the_environment_stands_beside_the_figures():
    found = environment()
    assert found["versions"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert json.dumps(found)
    assert available_memory() > 1e8
