r"""Backward, second pass: by source, for dk and dv.

    dv_j = \sum p_e do_i,    dk_j = scale \sum ds_e q_i,  or  \sum g_e for additive scores

p and ds are computed again, which takes 4F FLOP, but no more than lse and delta of a target,
8H bytes of 8HN that the cache may hold; storing them in the first pass would be 8H bytes of
8HE, written and gathered. Only for dot products with features they are stored: to compute
them would take r and du, 8HD bytes. An edge takes 8F FLOP and gathers 2Fs bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tokennet.ops.kernels.cuda.parts import (
    add_feature_keys,
    ends_of,
    first_step,
    gather,
    heads_of,
    hold_loads,
    leave,
    matrix,
    precise,
    program_of,
    scores,
    segments,
)


@triton.jit(do_not_specialize=["n"])
def backward_sources(x, n, d: tl.constexpr):
    precision: tl.constexpr = x.lse.dtype.element_ty
    block, head, b = program_of(n, d)
    in_range, row, begin, end, slot = segments(x, n, d, block)
    source = b * n.sources + row
    key = gather(x.k, source, in_range, head, d, d.C, d.BC, d.SHARE).to(precision)
    value = gather(x.v, source, in_range, head, d, d.V, d.BV, d.SHARE).to(precision)
    weight = head
    if x.weight is not None:
        weight = matrix(x.weight, head, d).to(precision)
    dk = tl.full([d.R, d.HB, d.BC], 0.0, precision)
    dv = tl.full([d.R, d.HB, d.BV], 0.0, precision)
    edge, other, listed, steps = first_step(x, d, begin, end)
    for _ in range(steps):
        valid, target, e = edge < end, b * n.targets + other, listed
        query = gather(x.q, target, valid, head, d, d.C, d.BC)
        grad = gather(x.grad, target, valid, head, d, d.V, d.BV)
        edge += d.BE
        other, listed = ends_of(x, edge, end)
        p, ds, query, grad = _weights(
            x, n, d, b, query, grad, key, value, weight, target, e, valid, head
        )
        dv += tl.sum(p[:, :, :, None] * grad, 0)
        if x.weight is not None:
            slope = precise(n.slope, n.slope_rest, precision)
            query = weight * tl.where(query + key > 0, 1.0, slope)
        dk += tl.sum(ds[:, :, :, None] * query, 0)
    dk *= precise(n.scale, n.scale_rest, precision)
    leave(x.dk, x.part, n, b, source, slot, in_range, dk, head, d, d.C, d.BC)
    leave(x.dv, x.other_part, n, b, source, slot, in_range, dv, head, d, d.V, d.BV)


@triton.jit
def _weights(x, n, d: tl.constexpr, b, query, grad, key, value, weight, target, e, valid, head):
    """p and ds (BE, R, HB), q_i + K f_e and do_i in full precision, of edges."""
    precision: tl.constexpr = x.lse.dtype.element_ty
    if x.pairs is not None:
        p = heads_of(x.pairs, 2 * (b * n.edges + e), valid, head, d)
        ds = heads_of(x.pairs, 2 * (b * n.edges + e) + 1, valid, head, d)
        hold_loads()
        query, grad = query.to(precision), grad.to(precision)
    else:
        lse = heads_of(x.ends, 2 * target, valid, head, d)
        delta = heads_of(x.ends, 2 * target + 1, valid, head, d)
        bias = e
        if x.bias is not None:
            bias = heads_of(x.bias, b * n.bias_batch * n.edges + e, valid, head, d)
        hold_loads()
        query, grad = query.to(precision), grad.to(precision)
        if x.edge_key is not None:
            query = add_feature_keys(x, d, query, e, valid, head)
        score = scores(x, n, query, key, weight, e, e, bias)
        p = tl.where(valid[:, :, None], tl.exp(score - lse), 0.0)
        ds = p * (tl.sum(grad * value, 3) - delta)
    return p, ds, query, grad
