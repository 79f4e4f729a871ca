"""Recurrence is that of torch; sets of a ragged batch have states of their own."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.axes import pairwise
from tests.mixers.same_weights import compare_entries
from tokennet import Causal, Full, Tokens, Window
from tokennet.mixers import Recurrence, recurrence
from tokennet.mixers._ragged import set_by_set

DIM = 6
PEERS = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}


@pairwise(cell=PEERS, layers=[1, 2], bidirectional=[False, True])
def test_values_and_gradients_are_those_of_torch(cell, layers, bidirectional):
    ours = Recurrence(DIM, cell, num_layers=layers, bidirectional=bidirectional).double()
    theirs = PEERS[cell](
        DIM, DIM // (1 + bidirectional), layers, batch_first=True, bidirectional=bidirectional
    ).double()
    ours.cells.load_state_dict(theirs.state_dict())
    z = torch.randn(2, 7, DIM, dtype=torch.float64, requires_grad=True)
    graph = Full(7) if bidirectional else Causal(7)
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    compare_entries(ours(z, graph=graph), theirs(z)[0], z, pairs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_cudnn_keeps_what_a_backward_pass_needs_also_in_evaluation(training, grad, monkeypatch):
    """It refuses to go back through a call that was not said to be training."""
    told, real = [], torch.gru
    monkeypatch.setattr(torch, "gru", lambda *args: told.append(args[-3]) or real(*args))
    layer = Recurrence(DIM).train(training)
    with torch.set_grad_enabled(grad):
        layer(torch.randn(3, DIM), graph=Causal(3))
    assert told == [training or grad]


@pairwise(cell=PEERS, bidirectional=[False, True], batch=[(), (2,), (2, 3)])
def test_packed_sets_are_sets_one_by_one(cell, bidirectional, batch):
    layer = Recurrence(DIM, cell, num_layers=2, bidirectional=bidirectional).double()
    sets = [Tokens(torch.randn(*batch, n, DIM, dtype=torch.float64)) for n in (2, 5, 0, 1, 5, 3)]
    ragged = Tokens.batch(sets)
    together = layer(ragged)
    for alone, part in zip(sets, together.unbatch(), strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)
    by_size = set_by_set(
        lambda z, _, part: layer.mix_set(z, part), ragged.z, ragged.z, ragged.graph
    )
    torch.testing.assert_close(by_size, together.z)  # what a compiled net does


def test_graphs_that_lack_a_connection_are_refused():
    z = torch.zeros(5, DIM)
    with pytest.raises(ValueError, match=r"graph must be Causal\(5\) or contain it"):
        Recurrence(DIM)(z, graph=Window(5, 3))
    with pytest.raises(ValueError, match=r"graph must be Full\(5\) or contain it"):
        Recurrence(DIM, bidirectional=True)(z, graph=Causal(5))
    Recurrence(DIM)(z, graph=Window(5, 4))


AUTOCAST = """
import torch
from tokennet import Causal, Tokens
from tokennet.mixers import Recurrence
for cell in ("gru", "lstm", "rnn"):
    layer = Recurrence(8, cell)
    tokens = Tokens.batch([Tokens(torch.randn(n, 8), Causal(n)) for n in (3, 2)])
    exact = layer(tokens).z
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(tokens).z
        layer.step(Tokens(tokens.z[:2]), Causal(2))
    assert (out.float() - exact).abs().max() < 0.1, cell
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters()), cell
"""


def test_autocast_on_a_cpu_without_avx512():
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    subprocess.run([sys.executable, "-c", AUTOCAST], env=env, check=True)


@pytest.mark.parametrize("supported", [True, False])
def test_lstm_under_autocast_has_the_same_types_on_any_cpu(supported, monkeypatch):
    real = torch.lstm

    def lstm(z, *args):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor")
        return real(z, *args)

    recurrence._cpu_has_lstm.cache_clear()
    if not supported:
        monkeypatch.setattr(torch, "lstm", lstm)
        monkeypatch.setattr(recurrence, "_cpu_has_lstm", lambda dtype: False)
    elif not recurrence._cpu_has_lstm(torch.bfloat16):
        pytest.skip("this CPU has no LSTM in bfloat16")
    layer = Recurrence(DIM, "lstm")
    with torch.autocast("cpu", torch.bfloat16):
        out, state = layer.step(Tokens(torch.randn(3, DIM)), Causal(3))
        out, state = layer.step(Tokens(torch.randn(1, DIM)), Causal(4).last(1), state)
    assert out.z.dtype == torch.bfloat16
    assert {part.dtype for part in state} == {torch.bfloat16}


def test_a_causal_graph_lists_no_edges():
    graph = Causal(1_000_000)
    Recurrence(DIM).check_graph(graph)
    assert not any(key[0].__name__ == "_build_edge_index" for key in graph._cache)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recurrence(DIM, "elman"), "cell must be one of gru, lstm, rnn; got 'elman'"),
        (lambda: Recurrence(5, bidirectional=True), "dim must be even for two directions, got 5"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
