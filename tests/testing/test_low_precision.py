"""Models that round inside, as under autocast, whatever their input is."""

import pytest
import torch
from torch import nn

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
