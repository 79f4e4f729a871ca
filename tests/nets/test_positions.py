"""A net that is given positions and reads none says so, once."""

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from tests.compare.tasks_for_tests import Majority
from tokennet import Attention, MeanReadout, TokenNet, Tokens
from tokennet.compare import Budget, compare
from tokennet.mixers import Recurrence
from tokennet.models import deep_sets, encoder, vit
from tokennet.nets import PrependTokens, TokenWise
from tokennet.positional import LearnedEncoding, Rotary, SinusoidalEncoding
from tokennet.tokenizers import Patches

TOKENS = Tokens(torch.randn(4, 8), pos=torch.arange(4.0)[:, None])


def said(*calls):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for call in calls:
            call()
    told = [str(warning.message) for warning in found]
    return [text for text in told if "tokens.pos" in text]


def net_of(*layers):
    return TokenNet([*layers, Attention(8, 2)], MeanReadout(8, 3))


def test_positions_that_no_layer_reads_are_said_once():
    for net in (net_of(), encoder(8, 3, dim=8, depth=1), net_of(TokenNet([Attention(8, 2)]))):
        (told,) = said(lambda n=net: n(TOKENS), lambda n=net: n(TOKENS))
        assert told.startswith("TokenNet does not use tokens.pos: none of its layers reads")
        copies = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
        assert not said(*(lambda c=twin: c(TOKENS) for twin in copies))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: SinusoidalEncoding(8),
        lambda: LearnedEncoding(8, 4),
        lambda: Attention(8, 2, position=Rotary(by="pos")),
        lambda: Recurrence(8),
        lambda: TokenNet([PrependTokens(8), SinusoidalEncoding(8, "index")]),
    ],
)
def test_a_net_that_reads_positions_or_the_index_says_nothing(layer):
    assert not said(lambda: net_of(layer())(TOKENS))


def test_nothing_is_said_without_positions_or_of_a_part_of_a_net():
    z = torch.randn(4, 8)
    silent = net_of()
    silent.warns_of_positions = False
    assert not said(
        lambda: net_of()(z),
        lambda: net_of()(Tokens(z)),
        lambda: TokenNet([Attention(8, 2)])(TOKENS),
        lambda: Attention(8, 2)(TOKENS),
        lambda: silent(TOKENS),
    )


def test_positions_of_tokenizers():
    patches = Patches(2)(torch.randn(1, 3, 4, 4))
    table = vit(12, 3, num_tokens=4, dim=8, depth=1, num_heads=2)
    assert not said(lambda: table(patches))
    assert len(said(lambda: deep_sets(12, 3, dim=8)(patches))) == 1


def test_a_comparison_says_nothing(tmp_path):
    budget = Budget(size=4_000, epochs=1)
    call = partial(compare, Majority(), nets=["mean@full"], seeds=1, budget=budget, out=tmp_path)
    assert not said(call)


def test_vectors_that_are_the_positions_use_them(recwarn):
    net = TokenNet([TokenWise(nn.Linear(3, 8))], MeanReadout(8, 2))
    points = torch.randn(5, 2)
    net(Tokens(torch.cat([points, torch.ones(5, 1)], 1), pos=points))
    batch = torch.randn(3, 5, 2)
    torch.vmap(lambda pos: net(Tokens(torch.cat([pos, torch.ones(5, 1)], 1), pos=pos)))(batch)
    assert not recwarn
