"""`scaled_dot_product_attention`: for graphs that are complete, causal, or small enough to mask."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.graphs.base import DENSE_LIMIT
from tokennet.ops.call import Call, without_autocast
from tokennet.ops.kernels.flash import sdpa, sdpa_problem
from tokennet.ops.kernels.isolation import SPREADS, can_look, is_finite, isolated, seen_through
from tokennet.ops.planner import Work


def unsupported(call: Call) -> str | None:
    if problem := sdpa_problem(call):
        return problem
    entries = call.graph.num_targets * call.graph.num_sources
    if _by_formula(call) and entries * call.groups > DENSE_LIMIT:
        return f"its weights would be {entries * call.groups:,}, more than {DENSE_LIMIT:,}"
    if call.needs_mask and entries > DENSE_LIMIT:
        return f"its mask would have {entries:,} entries, more than {DENSE_LIMIT:,}"
    if call.graph.has_multi_edges:
        return "the graph has parallel edges, which a mask cannot hold"
    return None


def work(call: Call) -> Work:
    """Every pair, or half of them where SDPA knows that the graph is causal.

    On a GPU, where numbers are not looked at, ten more operators take NaN and inf out of what a
    mask multiplies by 0.
    """
    n, m = call.graph.num_targets, call.graph.num_sources
    if _by_formula(call):
        return Work.of(call, calls=12, pieces=call.groups, scores=n * m, mask=6 * n * m)
    if call.needs_mask:
        calls = 2 if call.q.device.type == "cpu" else 12
        return Work.of(call, calls=calls, pieces=call.groups, scores=n * m, mask=n * m)
    needed = n * m / (2 if call.graph.is_causal else 1)
    return Work.of(call, calls=1, pieces=call.groups, scores=needed)


def note(call: Call) -> str | None:
    """What else is done to a call, for `explain`."""
    unmasked_causal = call.graph.is_causal and not call.needs_mask
    return SPREADS if unmasked_causal and call.q.device.type != "cpu" else None


def run(call: Call) -> Tensor:
    if _by_formula(call):
        return run_with_lse(call)[0]
    q, k, v = call.q.transpose(1, 2), call.k.transpose(1, 2), call.v.transpose(1, 2)  # (B, H, N, C)
    drop = call.softmax.dropout
    if not call.needs_mask:
        out = sdpa(q, k, v, is_causal=call.graph.is_causal, scale=call.scale, dropout=drop)
        return out.transpose(1, 2)  # (B, N, H, Cv)
    bias = call.dense_bias()
    if bias is not None:
        mask, dead = _mask_with_bias(bias, call.graph)
    else:
        mask, dead = call.graph.dense(call.q.device), None
        if call.graph.has_empty_targets:
            dead = ~mask.any(-1, keepdim=True)
            mask = call.graph.cached(_open_empty_rows, device=call.q.device)
    out = sdpa(q, k, v, mask, scale=call.scale, dropout=drop)
    if dead is not None:
        out = out.masked_fill(dead, 0.0)
    return out.transpose(1, 2)


def _by_formula(call: Call) -> bool:
    """Whether in plain operations, for what SDPA does not know; its dropout on a CPU neither."""
    softmax = call.softmax
    if call.wants_lse or softmax.softcap is not None:
        return True
    return softmax.dropout > 0 and call.q.device.type == "cpu"


@without_autocast
def run_with_lse(call: Call) -> tuple[Tensor, Tensor]:
    """Output (B, N, H, Cv) and log-sum-exp (B, N, H), in float32 at least."""
    precise = torch.promote_types(call.q.dtype, torch.float32)
    q, k, v = (x.to(precise).transpose(1, 2) for x in (call.q, call.k, call.v))  # (B, H, N, C)
    mask = None if call.graph.is_full else call.graph.dense(q.device)
    bias, heads = call.dense_bias(), (call.k.shape[2], -1)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = call.scale * q.unflatten(1, heads) @ k.unsqueeze(2).transpose(-1, -2)
        scores = call.softmax.capped(scores.flatten(1, 2))  # (B, H, N, M)
        scores = scores if bias is None else scores + bias.to(precise)
        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        dead = (scores == -math.inf).all(-1, keepdim=True)
        scores = scores.masked_fill(dead, 0.0)
        lse = scores.logsumexp(-1, keepdim=True).masked_fill(dead, -math.inf)
        weights = scores.softmax(-1).masked_fill(dead, 0.0)
        weights = call.softmax.dropped(weights).unflatten(1, heads)
        return torch.cat([(weights @ v.unsqueeze(2)).flatten(1, 2), lse], -1)

    out = attention(q, k, v)  # (B, H, N, Cv + 1)
    # Not the output: a score that is masked may be NaN, and is so in the gradients alone.
    if mask is not None and not (can_look(q) and all(map(is_finite, (q, k, v)))):
        out = isolated(attention, q, k, v, partial(seen_through, mask, False))
    out = out.transpose(1, 2)
    return out[..., :-1].to(call.v.dtype), out[..., -1]


def _open_empty_rows(graph: TokenGraph) -> Tensor:
    """The mask with rows without edges opened, which are zeroed in the output.

    What a fully masked row gives, and whether its gradient is finite, differs between SDPA's
    kernels.
    """
    mask = graph.dense()
    return mask | ~mask.any(-1, keepdim=True)


def _mask_with_bias(bias: Tensor, graph: TokenGraph) -> tuple[Tensor, Tensor]:
    """Additive mask (B or 1, H, N, M), and its rows of -inf only, (..., N, 1), to be zeroed."""
    if not graph.is_full:
        bias = bias.masked_fill(~graph.dense(bias.device), -math.inf)
    dead = (bias == -math.inf).all(-1, keepdim=True)
    return bias.masked_fill(dead, 0.0), dead
