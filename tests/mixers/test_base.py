"""Listening to another set: complete by default, set by set between ragged batches."""

import pytest
import torch

from tokennet import (
    Aggregate,
    Attention,
    Causal,
    Cycle,
    Disjoint,
    Full,
    GraphAttention,
    TokenGraph,
    Tokens,
)  # fmt: skip
from tokennet.mixers import GraphIsomorphism
from tokennet.mixers.base import cross_graph

KINDS = {
    "attention": lambda: Attention(8, 2, source_dim=6),
    "gat": lambda: GraphAttention(8, 2, source_dim=6),
    "mean": lambda: Aggregate(8, "mean", source_dim=6),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_batches_listen_set_by_set(kind):
    mixer = KINDS[kind]().double()
    asking = [Tokens(torch.randn(n, 8).double()) for n in (2, 0, 3)]
    answering = [Tokens(torch.randn(n, 6).double(), Causal(n)) for n in (4, 5, 1)]
    together = mixer(Tokens.batch(asking), Tokens.batch(answering))
    for part, ask, answer in zip(together.unbatch(), asking, answering, strict=True):
        torch.testing.assert_close(part.z, mixer(ask, answer).z)


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_between_two_sets_is_complete_unless_given(kind):
    mixer, z, source = KINDS[kind](), torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    torch.testing.assert_close(mixer(z, source), mixer(z, source, Full(3, 5)))
    one_each = Disjoint([Full(1, 2), Full(1, 2), Full(1, 1)])
    parts = [mixer(z[:, i : i + 1], source[:, 2 * i : 2 * i + 2]) for i in range(3)]
    torch.testing.assert_close(mixer(z, source, one_each), torch.cat(parts, 1))


def test_what_a_ragged_batch_listens_to_must_be_said():
    ragged = Tokens.batch([Tokens(torch.randn(n, 8)) for n in (2, 3)])
    for source in (Tokens(torch.randn(5, 6)), Tokens.batch([Tokens(torch.randn(5, 6))])):
        with pytest.raises(ValueError, match="graph must be given where tokens and source are not"):
            KINDS["attention"]()(ragged, source)


def test_an_empty_batch_of_sums():
    assert GraphIsomorphism(8)(Tokens(torch.zeros(0, 3, 8), Cycle(3))).z.shape == (0, 3, 8)


def test_only_a_few_graphs_to_sources_of_other_sizes_are_kept():
    """A batch of questions that is kept for the whole training meets sets of any sizes."""
    layer, questions = Attention(8, 2), Tokens.batch([torch.randn(4, 8) for _ in range(3)])
    for size in range(1, 12):
        parts = [torch.randn(size + extra, 8) for extra in range(3)]
        found = layer(questions, Tokens.batch(parts)).unbatch()
        for answer, question, part in zip(found, questions.unbatch(), parts, strict=True):
            torch.testing.assert_close(answer.z, layer(question, Tokens(part)).z)
    kept = [value for value in questions.graph._cache.values() if isinstance(value, TokenGraph)]
    assert len(kept) <= 4
    assert cross_graph(questions.graph, Tokens.batch(parts).graph) is kept[-1]
