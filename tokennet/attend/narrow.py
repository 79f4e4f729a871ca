"""PyTorch's `scaled_dot_product_attention`, with narrow heads filled up where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

_CHANNELS = 16
"""Numbers of float32 in a vector of 64 bytes, which the kernel on the CPU is made for."""
_PAIRS = 128**2
"""With fewer pairs of tokens, filling up costs more than it spares."""


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float,
) -> Tensor:
    """q (..., H, N, C), k (..., H, M, C), v (..., H, M, Cv) to (..., H, N, Cv).

    In float32 the flash kernel for CPUs takes up to twice as long with 9 channels as with 16,
    and zeros change no score. Values lie in memory as (..., N, H, Cv), as without filling up.
    """
    if not _is_slow(q, k, v):
        return scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scale)
    values = v.shape[-1]
    q, k, v = (pad(x, (0, _CHANNELS - x.shape[-1])) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scale)
    return out[..., :values].transpose(-3, -2).contiguous().transpose(-3, -2)


def _is_slow(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether it is for the flash kernel, and filling up pays: as measured, not for 1 channel."""
    channels = q.shape[-1]
    if not 1 < channels < _CHANNELS or v.shape[-1] != channels:
        return False
    if torch.compiler.is_compiling():  # for any number of tokens, and for kernels unknown here
        return False
    return (
        q.device.type == "cpu"
        and q.dtype == torch.float32
        and q.shape[-2] * k.shape[-2] >= _PAIRS
        and torch.backends.cuda.flash_sdp_enabled()  # not where another kernel was asked for
    )
