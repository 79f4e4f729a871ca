"""The fast path of torch's transformer layers, which only some runs take."""

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


def test_the_fast_path_breaks_no_law_and_hides_none():
    model = MeanOverPadding().eval()
    report = check(model, (X, REAL))
    assert report.broken == ("padding",)
    assert "# bug" in report.reports["padding"].location.source
    assert torch.backends.mha.get_fastpath_enabled()
    assert reproduced_by(report.reports["padding"].counterexample.script, model)


def test_only_scripts_of_models_with_a_fast_path_switch_it_off():
    report = check(lambda x: x.cumsum(1), X, laws=["node_permutation"])
    assert "fastpath" not in report.reports["node_permutation"].counterexample.script
