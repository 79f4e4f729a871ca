"""Each property can be had and missed; the table of the docs is what the code computes."""

from dataclasses import astuple, fields
from pathlib import Path

import pytest
import torch

from tokennet import Tokens
from tokennet.positional import LearnedEncoding, SinusoidalEncoding
from tokennet.positional.properties import (
    ENCODINGS,
    Properties,
    _is_consistent,
    line,
    measure_properties,
    square,
    table,
)

PAGE = Path(__file__).parents[2] / "docs" / "positions.md"
PROPERTIES = [field.name for field in fields(Properties)]
EXPECTED = {  # unique, bounded, consistent distance, deterministic, extends
    "none": "-+-++",
    "integer": "+-+++",
    "unit interval": "++-++",
    "sinusoidal": "+++++",
    "sinusoidal, 2-D": "+++++",
    "learned": "++-+-",
    "rotary": "+++++",
    "rotary, 2-D": "+++++",
    "Laplacian eigenvectors": "++--+",
    "Laplacian, fixed signs": "++-++",
    "Laplacian, determined": "-+-++",
    "random-walk probabilities": "-+-++",
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_which_code_has_which_property(name):
    make, layout = ENCODINGS[name]
    found = measure_properties(make(), layout)
    assert "".join("+" if has else "-" for has in astuple(found)) == EXPECTED[name]


def test_the_table_in_the_docs_is_what_is_computed():
    rows = table()
    assert rows in PAGE.read_text()
    assert len(rows.splitlines()) == 2 + len(ENCODINGS)


class ByFormula:
    """A code given as a function of places (N, 1), in sets no longer than `limit`."""

    def __init__(self, formula, limit=10_000):
        self.formula, self.limit = formula, limit

    def __call__(self, tokens):
        if tokens.num_tokens > self.limit:
            raise ValueError("too many")
        return tokens.replace(z=self.formula(tokens.pos).expand(tokens.z.shape))


def circle(period):
    return lambda pos: (
        torch.stack(
            [
                torch.cos(6.283185307179586 * pos / period),
                torch.sin(6.283185307179586 * pos / period),
            ]
        )
        .squeeze(-1)
        .T.repeat(1, 16)
    )


@pytest.mark.parametrize(
    ("formula", "limit", "missed"),
    [
        (circle(1000), 256, set()),
        (circle(40), 256, {"unique", "consistent_distance"}),  # one round is no distance at all
        (lambda pos: pos, 256, {"bounded"}),
        (lambda pos: pos.sqrt(), 256, {"bounded", "consistent_distance"}),
        (lambda pos: (pos + 1).log().clamp(max=4.7), 64, {"consistent_distance", "extends"}),
        (lambda pos: pos / len(pos), 256, {"consistent_distance"}),
        (lambda pos: torch.rand(len(pos), 1), 256, {"consistent_distance", "deterministic"}),
        (lambda pos: 0 * pos + len(pos), 256, {"unique", "bounded", "consistent_distance"}),
        (circle(1000), 64, {"extends"}),
    ],
)
def test_each_property_can_be_missed(formula, limit, missed):
    found = measure_properties(ByFormula(formula, limit))
    assert {name for name in PROPERTIES if not getattr(found, name)} == missed


def test_distances_are_compared_across_lengths_and_in_both_directions():
    places = torch.arange(5.0)[:, None]
    assert _is_consistent([(places, places), (places[:3], -places[:3])], 1e-6)
    assert not _is_consistent([(places, places), (places[:3], 2 * places[:3])], 1e-6)
    plane = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
    assert _is_consistent([(plane, plane @ torch.tensor([[1.0, 0.0], [0.0, 3.0]]))], 1e-6)
    bent = plane + torch.tensor([0.0, 0.1]) * (plane[:, :1] > 0) * plane[:, 1:]
    assert not _is_consistent([(plane, bent)], 1e-6)


def test_the_encoding_is_left_as_it_was():
    encoding = LearnedEncoding(32, 64).eval()
    before = encoding.tables[0].weight.clone()
    measure_properties(encoding)
    assert not encoding.training
    assert torch.equal(encoding.tables[0].weight, before)


def test_layouts():
    assert line(5).pos.flatten().tolist() == [0, 1, 2, 3, 4]
    assert square(9).pos[5].tolist() == [1, 2]
    assert square(9).graph.attends(torch.tensor(5), torch.tensor(1))
    with pytest.raises(ValueError, match="n must be a square number, got 8"):
        square(8)


def test_an_encoding_that_refuses_its_own_size_is_not_judged():
    with pytest.raises(ValueError, match="must be integers 0"):
        measure_properties(LearnedEncoding(32, 10))
    with pytest.raises(ValueError, match="must have 8 channels"):
        measure_properties(SinusoidalEncoding(8))


def test_a_row_takes_any_function_of_tokens():
    def code(tokens: Tokens) -> Tokens:
        return tokens.replace(z=SinusoidalEncoding(32).encode(tokens.pos))

    assert measure_properties(code) == measure_properties(SinusoidalEncoding(32))
