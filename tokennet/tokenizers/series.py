"""`SeriesWindows`: windows of a time series as tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tokennet.checks import checked
from tokennet.graphs import Causal
from tokennet.tokenizers.base import check_tensor, indices_of
from tokennet.tokenizers.line import LineTokenizer, tokens_in_line
from tokennet.tokenizers.overlap import join
from tokennet.tokens import Tokens


@checked()
@dataclass(frozen=True)
class SeriesWindows(LineTokenizer):
    """Windows of a series of C values: (..., T, C) to z (..., N, size C), time by time.

    Use it for forecasts. With `stride=1` it is the delay embedding of Takens (1981); without
    overlap, the patches of PatchTST (Nie et al., 2022, arXiv 2211.14730). Graph: `Causal`, since
    a series is to be continued. pos (N, 1) counts strides: window k starts at time k stride.

    The inverse averages where windows overlap.

    Args:
        size: times in a window.
        stride: step from window to window, at most `size`; by default `size`, no overlap.
        pad: whether zeros are added at the end where windows do not fit.

    Raises:
        ValueError: `stride` leaves gaps; windows do not fit and `pad` is not set.

    >>> import torch
    >>> SeriesWindows(3, stride=1)(torch.arange(5.0)[:, None]).z.tolist()
    [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]
    """

    def tokenize(self, series: Tensor) -> Tokens:
        series = check_tensor("series", series, "(..., T, C)").mT  # (..., C, T)
        pieces = self.pieces("series", series)  # (..., C, N, size)
        return tokens_in_line(pieces.movedim(-3, -1).flatten(-2), Causal)

    def restore(self, tokens: Tokens) -> Tensor:
        if tokens.dim % self.size:
            raise ValueError(
                f"tokens must have {self.size} x C channels, whole windows, got {tokens.dim}"
            )
        pieces = tokens.z.unflatten(-1, (self.size, -1)).movedim(-1, -3)  # (..., C, N, size)
        return join(pieces, indices_of(tokens, 1), [self.step]).mT  # (..., T, C)
