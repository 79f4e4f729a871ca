"""Examples with several leading dimensions, as (B, T, N, D): which of them hold sets."""

import pytest
import torch
from torch import nn

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
    assert told.endswith("or {'x': 'tokens:-3'} if they are tokens of one set")
    said = check(model, SEVERAL, roles={"x": "tokens:-2"})
    assert said.broken == tuple(BATCH)
    assert "x.mean(1" in said.reports["batch_composition"].location.source
    assert reproduced_by(said.reports["batch_composition"].counterexample.script, model)
    for role in ("tokens:-3", "tokens:-3,-2"):
        assert check(model, SEVERAL, roles={"x": role}, laws=BATCH).passed
    deep = check(lambda x: x - x.mean(2, keepdim=True), draw(2, 3, 4, 5, 4), laws=BATCH)
    assert deep.questions == tuple(BATCH)
    assert "along dimension 2 of x" in deep.reports["batch_composition"].reason


def test_attention_along_two_dimensions_in_turn_is_asked_about():
    layer = nn.MultiheadAttention(4, 2, batch_first=True)

    def along_t(x):
        h = x.transpose(1, 2).flatten(0, 1)
        return layer(h, h, h)[0].unflatten(0, (len(x), -1)).transpose(1, 2)

    assert check(along_t, SEVERAL).questions == tuple(BATCH)
    assert check(along_t, SEVERAL, roles={"x": "tokens:-3"}).passed


def test_sets_of_several_leading_dimensions_pass():
    assert check(lambda x: x.softmax(-2), SEVERAL).passed
    pooled = check(lambda x: x.mean((1, 2)), SEVERAL)  # of which dimension 1 holds no sets
    assert pooled.passed
    for law in BATCH:
        assert pooled.reports[law].notes == (
            "asked along dimension 0 alone: not every input and output has dimension 1",
        )
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
