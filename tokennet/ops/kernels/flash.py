"""SDPA for short heads, padded where that is faster, and flash attention for sets and windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from inspect import signature

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import pad, scaled_dot_product_attention

from tokennet._compiling import constant_result
from tokennet.graphs import TokenGraph
from tokennet.ops.call import Call
from tokennet.ops.kernels.isolation import (
    can_look,
    has_nan,
    has_zeros,
    is_finite,
    isolated,
    seen_through,
)
from tokennet.ops.kernels.second_order import attention_formula, differentiable_twice

_CHANNELS = 16
"""Numbers of float32 in a vector of 64 bytes, which the kernel on the CPU is made for."""
_PAIRS = 128**2
"""With fewer pairs of tokens, padding costs more than it saves."""


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """q (..., H, N, C), k (..., K, M, C), v (..., K, M, Cv) to (..., H, N, Cv), K divides H.

    With derivatives of every order, and NaN and inf only where they are visible. On CUDA
    PyTorch's causal kernels may bring them to earlier tokens.
    """
    if q.shape[-3] != k.shape[-3]:
        return _in_turn(q, k, v, mask, is_causal, scale, dropout)
    masked = is_causal or mask is not None
    if can_look(q):
        out = _attention(q, k, v, mask, is_causal, scale, dropout)
        # With a mask inf counts: a row that is opened, to be zeroed, has a gradient of 0 times inf.
        is_spread = masked and (has_nan(out) if mask is None else not is_finite(out))
        if not is_spread and not (has_zeros(out) and _has_nan(q, k, mask)):
            return out
    elif mask is None and q.device.type != "cpu":
        return _attention(q, k, v, mask, is_causal, scale, dropout)
    nothing = None
    if mask is not None and mask.is_floating_point():
        nothing = mask.isnan()
        mask = mask.masked_fill(nothing, 0.0)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _attention(q, k, v, mask, is_causal, scale, dropout)

    out = isolated(attention, q, k, v, partial(seen_through, mask, is_causal))
    return out if nothing is None else out.masked_fill(nothing.any(-1, keepdim=True), math.nan)


def _in_turn(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float, drop: float
) -> Tensor:
    """Each of the H / K heads of q that share a head of k and v in a call of its own.

    PyTorch's kernel for CPUs would repeat k and v.
    """
    per_key = q.shape[-3] // k.shape[-3]
    queries = q.unflatten(-3, (-1, per_key)).unbind(-3)  # (..., K, N, C) each
    masks: tuple[Tensor | None, ...] = (mask,) * per_key
    if mask is not None and mask.dim() > 2 and mask.shape[-3] > 1:
        masks = mask.unflatten(-3, (-1, per_key)).unbind(-3)
    out = [
        sdpa(some, k, v, one, is_causal=is_causal, scale=scale, dropout=drop)
        for some, one in zip(queries, masks, strict=True)
    ]
    return torch.stack(out, -3).flatten(-4, -3)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, graph: TokenGraph) -> Tensor | None:
    """The short way of the most frequent call, (..., N, H, C) three times to (..., N, H, C).

    Among a few tokens on a CPU, checking, folding and choosing take longer than the kernel. Here
    one condition says that there is nothing to do before it: a complete or causal graph, real
    tensors of one shape, type and device. None where that is not so, and where numbers are not
    finite: then `attend` goes its general way, which names what is wrong.
    """
    if not (
        can_look(q)
        and type(k) is type(v) is Tensor
        and k.is_cpu
        and v.is_cpu
        and q.dtype == k.dtype == v.dtype
        and q.is_floating_point()
        and (shape := q.shape) == k.shape == v.shape
        and 2 < len(shape) < 5
        and 0 not in shape
        and shape[-3] == graph.num_targets == graph.num_sources
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
    ):
        return None
    if len(shape) == 3:
        q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, N, C)
    is_causal = graph.is_causal
    out = _attention(q, k, v, None, is_causal, shape[-1] ** -0.5)
    if (is_causal and has_nan(out)) or (has_zeros(out) and _has_nan(q, k, None)):
        return None
    out = out.transpose(1, 2)  # (B, N, H, C)
    return out if len(shape) == 4 else out.squeeze(0)


def _has_nan(q: Tensor, k: Tensor, mask: Tensor | None) -> bool:
    """Whether scores may be NaN: the kernel for CPUs gives 0 to a target with no others."""
    if mask is not None and mask.is_floating_point() and has_nan(mask):
        return True
    return not (is_finite(q) and is_finite(k))


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """PyTorch's function, on heads that are padded where that is faster.

    In float32 the flash kernel for CPUs takes up to twice as long with 9 channels as with 16,
    and zeros change no score. Values lie in memory as (..., N, H, Cv), as without padding.
    """
    if forward_ad._current_level >= 0:  # as in torch.func.hessian, around reverse mode
        return attention_formula(q, k, v, mask, is_causal, scale)
    narrow, values = q.shape[-1] < _CHANNELS and _is_slow(q, k, v), v.shape[-1]
    if narrow:
        q, k, v = (pad(x, (0, _CHANNELS - x.shape[-1])) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, scale=scale)
    if out.requires_grad and not dropout and not torch.compiler.is_compiling():
        differentiable_twice(out, mask, is_causal, scale)
    return out[..., :values].transpose(-3, -2).contiguous().transpose(-3, -2) if narrow else out


def sdpa_problem(call: Call) -> str | None:
    """What keeps a call away from `sdpa`, whatever its graph and its bias are, or None."""
    if call.has_tangent and torch.backends.cuda.flash_sdp_enabled():
        return "fused SDPA has no forward-mode derivative; sdpa_kernel(SDPBackend.MATH) has"
    return call.more_than_dot_products


def _is_slow(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether it is for the flash kernel, and padding pays: as measured, not for 1 channel."""
    return (
        1 < q.shape[-1] == v.shape[-1] < _CHANNELS
        and not torch.compiler.is_compiling()  # for any number of tokens, for kernels unknown here
        and q.device.type == "cpu"
        and q.dtype == torch.float32
        and q.shape[-2] * k.shape[-2] >= _PAIRS
        and torch.backends.cuda.flash_sdp_enabled()  # not where another kernel is chosen
    )


_WIDEST = 256


@constant_result
def varlen_attn() -> Callable[..., Tensor]:
    """PyTorch's kernel; its module is loaded when first needed, which takes seconds."""
    return import_module("torch.nn.attention.varlen").varlen_attn


@cache
def has_windows() -> bool:
    """Whether the kernel knows windows and scales, which its first versions did not."""
    return {"scale", "window_size"} <= signature(varlen_attn()).parameters.keys()


def unsupported(call: Call) -> str | None:
    """What keeps a call away from the kernel, whatever its graph is, or None."""
    q, channels = call.q, call.q.shape[-1]
    if call.queries_per_key > 1:
        return "flash attention is not given heads that share keys"
    if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
        return "flash attention is for float16 and bfloat16 on CUDA"
    if channels != call.v.shape[-1] or channels % 8 or channels > _WIDEST:
        return f"flash attention supports 8, 16, ... {_WIDEST} channels, of values too"
    if call.has_tangent or call.in_func_grad:
        return "flash attention has derivatives by autograd only"
    if 0 in (call.q.numel(), call.k.numel()):
        return "there is nothing to attend to"
    return _problem(q.device.index)


@constant_result
def _problem(index: int | None) -> str | None:
    if torch.version.hip is not None or torch.cuda.get_device_capability(index) < (8, 0):
        return "flash attention needs an NVIDIA GPU of compute capability 8.0"
    if not torch.backends.cuda.flash_sdp_enabled():
        return "flash attention is switched off"
    if not has_windows():
        return "this torch has no windows in variable-length attention"
    return None


def attend_sequences(
    call: Call, ends: tuple[Tensor, Tensor], longest: tuple[int, int], window: tuple[int, int]
) -> Tensor:
    """Attention within each sequence of targets and its sequence of sources.

    Args:
        call: with q, k, v (B, tokens, H, C).
        ends: (sequences + 1,) of targets, of sources: where each sequence of one entry of
            the batch begins, and where the last ends; none of them empty.
        longest: tokens of the longest sequence, of targets, of sources.
        window: how many tokens back and ahead a target attends to; -1 for all.

    Returns:
        (B, N, H, C).
    """
    q, k, v = (x.flatten(0, 1) for x in (call.q, call.k, call.v))  # (B N, H, C)
    targets, sources = (_of_batch(x, call.batch) for x in ends)
    out = varlen_attn()(
        q, k, v, targets, sources, longest[0], longest[1], scale=call.scale, window_size=window
    )
    return out.unflatten(0, call.q.shape[:2])


def _of_batch(ends: Tensor, batch: int) -> Tensor:
    """The same sequences once for each entry of the batch, one entry after the other."""
    if batch == 1:
        return ends
    first = torch.arange(batch, dtype=ends.dtype, device=ends.device)[:, None] * ends[-1:]
    return torch.cat([ends[:1], (first + ends[1:]).flatten()])
