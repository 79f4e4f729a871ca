r"""Forward: a program per block of segments by target and group of heads.

    s_e = scale (q_i . k_j + r_i . f_e) + b_e,  or  scale a . LeakyReLU(q_i + k_j + K f_e) + b_e
    o_i = \sum exp(s_e - lse_i) v_j,    u_i = \sum exp(s_e - lse_i) f_e

The sums are carried along with the highest score so far (Milakov, Gimelshein, 2018, arXiv
1805.02867), so k and v are gathered once. Of F = H C channels of s bytes an edge takes 4F FLOP
and 2Fs bytes where neither row is found in the cache, plus 4 bytes for its index and 4H for
its bias: with 2 FLOP a byte, and tensor cores idle, time is bytes. The sources of the next
step are loaded before this one is computed, so that each step waits for memory once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tokennet.ops.kernels.cuda.parts import (
    edges_of,
    ends_of,
    first_step,
    gather,
    heads_of,
    leave,
    matrix,
    program_of,
    scores,
    segments,
    weigh,
)


@triton.jit(do_not_specialize=["n"])
def forward_targets(x, n, d: tl.constexpr):
    precision: tl.constexpr = x.lse.dtype.element_ty
    block, head, b = program_of(n, d)
    in_range, row, begin, end, slot = segments(x, n, d, block)
    query = gather(x.q, b * n.targets + row, in_range, head, d, d.C, d.BC).to(precision)
    weight, edge_query = head, head
    if x.weight is not None:
        weight = matrix(x.weight, head, d).to(precision)
    if x.edge_query is not None:
        edge_query = gather(x.edge_query, b * n.targets + row, in_range, head, d, d.D, d.BD).to(
            precision
        )
    peak = tl.full([d.R, d.HB], float("-inf"), precision)
    total = tl.full([d.R, d.HB], 0.0, precision)
    summed = tl.full([d.R, d.HB, d.BV], 0.0, precision)
    feature_sum = tl.full([d.R, d.HB, d.BD], 0.0, precision)
    edge, source, listed, steps = first_step(x, d, begin, end)
    for _ in range(steps):
        valid = edge < end
        key, value, features, bias = edges_of(x, n, d, b, source, listed, valid, head)
        edge += d.BE
        source, listed = ends_of(x, edge, end)
        score = scores(x, n, query, key, weight, edge_query, features, bias)
        weights, factor, peak, total = weigh(score, valid, peak, total)
        weights, factor = weights[:, :, :, None], factor[:, :, None]
        summed = summed * factor + tl.sum(weights * value, 0)
        if x.edge_query is not None:
            feature_sum *= factor
            feature_sum += tl.sum(weights * features[:, :, None], 0)
    _finish(x, n, d, b, row, slot, in_range, head, peak, total, summed, feature_sum)


@triton.jit
def _finish(x, n, d: tl.constexpr, b, row, slot, in_range, head, peak, total, summed, more):
    """Divide by the sums of weights; a part of a row goes to its slot as if it were a row."""
    over = (1.0 / tl.where(total == 0.0, 1.0, total))[:, :, None]
    lse = (peak + tl.log(total))[:, :, None]
    row = b * n.targets + row
    leave(x.out, x.part, n, b, row, slot, in_range, summed * over, head, d, d.V, d.BV)
    leave(x.lse, x.part_lse, n, b, row, slot, in_range, lse, head, d, 1, 1)
    if x.edge_query is not None:
        leave(x.edge_out, x.other_part, n, b, row, slot, in_range, more * over, head, d, d.D, d.BD)


@triton.jit(do_not_specialize=["n"])
def merge_parts(x, n, d: tl.constexpr):
    r"""Rows that were forwarded in parts: o_i = \sum_s exp(lse_s - lse_i) o_s, in this order."""
    precision: tl.constexpr = x.lse.dtype.element_ty
    block, head, b = program_of(n, d)
    hub = block + tl.arange(0, 1)
    row, begin, end = tl.load(x.row + hub), tl.load(x.begin + hub), tl.load(x.begin + hub + 1)
    peak = tl.full([1, d.HB], float("-inf"), precision)
    total = tl.full([1, d.HB], 0.0, precision)
    summed = tl.full([1, d.HB, d.BV], 0.0, precision)
    feature_sum = tl.full([1, d.HB, d.BD], 0.0, precision)
    slot = begin[None, :] + tl.arange(0, d.BE)[:, None]
    steps = tl.max(tl.cdiv(end - begin, d.BE))
    for _ in range(steps):
        valid, part = slot < end, b * n.slots + slot
        score = heads_of(x.part_lse, part, valid, head, d)
        weights, factor, peak, total = weigh(score, valid, peak, total)
        value = gather(x.part, part, valid, head, d, d.V, d.BV)
        summed = summed * factor[:, :, None] + tl.sum(weights[:, :, :, None] * value, 0)
        if x.edge_query is not None:
            value = gather(x.other_part, part, valid, head, d, d.D, d.BD)
            more = tl.sum(weights[:, :, :, None] * value, 0)
            feature_sum = feature_sum * factor[:, :, None] + more
        slot += d.BE
    whole = tl.full([1], -1, tl.int32)
    _finish(x, n, d, b, row, whole, row >= 0, head, peak, total, summed, feature_sum)
