"""What is shown and written is what was measured."""

import io
import json
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from tests.bench.clock import Clock
from tokennet.bench import PEERS, Plan, run_suite
from tokennet.bench.command import QUICK
from tokennet.bench.floor import Ceilings
from tokennet.bench.graphs import hubs
from tokennet.bench.peers import COMPILED, build_peers
from tokennet.bench.report import NAMES, legend, plot, table
from tokennet.bench.setting import Setting, prepare
from tokennet.bench.suite import CASE, _drop_unable
from tokennet.bench.workloads import WORKLOADS
from tokennet.cli import main

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr("tokennet.bench.suite.ceilings", lambda *given: Ceilings(1e-3, 1.0))


@pytest.fixture
def measured(monkeypatch):
    """Runs a suite in which tokennet takes 2 ms, PyG 6 ms, and flex is left out."""

    def run(*cases, peers=("tokennet", "pyg"), factor=2.0, **options):
        clock = Clock()
        milliseconds = {"tokennet": 2, "pyg": 6}
        made = {name: clock.peer(name, milliseconds[name]) for name in peers}
        if factor != 2.0:
            made["pyg"] = clock.peer("pyg", 6, factor=factor)
        parts = "tokennet.bench.suite"
        monkeypatch.setattr(f"{parts}.build_peers", lambda *args: (made, {"flex": "it is Monday"}))
        monkeypatch.setattr(
            f"{parts}.measure_peaks", lambda case, level, peer, scale: {"both": 100 * len(peer)}
        )
        plan = Plan(rounds=3, scale=0.01)
        return run_suite("cpu", cases, plan=plan, timer=clock.timer, **options)

    return run


def shown(results):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(results, results.cases[-1]))
    return console.export_text()


def test_the_table_holds_what_was_measured(measured):
    text = shown(measured("sets-512"))
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in text.splitlines()
        if line.startswith("│")
    ]
    assert rows[0] == ["layer", "forward", "tokennet", "2.00", "2.00 - 2.00", "1.00", ""]
    assert rows[1] == ["", "", "pyg", "6.00", "6.00 - 6.00", "3.00", ""]
    assert rows[4] == ["", "", "pyg", "6.00", "6.00 - 6.00", "3.00", "300"]
    assert [row[:2] for row in rows if row[0]] == [
        ["layer", "forward"], ["layer", "both"], ["attend", "forward"], ["attend", "both"],
    ]  # fmt: skip
    assert rows[2][2] == "floor"
    assert "sets-512: 512 sets of 8 to 64 tokens, each complete, at 0.01 of the size" in " ".join(
        text.split()
    )
    assert "flex left out: it is Monday" in text
    assert "backend of tokennet: " in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_floor_of_the_table_is_that_of_the_work(measured):
    results = measured("tiny")
    case = results.cases[0]  # 4 tokens, 16 edges of 64 channels, at 10^6 FLOP a second
    assert results.floor(case, "attend", "forward") == pytest.approx(1e3 * 4 * 16 * 64 / 1e6)
    floors = [line.split("│")[4:7] for line in shown(results).splitlines() if "floor" in line]
    assert [cell.strip() for cell in floors[2]] == ["4.10", "", "2.05"]


def test_json_holds_what_was_measured_and_no_date(measured):
    stored = json.loads(json.dumps(measured("tiny", "gatv2-20k-400k").to_dict()))
    assert set(stored) == {
        "suite", "plan", "versions", "processor", "threads", "ceilings", "cases",
    }  # fmt: skip
    tiny, gatv2 = stored["cases"]
    assert (tiny["name"], tiny["targets"], tiny["edges"]) == ("tiny", 4, 16)
    assert tiny["left_out"] == {"flex": "it is Monday"}
    assert tiny["backends"] == {"forward": "dense", "both": "dense"}
    assert len(tiny["timings"]) == 8
    figure = tiny["timings"][-1]
    assert (figure["level"], figure["direction"], figure["peer"]) == ("attend", "both", "pyg")
    assert (figure["median_ms"], figure["ratio"], figure["rounds"]) == (6, 3, 3)
    assert figure["peak_mb"] == 300
    floor = tiny["floors"][-1]
    assert (floor["level"], floor["direction"]) == ("attend", "both")
    assert floor["flop"] == 12 * 16 * 64
    assert floor["ms"] == pytest.approx(1e3 * 12 * 16 * 64 / 1e6)
    assert [row["level"] for row in gatv2["timings"]] == ["layer"] * 4
    assert gatv2["backends"] == {}


def test_the_suite_for_a_gpu_says_that_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options in ((), ("--calibrate",)):
        assert bench(monkeypatch, "--suite", "gpu", *options) == 2
        told = capsys.readouterr().err
        assert told == "tokennet: suite gpu needs a CUDA device, and there is none here\n"


def test_on_a_gpu_there_is_the_gather_and_what_was_off_or_could_not_run(measured, monkeypatch):
    results = measured("cora-like")
    case = results.cases[0]
    assert "gather" not in shown(results)
    assert "host" not in shown(results) + legend(results)
    case.timings[0] = replace(case.timings[0], host_ms=345.0)
    case.workload = replace(case.workload, dtype=torch.bfloat16)
    results.suite = "gpu"
    assert "Gather: " in legend(results)
    assert "host: ms" in legend(results)
    assert "In bfloat16" not in legend(results)
    results.half = Ceilings(4e-3, 2.0)
    case.remarks["pyg"] = "its output is off by 3"
    text = shown(results)
    assert "pyg: its output is off by 3" in text
    assert text.count("gather") == 4
    assert all(text.count(what) == 1 for what in ("host", "345"))
    assert "tokennet │" in text
    assert results.gather(case, "attend", "forward") == 8e-6 * case.edges * 64
    assert results.floor(case, "attend", "forward") == pytest.approx(4 * case.edges * 64 / 4e3)
    assert "In bfloat16 of FLOP" in legend(results)
    assert "allocated memory" in legend(results)


def test_a_peer_that_a_device_cannot_run_is_left_out():
    clock = Clock()

    def fail(*given):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried")

    def forward_only(x):
        if torch.is_grad_enabled():
            raise NotImplementedError
        return x

    peers = {"tokennet": clock.peer("tokennet", 2), "pyg": clock.peer("pyg", 6)}
    peers["flex"] = replace(clock.peer("flex", 1), run=fail)
    peers["nested"] = replace(clock.peer("nested", 1), run=forward_only)
    assert _drop_unable(peers) == {
        "flex": "CUDA out of memory.",
        "backward of nested": "NotImplementedError",
    }
    assert {name: peer.directions for name, peer in peers.items()} == {
        "tokennet": ("forward", "both"), "pyg": ("forward", "both"), "nested": ("forward",)
    }  # fmt: skip


@pytest.fixture
def on_device(monkeypatch):
    """The suite for a GPU, as far as it goes without one: with settings on a CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("tokennet.bench.suite.available_memory", lambda device: 1e9)
    monkeypatch.setattr(
        "tokennet.bench.suite.prepare", lambda workload, level, graph, device, memory: prepare(
            workload, level, graph, "cpu", memory
        )
    )  # fmt: skip
    monkeypatch.setattr(Setting, "device", torch.device("cuda"))
    for ask in ("growth_on_device", "host_milliseconds"):
        monkeypatch.setattr(f"tokennet.bench.suite.{ask}", lambda *given: 7.0)
    clock = Clock()
    made = {name: clock.peer(name, ms) for name, ms in (("tokennet", 2), ("pyg", 6))}
    monkeypatch.setattr("tokennet.bench.suite.build_peers", lambda *given: (dict(made), {}))

    def run(*cases, **changed):
        made.update(changed)
        plan = Plan(rounds=2, scale=0.01)
        return run_suite("gpu", cases, plan=plan, timer=clock.timer).cases

    run.clock = clock
    return run


def test_on_a_device_a_peer_that_is_off_is_left_out_and_the_others_are_timed(on_device):
    (case,) = on_device("zipf-fp32", flex=on_device.clock.peer("flex", 3, factor=3.0))
    assert case.left_out["flex"].startswith("its output is off by 1, its largest entry")
    assert {figure.peer for figure in case.timings} == {"tokennet", "pyg"}
    assert {figure.host_ms for figure in case.timings} == {7.0}
    assert on_device.clock.hosts - {0.0} == {7.0}
    (case,) = on_device("zipf-bf16")
    assert list(case.remarks) == ["flex"]


def test_on_a_device_a_case_that_fails_does_not_end_the_run(on_device, monkeypatch):
    def fail(*given):
        raise RuntimeError("CUDA error: an illegal memory access\nSee")

    broken = on_device("zipf-*", tokennet=replace(on_device.clock.peer("", 1), run=fail))
    told = {CASE: "CUDA error: an illegal memory access"}
    assert [(case.workload.name, case.left_out) for case in broken] == [
        ("zipf-bf16", told), ("zipf-fp32", told)
    ]  # fmt: skip


def test_a_graph_is_made_once_for_both_types(on_device, monkeypatch):
    made = []
    monkeypatch.setattr(
        "tokennet.bench.workloads.hubs", lambda *given: made.append(given) or hubs(*given)
    )
    assert len(on_device("zipf-*")) == 2
    assert len(made) == 1


def test_a_peer_that_cannot_be_made_is_left_out_on_a_device_alone(monkeypatch):
    workload = WORKLOADS["tiny"]
    setting = prepare(workload, "attend", workload.make(1.0))

    def fail(setting):
        raise RuntimeError("no such kernel\nat")

    monkeypatch.setitem(PEERS, "sdpa", fail)
    with pytest.raises(RuntimeError, match="no such kernel"):
        build_peers(setting, without=COMPILED)
    monkeypatch.setattr(Setting, "device", torch.device("meta"))
    monkeypatch.setitem(PEERS, "pyg", lambda setting: None)
    peers, left_out = build_peers(setting, without=COMPILED)
    assert list(peers) == ["tokennet"]
    assert left_out == {"sdpa": "no such kernel"}


def test_a_wrong_peer_stops_the_suite_before_it_is_timed(measured, monkeypatch):
    monkeypatch.setattr("tokennet.bench.suite.take_turns", lambda *args: pytest.fail("timed"))
    with pytest.raises(RuntimeError, match="pyg disagrees with tokennet on tiny"):
        measured("tiny", factor=2.001)


def test_progress_is_told_case_by_case(measured):
    told, counts = [], []
    measured(
        "tiny",
        "sets-512",
        on_progress=told.append,
        on_case=lambda results: counts.append(len(results.cases)),
    )
    assert told == ["tiny, layer", "tiny, attend", "sets-512, layer", "sets-512, attend"]
    assert counts == [1, 2]


@pytest.mark.parametrize(
    ("cases", "panels"), [(["tiny"], 2), (["ladder-1e[56]"], 1), (["tiny", "ladder-1e5"], 3)]
)
def test_the_picture_has_ratios_and_growth(measured, cases, panels, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda canvas, path, dpi: drawn.append(canvas))
    plot(measured(*cases), tmp_path / "ratios.png")
    axes = drawn[0].axes
    assert len(axes) == panels
    if "tiny" in cases:
        (bar,) = axes[0].patches
        assert (bar.get_x(), bar.get_x() + bar.get_width()) == (1, 3)
        assert [label.get_text() for label in axes[0].get_yticklabels()] == ["tiny"]
        assert "3.00" in [text.get_text() for text in axes[0].texts]
    if panels != 2:
        ours, theirs = axes[-1].lines
        assert (ours.get_label(), theirs.get_label()) == ("tokennet", "PyG")
        assert ours.get_ydata()[0] == pytest.approx(2e6 / 992)  # ns, of 62 tokens of degree 16


def test_every_peer_has_a_name_in_the_picture():
    assert list(NAMES) == list(PEERS)


def test_without_peers_there_is_nothing_to_draw(measured, tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        plot(measured("tiny", peers=["tokennet"]), tmp_path / "ratios.png")


def bench(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["tokennet", "bench", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_command_measures_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tokennet.bench.command.QUICK", Plan(2, 0.0, 0.05, False, QUICK.without))
    stored, drawn = tmp_path / "figures.json", tmp_path / "ratios.png"
    options = ("--cases", "tiny, cora-like", "--quick", "--json", str(stored), "--plot", str(drawn))
    assert bench(monkeypatch, *options) in (None, 0)
    text = capsys.readouterr().out
    assert "tiny: 16 tokens attend to all" in text
    assert "cora-like" in text
    assert "Floor: of FLOP at 0 GFLOP/s" in text
    assert f"Wrote {stored}, {drawn}" in text
    found = json.loads(stored.read_text())
    assert [case["name"] for case in found["cases"]] == ["tiny", "cora-like"]
    peers = {figure["peer"] for figure in found["cases"][0]["timings"]}
    assert peers == {"tokennet", "pyg", "sdpa"}
    assert found["versions"]["torch"] == torch.__version__
    assert drawn.read_bytes().startswith(PNG)


def test_what_is_done_is_written_when_the_rest_is_interrupted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tokennet.bench.command.QUICK", Plan(1, 0.0, 0.05, False, QUICK.without))
    stored, told = tmp_path / "figures.json", []

    def interrupt(setting, without):
        told.append(setting.workload.name)
        if setting.workload.name != "tiny":
            raise KeyboardInterrupt
        return build_peers(setting, without)

    monkeypatch.setattr("tokennet.bench.suite.build_peers", interrupt)
    options = ("--cases", "tiny,complete-64", "--quick", "--json", str(stored))
    assert bench(monkeypatch, *options) == 130
    assert [case["name"] for case in json.loads(stored.read_text())["cases"]] == ["tiny"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--suite", "tpu"], "suite must be one of cpu, gpu; got 'tpu'"),
        (["--cases", "huge"], "cases must be among tiny, complete-64, "),
        (["--json", "nowhere/figures.json"], "--json must name a file in a folder that exists"),
        (["--plot", "nowhere/ratios.png"], "--plot must name a file in a folder that exists"),
        (["--plot", "ratios.jpeg"], "--plot must end in one of .png, .pdf, .svg"),
        (["--rounds", "0"], "'--rounds': Input should be greater than or equal to 1"),
    ],
)
def test_mistakes_are_one_line_and_2_before_anything_runs(
    args, message, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tokennet.bench.suite.prepare", lambda *args: pytest.fail("it ran"))
    assert bench(monkeypatch, *args) == 2
    error = capsys.readouterr().err
    assert error.startswith("tokennet: ")
    assert message in error
    assert error.count("\n") == 1


def test_quick_asks_for_less_than_the_rounds_given(monkeypatch):
    plans = []

    def run_suite(suite, names, plan, **options):
        plans.append(plan)
        raise ValueError("enough")

    monkeypatch.setattr("tokennet.bench.command.run_suite", run_suite)
    for args in (["--quick"], ["--quick", "--rounds", "2"], ["--rounds", "7"]):
        bench(monkeypatch, *args)
    assert [plan.rounds for plan in plans] == [QUICK.rounds, 2, 7]
    assert [plan.scale for plan in plans] == [QUICK.scale, QUICK.scale, 1.0]
    assert not plans[0].memory
    assert plans[2].memory
