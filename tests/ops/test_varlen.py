"""Ragged sets and windows by flash attention: the calls that it gets, with a stand-in on a CPU."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.ops.kinds import gradients, qkv
from tests.oracle import attend_oracle
from tokennet import Causal, Cycle, Disjoint, Full, Self, Window, attend, explain
from tokennet.ops.backends import ragged as sets
from tokennet.ops.call import make_call
from tokennet.ops.kernels import flash as varlen

SETS = {
    "complete": lambda: Disjoint([Full(3), Full(1), Full(4)]),
    "causal": lambda: Disjoint([Causal(3), Causal(5)]),
    "bipartite": lambda: Disjoint([Full(2, 3), Full(1, 4)]),
}
BANDS = {
    "window": lambda: Window(9, 2),
    "causal window": lambda: Causal(9) & Window(9, 3),
    "anticausal window": lambda: Causal(9).T & Window(9, 3),
    "self": lambda: Self(5),
}
CASES = [("ragged", make) for make in SETS.values()] + [("banded", make) for make in BANDS.values()]
IDS = [*SETS, *BANDS]


@pytest.fixture
def calls(monkeypatch):
    """Flash attention by loops, in any type; and its calls."""
    times = []

    def stand_in(query, key, value, targets, sources, max_q, max_k, *, scale, window_size):
        times.append(1)
        assert targets.dtype == sources.dtype == torch.int32
        assert (max_q, max_k) == (int(targets.diff().max()), int(sources.diff().max()))
        before, after = (float("inf") if reach == -1 else reach for reach in window_size)
        out = []
        for a, b, c, d in zip(targets, targets[1:], sources, sources[1:], strict=False):
            parts = (x.transpose(0, 1) for x in (query[a:b], key[c:d], value[c:d]))
            back = torch.arange(b - a)[:, None] - torch.arange(d - c)
            mask = (back <= before) & (back >= -after)
            out.append(scaled_dot_product_attention(*parts, mask, scale=scale).transpose(0, 1))
        return torch.cat(out)

    monkeypatch.setattr(varlen, "varlen_attn", lambda: stand_in)
    monkeypatch.setattr(varlen, "unsupported", lambda call: None)
    return times


@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize(("backend", "make"), CASES, ids=IDS)
def test_one_call_gives_what_the_oracle_gives(backend, make, batch, calls):
    graph = make()
    q, k, v = qkv(graph, batch)
    out = attend(q, k, v, graph, backend=backend, scale=0.7)
    assert len(calls) == 1
    expected = attend_oracle(q, k, v, graph, scale=0.7)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-10)
    found = zip(gradients(out, [q, k, v]), gradients(expected, [q, k, v]), strict=True)
    for got, want in found:
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize(
    "graph",
    [
        Disjoint([Full(2), Causal(3)]),
        Disjoint([Full(2), Full(0)]),
        Disjoint([Full(2, 0), Full(1, 2)]),
    ],
    ids=str,
)
def test_sets_that_differ_or_lack_tokens_go_size_by_size(graph, calls):
    q, k, v = qkv(graph)
    expected = attend_oracle(q, k, v, graph)
    torch.testing.assert_close(attend(q, k, v, graph, backend="ragged"), expected)
    assert calls == []


def test_a_window_with_holes_is_left_to_masks(calls):
    graph = Window(140, 6) & (Cycle(140, 3) | Self(140))
    q, k, v = qkv(graph)
    expected = attend_oracle(q, k, v, graph)
    torch.testing.assert_close(attend(q, k, v, graph, backend="banded"), expected)
    assert calls == []


def test_the_work_is_that_of_one_call(calls):
    q = torch.randn(8, 2, 4)
    graph = SETS["complete"]()
    assert sets.work(make_call(q, q, q, graph)).calls == 1
    prospects = {p.backend: p for p in explain(q, q, q, Window(8, 1)).prospects}
    assert prospects["banded"].work.scores == 2 * 8 * 3


class Half(torch.Tensor):
    """Says that it is on a device."""

    device = torch.device("cuda")


def problem_of(dtype=torch.float16, channels=16, values=16):
    graph = Full(4)
    call = make_call(
        *(torch.randn(4, 2, c, dtype=dtype) for c in (channels, channels, values)), graph
    )
    return varlen.unsupported(type(call)(
        call.q.as_subclass(Half), call.k, call.v, graph, None, 1.0
    ))  # fmt: skip


def test_what_flash_does_not_support(monkeypatch):
    q = torch.randn(4, 2, 16).half()
    reason = varlen.unsupported(make_call(q, q, q, Full(4)))
    assert reason == "flash attention is for float16 and bfloat16 on CUDA"
    assert problem_of(torch.float32) == reason
    monkeypatch.setattr(varlen, "_problem", lambda index: None)
    assert problem_of() is None
    assert problem_of(torch.bfloat16, 256, 256) is None
    for channels, values in ((16, 8), (12, 12), (264, 264)):
        told = problem_of(channels=channels, values=values)
        assert told == "flash attention supports 8, 16, ... 256 channels, of values too"


def test_what_flash_needs_of_a_machine(monkeypatch):
    capability = [(9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability[0])
    assert varlen._problem(0) is None
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert varlen._problem(0) == "flash attention is switched off"
    capability[0] = (7, 5)
    assert "compute capability 8.0" in varlen._problem(0)
