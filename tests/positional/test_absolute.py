"""Codes by content and by index differ in symmetry; ragged batches count within their sets."""

import math

import pytest
import torch

from tokennet import Full, Tokens
from tokennet.positional import LearnedEncoding, SinusoidalEncoding
from tokennet.testing import relabeling_error, shuffling_error

POS = torch.tensor([[0.0, 2.0], [1.0, 0.0], [3.0, 1.0]])
BY_POS = {
    "sinusoidal": lambda: SinusoidalEncoding(8, "pos", num_coordinates=2),
    "learned": lambda: LearnedEncoding(8, (4, 3), "pos"),
}
BY_INDEX = {
    "sinusoidal": lambda: SinusoidalEncoding(8, "index"),
    "learned": lambda: LearnedEncoding(8, 16, "index"),
}


def example():
    return Tokens(torch.randn(3, 8), pos=POS)


@pytest.mark.parametrize("name", BY_POS)
def test_codes_by_pos_commute_with_relabeling_and_not_with_shuffling(name):
    layer = BY_POS[name]()
    assert (layer.symmetry.relabeling, layer.symmetry.shuffling) == ("S_n", "Aut(pos)")
    assert relabeling_error(layer, example()) < 1e-14
    assert shuffling_error(layer, example()) > 1e-3


@pytest.mark.parametrize("name", BY_INDEX)
def test_codes_by_index_commute_with_nothing(name):
    layer = BY_INDEX[name]()
    assert (layer.symmetry.relabeling, layer.symmetry.shuffling) == ("trivial", "trivial")
    assert relabeling_error(layer, example()) > 1e-3
    assert shuffling_error(layer, example()) > 1e-3


@pytest.mark.parametrize("name", BY_INDEX)
def test_index_is_the_place_within_the_set(name):
    layer = BY_INDEX[name]()
    sets = [Tokens(torch.randn(n, 8), Full(n)) for n in (3, 5)]
    for alone, part in zip(sets, layer(Tokens.batch(sets)).unbatch(), strict=True):
        assert torch.equal(part.z, layer(alone).z)


def test_sinusoidal_by_formula():
    code = SinusoidalEncoding(4, base=100.0).encode(torch.tensor([[3.0]]))[0]
    assert code.tolist() == pytest.approx(
        [math.sin(3), math.cos(3), math.sin(3 / 10), math.cos(3 / 10)]
    )
    two = SinusoidalEncoding(8, num_coordinates=2, base=100.0).encode(torch.tensor([[5.0, 3.0]]))[0]
    assert two[4:].tolist() == pytest.approx(code.tolist())


def test_learned_by_pos_adds_one_row_for_each_coordinate():
    layer = LearnedEncoding(8, (4, 3), "pos")
    rows, columns = (table.weight for table in layer.tables)
    torch.testing.assert_close(layer.encode(POS)[0], rows[0] + columns[2])


def test_what_is_returned_has_the_type_of_z():
    tokens = example().to(torch.bfloat16)
    assert BY_POS["sinusoidal"]()(tokens).z.dtype == torch.bfloat16


def test_codes_of_tokens_in_less_precision_are_those_of_their_positions():
    tokens = Tokens(torch.zeros(600, 8), pos=torch.arange(600.0)[:, None])
    for layer in (SinusoidalEncoding(8), LearnedEncoding(8, 600, by="pos")):
        rounded = layer.bfloat16()(tokens.to(torch.bfloat16)).z
        assert torch.equal(rounded, layer.encode(tokens.pos).bfloat16())
        assert len(layer.encode(tokens.to(torch.bfloat16).pos).unique(dim=0)) == 600


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SinusoidalEncoding(6, num_coordinates=2), "dim must be a multiple of .* 4, got 6"),
        (lambda: SinusoidalEncoding(8, "place"), "by must be one of pos, index; got 'place'"),
        (lambda: SinusoidalEncoding(8)(torch.zeros(3, 8)), r"tokens\.pos must hold positions"),
        (lambda: SinusoidalEncoding(8)(example()), "pos must have 1 columns .* got 2"),
        (lambda: LearnedEncoding(8, -1), "size must be at least 0, got -1"),
        (lambda: LearnedEncoding(8, 5, "pos")(example()), "pos must have 1 columns .* got 2"),
        (
            lambda: SinusoidalEncoding(4, "index")(example()),
            "tokens must have 4 channels, got shape",
        ),
        (
            lambda: LearnedEncoding(8, (3, 3), "pos")(example()),
            r"column 0 must be integers 0 \.\. 2, got values from 0.0 to 3.0",
        ),
        (
            lambda: LearnedEncoding(8, (4, 4), "pos")(example().replace(pos=POS + 0.5)),
            "must be integers",
        ),
    ],
)
def test_bad_positions_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
