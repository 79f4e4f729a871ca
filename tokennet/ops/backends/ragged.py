"""Ragged batches of complete or causal sets: an SDPA call for each size, or one flash call for all.

Without flash a device takes one call for all small sets of about a size, padded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.ops.batching import (
    Alike,
    PaddedSets,
    SortedSets,
    masks_of,
    padded_sets,
    sets_alike,
    stacked_sources,
    stacked_targets,
    unstacked,
)
from tokennet.ops.call import Call
from tokennet.ops.kernels import flash
from tokennet.ops.kernels.isolation import SPREADS
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
    """How many tokens ahead a target attends to: 0 where all sets are causal, -1 (no limit) where
    all are complete; None where sets differ or lack tokens."""


def unsupported(call: Call) -> str | None:
    if problem := flash.sdpa_problem(call) or call.more_than_softmax:
        return problem
    if not call.graph.is_ragged:
        return "the graph is not a ragged batch"
    if not call.graph.cached(_are_sets):
        return "the sets of the batch are not all complete, or causal"
    if call.graph.num_edges == 0:
        return "no set has an edge"
    if call.bias is not None:
        return "there is a bias, and each set would have one of its own"
    return None


def _are_sets(graph: TokenGraph) -> bool:
    return all(part.is_full or part.is_causal for part in graph.parts)


def work(call: Call) -> Work:
    shapes = _sets(call, _padded(call)).shapes
    scores = sum(
        alike.num_sets * alike.num_targets * alike.num_sources * (0.5 if alike.is_causal else 1)
        for alike in shapes
    )
    pieces = call.groups * sum(alike.num_sets for alike in shapes)
    calls = 1 if _by_flash(call) else len(shapes)
    return Work.of(call, calls=calls, pieces=pieces, scores=scores)


def note(call: Call) -> str | None:
    """What else is done to a call, for `explain`."""
    is_causal = any(part.is_causal for part in call.graph.parts)
    return SPREADS if is_causal and call.q.device.type != "cpu" else None


def run(call: Call) -> Tensor:
    if _by_flash(call):
        found = _sequences(call)
        longest, window = (found.most_targets, found.most_sources), (-1, found.ahead)
        return flash.attend_sequences(call, found[:2], longest, window)  # type: ignore[arg-type]
    padded = _padded(call)
    sets = _sets(call, padded)
    masks = [None] * len(sets.shapes) if padded is None else masks_of(padded, call.batch)
    stacks = zip(
        sets.shapes,
        stacked_targets(call.q, sets, -3),  # (B, S, n, H, C) each
        stacked_sources(call.k, sets, -3),
        stacked_sources(call.v, sets, -3),
        masks,
        strict=True,
    )
    out = [_attend_sets(*stack, call.scale) for stack in stacks]
    if padded is None:
        nothing = call.v.new_zeros(call.batch, 0, call.num_heads, call.v.shape[-1])
        return unstacked(out, nothing, sets, -3)
    # Not by `reorder`, whose adjoint would give a gradient to the padding.
    return torch.cat([x.flatten(1, 2) for x in out], 1).index_select(1, sets.targets_back)


def _attend_sets(
    alike: Alike, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Sets of one size: (B, S, n, H, C), (B, S, m, H, C) to (B, S, n, H, Cv)."""
    if 0 in (alike.num_targets, alike.num_sources):
        return q.new_zeros(*q.shape[:-1], v.shape[-1])
    sets = q.shape[:2]
    q, k, v = (tensor.flatten(0, 1).transpose(1, 2) for tensor in (q, k, v))  # (B S, H, n, C)
    out = flash.sdpa(q, k, v, mask, is_causal=alike.is_causal, scale=scale)
    return out.transpose(1, 2).unflatten(0, sets)


def _sets(call: Call, padded: PaddedSets | None) -> SortedSets:
    return sets_alike(call.graph, call.q.device) if padded is None else padded.sets


def _padded(call: Call) -> PaddedSets | None:
    """The batch padded, where it takes fewer calls and calls are what takes time."""
    device = call.q.device
    if device.type == "cpu" or _by_flash(call):
        return None
    padded = padded_sets(call.graph, device)
    if padded is None or len(padded.sets.shapes) >= len(_sets(call, None).shapes):
        return None
    return padded


def _by_flash(call: Call) -> bool:
    return flash.unsupported(call) is None and _sequences(call).ahead is not None


def _sequences(call: Call) -> _Sequences:
    return call.graph.cached(_build_sequences, device=call.q.device)


def _build_sequences(graph: TokenGraph) -> _Sequences:
    targets, sources = graph.sizes, graph.source_sizes
    causal = {part.is_causal for part in graph.parts}
    alike = len(causal) == 1 and 0 not in (*targets, *sources)
    ahead = (0 if True in causal else -1) if alike else None
    first, second = (torch.tensor([0, *x]).cumsum(0).int() for x in (targets, sources))
    return _Sequences(first, second, max(targets, default=0), max(sources, default=0), ahead)
