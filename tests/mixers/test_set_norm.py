"""A norm over a set is torch's GroupNorm of one group, set by set."""

import pytest
import torch
from torch import nn

from tests.mixers.same_weights import compare, copy_linear
from tokennet import Causal, Tokens
from tokennet.mixers import SetNorm

DIM = 6


def pair():
    theirs, ours = nn.GroupNorm(1, DIM, eps=0.1).double(), SetNorm(DIM, eps=0.1).double()
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    return ours, theirs, copy_linear(ours, theirs)


def test_it_is_group_norm_of_one_group():
    ours, theirs, pairs = pair()
    z = (3 + torch.randn(2, 7, DIM, dtype=torch.float64)).requires_grad_()
    compare(ours(z), theirs(z.mT).mT, z, pairs)


def test_sets_have_statistics_of_their_own():
    ours, _, _ = pair()
    sets = [Tokens(torch.randn(n, DIM).double() * n) for n in (4, 1, 0, 4)]
    for part, alone in zip(ours(Tokens.batch(sets)).unbatch(), sets, strict=True):
        torch.testing.assert_close(part.z, ours(alone).z)


def test_another_set_gives_the_statistics():
    ours, _, _ = pair()
    z, source = torch.randn(3, DIM).double(), 5 + 2 * torch.randn(9, DIM).double()
    normal = (z - source.mean()) / (source.var(correction=0) + 0.1).sqrt()
    torch.testing.assert_close(ours(z, source), ours.weight * normal + ours.bias)


def test_many_numbers_in_half_precision():
    z = 100.25 + torch.randn(4096, DIM)  # between two numbers of bfloat16
    got, want = SetNorm(DIM)(z.bfloat16().float()), SetNorm(DIM).bfloat16()(z.bfloat16())
    assert (got - want.float()).abs().max() < 0.05


def test_every_token_hears_of_every_other():
    ours, _, _ = pair()
    with pytest.raises(ValueError, match="graph must be complete, set by set, for SetNorm"):
        ours(Tokens(torch.zeros(4, DIM).double(), Causal(4)))
