"""Localization: masks of infinities, in-place writes, views, coinciding sizes, fused paths."""

import pytest
import torch
from torch import nn

from tokennet.testing import Permute, Verdict, check, check_equivariance
from tokennet.testing.diagnose.source import statement_at

N, D = 7, 8


class Base(nn.Module):
    """A sound layer before and after the one with the bug."""

    def __init__(self, dim=D):
        super().__init__()
        self.before, self.after = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.randn(32, dim))

    def forward(self, x):
        return self.after(self.middle(self.before(x)).tanh())


class InfiniteMask(Base):
    def middle(self, x):
        scores = x @ x.transpose(-2, -1)
        scores = scores.masked_fill(scores < -3, float("-inf"))  # sound: by content
        scores = scores + torch.full_like(scores, float("-inf")).triu(1)  # bug
        return scores.softmax(-1) @ x


class LargeMask(Base):
    """A number that stands for infinity is no measure of the scores beside it."""

    def middle(self, x):
        scores = x @ x.transpose(-2, -1)
        scores = scores + torch.arange(x.shape[-2]).to(x)  # bug
        scores = scores.masked_fill(torch.eye(x.shape[-2]).bool(), -1e9)
        return scores.softmax(-1) @ x


class InPlace(Base):
    def middle(self, x):
        out = torch.empty_like(x)
        out.copy_(x)
        out.mul_(2)
        out[:, 0] += 1.0  # bug
        return out


class ThroughAView(Base):
    def middle(self, x):
        out = x.clone()
        row = out[:, 2]  # bug
        row.zero_()
        return out


class Chunks(Base):
    """Breaks the law on the way and mends it, before it breaks it for good."""

    def middle(self, x):
        parts = [part.relu() for part in x.split(3, dim=-2)]
        x = torch.cat(parts, dim=-2)
        x = x.flip(-2).flip(-2)
        return x * torch.arange(x.shape[-2]).to(x)[:, None]  # bug


class Fused(Base):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(D, 2, 16, batch_first=True)

    def middle(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.layer(x, src_mask=mask)  # bug


class Recurrent(Base):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(D, D, batch_first=True)

    def middle(self, x):
        return self.gru(x)[0]  # bug


class Added(Base):
    def middle(self, x):
        return x + self.table[: x.shape[-2]]  # bug


class OverSeveralLines(Base):
    def middle(self, x):
        return torch.where(  # bug
            torch.arange(x.shape[-2])[:, None] > 2,
            x,
            -x,
        )


@pytest.mark.parametrize(
    "kind",
    [
        InfiniteMask,
        LargeMask,
        InPlace,
        ThroughAView,
        Chunks,
        Fused,
        Recurrent,
        Added,
        OverSeveralLines,
    ],
)
def test_the_statement_is_named(kind):
    torch.manual_seed(0)
    report = check_equivariance(nn.Sequential(kind()), torch.randn(2, N, D))
    assert report.verdict is Verdict.BROKEN
    assert "# bug" in report.location.source, report
    assert report.location.module.startswith("0") or kind is Added
    assert report.location.error_out > 1e3 * report.location.error_in


def test_the_operation_is_named():
    torch.manual_seed(0)
    report = check_equivariance(Added(), torch.randn(2, N, D))
    assert report.location.operation == "add"
    assert report.location.module == "Added"
    assert str(report.location).startswith(f"{__file__}:{report.location.line} in Added: `return x")


@pytest.mark.parametrize("tokens", [8, 16, 2])
def test_sizes_that_coincide(tokens):
    torch.manual_seed(0)
    report = check_equivariance(Added(), torch.randn(tokens, tokens, D))
    assert "# bug" in report.location.source


def test_other_dimensions_of_tokens():
    def time_first(x):  # (N, B, D)
        y = x + x.mean(0)
        return y * torch.arange(len(x)).to(x)[:, None, None]  # bug

    report = check_equivariance(
        time_first, torch.randn(5, 3, 4), in_action=Permute(0), out_action=Permute(0)
    )
    assert "# bug" in report.location.source


def test_small_breaks_after_bad_conditioning():
    class Sharp(Base):
        def middle(self, x):
            scores = 200 * x @ x.transpose(-2, -1)
            x = scores.softmax(-1) @ x
            return x + 1e-5 * self.table[: x.shape[-2]]  # bug

    torch.manual_seed(0)
    report = check_equivariance(Sharp(), torch.randn(2, N, D))
    assert report.verdict is Verdict.BROKEN
    assert "# bug" in report.location.source


def test_a_break_outside_of_torch_has_no_place_but_a_verdict():
    def through_lists(x):
        rows = x.tolist()
        return x.new_tensor([[v * (n + 1) for v in row] for n, row in enumerate(rows)])

    report = check_equivariance(through_lists, torch.randn(5, 3))
    assert report.verdict is Verdict.BROKEN
    assert report.location is None


def test_statements():
    start, end, source = statement_at(__file__, _line_of("torch.arange(x.shape[-2])[:, None] > 2"))
    assert end - start == 4
    assert source.startswith("return torch.where(")
    assert statement_at("/no/such/file.py", 3) == (3, 3, "")


def _line_of(text):
    with open(__file__) as file:
        return next(n for n, line in enumerate(file, start=1) if text in line)


def leaks_the_first(sets):
    means = [x.tanh().mean(0) for x in sets]
    leak = 1e-6 * sets[0].sum(0)
    return torch.stack([mean + leak for mean in means])  # bug


def carries_over(sets):
    found, before = [], 0
    for x in sets:
        mean = x.tanh().mean(0)
        found.append(mean + before)  # bug
        before = 0.1 * mean
    return torch.stack(found)


def subtracts_the_first(sets):
    first = sets[0].mean(0)
    return [x.tanh() - 1e-3 * first for x in sets]  # bug


@pytest.mark.parametrize("law", ["batch_composition", "nonfinite_isolation"])
@pytest.mark.parametrize("model", [leaks_the_first, carries_over, subtracts_the_first])
def test_a_leak_between_listed_sets_is_where_it_reaches_another(model, law):
    example = [torch.randn(size, 8) for size in (3, 5, 4)]
    report = check(model, example, laws=[law]).reports[law]
    assert report.verdict is Verdict.BROKEN
    assert "# bug" in report.location.source


class ClassToken(nn.Module):
    """An encoder with a class token before the tokens, and its entry of the mask after theirs."""

    def __init__(self, mask_first):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(D, 2, 16, dropout=0.0, batch_first=True)
        self.token, self.mask_first = nn.Parameter(torch.randn(1, 1, D)), mask_first

    def forward(self, x, mask):
        if self.mask_first:
            mask = torch.cat([mask, mask.new_ones(len(x), 1)], 1)  # bug
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        if not self.mask_first:
            mask = torch.cat([mask, mask.new_ones(len(x), 1)], 1)  # bug
        return self.layer(x, src_key_padding_mask=~mask)[:, 0]


@pytest.mark.parametrize("mask_first", [True, False])
def test_a_mask_that_is_longer_on_the_wrong_side_is_blamed(mask_first):
    example = torch.randn(3, N, D), torch.arange(N) < torch.tensor([[7], [4], [5]])
    law = "node_permutation"
    report = check(ClassToken(mask_first), example, laws=[law]).reports[law]
    assert report.verdict is Verdict.BROKEN
    assert "# bug" in report.location.source
