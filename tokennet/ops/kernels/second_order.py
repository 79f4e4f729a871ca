"""Second derivatives for kernels whose first derivative PyTorch cannot differentiate.

Fused kernels of attention have a backward pass, and that has none. Where a graph of gradients is
asked for (`create_graph=True`: gradient penalties, Hessians), the gradient is that of the same
formula in plain operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor


def differentiable_twice(out: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> None:
    """Give derivatives of every order to an output of `scaled_dot_product_attention`.

    By a hook, which takes some microseconds; it holds none of the tensors that autograd frees.
    """
    node = out.grad_fn
    if node is not None and "Attention" in node.name():  # the plain kernel needs no help
        node.register_hook(partial(_gradients, mask, is_causal, scale))


def _gradients(
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    found: Sequence[Tensor | None],
    upstream: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...] | None:
    """By q, k, v and the mask: those of the formula, if they are to be differentiated."""
    grad = upstream[0]
    if not torch.is_grad_enabled() or grad is None:
        return None
    node: Any = torch._C._current_autograd_node()
    given = [node._saved_query, node._saved_key, node._saved_value, mask]
    # Views, because the same tensor may have been given for q and k.
    q, k, v, mask = (x if f is None else x.view_as(x) for x, f in zip_longest(given, found))
    out = attention_formula(q, k, v, mask, is_causal, scale)
    by = [x for x, f in zip_longest((q, k, v, mask), found) if f is not None]
    gradients = iter(torch.autograd.grad(out, by, grad, create_graph=True))
    return tuple(None if f is None else next(gradients) for f in found)


def attention_formula(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float
) -> Tensor:
    """`scaled_dot_product_attention` in plain operations, in float32 at least."""
    precise = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        scores = scale * q.to(precise) @ k.to(precise).transpose(-1, -2)  # (..., H, N, M)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        elif mask is not None:
            scores = scores + mask
        return (scores.softmax(-1) @ v.to(precise)).to(v.dtype)
