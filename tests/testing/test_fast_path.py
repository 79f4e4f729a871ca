"""The fast path of torch's transformer layers, which only some runs take."""

import pytest
import torch
from torch import nn

from tests.testing.cases import reproduced_by
from tokennet.testing import check

D = 8
X = torch.randn(3, 7, D, generator=torch.Generator().manual_seed(0))
REAL = torch.arange(7) < torch.tensor([[7], [4], [5]])


class MeanOverPadding(nn.Module):
    """An encoder that is given the mask, and a mean that is not."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(D, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x, mask):
        return self.encoder(x, src_key_padding_mask=~mask).mean(1)  # bug


def test_the_fast_path_breaks_no_other_law_and_hides_none():
    model = MeanOverPadding().eval()
    report = check(model, (X, REAL))
    assert report.broken == ("padding", "backend_agreement")  # it makes padding zeros
    assert "# bug" in report.reports["padding"].location.source
    assert torch.backends.mha.get_fastpath_enabled()
    assert reproduced_by(report.reports["padding"].counterexample.script, model)


class Doubled(nn.TransformerEncoderLayer):
    def _ff_block(self, x):
        return 2 * super()._ff_block(x)


class Stack(nn.Module):
    """Layers that override a method, which the fast path does not call."""

    def __init__(self, layer, **options):
        super().__init__()
        self.layer = layer(D, 2, 16, dropout=0.0, **options)

    def forward(self, x):
        return self.layer(x)  # bug


def test_a_method_that_the_fast_path_does_not_call_is_found():
    model = Stack(Doubled, batch_first=True).eval()
    report = check(model, X, laws=["node_permutation", "backend_agreement"])
    assert report.broken == ("backend_agreement",)
    found = report.reports["backend_agreement"]
    assert "the fast path of torch.nn" in found.reason
    assert "# bug" in found.location.source
    assert found.location.module == "layer (Doubled)"
    assert str(found.counterexample).startswith("computing by the fast path of torch.nn")
    assert len(found.counterexample.script.splitlines()) < 12
    assert reproduced_by(found.counterexample.script, model)


@pytest.mark.parametrize("mask", [None, REAL])
def test_layers_of_torch_agree_with_their_fast_path(mask):
    encoder = MeanOverPadding().encoder
    if mask is None:
        report = check(Stack(nn.TransformerEncoderLayer, batch_first=True), X, laws=LAWS)
    else:
        report = check(lambda x, mask: encoder(x, src_key_padding_mask=~mask), (X, mask), laws=LAWS)
    assert report.passed, report
    assert "the fast path of torch.nn" in report.reports["backend_agreement"].reason


LAWS = ["node_permutation", "backend_agreement"]


def test_only_scripts_of_models_with_a_fast_path_switch_it_off():
    report = check(lambda x: x.cumsum(1), X, laws=["node_permutation"])
    assert "fastpath" not in report.reports["node_permutation"].counterexample.script
