"""The fit recovers constants, the judge counts what is slow, and what is kept is found again."""

import json

import numpy as np
import pytest
import torch

from tokennet import Edges, Full, Window, attend, explain
from tokennet.bench import planner
from tokennet.bench.planner import MODES, GridCase, Measurement
from tokennet.ops import BACKENDS
from tokennet.ops import planner as cost
from tokennet.ops.call import make_call
from tokennet.ops.planner import CONSTANTS, EXACT_FLOP, Work

TRUE = [2e-5, 1e-7, 5e-9, 1e-9, 1e-11, 2e-11, 4e-11]


def work_of(rng):
    return Work(*(rng.integers(1, 9, 7) * np.array([1, 1e3, 1e4, 1e5, 1e7, 1e7, 1e6])).tolist())


def measurements(constants, count=40):
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        for mode in MODES:
            for backend, true in constants.items():
                work = work_of(rng)
                seconds = float(np.dot(true, work))
                found.append(
                    Measurement(f"case {number}", number % 2, mode, backend, work, seconds)
                )
    return found


def test_the_fit_recovers_the_constants_that_made_the_times():
    found = planner.fit(measurements({"fused": TRUE, "dense": [2 * c for c in TRUE]}))
    for mode in MODES:
        np.testing.assert_allclose(found["fused"][mode], TRUE, rtol=1e-2)
        np.testing.assert_allclose(found["dense"][mode], [2 * c for c in TRUE], rtol=1e-2)


def test_a_backend_without_a_backward_pass_is_predicted_to_take_three_times_as_long():
    only_forward = [m for m in measurements({"flex": TRUE}) if m.mode == "forward"]
    found = planner.fit(only_forward)["flex"]
    np.testing.assert_allclose(found["training"], [3 * c for c in found["forward"]], rtol=1e-9)


def test_a_backend_that_was_never_measured_has_no_constants_of_its_own():
    assert "ragged" not in planner.fit(measurements({"fused": TRUE}))


def two(fast, slow):
    work = Work(1, 0, 0, 0, 0, 0, 0)
    return [
        Measurement("one", 1, "forward", "fused", work, fast),
        Measurement("one", 1, "forward", "dense", work, slow),
    ]


def test_the_judge_compares_the_choice_with_the_best():
    slow_is_chosen = {"fused": {"forward": [2.0] * 7}, "dense": {"forward": [1.0] * 7}}
    (row,) = planner.evaluate(two(1.0, 1.3), slow_is_chosen)
    assert (row["chosen"], row["best"], row["ratio"]) == ("dense", "fused", 1.3)
    assert planner.share_within([row]) == 0.0
    assert planner.share_within([row], factor=1.3) == 1.0
    (row,) = planner.evaluate(two(1.0, 1.3), {"fused": {"forward": [0.1] * 7}, **slow_is_chosen} | {
        "fused": {"forward": [0.1] * 7}})  # fmt: skip
    assert (row["chosen"], row["ratio"]) == ("fused", 1.0)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cost.load.cache_clear()
    yield tmp_path
    cost.load.cache_clear()


def test_constants_of_this_machine_change_the_choice(own_cache):
    q = torch.randn(512, 2, 8)
    graph = Window(512, 4)
    before = explain(q, q, q, graph)
    assert before.chosen != "dense"
    free = {"dense": {mode: [1e-12] * 7 for mode in MODES}}
    path = planner.save(free, "cpu")
    assert path.is_relative_to(own_cache)
    after = explain(q, q, q, graph)
    assert after.chosen == "dense"
    torch.testing.assert_close(
        attend(q, q, q, graph), attend(q, q, q, graph, backend=before.chosen)
    )
    assert json.loads(path.read_text()) == {"cpu": free}
    planner.save(free, "cuda")
    assert set(json.loads(path.read_text())) == {"cpu", "cuda"}


@pytest.mark.parametrize("content", ["", "nonsense", "[]", '{"cpu": 3}', '{"cpu": {"fused": 1}}'])
def test_a_spoiled_file_of_constants_is_not_used(own_cache, content):
    folder = own_cache / "tokennet"
    folder.mkdir()
    (folder / "costs.json").write_text(content)
    assert cost.load("cpu") == CONSTANTS["cpu"]


def test_every_backend_has_constants_for_every_device_and_mode():
    for device, backends in CONSTANTS.items():
        assert set(backends) == set(BACKENDS), device
        for modes in backends.values():
            assert set(modes) == set(MODES)
            for constants in modes.values():
                assert len(constants) == len(Work._fields)
                assert min(constants) >= 0 < max(constants)


def test_a_wider_type_costs_more_and_a_gradient_too():
    def seconds(dtype, grad):
        q = torch.randn(256, 2, 8, dtype=dtype, requires_grad=grad)
        call = make_call(q, q, q, Window(256, 8))
        return cost.seconds("fused", call, BACKENDS["fused"].work(call))

    assert seconds(torch.float64, False) > seconds(torch.float32, False)
    assert seconds(torch.float32, True) > seconds(torch.float32, False)
    with torch.no_grad():
        assert seconds(torch.float32, True) == seconds(torch.float32, False)


def test_on_a_gpu_half_precision_alone_goes_to_tensor_cores():
    def seconds(backend, dtype):
        q = torch.empty(4096, 8, 64, dtype=dtype, device="meta")
        call = make_call(q, q, q, Full(4096))
        return cost.seconds(backend, call, BACKENDS[backend].work(call))

    assert seconds("dense", torch.float32) > 5 * seconds("dense", torch.bfloat16)
    assert seconds("fused", torch.float32) < 3 * seconds("fused", torch.bfloat16)


def test_on_a_gpu_calls_are_measured_in_half_precision(monkeypatch):
    case = GridCase("window", 1, Window(150, 2), 2, 4)
    call = planner._call(case, True, "meta")
    assert (call.q.dtype, call.q.device.type, call.q.requires_grad) == (
        torch.bfloat16,
        "meta",
        True,
    )
    asked = []
    monkeypatch.setattr(planner, "grid", lambda: iter([case]))
    monkeypatch.setattr(planner, "_call", lambda *given: asked.append(given) or call)
    monkeypatch.setattr(planner, "_times", lambda call: {"fused": 1e-3})
    assert len(planner.measure(device="cuda")) == 2
    assert [given[1:] for given in asked] == [(False, "cuda"), (True, "cuda")]


def test_rows_gathered_from_afar_are_counted_where_sources_are_scattered():
    n = 20_000
    q = torch.empty(n, 8, 64)
    scattered = Window(n, 2).relabel(torch.randperm(n, generator=torch.Generator().manual_seed(0)))
    near = BACKENDS["fused"].work(make_call(q, q, q, Window(n, 2)))
    far = BACKENDS["fused"].work(make_call(q, q, q, scattered))
    assert near.far == 0 < far.far < far.bytes
    assert near.bytes == far.bytes


def test_a_small_grid_is_measured_on_every_backend(monkeypatch):
    cases = [GridCase("full", 0, Full(8), 1, 4), GridCase("window", 1, Window(150, 2), 2, 4)]
    monkeypatch.setattr(planner, "grid", lambda: iter(cases))
    monkeypatch.setattr(planner, "SECONDS", 0.0)
    told = []
    found = planner.measure(on_case=told.append)
    assert told == ["full", "window"]
    assert {m.backend for m in found if m.case == "window"} >= {"banded", "fused", "sparse"}
    assert {m.mode for m in found} == set(MODES)
    assert not [m for m in found if (m.backend, m.mode) == ("flex", "training")]
    assert all(m.seconds > 0 for m in found)


def test_the_reference_is_taken_only_where_nothing_else_can(own_cache):
    planner.save({"reference": {mode: [1e-12] * 7 for mode in MODES}}, "cpu")
    q = torch.randn(20, 2, 8, dtype=torch.float64)
    assert explain(q, q, q, Window(20, 2)).chosen != "reference"

    def derivative(q):
        return torch.func.jvp(lambda q: attend(q, q, q, Window(20, 2)), (q,), (q,))[1]

    assert derivative(q).isfinite().all()


class OnDevice(torch.Tensor):
    """Says that it is on a device, and is on the CPU."""

    device = torch.device("cuda")
    is_cuda = True


def on_device(call):
    return call._replace(q=call.q.as_subclass(OnDevice))


@pytest.mark.parametrize(
    ("graph", "taken"),
    [
        (Window(1024, 8), True),
        (Window(1023, 8), False),
        (Edges(torch.arange(2048).repeat(2, 1), 2048), False),
    ],
    ids=str,
)
def test_on_a_device_flex_takes_part_where_its_compiling_pays(graph, taken, monkeypatch):
    monkeypatch.setattr(BACKENDS["flex"], "unsupported", lambda call: None)
    call = on_device(make_call(*3 * [torch.randn(graph.num_targets, 2, 16)], graph))
    assert planner._within_reason("flex", call) == taken


@pytest.mark.parametrize("mode", MODES)
def test_a_device_is_slower_where_tensor_cores_are_out(mode, monkeypatch):
    monkeypatch.setattr(cost, "load", lambda device: CONSTANTS[device])
    found = {}
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        q = torch.randn(2048, 2, 16, dtype=dtype, requires_grad=mode == "training")
        call = on_device(make_call(q, q, q, Window(2048, 64)))
        for name in ("flex", "fused"):
            found[name, dtype] = cost.seconds(name, call, Work(1, 0, 0, 0, 1e12, 0, 0))
    exact = EXACT_FLOP["flex"][mode]
    slow = found["flex", torch.float32] - found["flex", torch.bfloat16]
    assert slow == pytest.approx(1e12 * exact)
    slower = found["flex", torch.float64] - found["flex", torch.float32]
    assert slower == pytest.approx(1e12 * (exact + CONSTANTS["cuda"]["flex"][mode][4]))
    assert found["fused", torch.float32] == found["fused", torch.bfloat16]
