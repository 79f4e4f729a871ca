"""Models that round inside, as under autocast, and whose tokens move the output little."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tokennet.testing import Verdict, check

D = 8
LAW = "batch_composition"
X = torch.randn(3, 7, D, generator=torch.Generator().manual_seed(0))


def encoder_layer():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(D, 2, 16, dropout=0.0, batch_first=True)


class Autocast(nn.Module):
    """An encoder layer that computes in bfloat16; `leak` of it is a mean over the batch."""

    def __init__(self, leak=0.0, doubles=True):
        super().__init__()
        self.layer, self.leak, self.doubles = encoder_layer(), leak, doubles

    def forward(self, x):
        if x.dtype == torch.float64 and not self.doubles:
            raise RuntimeError("float32 only")
        with torch.autocast("cpu", torch.bfloat16):
            y = self.layer(x)
        return y + self.leak * y.mean(0) if self.leak else y


class HalfSoftmax(nn.Module):
    """A softmax over tokens in float16, which the checker cannot raise to float64."""

    def __init__(self, leak=0.0):
        super().__init__()
        self.layer, self.leak = encoder_layer(), leak

    def forward(self, x):
        y = self.layer(x).type("torch.HalfTensor").softmax(1).type("torch.FloatTensor")
        y = D * y.to(x.dtype)
        return y + self.leak * y.mean(0) if self.leak else y


@pytest.mark.parametrize("make", [Autocast, lambda leak=0.0: Autocast(leak, False), HalfSoftmax])
def test_rounding_in_low_precision_within_the_model_is_no_break(make):
    assert check(make(), X).broken == ()
    assert check(make(leak=0.9), X, laws=[LAW]).broken == (LAW,)


def test_a_small_leak_under_autocast_is_found_in_float64():
    report = check(Autocast(leak=1e-4), X, laws=[LAW]).reports[LAW]
    assert report.verdict is Verdict.BROKEN
    assert "self.leak" in report.location.source


@pytest.mark.parametrize("lower", [torch.half, torch.float32, torch.float64])
def test_a_constant_but_for_rounding_is_vacuous(lower):
    torch.manual_seed(0)
    layer = nn.Linear(D, D)
    report = check(lambda x: layer(x).to(lower).softmax(1).float().sum(1), X)
    assert report.broken == ()
    assert report.reports["tied_inputs"].verdict is Verdict.VACUOUS


# Rounding inside a model whose output its tokens hardly move.

X40 = torch.randn(3, 40, D, generator=torch.Generator().manual_seed(0))


def attended(h):
    q = h.unflatten(-1, (2, D // 2)).transpose(-2, -3)
    return F.scaled_dot_product_attention(q, q, q).transpose(-2, -3).flatten(-2)


class Positions(nn.Module):
    """Attention over learned embeddings of positions, to which tokens add a little."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.scale = nn.Parameter(torch.randn(40, D)), scale

    def forward(self, x):
        return attended(self.table + self.scale * x)


class Steep(Positions):
    """The same of vectors or ids, and a readout that is steep in what parameters give."""

    def forward(self, x):
        tokens = self.scale * x if x.is_floating_point() else self.table[x]
        return (1e4 * attended(self.table[: x.shape[1]] + tokens)).sin()


@pytest.mark.parametrize("scale", [1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("make", [Positions, lambda scale: lambda x: attended(1 + scale * x)])
def test_rounding_of_what_tokens_do_not_move_is_no_break(make, scale):
    report = check(make(scale), X40, laws=["backend_agreement"]).reports["backend_agreement"]
    assert report.verdict is Verdict.PASS, report
    assert report.float32["default"] > 1e-4  # of what tokens do to the output


@pytest.mark.parametrize("x", [X40, torch.arange(120).view(3, 40) % 11])
def test_rounding_that_parameters_show_and_inputs_do_not_is_no_break(x):
    report = check(Steep(1e-4), x, laws=["backend_agreement"]).reports["backend_agreement"]
    assert report.verdict is Verdict.PASS, report
    assert report.float32["default"] > 1e-3


def test_a_break_in_float32_beside_such_rounding_is_found():
    model = Positions(1e-2)

    def leaks(x):
        y = model(x)
        return y + 0.3 * y.mean(0) if x.dtype == torch.float32 else y  # bug

    report = check(leaks, X40, laws=[LAW]).reports[LAW]
    assert report.verdict is Verdict.BROKEN
    assert report.reason.startswith("holds in float64, but is off by")
    assert "# bug" in report.location.source
