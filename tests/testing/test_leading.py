"""Examples with several leading dimensions, as (B, T, N, D): which of them hold sets."""

import pytest
import torch

from tests.testing.cases import reproduced_by
from tokennet import Tokens
from tokennet.testing import check


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


BATCH = ["batch_composition", "nonfinite_isolation"]
SEVERAL = draw(2, 3, 5, 4)
SEVERAL_REAL = torch.ones(2, 3, 5, dtype=torch.bool)
SEVERAL_REAL[0, 1, 3:] = SEVERAL_REAL[1, 2, 4:] = False


def summed_of_sets(x, attention_mask):
    return x.masked_fill(~attention_mask[..., None], 0).sum(-2, keepdim=True)


def test_sets_along_another_leading_dimension_are_held_to_laws_of_the_batch():
    model = lambda x: x - x.mean(1, keepdim=True)  # noqa: E731
    asked = check(model, SEVERAL)
    assert asked.questions == tuple(BATCH)
    told = asked.reports["batch_composition"].reason
    assert told.startswith("sets along dimension 1 of x reach each other: pass roles={'x': ")
    said = check(model, SEVERAL, roles={"x": "tokens:-2"})
    assert said.broken == tuple(BATCH)
    assert "x.mean(1" in said.reports["batch_composition"].location.source
    assert reproduced_by(said.reports["batch_composition"].counterexample.script, model)
    of_a_grid = check(model, SEVERAL, roles={"x": "tokens:-3,-2"}, laws=BATCH)
    assert of_a_grid.passed
    deep = check(lambda x: x - x.mean(2, keepdim=True), draw(2, 3, 4, 5, 4), laws=BATCH)
    assert deep.questions == tuple(BATCH)
    assert "along dimension 2 of x" in deep.reports["batch_composition"].reason


def test_sets_of_several_leading_dimensions_pass():
    assert check(lambda x: x.softmax(-2), SEVERAL).passed
    assert check(lambda x: x.mean((1, 2)), SEVERAL).passed  # of which dimension 1 holds no sets
    whole = check(lambda x, attention_mask: x + summed_of_sets(x, attention_mask),
                  (SEVERAL, SEVERAL_REAL))  # fmt: skip
    assert whole.passed, whole
    assert "padding" in whole.reports


@pytest.mark.parametrize("dims", [-2, (1, 2)])
def test_padding_of_several_leading_dimensions_is_found(dims):
    report = check(lambda x, attention_mask: x.sum(dims), (SEVERAL, SEVERAL_REAL))
    assert report.broken == ("padding",), report
    clear = check(
        lambda x, attention_mask: x.masked_fill(~attention_mask[..., None], 0).sum(dims),
        (SEVERAL, SEVERAL_REAL),
    )
    assert clear.passed, clear


def test_a_mask_that_hides_whole_sets_alone_asks_no_law_of_padding():
    real = torch.ones(3, 7, dtype=torch.bool)
    real[0] = False
    report = check(summed_of_sets, (draw(3, 7, 8), real))
    assert report.passed, report
    assert "padding" not in report.reports


def test_leading_dimensions_of_tokens_are_a_batch():
    model = lambda t: t.z - t.z.mean(1, keepdim=True)  # noqa: E731
    assert check(model, Tokens(SEVERAL)).broken == tuple(BATCH)
    assert check(lambda t: t.z.softmax(-2), Tokens(SEVERAL, pos=SEVERAL[..., :2])).passed
