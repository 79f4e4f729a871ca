"""FlexAttention: any graph by its predicate, any bias that is elementwise in (h, i, j)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from tokennet.attend.blocks import SIZE, block_mask, num_blocks, too_full
from tokennet.attend.call import Call
from tokennet.attend.cost import Work
from tokennet.graphs import Full, TokenGraph, to_mask_mod
from tokennet.graphs.base import DENSE_LIMIT

_FEWEST_CHANNELS = 16


def unsupported(call: Call) -> str | None:
    if call.more_than_dot_products:
        return call.more_than_dot_products
    if call.graph.has_multi_edges:
        return "the graph has parallel edges, which a predicate cannot hold"
    if call.q.device.type == "cpu" and call.needs_grad:
        return "FlexAttention has no backward on a CPU"
    if call.has_tangent:
        return "FlexAttention has no forward-mode derivative"
    if 0 in call.q.shape or 0 in call.k.shape:
        return "FlexAttention takes no empty sets"
    if _too_large(call.graph):
        if isinstance(call.bias, Tensor):
            return "its bias would be written out for every pair, and there are too many"
        if not (_compiled(call) and _by_blocks(call.graph)):
            return "making its block mask looks at every pair, and there are too many"
    return _unsupported_compiled(call) if _compiled(call) else None


def _unsupported_compiled(call: Call) -> str | None:
    if call.q.dtype == torch.float64:
        return "FlexAttention, compiled, knows no float64"
    if min(call.q.shape[-1], call.v.shape[-1]) < _FEWEST_CHANNELS:
        return f"FlexAttention, compiled, takes at least {_FEWEST_CHANNELS} channels"
    bias = call.bias
    if isinstance(bias, Tensor) and bias.requires_grad and torch.is_grad_enabled():
        return "gradients of its bias are added by atomics, in another order on every run"
    return too_full(call.graph) if call.graph.is_explicit else None


def _too_large(graph: TokenGraph) -> bool:
    return graph.num_targets * graph.num_sources > DENSE_LIMIT


def _by_blocks(graph: TokenGraph) -> bool:
    """Whether blocks are found without a look at every pair."""
    return graph.is_explicit or graph.band is not None


def work(call: Call) -> Work:
    """As dense attention, on blocks of 128 x 128; uncompiled, with all scores in memory.

    Compiling takes some ten seconds for each graph and shape. Spread over a thousand calls it
    counts as so many operators.
    """
    n, m = call.graph.num_targets, call.graph.num_sources
    if not _compiled(call):
        return Work.of(call, calls=20, pieces=call.groups, scores=n * m, mask=4 * n * m)
    in_blocks = num_blocks(call.graph) * SIZE**2 if _by_blocks(call.graph) else n * m
    return Work.of(call, calls=500, pieces=call.groups, scores=min(in_blocks, n * m))


def run(call: Call) -> Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (call.q, call.k, call.v))  # (B, H, N, C)
    if not torch.is_grad_enabled():
        # On a CPU the flag alone is refused, even where no gradient can be asked for.
        q, k, v = q.detach(), k.detach(), v.detach()
    # Asked once out here, so that a table behind the predicate is built before it is traced.
    call.graph.has_edge(*torch.zeros(2, 1, dtype=torch.long, device=q.device))
    kernel = torch.compile(flex_attention, fullgraph=True) if _compiled(call) else flex_attention
    mask = None
    if _compiled(call) and not isinstance(call.graph, Full):
        mask = _block_mask(call.graph, call.q.device)
    out = kernel(q, k, v, score_mod=_score_mod(call, mask), block_mask=mask, scale=call.scale)
    return out.transpose(1, 2)  # (B, N, H, Cv)


def _compiled(call: Call) -> bool:
    """Compile on a GPU; on a CPU leave it to the caller's own `torch.compile`.

    A CPU compiles for seconds per shape, in float32 only; uncompiled, the same call is
    exact in every type and serves to check a predicate without a GPU.
    """
    return call.q.device.type == "cuda"


def _score_mod(call: Call, mask: BlockMask | None) -> Callable[..., Tensor] | None:
    graph, bias = call.graph, call.bias
    masked = mask is None and not isinstance(graph, Full)
    if not masked and bias is None:
        return None
    table = call.dense_bias() if isinstance(bias, Tensor) else None

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if table is not None:
            score = score + table[b if len(table) > 1 else torch.zeros_like(b), h, i, j]
        elif callable(bias):
            score = score + bias(h, i, j)
        return torch.where(graph.has_edge(i, j), score, -math.inf) if masked else score

    return score_mod


def _block_mask(graph: TokenGraph, device: torch.device) -> BlockMask:
    return graph.derive(f"block_mask on {device}", None, partial(_build_block_mask, device))


def _build_block_mask(device: torch.device, graph: TokenGraph) -> BlockMask:
    if graph.is_explicit or (graph.band is not None and _too_large(graph)):
        return block_mask(graph, device)
    n, m = graph.num_targets, graph.num_sources
    return create_block_mask(to_mask_mod(graph), None, None, n, m, device=str(device))
