"""Declarations and measurements, and that the measurements can tell one from the other."""

import pytest
import torch
from torch import nn

from tokennet import Attention, Causal, Cycle, Full, Residual, Symmetry, TokenNet, Tokens
from tokennet.symmetry import intersection
from tokennet.testing import random_permutation, relabeling_error, shuffling_error


def test_symmetry_is_what_is_not_read():
    assert Symmetry().shuffling == "S_n"
    assert Symmetry({"graph"}).shuffling == "Aut(graph)"
    assert Symmetry({"pos", "graph"}).shuffling == "Aut(graph, pos)"
    assert Symmetry({"index", "graph"}).shuffling == "trivial"
    assert Symmetry({"graph", "pos"}).relabeling == "S_n"
    assert Symmetry({"index"}).relabeling == "trivial"
    both = intersection([Symmetry({"graph"}), Symmetry(), Symmetry({"pos"})])
    assert both == Symmetry({"graph", "pos"})
    assert str(both) == "relabeling S_n, shuffling Aut(graph, pos)"
    with pytest.raises(ValueError, match=r"reads must be among .* got \['color'\]"):
        Symmetry({"color"})


def test_a_complete_graph_and_absent_positions_show_nothing():
    reads_both = Symmetry({"graph", "pos"})
    z = torch.zeros(3, 2)
    assert reads_both.on(Tokens(z)).shuffling == "S_n"
    assert reads_both.on(Tokens(z, Causal(3))).shuffling == "Aut(graph)"
    assert reads_both.on(Tokens(z, pos=torch.zeros(3, 1))).shuffling == "Aut(pos)"


def attention_net():
    return TokenNet([Residual(Attention(8, 2), nn.LayerNorm(8)) for _ in range(2)])


@pytest.mark.parametrize("graph", [Full(7), Causal(7), Cycle(7)], ids=repr)
def test_attention_commutes_with_relabeling_on_any_graph(graph):
    tokens = Tokens(torch.randn(2, 7, 8), graph)
    assert 0 < relabeling_error(attention_net(), tokens) < 1e-13


def test_shuffling_tells_a_set_from_a_sequence():
    net = attention_net()
    assert shuffling_error(net, Tokens(torch.randn(7, 8))) < 1e-13
    assert shuffling_error(net, Tokens(torch.randn(7, 8), Causal(7))) > 1e-2


def test_invariant_outputs_are_held_against_themselves():
    def pooled(tokens):
        return tokens.z.sum(-2)

    def first(tokens):
        return tokens.z[..., 0, :]

    tokens = Tokens(torch.randn(6, 8))
    assert shuffling_error(pooled, tokens, invariant=True) < 1e-14
    assert shuffling_error(first, tokens, invariant=True) > 1e-2


def test_the_model_is_left_as_it_was():
    net = nn.Sequential(nn.Dropout(0.5)).train()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    relabeling_error(lambda tokens: net(tokens.z), Tokens(torch.randn(4, 3)))
    module = attention_net().train()
    relabeling_error(module, Tokens(torch.randn(4, 8)))
    assert module.training
    assert next(module.parameters()).dtype == torch.float32
    assert before.keys() == net.state_dict().keys()


def test_random_permutations_stay_within_the_sets_of_a_ragged_batch():
    ragged = Tokens.batch([Tokens(torch.zeros(n, 1)) for n in (3, 4)]).graph
    perm = random_permutation(ragged, torch.Generator().manual_seed(0))
    assert sorted(perm[:3].tolist()) == [0, 1, 2]
    assert sorted(perm[3:].tolist()) == [3, 4, 5, 6]


def test_what_is_no_number_is_no_symmetry():
    def sometimes(tokens):
        return tokens.z / (tokens.z[..., :1, :] == start)  # finite as it came, not when moved

    tokens = Tokens(torch.randn(6, 3).double())
    start = tokens.z[:1]
    assert not shuffling_error(sometimes, tokens) < 1e9


def test_a_pooled_output_must_be_called_invariant():
    with pytest.raises(ValueError, match="for a pooled output say invariant=True"):
        shuffling_error(lambda tokens: tokens.z.sum(-2), Tokens(torch.randn(2, 6, 3)))


def test_a_ragged_batch_of_complete_graphs_shows_nothing():
    sets = [Tokens(torch.zeros(n, 8), Full(n)) for n in (2, 3)]
    assert attention_net().symmetry.on(Tokens.batch(sets)).shuffling == "S_n"
    sets[1] = sets[1].replace(graph=Causal(3))
    assert attention_net().symmetry.on(Tokens.batch(sets)).shuffling == "Aut(graph)"


def test_a_tensor_is_a_set_on_the_complete_graph():
    assert shuffling_error(attention_net(), torch.randn(5, 8)) < 1e-13
