"""What an input is read as by its name and form, case by case: `example/guess.py` written out."""

import math

import pytest
import torch
from torch import Size, eye, full, ones, randn, tensor, where, zeros

from tokennet.testing.example.forms import Leaf
from tokennet.testing.example.guess import (
    Found,
    best_set,
    bounds_role,
    dense_role,
    is_additive,
    is_binary,
    is_integer,
    is_second_set,
    listed_role,
    named,
    speaks_of_padding,
)

EITHER = "padding:x:True=keep | padding:x:True=pad"
INT32, INT16 = torch.int32, torch.int16


def true(*shape):
    return ones(shape).bool()


def tri(n):
    return true(n, n).tril()


def leaf(name, value):
    return Leaf(name, (0,), value)


def found(name, *lead, ragged=None):
    return Found(name, Size(lead), leaf(name, zeros(*lead, 8)), ragged)


def text_of(guess):
    """The role, and those that fit as well."""
    return guess and " | ".join(map(str, (guess.role, *guess.others)))


X, CONTEXT, MEMORY = found("x", 3, 7), found("context", 3, 5), found("memory", 3, 7)
ONE, SQUARE, RAGGED = found("x", 7), found("x", 7, 7), found("x", 7, ragged=3)
RING = eye(7) + eye(7).roll(1, 1)
PREFIXES = torch.arange(7) < tensor([7, 4, 5, 6, 7, 7, 7])[:, None]

DENSE = [
    ("n", 5, [X], "other"),
    ("lengths", tensor([7, 4, 5]), [X], "lengths:x"),
    ("lengths", tensor([7.0, 4.0, 5.0]), [X], "per_set"),
    ("num_tokens", tensor([7, 4]), [X], "other"),
    ("context_lens", tensor([5, 4, 3]), [X, CONTEXT], "lengths:context"),
    ("mask", true(3, 7), [X], EITHER),
    ("pad_mask", true(3, 7), [X], "padding:x:True=pad"),
    ("key_padding_mask", true(3, 7), [X], "padding:x:True=pad"),
    ("invalid", true(3, 7), [X], "padding:x:True=pad"),
    ("attention_mask", ones(3, 7), [X], "padding:x:True=keep"),
    ("attention_mask", ones(3, 7).long(), [X], "padding:x:True=keep"),
    ("valid", true(3, 7), [X], "padding:x:True=keep"),
    ("is_real", true(3, 7), [X], "padding:x:True=keep"),
    ("hot", ones(3, 7), [X], "padding:x:True=keep | tokens:-1:x"),
    ("flag", true(3, 7), [X], "padding:x:True=keep | tokens:-1:x"),
    ("segment", ones(3, 7).long(), [X], "tokens:-1:x"),
    ("mask", true(7), [X], EITHER),
    ("mask", true(1, 7), [X], EITHER),
    ("flag", true(7), [X], "tokens:-1:x"),
    ("mask", true(3, 1, 1, 7), [X], EITHER),
    ("mask", true(3, 2, 1, 7), [X], "per_set"),
    ("bias", zeros(3, 1, 1, 7), [X], "padding:x:True=keep"),
    ("bias", full((3, 1, 1, 7), -math.inf), [X], "padding:x"),
    ("bias", zeros(3, 1, 7), [X], "padding:x:True=keep"),
    ("context_mask", true(3, 5), [X, CONTEXT], EITHER.replace("x", "context")),
    ("mask", true(3, 5), [X, CONTEXT], EITHER.replace("x", "context")),
    ("memory_mask", true(3, 7), [X, MEMORY], EITHER.replace("x", "memory")),
    ("attn_mask", tri(7), [X], "pairs:-2,-1:x"),
    ("attn_mask", true(3, 7), [X], EITHER),
    ("mask", true(3, 6), [X], "per_set"),
    ("y", randn(3, 4), [X], "per_set"),
    ("labels", tensor([1, 2, 0]), [X], "per_set"),
    ("labels", ones(3, 7).long(), [X], "tokens:-1:x"),
    ("target", randn(3, 7, 2), [X], "per_set"),
    ("decoder_input_ids", ones(3, 7).long(), [X], "per_set"),
    ("decoder_input_ids", ones(3, 4).long(), [X], "per_set"),
    ("time", randn(3), [X], "per_set"),
    ("pairs", randn(7, 7), [X], "pairs:-2,-1:x"),
    ("pairs", randn(3, 7, 7), [X], "pairs:-2,-1:x"),
    ("pairs", randn(3, 2, 7, 7), [X], "pairs:-2,-1:x"),
    ("pairs", randn(1, 1, 7, 7), [X], "pairs:-2,-1:x"),
    ("pairs", randn(6, 7, 7), [X], "pairs:-2,-1:x"),
    ("pairs", randn(4, 7, 7), [X], "pairs:-2,-1:x"),
    ("u", randn(4, 7, 7), [X], "other"),
    ("pairs", randn(3, 7, 7, 2), [X], "pairs:-3,-2:x"),
    ("adj", true(3, 7, 7), [X], "pairs:-2,-1:x"),
    ("mask", true(3, 7, 7), [X], "pairs:-2,-1:x"),
    ("mask", randn(3, 7, 7), [X], "pairs:-2,-1:x"),
    ("cross_bias", randn(3, 7, 5), [X, CONTEXT], "pairs:-2,-1:x,context"),
    ("u", randn(3, 7, 5), [X, CONTEXT], "tokens:-2:x"),
    ("u", true(3, 7, 5), [X, CONTEXT], "pairs:-2,-1:x,context"),
    ("edge", randn(5, 7), [X, CONTEXT], "pairs:-2,-1:context,x"),
    ("pos", randn(3, 7, 2), [X], "positions:-2:x"),
    ("coords", randn(7, 2), [X], "positions:-2:x"),
    ("u", randn(7, 2), [X], "tokens:-2:x"),
    ("u", randn(3, 7, 8), [X], "tokens:-2:x"),
    ("key", randn(3, 7, 8), [X], "tokens:-2:x"),
    ("1", randn(3, 7, 8), [X], "tokens:-2:x"),
    ("u", randn(3, 7, 2), [X], "tokens:-2:x"),
    ("types", full((3, 7), 2), [X], "tokens:-1:x"),
    ("types", full((7,), 2), [ONE], "tokens:-1:x"),
    ("u", full((3, 7), 2), [X], "tokens:-1:x"),
    ("w", randn(7), [X], "tokens:-1:x"),
    ("w", randn(1, 7), [X], "tokens:-1:x"),
    ("position_ids", torch.arange(7)[None], [X], "positions:-1:x"),
    ("w", randn(3), [found("x",3, 3)], "tokens:-1:x"),
    ("y", randn(3), [found("x",3, 3)], "per_set"),
    ("t", randn(3), [found("x",3, 3)], "per_set"),
    ("label", randn(3), [found("x",3, 3)], "per_set"),
    ("u", randn(3, 9), [X], "per_set"),
    ("u", randn(9), [X], "other"),
    ("u", randn(7, 9), [X], "tokens:-2:x"),
    ("u", randn(7, 9), [ONE], "tokens:-2:x"),
    ("mask", tri(7), [SQUARE], f"pairs:-2,-1:x | {EITHER}"),
    ("mask", ~tri(7), [SQUARE], f"pairs:-2,-1:x | {EITHER}"),
    ("m", randn(7, 7) > 3, [SQUARE], "padding:x:True=keep | tokens:-1:x | pairs:-2,-1:x"),
    ("mask", PREFIXES, [SQUARE], f"{EITHER} | pairs:-2,-1:x"),
    ("pad_mask", tri(7), [SQUARE], "padding:x:True=pad"),
    ("w", randn(7, 7), [SQUARE], "tokens:-1:x | pairs:-2,-1:x"),
    ("dist", randn(7, 7), [SQUARE], "pairs:-2,-1:x | tokens:-1:x"),
    ("bias", where(tri(7), 0.0, -math.inf), [SQUARE], "pairs:-2,-1:x | tokens:-1:x"),
    ("adj", RING, [SQUARE], "pairs:-2,-1:x | padding:x:True=keep | tokens:-1:x"),
]  # fmt: skip
LISTED = [
    ("n", 5, ONE, None, False, "other"),
    ("u", tensor(3.), ONE, None, False, "other"),
    ("batch", tensor([0, 0, 1, 1, 1, 2, 2]), ONE, None, False, "membership:x"),
    ("u", tensor([0, 0, 1, 1, 1, 2, 2]), ONE, None, True, "membership:x | tokens"),
    ("u", tensor([0, 0, 1, 1, 1, 2, 2]), ONE, None, False, "tokens:-1:x"),
    ("u", tensor([0, 0, 1, 1, 1, 3, 3]), ONE, None, True, "tokens:-1:x"),
    ("u", tensor([1, 1, 1, 1, 1, 2, 2]), ONE, None, True, "tokens:-1:x"),
    ("u", tensor([0, 0, 0, 0, 0, 0, 0]), ONE, None, True, "padding:x:True=keep | tokens:-1:x"),
    ("atom", tensor([0, 0, 1, 1, 1, 2, 2]), ONE, None, True, "tokens:-1:x"),
    ("z", tensor([0, 0, 1, 1, 1, 2, 2]), ONE, None, True, "tokens:-1:x"),
    ("batch", tensor([0, 0, 1, 1, 1, 2, 2]), ONE, 7, True, "membership:x"),
    ("index", tensor([0, 0, 1, 1, 1, 2, 2]), ONE, 7, True, "tokens:-1:x"),
    ("index", tensor([0, 0, 1, 1, 1, 2, 2]), ONE, 9, True, "membership:x"),
    ("batch", tensor([0, 0, 1, 1, 1, 2, 2]), RAGGED, None, True, "tokens:-1:x"),
    ("mask", tensor([0, 0, 1, 1, 1, 1, 1]), ONE, None, True, EITHER),
    ("edge_attr", randn(9, 2), ONE, 9, False, "edges:-2"),
    ("u", randn(9), ONE, 9, False, "edges:-1"),
    ("edge_attr", randn(7, 2), ONE, 7, False, "edges:-2"),
    ("pos", randn(7, 2), ONE, 7, False, "positions:-2:x"),
    ("u", tensor([5, 5, 2, 3, 3, 1, 1]), ONE, 7, False, "tokens:-1:x"),
    ("u", randn(7, 2), ONE, 9, False, "tokens:-2:x"),
    ("pos", randn(7, 3), ONE, 9, False, "positions:-2:x"),
    ("mask", true(7), ONE, None, False, EITHER),
    ("flag", true(7), ONE, None, False, "padding:x:True=keep | tokens:-1:x"),
    ("flag", true(7), ONE, 9, False, "tokens:-1:x"),
    ("flag", true(7), RAGGED, None, False, "tokens:-1:x"),
    ("label", tensor([1, 0, 1, 0, 1, 1, 0]), ONE, None, False, "tokens:-1:x"),
    ("u", tensor([5, 5, 2, 3, 3, 1, 1]), ONE, None, False, "tokens:-1:x"),
    ("u", tensor([5, 5, 2, 3, 3, 1, 1]), RAGGED, None, False, "tokens:-1:x"),
    ("u", randn(1, 7), ONE, None, False, "tokens:-1:x"),
    ("pos", randn(1, 7), ONE, None, False, "positions:-1:x"),
    ("y", randn(3), RAGGED, None, False, "per_set"),
    ("y", randn(3), ONE, None, False, "other"),
    ("y", randn(4, 2), RAGGED, None, False, "other"),
]  # fmt: skip
BOUNDS = [
    ("ptr", tensor([0, 3, 7]), ONE, "ptr:x"),
    ("ptr", tensor([0, 3, 8]), ONE, None),
    ("u", tensor([0, 3, 7]), ONE, "ptr:x"),
    ("u", tensor([0, 0, 7]), ONE, "ptr:x"),
    ("u", tensor([0, 1]), found("x",1), None),
    ("offsets", tensor([0, 3, 5]), ONE, "ptr:x"),
    ("u", tensor([0, 3, 5]), ONE, None),
    ("starts", tensor([0,]), ONE, "ptr:x"),
    ("starts", tensor([1, 3]), ONE, None),
    ("lengths", tensor([3, 4]), ONE, "lengths:x"),
    ("sizes", tensor([3, 0, 4]), ONE, "lengths:x"),
    ("u", tensor([3, 4]), ONE, "lengths:x"),
    ("u", tensor([3, 0, 4]), ONE, None),
    ("u", tensor([7,]), ONE, None),
    ("u", tensor([2, 2, 2, 1]), ONE, "lengths:x"),
    ("u", tensor([1, 1, 1, 1, 1, 1, 1]), ONE, None),
    ("types", tensor([3, 4]), ONE, None),
    ("pos", tensor([3, 4]), ONE, None),
    ("mask", tensor([3, 4]), ONE, None),
    ("time", tensor([3, 4]), ONE, None),
    ("u", tensor([3, 5]), ONE, None),
    ("u", randn(2), ONE, None),
    ("u", tensor([3, 4], dtype=INT32), ONE, "lengths:x"),
    ("u", tensor([3, 4], dtype=INT16), ONE, None),
    ("u", tensor([-1, 8]), ONE, None),
    ("ptr", tensor([0, 5, 3, 7]), ONE, None),
    ("n", 5, ONE, None),
    ("cu_seqlens", tensor([0, 3, 7]), ONE, "ptr:x"),
    ("num_atoms", tensor([2, 5]), ONE, "lengths:x"),
    ("u", tensor([]), ONE, None),
]  # fmt: skip
SECOND = [
    ("context", randn(3, 5, 4), X, True),
    ("u", randn(3, 5, 4), X, True),
    ("u", randn(3, 7, 4), X, False),
    ("u", randn(3, 1, 4), X, False),
    ("u", randn(3, 5), X, False),
    ("u", randn(2, 5, 4), X, False),
    ("u", ones(3, 5, 4).long(), X, False),
    ("mask", randn(3, 5, 4), X, False),
    ("decoder_hidden_states", randn(3, 5, 4), X, True),
    ("decoder_u", randn(3, 5, 4), X, False),
    ("decoder_inputs_embeds", randn(3, 5, 4), X, True),
    ("u", full((3, 5, 4), -math.inf), X, False),
    ("u", zeros(3, 5, 4), X, True),
    ("dist", randn(3, 5, 7), X, False),
    ("u", randn(3, 5, 7), X, True),
    ("u", randn(5, 4), ONE, False),
    ("memory", randn(5, 4), ONE, True),
    ("u", randn(5, 8), ONE, True),
    ("u", 3, X, False),
    ("u", randn(4), ONE, False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "sets", "expected"), DENSE)
def test_beside_sets_of_one_size(name, value, sets, expected):
    assert text_of(dense_role(leaf(name, value), sets)) == expected


@pytest.mark.parametrize(("name", "value", "of", "num_edges", "is_last", "expected"), LISTED)
def test_beside_a_list_of_tokens(name, value, of, num_edges, is_last, expected):
    assert text_of(listed_role(leaf(name, value), of, num_edges, is_last)) == expected


@pytest.mark.parametrize(("name", "value", "of", "expected"), BOUNDS)
def test_where_the_sets_of_a_list_are(name, value, of, expected):
    assert text_of(bounds_role(leaf(name, value), of)) == expected


@pytest.mark.parametrize(("name", "value", "main", "expected"), SECOND)
def test_another_set(name, value, main, expected):
    assert is_second_set(leaf(name, value), main) is expected


WHY = [
    (dense_role(leaf("lengths", tensor([7, 4, 5])), [X]), "named so", ""),
    (
        dense_role(leaf("flag", true(3, 7)), [X]), "as it is 0 and 1",
        "pass roles={'flag': 'tokens:-1:x'} if it is a feature of each token",
    ),
    (
        dense_role(leaf("mask", true(3, 7)), [X]), "",
        "pass roles={'mask': 'padding:True=pad'} if True is padding",
    ),
    (
        dense_role(leaf("attn_mask", tri(7)), [X]), "",
        "pass roles={'attn_mask': 'pairs:True=keep'} or True=hide to say what True is",
    ),
    (
        dense_role(leaf("mask", true(3, 7, 7, 2)), [X]), "",
        "pass roles={'mask': 'pairs:-3,-2:True=keep'} or True=hide to say what True is",
    ),
    (dense_role(leaf("mask", randn(3, 7, 7)), [X]), "", ""),
    (dense_role(leaf("adj", true(3, 7, 7)), [X]), "", ""),
    (
        dense_role(leaf("u", randn(3, 7, 8)), [X]), "one row a token of x",
        "read as one set: they move together; pass roles={'u': 'tokens:u'} if it is another",
    ),
    (
        dense_role(leaf("1", randn(3, 7, 8)), [X]), "one row a token of x",
        "read as one set: they move together; pass roles={'1': 'tokens:second'} if it is another",
    ),
    (dense_role(leaf("key", randn(3, 7, 8)), [X]), "one row a token of x", ""),
    (dense_role(leaf("pos", randn(3, 7, 8)), [X]), "one row a token of x", ""),
    (dense_role(leaf("w", randn(7)), [X]), "the same for all sets", ""),
    (
        dense_role(leaf("w", randn(3)), [found("x", 3, 3)]), "the same for all sets",
        "pass roles={'w': 'per_set'} if it is one a set",
    ),
    (dense_role(leaf("u", randn(7, 2)), [X]), "one row a token, the same for all sets", ""),
    (
        dense_role(leaf("w", randn(7, 7)), [SQUARE]), "one row a token of x",
        "pass roles={'w': 'pairs'} if it is of pairs of tokens",
    ),
    (
        dense_role(leaf("mask", PREFIXES), [SQUARE]), "",
        "pass roles={'mask': 'padding:True=pad'} if True is padding; "
        "pass roles={'mask': 'pairs'} if it is of pairs of tokens",
    ),
    (
        dense_role(leaf("mask", tri(7)), [SQUARE]), "by its name or form",
        "pass roles={'mask': 'padding:True=keep' or 'padding:True=pad'} if it is of tokens",
    ),
    (
        listed_role(leaf("types", tensor([5, 5, 2, 3, 3, 1, 1])), ONE, None, False),
        "one row a token of x",
        "read as types; pass roles={'types': 'membership'} if it is the set of each token",
    ),
    (
        listed_role(leaf("u", tensor([0, 0, 1, 1, 1, 2, 2])), ONE, None, True),
        "the set of each token", "pass roles={'u': 'tokens'} if these are types",
    ),
    (
        listed_role(leaf("batch", tensor([0, 0, 1, 1, 1, 2, 2])), ONE, None, True),
        "the set of each token", "",
    ),
    (listed_role(leaf("u", randn(9, 2)), ONE, 9, False), "one entry an edge", ""),
    (bounds_role(leaf("ptr", tensor([0, 3, 7])), ONE), "as its numbers fit the tokens", ""),
    (
        bounds_role(leaf("u", tensor([3, 4])), ONE), "as its numbers fit the tokens",
        "pass roles={'u': 'other'} if these are no sizes of sets",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("guess", "why", "hint"), WHY)
def test_why_and_what_to_pass_if_not(guess, why, hint):
    assert (guess.why, guess.hint) == (why, hint)


def test_a_mask_of_other_numbers_is_refused():
    message = "mask must hold truth values, 0 and 1, or 0 and -inf, got numbers from 0.5 to 2"
    with pytest.raises(ValueError, match=message):
        dense_role(leaf("mask", tensor([[0.5, 2.0], [1.0, 0.0]]).clamp(0.5)), [found("x", 2, 2)])


def test_where_nodes_and_edges_are_as_many():
    message = "the same number of edges and nodes, 7: whether u belongs .*roles={'u': 'edges'}"
    with pytest.raises(ValueError, match=message):
        listed_role(leaf("u", randn(7, 2)), ONE, 7, False)


def test_which_set_a_name_speaks_of():
    sets = [X, CONTEXT, MEMORY]
    assert best_set("context_mask", sets) is CONTEXT
    assert best_set("memory_mask", sets, 7) is MEMORY
    assert best_set("Context_mask", sets, 7) is X  # of seven tokens
    assert best_set("mask", sets, 5) is CONTEXT
    assert best_set("mask", sets) is X
    assert best_set("mask", sets, 6) is X


def test_kinds_of_numbers():
    assert is_integer(tensor([1]))
    others = (1, tensor([1.0]), tensor([True]), tensor([1j]))
    assert not any(map(is_integer, others))
    assert is_binary(tensor([0.0, 1.0]))
    assert not is_binary(tensor([0.0, -1.0]))
    assert is_additive(tensor([0.0, -math.inf]))
    assert is_additive(tensor([0.0, -1e4]))
    assert not is_additive(tensor([0.0, -1e3]))
    assert not is_additive(tensor([0.0, 1.0]))
    assert not is_additive(tensor([0]))


def test_words_of_names():
    assert named("Key_Mask", ("mask",))
    assert not named("x", ("mask", "pad"))
    assert all(map(speaks_of_padding, ("IS_REAL", "pad", "tokens", "spad", "token_type")))
    assert not speaks_of_padding("realm")
