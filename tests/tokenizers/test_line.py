"""Sound and series: what others compute, and what moves with time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann
from torch.nn import functional as F

from tests.tokenizers.cases import tone
from tokennet.tokenizers import Frames, LogMel, Patches, SeriesWindows
from tokennet.tokenizers.overlap import cut, join


def test_overlapping_frames_are_cross_faded():
    frames = Frames(4, stride=2)
    tokens = frames(torch.zeros(6, dtype=torch.float64))
    changed = tokens.replace(z=torch.tensor([[0.0], [1.0]]).expand(2, 4).double())
    weight = [math.sin(math.pi * (i + 0.5) / 4) ** 2 for i in range(4)]
    fade = [weight[0] / (weight[0] + weight[2]), weight[1] / (weight[1] + weight[3])]
    want = torch.tensor([0.0, 0.0, *fade, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(frames.inverse(changed), want, rtol=1e-14, atol=1e-14)
    assert 0 < fade[0] < 0.5 < fade[1] < 1


@pytest.mark.parametrize("stride", [25, 50, 100])
def test_power_is_that_of_scipy(stride):
    sound = tone(0).double()
    log_mel = LogMel(100, stride, sample_rate=8000, num_mels=5)
    power = log_mel.power(sound)
    peer = ShortTimeFFT(hann(100, sym=False), stride, fs=8000, phase_shift=None)
    n = (len(sound) - 100) // stride + 1
    first = 50 / stride  # SciPy counts from the frame whose middle is at the first sample
    if first == int(first):
        want = peer.spectrogram(sound.numpy(), p0=int(first), p1=int(first) + n).T
        torch.testing.assert_close(power, torch.tensor(want), rtol=1e-10, atol=1e-10)
    for k in range(n):
        cutout = sound[k * stride : k * stride + 100].numpy() * hann(100, sym=False)
        want = np.abs(np.fft.rfft(cutout)) ** 2
        torch.testing.assert_close(power[k], torch.tensor(want), rtol=1e-10, atol=1e-10)


def test_a_tone_is_heard_in_its_band():
    log_mel = LogMel(400, 200, sample_rate=8000, num_mels=20)
    mel = np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 22)
    centers = 700 * (10 ** (mel[1:-1] / 2595) - 1)
    time = torch.arange(2000) / 8000
    for band in (5, 10, 18):
        sound = torch.sin(2 * math.pi * centers[band] * time)
        assert (log_mel(sound).z.argmax(-1) == band).all()


@pytest.mark.parametrize(("size", "rate", "mels"), [(400, 16_000, 40), (201, 8_000, 12)])
def test_bands_are_triangles_that_sum_to_one(size, rate, mels):
    bands = LogMel(size, 100, sample_rate=rate, num_mels=mels).bands()
    frequency = torch.arange(size // 2 + 1) * rate / size
    mel = 2595 * torch.log10(1 + frequency.double() / 700)
    step = 2595 * math.log10(1 + rate / 2 / 700) / (mels + 1)
    between = (mel >= step) & (mel <= mels * step)
    torch.testing.assert_close(bands.sum(0)[between], torch.ones_like(mel[between]))
    assert (bands >= 0).all()
    assert (bands <= 1).all()


def test_bands_are_those_of_transformers():
    audio = pytest.importorskip("transformers.audio_utils")
    want = audio.mel_filter_bank(201, 40, 0.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    bands = LogMel(400, 160, sample_rate=16_000, num_mels=40).bands()
    torch.testing.assert_close(bands.T, torch.tensor(want).double(), rtol=1e-9, atol=1e-9)


def test_silence_has_a_logarithm_and_a_gradient():
    sound = torch.zeros(400, requires_grad=True)
    log_mel = LogMel(200, 100, sample_rate=8000, num_mels=10, floor=1e-6)
    z = log_mel(sound).z
    torch.testing.assert_close(z, torch.full_like(z, math.log(1e-6)))
    (gradient,) = torch.autograd.grad(z.sum(), sound)
    assert gradient.isfinite().all()


def test_series_windows_are_unfold():
    series = torch.randn(2, 10, 3, dtype=torch.float64)
    windows = SeriesWindows(4, stride=2)
    tokens = windows(series)
    for k in range(4):
        assert torch.equal(tokens.z[:, k], series[:, 2 * k : 2 * k + 4].flatten(1))
    changed = torch.randn_like(tokens.z)
    pieces = changed.unflatten(-1, (4, 3)).permute(0, 3, 2, 1).flatten(1, 2)  # (B, C size, N)
    total = F.fold(pieces, (1, 10), (1, 4), stride=(1, 2))
    count = F.fold(torch.ones_like(pieces), (1, 10), (1, 4), stride=(1, 2))
    want = (total / count)[:, :, 0].mT
    torch.testing.assert_close(windows.inverse(tokens.replace(z=changed)), want)


@pytest.mark.parametrize(
    "tokenizer",
    [Frames(6, 2), SeriesWindows(6, 2), LogMel(64, 32, sample_rate=8000, num_mels=5)],
    ids=repr,
)
def test_later_by_a_stride_is_later_by_a_token(tokenizer):
    raw = torch.randn(640) if not isinstance(tokenizer, SeriesWindows) else torch.randn(640, 2)
    later = raw.roll(tokenizer.step, 0)
    torch.testing.assert_close(tokenizer(later).z[1:], tokenizer(raw).z[:-1])


@pytest.mark.parametrize(("length", "padded"), [(2, 4), (4, 4), (5, 7), (7, 7), (8, 10)])
def test_padding_fills_up_the_end(length, padded):
    raw = torch.rand(2, length) + 1
    frames = Frames(4, stride=3, pad=True)
    back = frames.inverse(frames(raw))
    assert back.shape == (2, padded)
    assert torch.equal(back[:, :length], raw)
    assert (back[:, length:] == 0).all()


@pytest.mark.parametrize("tokenizer", [Frames(6, 2), SeriesWindows(6, 2), Frames(4)], ids=repr)
def test_tokens_do_not_share_memory_where_they_overlap(tokenizer):
    raw = torch.zeros(12) if isinstance(tokenizer, Frames) else torch.zeros(12, 1)
    tokens = tokenizer(raw)
    tokens.z[0, -1] = 1
    assert tokens.z.sum() == 1


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_cut_comes_back(data):
    sizes = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    strides = tuple(data.draw(st.integers(1, size)) for size in sizes)
    lengths = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    image = torch.rand(2, 3, *lengths)
    patches = Patches(sizes, strides, pad=True)
    back = patches.inverse(patches(image))
    assert torch.equal(back[..., : lengths[0], : lengths[1]], image)
    for padded, length, size, stride in zip(back.shape[-2:], lengths, sizes, strides, strict=True):
        assert padded == max(size, length) or 0 < padded - length < stride


def test_join_of_three_dimensions():
    volume = torch.randint(0, 99, (2, 5, 7, 4))
    pieces = cut(volume, (3, 3, 2), (2, 2, 2))
    counts = pieces.shape[1:4]
    places = torch.cartesian_prod(*(torch.arange(count) for count in counts))
    back = join(pieces.flatten(1, 3), places, (2, 2, 2))
    assert torch.equal(back, volume)
