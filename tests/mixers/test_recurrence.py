"""Recurrence is that of torch; sets of a ragged batch have states of their own."""

import pytest
import torch
from torch import nn

from tests.mixers.test_parity_timm import compare
from tokennet import Causal, Full, Recurrence, Tokens, Window
from tokennet.mixers.ragged import set_by_set

DIM = 6
PEERS = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", PEERS)
def test_values_and_gradients_are_those_of_torch(cell, layers, bidirectional):
    ours = Recurrence(DIM, cell, num_layers=layers, bidirectional=bidirectional).double()
    theirs = PEERS[cell](
        DIM, DIM // (1 + bidirectional), layers, batch_first=True, bidirectional=bidirectional
    ).double()
    ours.cells.load_state_dict(theirs.state_dict())
    z = torch.randn(2, 7, DIM, dtype=torch.float64, requires_grad=True)
    graph = Full(7) if bidirectional else Causal(7)
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    compare(ours(z, graph=graph), theirs(z)[0], z, pairs)


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


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("cell", PEERS)
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
