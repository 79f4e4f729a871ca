"""What the Triton kernels share. A tile is (BE edges of each row, R rows, HB heads, channels).

Each function is compiled into the kernel that calls it: x are `Arrays`, n `Sizes`, d a `Tile`.
Rows of q, k, v come in as (edges, HB BC): a group of heads at once, neighboring threads
reading neighboring 16 bytes. Threads that are left over are spread over the R rows first,
which need no sums across threads, and then over the edges. Offsets of rows are int64.

Instead of an array that a call does not have, functions return another that is not used,
since Triton 3.6 returns no None.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def program_of(n, d: tl.constexpr):
    """Number of the program, the first of its heads, and its entry of the batch.

    Programs next to each other take the same heads of other rows: of k and v, the part that is
    in use at one time is small, and is found in the cache.
    """
    program = tl.program_id(0)
    rest = program // n.programs
    return program % n.programs, rest % d.groups * d.HB, (rest // d.groups).to(tl.int64)


@triton.jit
def segments(x, n, d: tl.constexpr, block):
    """The segments of a block, (R,) each; those past the last one have no edges."""
    number = block * d.R + tl.arange(0, d.R)
    in_range = number < n.segments
    row = tl.load(x.row + number, mask=in_range, other=0)
    begin = tl.load(x.begin + number, mask=in_range, other=0)
    end = tl.load(x.end + number, mask=in_range, other=0)
    slot = tl.load(x.slot + number, mask=in_range, other=0)
    return in_range, row, begin, end, slot


@triton.jit
def spread(index):
    """(...,) -> (..., 1, 1)"""
    return tl.expand_dims(tl.expand_dims(index, -1), -1)


@triton.jit
def within(head, d: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, SHARE: tl.constexpr = 1):
    """Columns of channels in a row (HB BC,), and which of them exist."""
    at = tl.arange(0, d.HB * BC)
    channel = at % BC
    at = (head + at // BC) // SHARE * C + channel
    inside = tl.full([d.HB * BC], 1, tl.int1)
    if C != BC or d.H % d.HB != 0:
        inside = (channel < C) & (at < d.H // SHARE * C)
    return at, inside


@triton.jit
def pointers(base, row, in_range, at, inside, width):
    """To the columns `at` of rows, and which of them exist; rows (...,) in one dimension."""
    row, in_range = tl.reshape(row.to(tl.int64), [row.numel]), tl.reshape(in_range, [row.numel])
    return (base + row * width)[:, None] + at, in_range[:, None] & inside


@triton.jit
def gather(
    base, row, in_range, head,
    d: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, SHARE: tl.constexpr = 1,
):  # fmt: skip
    """base[row] (..., HB, BC) as it is stored, of a base (rows, H, C); 0 where there is none.

    Of a base of H / SHARE heads, each is read for SHARE heads.
    """
    at, inside = within(head, d, C, BC, SHARE)
    pointer, mask = pointers(base, row, in_range, at, inside, d.H // SHARE * C)
    found = tl.load(pointer, mask=mask, other=0.0)
    return tl.reshape(found, row.shape + [d.HB, BC])  # noqa: RUF005 (Triton knows no *)


@triton.jit
def scatter(base, row, in_range, value, head, d: tl.constexpr, C: tl.constexpr, BC: tl.constexpr):
    at, inside = within(head, d, C, BC)
    pointer, mask = pointers(base, row, in_range, at, inside, d.H * C)
    value = tl.reshape(value.to(base.dtype.element_ty), [row.numel, d.HB * BC])
    tl.store(pointer, value, mask=mask)


@triton.jit
def leave(
    base, part, n, b, row, slot, in_range, value, head,
    d: tl.constexpr, C: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Write what was summed for whole rows to `base`, and for parts of rows to their slots."""
    scatter(base, row, in_range & (slot < 0), value, head, d, C, BC)
    if part is not None:
        scatter(part, b * n.slots + slot, in_range & (slot >= 0), value, head, d, C, BC)


@triton.jit
def matrix(base, head, d: tl.constexpr):
    """The rows (HB, BC) of a matrix (H, C)."""
    at, inside = within(head, d, d.C, d.BC)
    return tl.reshape(tl.load(base + at, mask=inside, other=0.0), [d.HB, d.BC])


@triton.jit
def heads_of(base, row, in_range, head, d: tl.constexpr):
    """base[row] (..., HB) of a base (rows, H); 0 where there is none."""
    found = gather(base, row, in_range, head, d, 1, 1)
    return tl.reshape(found, row.shape + [d.HB])  # noqa: RUF005


@triton.jit
def features_of(x, d: tl.constexpr, listed, valid):
    """Features of edges (BE, R, BD)."""
    column = tl.arange(0, d.BD)
    pointer, mask = pointers(x.attr, listed, valid, column, column < d.D, d.D)
    found = tl.load(pointer, mask=mask, other=0.0)
    return tl.reshape(found, listed.shape + [d.BD])  # noqa: RUF005


@triton.jit
def feature_and_key(x, d: tl.constexpr, number, listed, valid, head):
    """One feature of edges (BE, R), and what it adds to the keys (HB, BC)."""
    feature = tl.load(x.attr + listed.to(tl.int64) * d.D + number, mask=valid, other=0.0)
    return feature, matrix(x.edge_key + number * d.H * d.C, head, d)


@triton.jit
def add_feature_keys(x, d: tl.constexpr, key, listed, valid, head):
    """k_j + K f_e"""
    number = 0
    while number < d.D:
        feature, column = feature_and_key(x, d, number, listed, valid, head)
        key += spread(feature) * column
        number += 1
    return key


@triton.jit
def first_step(x, d: tl.constexpr, begin, end):
    """Edges of the first step (BE, R), what is known of them, and the number of steps."""
    edge = begin[None, :] + tl.arange(0, d.BE)[:, None]
    other, listed = ends_of(x, edge, end)
    return edge, other, listed, tl.max(tl.cdiv(end - begin, d.BE))


@triton.jit
def ends_of(x, edge, end):
    """The other ends of edges, and their indices in `edge_index`.

    Programs load those of the next step before they compute this one.
    """
    other, listed = tl.load(x.indices + edge, mask=edge < end, other=0), edge
    if x.listed is not None:
        listed = tl.load(x.listed + edge, mask=edge < end, other=0)
    return other, listed


@triton.jit
def edges_of(x, n, d: tl.constexpr, b, source, listed, valid, head):
    """k_j + K f_e (BE, R, HB, BC), v_j (BE, R, HB, BV), f_e (BE, R, BD) and b_e (BE, R, HB)."""
    precision: tl.constexpr = x.lse.dtype.element_ty
    key = gather(x.k, b * n.sources + source, valid, head, d, d.C, d.BC, d.SHARE)
    value, features, bias = key, listed, listed
    if x.v is not None:
        value = gather(x.v, b * n.sources + source, valid, head, d, d.V, d.BV, d.SHARE)
    if x.edge_query is not None:
        features = features_of(x, d, listed, valid).to(precision)
    if x.bias is not None:
        bias = heads_of(x.bias, b * n.bias_batch * n.edges + listed, valid, head, d)
    hold_loads()
    key, value = key.to(precision), value.to(precision)
    if x.edge_key is not None:
        key = add_feature_keys(x, d, key, listed, valid, head)
    return key, value, features, bias


@triton.jit
def hold_loads():
    """Keep the assembler from moving loads down among the arithmetic, to save registers.

    It moves none across a barrier. Programs are single warps, which never wait at one.
    """
    tl.debug_barrier()


@triton.jit
def precise(number, rest, like):
    return tl.cast(number, like) + tl.cast(rest, like)


@triton.jit
def scores(x, n, query, key, weight, edge_query, features, bias):
    """scale (q . k + r . f) + b_e, or scale a . LeakyReLU(q + k) + b_e, of edges (BE, R, HB)."""
    if x.weight is not None:
        inner = query + key
        slope = precise(n.slope, n.slope_rest, inner.dtype)
        score = tl.sum(tl.where(inner > 0, inner, slope * inner) * weight, 3)
    else:
        score = tl.sum(query * key, 3)
        if x.edge_query is not None:
            score += tl.sum(edge_query * features[:, :, None], 3)
    score *= precise(n.scale, n.scale_rest, score.dtype)
    if x.bias is not None:
        score += bias
    return score


@triton.jit
def weigh(score, valid, peak, total):
    """Weights exp(score - peak) (BE, R, HB), the factor that brings what was summed before to
    the new peak (R, HB), the new peak, and the new sum of weights.
    """
    score = tl.where(tl.expand_dims(valid, -1), score, float("-inf"))
    highest = tl.maximum(peak, tl.max(score, 0))
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    weights = tl.exp(score - shift)
    factor = tl.exp(peak - shift)
    return weights, factor, highest, total * factor + tl.sum(weights, 0)
