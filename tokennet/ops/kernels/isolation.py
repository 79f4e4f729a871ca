"""NaN and inf stay where they are visible, around kernels that multiply masked pairs by 0.

0 times NaN is NaN: a kernel that computes masked pairs spreads what is not finite in a key or a
value to targets that do not attend to it. And the flash kernel for CPUs gives 0 where all scores
of a target are NaN. Here such numbers are taken out first, and the outputs of the targets that
attend to them become NaN afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

SPREADS = "NaN or inf of a token may reach others of its set"
"""For `explain`, of kernels that are left to it, on a GPU; never another set."""


def isolated(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Callable[[Tensor], Tensor],
) -> Tensor:
    """`attention(q, k, v)`, NaN for targets that attend to a token with NaN or inf.

    Args:
        attention: it is given finite numbers.
        q: (..., H, N, C)
        k: (..., K, M, C), of K heads that divide H
        v: (..., K, M, Cv)
        seen: from which sources are not finite, (..., H, M), which targets attend to one,
            (..., H, N) or to broadcast to it.

    Returns:
        (..., H, N, Cv).
    """
    bad = ~(k.isfinite().all(-1) & v.isfinite().all(-1))  # (..., H, M)
    bad = seen(bad)  # (..., H or K, N)
    if bad.shape[-2] != q.shape[-3]:
        bad = bad.repeat_interleave(q.shape[-3] // bad.shape[-2], -2)
    bad = bad | ~q.isfinite().all(-1)  # (..., H, N)
    q, k, v = (x.nan_to_num(0.0, 0.0, 0.0) for x in (q, k, v))
    return attention(q, k, v).masked_fill(bad.unsqueeze(-1), math.nan)


def seen_through(mask: Tensor | None, is_causal: bool, bad: Tensor) -> Tensor:
    """Which targets attend to a bad source, (..., H, M) to (..., H, N), through a mask of SDPA."""
    if is_causal:
        return bad.cumsum(-1) > 0
    if mask is None:
        return bad.any(-1, keepdim=True)
    visible = mask if mask.dtype == torch.bool else mask != -math.inf
    if visible.dim() == 2:  # without a copy of the mask for each head
        return bad.float() @ visible.t().float() > 0
    return (visible & bad.unsqueeze(-2)).any(-1)


def seen_in_sets(targets: Tensor, sources: Tensor, num_sets: int, bad: Tensor) -> Tensor:
    """The same where each target sees its whole set: the numbers of sets are (N,) and (M,)."""
    counts = torch.zeros(*bad.shape[:-1], num_sets, device=bad.device)
    return counts.index_add(-1, sources, bad.float()).index_select(-1, targets) > 0


def can_look(tensor: Tensor) -> bool:
    """Whether numbers can be looked at: on a CPU, not in a program that is traced."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) in _REAL
        and tensor.is_cpu
        and not torch._C._are_functorch_transforms_active()
    )


_REAL = (Tensor, nn.Parameter)
"""Types of tensors with numbers; others may be fake."""


_FEW = 2**13
"""Entries of which all are looked at, in the operation that is quickest to call."""


def has_nan(tensor: Tensor) -> bool:
    """Whether there is NaN; or, among many numbers, inf and -inf."""
    if tensor.numel() < _FEW:
        return not torch.equal(tensor, tensor)  # NaN is not equal to itself
    return math.isnan(tensor.detach().sum().item())


def has_zeros(out: Tensor) -> bool:
    """Whether some row of (..., Cv) may be 0."""
    rows = out if out.numel() < _FEW or not out.shape[-1] else out.select(-1, 0)
    return rows.count_nonzero().item() < rows.numel()


def is_finite(tensor: Tensor) -> bool:
    """Whether the sum is: False, too, for numbers that add up to infinity."""
    return math.isfinite(tensor.detach().sum().item())
