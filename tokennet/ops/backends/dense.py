"""`scaled_dot_product_attention`: for graphs that are complete, causal, or small enough to mask."""

from __future__ import annotations

import math

from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.graphs.base import DENSE_LIMIT
from tokennet.ops.call import Call
from tokennet.ops.kernels.flash import sdpa, sdpa_problem
from tokennet.ops.kernels.isolation import SPREADS
from tokennet.ops.planner import Work


def unsupported(call: Call) -> str | None:
    if problem := sdpa_problem(call):
        return problem
    entries = call.graph.num_targets * call.graph.num_sources
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
    q, k, v = call.q.transpose(1, 2), call.k.transpose(1, 2), call.v.transpose(1, 2)  # (B, H, N, C)
    if not call.needs_mask:
        out = sdpa(q, k, v, is_causal=call.graph.is_causal, scale=call.scale)
        return out.transpose(1, 2)  # (B, N, H, Cv)
    bias = call.dense_bias()
    if bias is not None:
        mask, dead = _mask_with_bias(bias, call.graph)
    else:
        mask, dead = call.graph.dense(call.q.device), None
        if call.graph.has_empty_targets:
            dead = ~mask.any(-1, keepdim=True)
            mask = call.graph.cached(_open_empty_rows, device=call.q.device)
    out = sdpa(q, k, v, mask, scale=call.scale)
    if dead is not None:
        out = out.masked_fill(dead, 0.0)
    return out.transpose(1, 2)


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
