"""All peers compute the same; one that does not is refused."""

import dataclasses

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from tests.axes import in_turn
from tokennet import Causal, Disjoint, Full, Window
from tokennet.bench.graphs import molecules
from tokennet.bench.peers import COMPILED, PEERS, build_peers, flex, pyg, tokennet, varlen
from tokennet.bench.setting import Setting, check_agreement, prepare
from tokennet.bench.workloads import LEVELS, SUITES, WORKLOADS, Workload

SMALL = 0.003
CALLS = [
    pytest.param(name, level, marks=() if turn == number % len(levels) else pytest.mark.sweep)
    for number, name in enumerate(SUITES["cpu"].cases)
    for levels in [WORKLOADS[name].levels]
    for turn, level in enumerate(levels)
]
"""By default at one level each, in turn."""


def small(name, level="layer", **options):
    workload = WORKLOADS[name]
    return prepare(workload, level, workload.make(SMALL), **options)


@pytest.mark.parametrize(("name", "level"), CALLS)
def test_peers_agree(name, level):
    setting = small(name, level)
    peers, _ = build_peers(setting, without=COMPILED)
    assert list(peers)[:2] == ["tokennet", "pyg"]
    check_agreement(peers, setting)


def test_every_kind_of_case_has_the_peers_it_should():
    def names(name, level="layer"):
        return set(build_peers(small(name, level), without=COMPILED)[0])

    every = {"tokennet", "pyg"}
    for name in ("tiny", "causal-64", "window-8192", "grid-64x64", "cora-like"):
        assert names(name) == every | {"sdpa"}
    assert names("sets-512", "attend") == every | {"sdpa", "padded", "padded each time", "nested"}
    assert names("molecules-1024") == every | {"sdpa", "padded", "padded each time"}
    assert names("gatv2-20k-400k") == every
    assert names("sparse-edges-20k-400k") == every
    assert WORKLOADS["gatv2-20k-400k"].levels == ("layer",)


@pytest.fixture
def uncompiled(monkeypatch):
    compiled = torch.compile  # uncompiled FlexAttention asks for it too

    def compile(function, **options):
        return function if function is flex_attention else compiled(function, **options)

    monkeypatch.setattr(torch, "compile", compile)


GRAPHS = {
    "full": (lambda: Full(20), 1),
    "between": (lambda: Full(7, 40), 1),
    "causal": (lambda: Causal(150), 1),
    "window": (lambda: Window(150, 3), 1),
    "sets": (lambda: Disjoint([Full(5), Full(9), Full(140)]), 1),
    "batch": (lambda: Causal(20), 3),
}


@in_turn(name=GRAPHS, level=LEVELS)
def test_flex_agrees_forward_and_has_no_backward(name, level, uncompiled):
    make, batch = GRAPHS[name]
    workload = Workload(name, name, lambda scale: make(), heads=2, channels=16, batch=batch)
    setting = prepare(workload, level, make())
    peer = flex(setting)
    assert peer.grad is None
    check_agreement({"tokennet": tokennet(setting), "flex": peer}, setting)


def test_flex_is_not_asked_to_look_edges_up():
    assert flex(small("sparse-20k-400k")) is None
    assert flex(small("molecules-1024")) is None
    full = Workload("", "", lambda scale: Full(9), 2, 4, score="additive")
    assert flex(prepare(full, "layer", Full(9))) is None


def wrong_in_one_entry(peer):
    def run(*given):
        out = peer.run(*given)
        return out + 0.1 * torch.nn.functional.one_hot(torch.tensor(3), out.shape[-1]) / len(out)

    return dataclasses.replace(peer, run=run)


def not_a_number(peer):
    return dataclasses.replace(peer, run=lambda *given: peer.run(*given) * torch.nan)


def wrong_with_a_tape(peer):
    def run(*given):
        out = peer.run(*given)
        return out * 1.01 if torch.is_grad_enabled() else out

    return dataclasses.replace(peer, run=run)


def wrong_gradient(peer):
    return dataclasses.replace(peer, grad=peer.grad * 1.01)


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (wrong_in_one_entry, "output"),
        (not_a_number, "output"),
        (wrong_with_a_tape, "output with backward"),
        (wrong_gradient, "gradient of input 1"),
    ],
)
def test_a_wrong_peer_is_refused_by_name(spoil, part):
    setting = small("complete-1024")
    peers, _ = build_peers(setting, without=COMPILED)
    peers["pyg"] = spoil(peers["pyg"])
    message = rf"pyg disagrees with tokennet on complete-1024 at the level layer: its {part} is off"
    with pytest.raises(RuntimeError, match=message):
        check_agreement(peers, setting)


def test_what_takes_too_much_memory_is_left_out_with_the_reason():
    peers, left_out = build_peers(small("window-8192", memory=1e4), without=COMPILED)
    assert list(peers) == ["tokennet"]
    assert left_out["pyg"].startswith("its messages need about")
    assert left_out["sdpa"].startswith("its scores need about")
    workload = Workload("", "", lambda scale: molecules(3, 9), 2, 4)
    _, left_out = build_peers(
        prepare(workload, "layer", workload.make(1.0), memory=1e3), without=COMPILED
    )
    assert "padded" in left_out
    setting = prepare(WORKLOADS["window-8192"], "attend", Window(90, 3), memory=1e4)
    assert flex(setting).startswith("making its block mask needs about")


def test_messages_of_half_the_size_need_half_the_memory():
    def needed(dtype):
        workload = dataclasses.replace(WORKLOADS["window-8192"], dtype=dtype)
        return pyg(prepare(workload, "attend", Window(9000, 64), memory=0))

    assert needed(torch.float32) == "its messages need about 4 GB"
    assert needed(torch.bfloat16) == "its messages need about 2 GB"


def test_sequences_need_windows_of_the_kernel(monkeypatch):
    workload = dataclasses.replace(WORKLOADS["window-8192"], dtype=torch.bfloat16)
    setting = prepare(workload, "attend", Window(90, 3))
    setting = setting._replace(grad=setting.grad.to("meta"))
    assert varlen(setting) is None
    monkeypatch.setattr(Setting, "device", torch.device("cuda"))
    monkeypatch.setattr("tokennet.bench.peers.has_windows", lambda: False)
    assert varlen(setting) == "this torch has no windows in variable-length attention"


def test_a_mask_of_too_many_entries_or_parallel_edges_is_not_made():
    graph = WORKLOADS["pubmed-like"].make(1.0)
    _, left_out = build_peers(prepare(WORKLOADS["pubmed-like"], "attend", graph), COMPILED)
    assert left_out["sdpa"] == "its mask would have 389 million entries"
    _, left_out = build_peers(small("sparse-20k-400k"), COMPILED)
    assert left_out["sdpa"] == "a mask cannot hold parallel edges"


@pytest.mark.parametrize("name", [name for name in PEERS if name not in {*COMPILED, "varlen"}])
def test_a_step_forward_keeps_no_tape_and_both_gives_gradients_to_forget(name):
    peer = PEERS[name](small("sets-512"))
    assert not peer.step("forward").requires_grad
    assert all(tensor.grad is None for tensor in peer.given)
    peer.step("both")
    assert all(tensor.grad is not None for tensor in peer.given)
    assert any(weight.grad is not None for weight in peer.weights)
    peer.forget()
    assert all(tensor.grad is None for tensor in (*peer.given, *peer.weights))


def test_a_setting_is_the_same_each_time_and_leaves_the_random_state_alone():
    first = small("tiny")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    second = small("tiny")
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(first.given, second.given, rtol=0, atol=0)
    torch.testing.assert_close(first.layer.state_dict(), second.layer.state_dict(), rtol=0, atol=0)
    assert torch.equal(first.grad, second.grad)
    assert first.given[0].std() > 0.5
    assert first.layer.query.bias.std() > 0.5
