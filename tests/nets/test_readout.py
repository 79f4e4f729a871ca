"""Readouts: invariant or not, and set by set in a ragged batch."""

import pytest
import torch

from tokennet import Causal, Disjoint, Full, MeanReadout, Tokens
from tokennet.nets import READOUTS, AttentionReadout, ClassTokenReadout, TokenReadout


@pytest.mark.parametrize("name", READOUTS)
def test_a_ragged_batch_is_read_out_set_by_set(name):
    options = {"num_heads": 2} if name == "attention" else {}
    readout = READOUTS[name](8, 3, **options).double()
    sets = [Tokens(torch.randn(n, 8).double(), Causal(n)) for n in (2, 5, 1)]
    together = readout(Tokens.batch(sets))
    alone = [readout(tokens) for tokens in sets]
    alone = torch.cat(alone) if name == "token" else torch.stack(alone)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", READOUTS)
def test_leading_dimensions_are_kept(name):
    readout = READOUTS[name](8, 3)
    z = torch.randn(2, 4, 5, 8)
    out = readout(Tokens(z))
    assert out.shape == ((2, 4, 5, 3) if name == "token" else (2, 4, 3))
    torch.testing.assert_close(out[1, 2], readout(Tokens(z[1, 2])))


@pytest.mark.parametrize("name", ["mean", "attention"])
def test_pooling_is_invariant(name):
    readout = READOUTS[name](8, 3).double()
    z = torch.randn(6, 8).double()
    torch.testing.assert_close(readout(Tokens(z[torch.randperm(6)])), readout(Tokens(z)))


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
def test_pooling_of_ragged_sets_has_the_values_and_gradients_of_each_set(name):
    torch.compiler.reset()
    pool, z = READOUTS[name](3, 2).double().pool, torch.randn(7, 3).double().requires_grad_()
    graph = Disjoint([Full(2), Full(0), Full(5)])
    z.data[3] = z.data[4]  # equal largest values share the gradient
    parts = [pool(Tokens(part)) for part in z.split([2, 0, 5])]
    weight = torch.randn(3, 3).double()
    wanted = torch.autograd.grad((torch.stack(parts) * weight).sum(), z)
    for run in (pool, torch.compile(pool, fullgraph=True, backend="aot_eager")):
        pooled = run(Tokens(z, graph))
        torch.testing.assert_close(pooled, torch.stack(parts))
        found = torch.autograd.grad((pooled * weight).sum(), z)
        torch.testing.assert_close(found, wanted)
    distinct = torch.randn(7, 3).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: pool(Tokens(z, graph)), distinct)


def test_mean_by_hand():
    readout = MeanReadout(2, 2)
    z = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert readout.pool(Tokens(z)).tolist() == [2.0, 4.0]
    ragged = Tokens.batch([Tokens(z), Tokens(z[:0]), Tokens(z[:1])])
    assert readout.pool(ragged).tolist() == [[2.0, 4.0], [0.0, 0.0], [1.0, 2.0]]
    assert readout.pool(Tokens(z[:0])).tolist() == [0.0, 0.0]


def test_one_token_counts_within_its_set():
    z = torch.arange(5.0)[:, None]
    ragged = Tokens.batch([Tokens(z[:2]), Tokens(z[2:])])
    assert ClassTokenReadout(1, 1, index=-1).pool(ragged).tolist() == [[1.0], [4.0]]
    assert ClassTokenReadout(1, 1, index=1).pool(Tokens(z)).tolist() == [1.0]
    with pytest.raises(ValueError, match="index 2 names no token of a set of 2"):
        ClassTokenReadout(1, 1, index=2).pool(ragged)


def test_per_token_keeps_the_tokens():
    assert TokenReadout(4, 2)(Tokens(torch.zeros(3, 4))).shape == (3, 2)


def test_flops_of_attention_pooling():
    readout, tokens = AttentionReadout(8, 3, num_heads=2), Tokens(torch.randn(2, 5, 8), Full(5))
    # Two sets: questions and answers (2 x 2 D^2), keys and values (2 x 2 D^2 a token), edges, head.
    expected = 2 * 2 * 2 * 8 * 8 + 2 * 2 * 10 * 8 * 8 + 4 * 8 * 10 + 2 * 2 * 8 * 3
    assert readout.flops(tokens) == expected


def test_attention_pooling_by_hand():
    readout, z = AttentionReadout(8, 3, num_heads=2).double(), torch.randn(5, 8).double()
    attention = readout.attention
    q = attention.query(readout.query).view(2, 4)
    k, v = attention.key(z).view(5, 2, 4), attention.value(z).view(5, 2, 4)
    weights = ((q * k).sum(-1) / 4**0.5).softmax(0)  # (5, 2)
    answer = attention.out((weights[..., None] * v).sum(0).flatten())
    torch.testing.assert_close(readout.pool(Tokens(z, Causal(5))), answer)


def test_the_query_of_attention_pooling_starts_at_length_one():
    query = AttentionReadout(1024, 3).query.detach()
    assert float(query.norm()) == pytest.approx(1, rel=0.1)
