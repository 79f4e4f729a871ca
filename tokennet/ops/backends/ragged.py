"""Ragged batches of complete sets: one call for all of a size, or, by flash, one for all.

Without flash a device takes one call for all small sets of about a size, filled up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.graphs import Causal, Disjoint, Full
from tokennet.ops.batching import (
    PaddedSets,
    SortedSets,
    masks_of,
    padded_sets,
    sets_of_a_size,
    stacked_sources,
    stacked_targets,
    unstacked,
)
from tokennet.ops.call import Call
from tokennet.ops.kernels.flash import attend_sequences, sdpa
from tokennet.ops.kernels.flash import unsupported as not_by_flash
from tokennet.ops.planner import Work


class _Sequences(NamedTuple):
    """Sets one after the other, as they are."""

    targets: Tensor
    """(S + 1,) int32, the first target of each set, and N"""
    sources: Tensor
    """(S + 1,)"""
    most_targets: int
    """of a set"""
    most_sources: int
    ahead: int | None
    """Places that targets see ahead: 0 causal, -1 all; None where sets differ or lack tokens."""


def unsupported(call: Call) -> str | None:
    if call.more_than_dot_products:
        return call.more_than_dot_products
    if not call.graph.is_ragged:
        return "the graph is not a ragged batch"
    if not call.graph.cached(_are_sets):
        return "the sets of the batch are not all complete, or causal"
    if call.graph.num_edges == 0:
        return "no set has an edge"
    if call.bias is not None:
        return "there is a bias, and each set would have one of its own"
    if call.has_tangent and torch.backends.cuda.flash_sdp_enabled():
        return "fused SDPA has no forward-mode derivative; sdpa_kernel(SDPBackend.MATH) has"
    return None


def _are_sets(graph: Disjoint) -> bool:
    return all(type(part) in (Full, Causal) for part in graph.parts)


def work(call: Call) -> Work:
    padded = _padded(call)
    shapes = (_sizes(call) if padded is None else padded.sets).shapes
    calls = 1 if _by_flash(call) else len(shapes)
    scores = sum(
        alike.num_sets * alike.num_targets * alike.num_sources * (0.5 if alike.is_causal else 1)
        for alike in shapes
    )
    pieces = call.groups * sum(alike.num_sets for alike in shapes)
    return Work.of(call, calls=calls, pieces=pieces, scores=scores)


def run(call: Call) -> Tensor:
    if _by_flash(call):
        made = _sequences(call)
        longest, window = (made.most_targets, made.most_sources), (-1, made.ahead)
        return attend_sequences(call, made[:2], longest, window)  # type: ignore[arg-type]
    padded = _padded(call)
    sets = _sizes(call) if padded is None else padded.sets
    masks = [None] * len(sets.shapes) if padded is None else masks_of(padded, call.batch)
    stacks = zip(
        stacked_targets(call.q, sets, -3),  # (B, S, n, H, C) each
        stacked_sources(call.k, sets, -3),
        stacked_sources(call.v, sets, -3),
        sets.shapes,
        masks,
        strict=True,
    )
    out = [
        _attend_sets(q, k, v, mask, alike.is_causal, call.scale) for q, k, v, alike, mask in stacks
    ]
    if padded is None:
        return unstacked(out, call.v[:, :0], sets, -3)
    # Not by `reorder`, whose adjoint would give a gradient to what fills up.
    return torch.cat([x.flatten(1, 2) for x in out], 1).index_select(1, sets.targets_back)


def _attend_sets(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """Sets of one size: (B, S, n, H, C), (B, S, m, H, C) to (B, S, n, H, Cv)."""
    batch, count, n, heads, _ = q.shape
    if n == 0 or k.shape[2] == 0:
        return q.new_zeros(batch, count, n, heads, v.shape[-1])
    q, k, v = (tensor.flatten(0, 1).transpose(1, 2) for tensor in (q, k, v))  # (B S, H, n, C)
    out = sdpa(q, k, v, mask, is_causal=causal, scale=scale)
    return out.transpose(1, 2).unflatten(0, (batch, count))


def _padded(call: Call) -> PaddedSets | None:
    """The batch filled up, where it takes fewer calls and calls are what takes time."""
    if call.q.device.type == "cpu" or _by_flash(call):
        return None
    padded = padded_sets(call.graph, call.q.device)
    fewer = padded is not None and len(padded.sets.shapes) < len(_sizes(call).shapes)
    return padded if fewer else None


def _sizes(call: Call) -> SortedSets:
    return sets_of_a_size(call.graph, call.q.device)


def _by_flash(call: Call) -> bool:
    return not_by_flash(call) is None and _sequences(call).ahead is not None


def _sequences(call: Call) -> _Sequences:
    return call.graph.cached(_build_sequences, device=call.q.device)


def _build_sequences(graph: Disjoint) -> _Sequences:
    targets, sources = graph.sizes, graph.source_sizes
    causal = {part.is_causal for part in graph.parts}
    alike = len(causal) == 1 and 0 not in (*targets, *sources)
    ahead = (0 if True in causal else -1) if alike else None
    first, second = (torch.tensor([0, *x]).cumsum(0).int() for x in (targets, sources))
    return _Sequences(first, second, max(targets, default=0), max(sources, default=0), ahead)
