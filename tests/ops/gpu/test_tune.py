"""How the size of a tile is chosen, with times that are made up."""

import json

import pytest
import torch

from tests.ops.gpu.problems import as_problem, hubs, run, tensors
from tokennet.ops.kernels.cuda import tune
from tokennet.ops.kernels.cuda.segments import tables


class OnCuda(torch.Tensor):
    """Says that it is on a device."""

    is_cuda = True


@pytest.fixture
def tried(monkeypatch, cache):
    """The sizes whose time was asked for; 2048 is the fastest."""
    times, found = {1024: 3.0, 512: 2.0, 2048: 1.0}, []
    monkeypatch.setattr(
        tune, "_milliseconds", lambda run, entries: found.append(entries) or times[entries]
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some device")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(tune, "_WORTH", 0)
    tune._kept.cache_clear()
    yield found
    tune._kept.cache_clear()


def choose(kind="dot", name="forward", dtype=torch.float32):
    graph = hubs()
    given = tensors(graph, kind, (2, 4, 4), dtype=dtype)
    problem = run(as_problem, graph, {key: x.detach() for key, x in given.items()})
    problem = problem._replace(q=problem.q.as_subclass(OnCuda))
    return tune.run_fastest(name, problem, tables(problem.plan).by_target, lambda entries: entries)


def test_the_fastest_is_taken_and_kept_for_calls_of_its_kind(tried, cache):
    assert choose() == 2048
    assert tried == list(tune.ENTRIES)
    assert choose() == 2048
    assert len(tried) == 3
    for number, other in enumerate(
        [{"kind": "dot_bias"}, {"kind": "additive"}, {"name": "by target"},
         {"dtype": torch.float16}],
        start=2,
    ):  # fmt: skip
        choose(**other)
        assert len(tried) == 3 * number
    assert list(json.loads((cache / "tokennet/tiles.json").read_text()).values()) == [2048] * 5


def test_another_process_takes_what_was_chosen(tried, cache):
    choose()
    tune._kept.cache_clear()
    assert choose() == 2048
    assert len(tried) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"x": 3}', "{"])
def test_a_spoiled_file_is_as_none(tried, cache, text):
    (cache / "tokennet").mkdir(parents=True)
    (cache / "tokennet/tiles.json").write_text(text)
    assert choose() == 2048
    assert len(json.loads((cache / "tokennet/tiles.json").read_text())) == 1


def test_nothing_is_tried_for_small_calls_or_in_a_capture(tried, monkeypatch):
    monkeypatch.setattr(tune, "_WORTH", 10**9)
    assert choose() == 1024
    monkeypatch.setattr(tune, "_WORTH", 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose() == 1024
    assert tried == []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    choose()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose() == 2048  # what was chosen before


def test_a_small_call_gives_the_same_bits_before_and_after_a_large_one(tried, monkeypatch):
    choose()
    monkeypatch.setattr(tune, "_WORTH", 10**9)
    assert choose() == 1024


def test_deterministic_algorithms_take_the_first_on_every_machine(tried):
    choose()
    torch.use_deterministic_algorithms(True)
    try:
        assert choose() == 1024
    finally:
        torch.use_deterministic_algorithms(False)
