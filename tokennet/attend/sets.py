"""Ragged batches of complete sets: one call for all of a size, or, by flash, one for all."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tokennet.attend.call import Call
from tokennet.attend.cost import Work
from tokennet.attend.reorder import reorder
from tokennet.attend.varlen import attend_sequences
from tokennet.attend.varlen import unsupported as not_by_flash
from tokennet.graphs import Causal, Disjoint, Full


class _Sizes(NamedTuple):
    """Sets in order of their sizes, and the way back."""

    targets: Tensor
    """(N,) token of each place; (0,) where the sets are in order already."""
    targets_back: Tensor
    """(N,) place of each token; (0,) where they are in order."""
    sources: Tensor
    """(M,)"""
    sources_back: Tensor
    shapes: list[tuple[int, int, int, bool]]
    """Number of sets, targets, sources of each, causal or not."""


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
    if not isinstance(call.graph, Disjoint):
        return "the graph is not a ragged batch"
    if not all(type(graph) in (Full, Causal) for graph in call.graph.graphs):
        return "the sets of the batch are not all complete, or causal"
    if call.graph.num_edges == 0:
        return "no set has an edge"
    if call.bias is not None:
        return "there is a bias, and each set would have one of its own"
    if call.has_tangent and torch.backends.cuda.flash_sdp_enabled():
        return "fused SDPA has no forward-mode derivative; sdpa_kernel(SDPBackend.MATH) has"
    return None


def work(call: Call) -> Work:
    shapes = _sizes(call).shapes
    calls = 1 if _by_flash(call) else len(shapes)
    scores = sum(count * n * m * (0.5 if causal else 1) for count, n, m, causal in shapes)
    pieces = call.groups * sum(count for count, *_ in shapes)
    return Work.of(call, calls=calls, pieces=pieces, scores=scores)


def run(call: Call) -> Tensor:
    if _by_flash(call):
        made = _sequences(call)
        longest, window = (made.most_targets, made.most_sources), (-1, made.ahead)
        return attend_sequences(call, made[:2], longest, window)  # type: ignore[arg-type]
    sizes = _sizes(call)
    q = reorder(call.q, sizes.targets, sizes.targets_back)
    k, v = (reorder(tensor, sizes.sources, sizes.sources_back) for tensor in (call.k, call.v))
    targets = [count * n for count, n, _, _ in sizes.shapes]
    sources = [count * m for count, _, m, _ in sizes.shapes]
    parts = zip(q.split(targets, 1), k.split(sources, 1), v.split(sources, 1), strict=True)
    out = [
        _attend_sets(*part, shape, call.scale)
        for part, shape in zip(parts, sizes.shapes, strict=True)
    ]
    return reorder(torch.cat(out, 1), sizes.targets_back, sizes.targets)


def _attend_sets(
    q: Tensor, k: Tensor, v: Tensor, shape: tuple[int, int, int, bool], scale: float
) -> Tensor:
    """Sets of one size in a row: (B, S n, H, C), (B, S m, H, C) to (B, S n, H, Cv)."""
    batch = len(q)
    count, n, m, causal = shape
    if n == 0 or m == 0:
        return q.new_zeros(*q.shape[:3], v.shape[3])
    q, k, v = (  # (B S, H, n, C)
        tensor.reshape(len(tensor) * count, size, *tensor.shape[2:]).transpose(1, 2)
        for tensor, size in ((q, n), (k, m), (v, m))
    )
    out = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    return out.transpose(1, 2).reshape(batch, count * n, *v.shape[1:2], v.shape[3])


def _sizes(call: Call) -> _Sizes:
    return call.graph.derive("sets by size", call.q.device, _sort_sizes)


def _sort_sizes(graph: Disjoint) -> _Sizes:
    kinds: dict[tuple[int, int, bool], list[int]] = {}
    for number, part in enumerate(graph.graphs):
        kind = part.num_targets, part.num_sources, isinstance(part, Causal)
        kinds.setdefault(kind, []).append(number)
    order = [number for kind in kinds for number in kinds[kind]]
    shapes = [(len(numbers), *kind) for kind, numbers in kinds.items()]
    targets, sources = _tokens(graph.sizes, order), _tokens(graph.source_sizes, order)
    return _Sizes(*targets, *sources, shapes)


def _tokens(sizes: list[int], order: list[int]) -> tuple[Tensor, Tensor]:
    """The tokens of the sets in this order, and back; none where that is their own order."""
    if order == sorted(order):
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    tokens = torch.arange(sum(sizes)).split(sizes)
    there = torch.cat([tokens[number] for number in order])
    return there, there.argsort()


def _by_flash(call: Call) -> bool:
    return not_by_flash(call) is None and _sequences(call).ahead is not None


def _sequences(call: Call) -> _Sequences:
    return call.graph.derive("sequences", call.q.device, _build_sequences)


def _build_sequences(graph: Disjoint) -> _Sequences:
    targets, sources = graph.sizes, graph.source_sizes
    causal = {isinstance(part, Causal) for part in graph.graphs}
    alike = len(causal) == 1 and 0 not in (*targets, *sources)
    ahead = (0 if True in causal else -1) if alike else None
    first, second = (torch.tensor([0, *x]).cumsum(0).int() for x in (targets, sources))
    return _Sequences(first, second, max(targets, default=0), max(sources, default=0), ahead)
