"""FlexAttention: any graph by its predicate, any bias that is elementwise in (h, i, j)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from tokennet.graphs import TokenGraph, to_mask_mod
from tokennet.graphs.base import DENSE_LIMIT
from tokennet.ops.batching import reorder
from tokennet.ops.call import Call
from tokennet.ops.kernels.block_masks import SIZE, block_mask, num_blocks, too_full
from tokennet.ops.kernels.cuthill_mckee import Reordering, reordered, reordering
from tokennet.ops.kernels.isolation import (
    SPREADS,
    can_look,
    has_nan,
    isolated,
    seen_in_sets,
    seen_through,
)
from tokennet.ops.planner import Work

_FEWEST_CHANNELS = 16
_WORTH = 2**30
"""Bytes that another kernel would gather edge by edge, some tenths of a millisecond, from which
on another order of the tokens is sought, which takes a second for each graph."""


def unsupported(call: Call) -> str | None:
    if call.more_than_dot_products:
        return call.more_than_dot_products
    if call.softmax.dropout or call.wants_lse:
        return call._replace(softmax=replace(call.softmax, softcap=None)).more_than_softmax
    if call.graph.has_multi_edges:
        return "the graph has parallel edges, which a predicate cannot hold"
    if call.q.device.type == "cpu" and call.needs_grad:
        return "FlexAttention has no backward on a CPU"
    if call.has_tangent:
        return "FlexAttention has no forward-mode derivative"
    if call.transform is not None:
        return "FlexAttention knows no transforms of functions, torch.func"
    if 0 in call.q.shape or 0 in call.k.shape:
        return "FlexAttention does not support empty sets"
    if _too_large(call.graph):
        if isinstance(call.bias, Tensor):
            return "its bias would be written out for every pair, and there are too many"
        if not (_compiled(call) and _by_blocks(call.graph)):
            return "making its block mask looks at every pair, and there are too many"
    return _unsupported_compiled(call) if _compiled(call) else None


def note(call: Call) -> str | None:
    """What else is done to a call, for `explain`."""
    found = _reordering(call)
    spreads = SPREADS if _compiled(call) and not call.graph.is_full else None
    if found is None:
        return spreads
    before, after = num_blocks(call.graph), num_blocks(found.graph)
    order = f"tokens in another order (reverse Cuthill-McKee): {after:,} blocks, not {before:,}"
    return f"{order}; {spreads}"


def _unsupported_compiled(call: Call) -> str | None:
    if call.q.dtype == torch.float64:
        return "FlexAttention, compiled, knows no float64"
    if min(call.q.shape[-1], call.v.shape[-1]) < _FEWEST_CHANNELS:
        return f"FlexAttention, compiled, takes at least {_FEWEST_CHANNELS} channels"
    bias = call.bias
    if isinstance(bias, Tensor) and bias.requires_grad and torch.is_grad_enabled():
        return "gradients of its bias are added by atomics, in another order on every run"
    return too_full(_graph(call)) if call.graph.is_explicit else None


def _reordering(call: Call) -> Reordering | None:
    """The order in which its tokens are taken, if not their own."""
    if not (_compiled(call) and call.graph.is_explicit):
        return None
    row = (call.q.shape[-1] + call.v.shape[-1]) * call.q.element_size()
    if call.groups * call.graph.num_edges * row < _WORTH:
        return None
    dense = isinstance(call.bias, Tensor) and call.bias.dim() > 2
    return None if dense else reordering(call.graph, call.q.device)


def _graph(call: Call) -> TokenGraph:
    """The graph that the kernel is given."""
    found = _reordering(call)
    return call.graph if found is None else found.graph


def _too_large(graph: TokenGraph) -> bool:
    return graph.num_targets * graph.num_sources > DENSE_LIMIT


def _by_blocks(graph: TokenGraph) -> bool:
    """Whether blocks are found without a look at every pair."""
    return graph.is_explicit or graph.band is not None


def work(call: Call) -> Work:
    """As dense attention, on blocks of 128 x 128; uncompiled, with all scores in memory.

    Compiling takes some seconds for each graph and shape. A graph by a formula is taken to
    stay with its model. Of lists there may be another at every epoch: spread over some thousand
    calls, compiling counts as 1000 operators. To bring q, k, v and the output into another
    order, each is read and written once more.
    """
    graph, n, m = _graph(call), call.graph.num_targets, call.graph.num_sources
    if not _compiled(call):
        return Work.of(call, calls=20, pieces=call.groups, scores=n * m, mask=4 * n * m)
    in_blocks = num_blocks(graph) * SIZE**2 if _by_blocks(graph) else n * m
    calls = 1000 if graph.is_explicit else 5
    work = Work.of(call, calls=calls, pieces=call.groups, scores=min(in_blocks, n * m))
    if graph is call.graph:
        return work
    return work._replace(calls=work.calls + 4, bytes=work.bytes + 2 * call.io_bytes)


def run(call: Call) -> Tensor:
    found = _reordering(call)
    if found is None:
        return _run(call)
    return reorder(_run(reordered(call, found)), found.new_index, found.order, -3)


def _run(call: Call) -> Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (call.q, call.k, call.v))  # (B, H, N, C)
    if not torch.is_grad_enabled():
        # On a CPU the flag alone is refused, even where no gradient can be taken.
        q, k, v = q.detach(), k.detach(), v.detach()
    if not (_compiled(call) and call.graph.is_explicit):  # the mask of a list has its own table
        call.graph.cached(_build_tables, q.device)
    kernel: Callable[..., Any] = flex_attention
    if _compiled(call) and not torch.compiler.is_compiling():
        kernel = call.graph.cached(_compile)
    mask = None
    if _compiled(call) and not call.graph.is_full:
        mask = call.graph.cached(_build_block_mask, call.q.device)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shared = q.shape[1] != k.shape[1]
        return kernel(q, k, v, _score_mod(call, mask), mask, call.scale, shared)

    seen = _seen(call)
    if seen is None:
        return attention(q, k, v).transpose(1, 2)  # (B, N, H, Cv)
    if can_look(q):
        out = attention(q, k, v)
        if not has_nan(out):  # 0 times NaN, or inf, is NaN
            return out.transpose(1, 2)
    return isolated(attention, q, k, v, seen).transpose(1, 2)


def _seen(call: Call) -> Callable[[Tensor], Tensor] | None:
    """Which targets attend to sources that are not finite; None where the kernel is left to it.

    On a GPU a mask of all pairs would take longer than the kernel.
    """
    graph, device = call.graph, call.q.device
    if graph.is_full:
        return None
    if not _compiled(call):
        return partial(seen_through, graph.dense(device), False)
    if not graph.is_ragged:
        return None
    targets, sources = graph.cached(_numbers_of_sets, device=device)
    return partial(seen_in_sets, targets, sources, len(graph.sizes))


def _numbers_of_sets(graph: TokenGraph) -> tuple[Tensor, Tensor]:
    """Of each target and each source."""
    numbers = torch.arange(len(graph.sizes))
    targets, sources = (torch.tensor(x) for x in (graph.sizes, graph.source_sizes))
    return numbers.repeat_interleave(targets), numbers.repeat_interleave(sources)


def _build_tables(graph: TokenGraph, device: torch.device) -> bool:
    """Once, so that a table behind the predicate is built before it is traced."""
    graph.attends(*torch.zeros(2, 1, dtype=torch.long, device=device))
    return True


def _compile(graph: TokenGraph) -> Callable[..., Tensor]:
    """Compiled for this graph, and freed with it.

    Dynamo keeps what it has compiled with the code of a function, and gives up after eight
    versions; and shapes that differ under the same name it makes variable, which is slower. So
    each graph has code and a name of its own.
    """
    code = _attend.__code__.replace(co_name=f"attend_{id(graph)}")
    return torch.compile(FunctionType(code, globals()), fullgraph=True)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, score_mod: Any, mask: Any, scale: float, shared: bool
) -> Tensor:
    return flex_attention(q, k, v, score_mod, mask, scale, shared)  # type: ignore[return-value]


def _compiled(call: Call) -> bool:
    """Compile on a GPU; on a CPU leave it to the caller's own `torch.compile`.

    A CPU compiles for seconds per shape, in float32 only; uncompiled, the same call is
    exact in every type and serves to check a predicate without a GPU.
    """
    return call.q.device.type == "cuda"


def _score_mod(call: Call, mask: BlockMask | None) -> Callable[..., Tensor] | None:
    graph, bias = call.graph, call.bias
    masked = mask is None and not graph.is_full
    capped = None if call.softmax.softcap is None else call.softmax.capped
    if not masked and bias is None and capped is None:
        return None
    table = call.dense_bias() if isinstance(bias, Tensor) else None

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if capped is not None:
            score = capped(score)
        if table is not None:
            score = score + table[b if len(table) > 1 else torch.zeros_like(b), h, i, j]
        elif callable(bias):
            score = score + bias(h, i, j)
        return torch.where(graph.attends(i, j), score, -math.inf) if masked else score

    return score_mod


def _build_block_mask(graph: TokenGraph, device: torch.device) -> BlockMask:
    if graph.is_explicit or (graph.band is not None and _too_large(graph)):
        return block_mask(graph, device)
    n, m = graph.num_targets, graph.num_sources
    return create_block_mask(to_mask_mod(graph), None, None, n, m, device=str(device))
