"""`scaled_dot_product_attention`: for graphs that are complete, causal, or small enough to mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.graphs.base import DENSE_LIMIT
from tokennet.ops.call import Call
from tokennet.ops.kernels.flash import sdpa
from tokennet.ops.planner import Work


def unsupported(call: Call) -> str | None:
    if call.more_than_dot_products:
        return call.more_than_dot_products
    entries = call.graph.num_targets * call.graph.num_sources
    if call.needs_mask and entries > DENSE_LIMIT:
        return f"its mask would have {entries:,} entries, more than {DENSE_LIMIT:,}"
    if call.graph.has_multi_edges:
        return "the graph has parallel edges, which a mask cannot hold"
    if call.has_tangent and torch.backends.cuda.flash_sdp_enabled():
        return "fused SDPA has no forward-mode derivative; sdpa_kernel(SDPBackend.MATH) has"
    return None


def work(call: Call) -> Work:
    """Every pair, or half of them where SDPA knows that the graph is causal."""
    n, m = call.graph.num_targets, call.graph.num_sources
    if call.needs_mask:
        return Work.of(call, calls=2, pieces=call.groups, scores=n * m, mask=n * m)
    needed = n * m / (2 if call.graph.is_causal else 1)
    return Work.of(call, calls=1, pieces=call.groups, scores=needed)


def run(call: Call) -> Tensor:
    q, k, v = call.q.transpose(1, 2), call.k.transpose(1, 2), call.v.transpose(1, 2)  # (B, H, N, C)
    if not call.needs_mask:
        out = sdpa(q, k, v, is_causal=call.graph.is_causal, scale=call.scale)
        return out.transpose(1, 2)  # (B, N, H, Cv)
    bias = call.dense_bias()
    if bias is None:
        mask, dead = _boolean_mask(call.graph, call.q.device)
    else:
        mask, dead = _mask_with_bias(bias, call.graph)
    out = sdpa(q, k, v, mask, scale=call.scale)
    if dead is not None:
        out = out.masked_fill(dead, 0.0)
    return out.transpose(1, 2)


def _boolean_mask(graph: TokenGraph, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Boolean mask and the rows (N, 1) without edges, to be zeroed; or None if all have edges.

    Such rows are opened in the mask and zeroed in the output: what a fully masked row
    gives, and whether its gradient is finite, differs between SDPA's kernels.
    """
    mask = graph.dense(device)
    if not graph.has_empty_targets:
        return mask, None
    opened = graph.cached(_open_empty_rows, device=device)
    return opened, ~mask.any(-1, keepdim=True)


def _open_empty_rows(graph: TokenGraph) -> Tensor:
    mask = graph.dense()
    return mask | ~mask.any(-1, keepdim=True)


def _mask_with_bias(bias: Tensor, graph: TokenGraph) -> tuple[Tensor, Tensor]:
    """Additive mask (B or 1, H, N, M), and its rows of -inf only, (..., N, 1), to be zeroed."""
    if not graph.is_full:
        bias = bias.masked_fill(~graph.dense(bias.device), -math.inf)
    dead = (bias == -math.inf).all(-1, keepdim=True)
    return bias.masked_fill(dead, 0.0), dead
