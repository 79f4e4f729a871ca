"""Tokenizers of sound: `Frames` of samples, and `LogMel`, their mel spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokennet.checks import check_size, checked
from tokennet.graphs import TokenGraph, Window
from tokennet.tokenizers.base import check_tensor, indices_of
from tokennet.tokenizers.line import LineTokenizer, tokens_in_line
from tokennet.tokenizers.overlap import join
from tokennet.tokens import Tokens


@checked()
@dataclass(frozen=True)
class Frames(LineTokenizer):
    r"""Frames of `size` samples, every `stride` samples: sound (..., T) to z (..., N, size).

    Use it where sound is to be synthesized, and `LogMel` for recognition. Graph: `Window` of
    radius 1. pos (N, 1) counts strides: frame k begins k stride / sample_rate seconds after the
    first sample.

    The inverse is overlap-add. Frames that overlap are cross-faded with the weights

        w_i = sin^2(pi (i + 1/2) / size)

    which are nowhere 0, so that the ends of the sound are restored too.

    Args:
        size: samples in a frame.
        stride: samples from frame to frame, at most `size`; by default `size`, no overlap.
        pad: whether zeros are added at the end where frames do not fit.

    Raises:
        ValueError: `stride` leaves gaps; frames do not fit and `pad` is not set.

    >>> frames = Frames(4, stride=2)
    >>> tokens = frames(torch.arange(8.0))
    >>> tokens.z.tolist()
    [[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0], [4.0, 5.0, 6.0, 7.0]]
    >>> frames.inverse(tokens).tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """

    size: int = 400

    def tokenize(self, sound: Tensor) -> Tokens:
        check_tensor("sound", sound, "(..., T)")
        return tokens_in_line(self.pieces("sound", sound), _neighbors)

    def restore(self, tokens: Tokens) -> Tensor:
        if tokens.dim != self.size:
            raise ValueError(f"tokens must have {self.size} channels, samples, got {tokens.dim}")
        middle = torch.arange(self.size, dtype=torch.float64) + 0.5
        weight = torch.sin(math.pi * middle / self.size).square()
        return join(tokens.z, indices_of(tokens, 1), [self.step], weight)


@checked(floor=0)
@dataclass(frozen=True)
class LogMel(LineTokenizer):
    r"""The logarithm of the power in M bands of equal width in mel: (..., T) to z (..., N, M).

        z_km = log max(sum_f B_mf |DFT(hann frame_k)_f|^2, floor),  mel(f) = 2595 log10(1 + f / 700)

    with triangular bands B from 0 to half the sampling rate (Davis and Mermelstein, 1980; the
    scale is O'Shaughnessy's, 1987). The defaults are those of speech recognition: 25 ms every
    10 ms at 16 kHz. Graph and positions are those of `Frames`. Phases are lost: there is no
    inverse.

    Args:
        size: samples in a frame.
        stride: samples from frame to frame, at most `size`.
        pad: whether zeros are added at the end where frames do not fit.
        sample_rate: samples per second, in Hz.
        num_mels: number M of bands.
        floor: smallest power, so that the logarithm of silence is finite.

    Raises:
        TypeError: the sound holds integers.
        ValueError: `stride` leaves gaps; frames do not fit and `pad` is not set; frames of
            this size have no frequency in some of the bands.

    >>> LogMel(num_mels=40)(torch.zeros(2, 16_240)).z.shape
    torch.Size([2, 100, 40])
    """

    size: int = 400
    stride: int | None = 160
    sample_rate: int = 16_000
    num_mels: int = 40
    floor: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("sample_rate", self.sample_rate, 1)
        check_size("num_mels", self.num_mels, 1)
        if self.floor <= 0:
            raise ValueError(f"floor must be positive, got {self.floor}")
        empty = int((self.bands().sum(1) == 0).sum())
        if empty:
            raise ValueError(
                f"num_mels must leave a frequency in every band: of {self.num_mels} bands "
                f"{empty} have none in frames of {self.size} samples"
            )

    def bands(self) -> Tensor:
        """The triangles B (M, size // 2 + 1), with maximum 1, in float64."""
        frequency = torch.arange(self.size // 2 + 1, dtype=torch.float64)
        frequency = frequency * (self.sample_rate / self.size)  # in Hz
        top = 2595 * math.log10(1 + self.sample_rate / 2 / 700)
        mels = torch.linspace(0, top, self.num_mels + 2, dtype=torch.float64)
        corners = 700 * (10 ** (mels / 2595) - 1)  # (M + 2,) in Hz
        width = corners.diff()
        rising = (frequency - corners[:-2, None]) / width[:-1, None]  # (M, size // 2 + 1)
        falling = (corners[2:, None] - frequency) / width[1:, None]
        return torch.minimum(rising, falling).clamp(min=0)

    def power(self, sound: Tensor) -> Tensor:
        """The power |DFT|^2 of the frames under a Hann window: (..., N, size // 2 + 1)."""
        check_tensor("sound", sound, "(..., T)", floating=True)
        frames = self.pieces("sound", sound)
        frames = frames.to(torch.promote_types(frames.dtype, torch.float32))  # of FFTs
        hann = torch.hann_window(self.size, dtype=torch.float64).to(frames)
        return torch.fft.rfft(frames * hann).abs().square()

    def tokenize(self, sound: Tensor) -> Tokens:
        power = self.power(sound)
        z = (power @ self.bands().to(power).T).clamp(min=self.floor).log()
        return tokens_in_line(z.to(sound.dtype), _neighbors)


def _neighbors(n: int) -> TokenGraph:
    return Window(n, 1)
