r"""Backward, first pass: by target, for dq and all that belongs to edges.

    delta_i = do_i . o_i + du_i . u_i - dlse_i
    p_e = exp(s_e - lse_i),    ds_e = p_e (do_i . v_j + du_i . f_e - delta_i) = db_e
    dq_i = scale \sum ds_e k_j,    dr_i = scale \sum ds_e f_e,
    df_e = \sum_h scale ds_e r_i + p_e du_i

and for additive scores, with x_e = q_i + k_j + K f_e and g_e = scale ds_e a LeakyReLU'(x_e),

    dq_i = \sum g_e,    df_e = \sum_{h, c} K g_e,    dK = \sum f_e g_e,
    da = scale \sum ds_e LeakyReLU(x_e).

da and dK are summed by each program, and over the programs afterwards, in their order. An
edge takes 6F FLOP and gathers 2Fs bytes, as in the forward pass.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tokennet.ops.kernels.cuda.parts import (
    edges_of,
    ends_of,
    feature_and_key,
    first_step,
    gather,
    heads_of,
    leave,
    matrix,
    pointers,
    precise,
    program_of,
    scatter,
    scores,
    segments,
    spread,
)


@triton.jit(do_not_specialize=["n"])
def backward_targets(x, n, d: tl.constexpr):
    precision: tl.constexpr = x.lse.dtype.element_ty
    first, head, b = program_of(n, d)
    dweight = tl.full([d.HB, d.BC], 0.0, precision)
    number = key_numbers(d)
    dkey = tl.full([d.KEYS, d.R, d.HB, d.BC], 0.0, precision)
    block = first
    while block < n.blocks:
        dweight, dkey = _block(x, n, d, block, head, b, dweight, dkey)
        block += n.programs
    program = b * n.programs + first
    if x.dweight is not None:
        one = tl.full([1], 0, tl.int64)
        scatter(x.dweight, program + one, one == 0, dweight[None], head, d, d.C, d.BC)
    if x.dedge_key is not None:
        scatter(x.dedge_key, program * d.D + number, number < d.D, dkey, head, d, d.C, d.BC)


@triton.jit
def key_numbers(d: tl.constexpr):
    """Features (KEYS, R) whose dK a program sums, laid out as the edges of a tile are.

    So each thread keeps other entries of dK; of (D, HB, BC), threads would keep the same entries.
    """
    return tl.arange(0, d.KEYS)[:, None] * d.R + tl.arange(0, d.R)[None, :]


@triton.jit
def _block(x, n, d: tl.constexpr, block, head, b, dweight, dkey):
    precision: tl.constexpr = x.lse.dtype.element_ty
    in_range, row, begin, end, slot = segments(x, n, d, block)
    target = b * n.targets + row
    query = gather(x.q, target, in_range, head, d, d.C, d.BC).to(precision)
    grad, edge_query, wanted, lse, delta = _about_targets(x, d, target, in_range, head)
    weight = head
    if x.weight is not None:
        weight = matrix(x.weight, head, d).to(precision)
    dq = tl.full([d.R, d.HB, d.BC], 0.0, precision)
    dr = tl.full([d.R, d.HB, d.BD], 0.0, precision)
    edge, source, listed, steps = first_step(x, d, begin, end)
    for _ in range(steps):
        valid, e = edge < end, listed
        key, value, features, bias = edges_of(x, n, d, b, source, e, valid, head)
        edge += d.BE
        source, listed = ends_of(x, edge, end)
        score = scores(x, n, query, key, weight, edge_query, features, bias)
        p = tl.where(valid[:, :, None], tl.exp(score - lse), 0.0)
        dp = tl.sum(grad * value, 3)
        if x.edge_query is not None:
            dp += tl.sum(wanted * features[:, :, None], 3)
        ds = p * (dp - delta)
        _write_edges(x, d, b * n.edges + e, valid, p, ds, head)
        ds *= precise(n.scale, n.scale_rest, precision)
        at = (b * d.groups + head // d.HB) * n.edges + e
        if x.weight is not None:
            dq, dweight, dkey = _additive(
                x, n, d, query + key, ds, weight, at, e, valid, head, dq, dweight, dkey
            )
        else:
            dq += tl.sum(ds[:, :, :, None] * key, 0)
        if x.edge_query is not None:
            dr += tl.sum(ds[:, :, :, None] * features[:, :, None], 0)
        if x.edge_query is not None and x.dattr is not None:
            _write_features(x, d, at, valid, ds, edge_query, p, wanted)
    leave(x.dq, x.part, n, b, target, slot, in_range, dq, head, d, d.C, d.BC)
    if x.edge_query is not None:
        leave(x.dedge_query, x.other_part, n, b, target, slot, in_range, dr, head, d, d.D, d.BD)
    return dweight, dkey


@triton.jit
def _write_edges(x, d: tl.constexpr, at, valid, p, ds, head):
    if x.dbias is not None:
        scatter(x.dbias, at, valid, ds, head, d, 1, 1)
    if x.pairs is not None:
        scatter(x.pairs, 2 * at, valid, p, head, d, 1, 1)
        scatter(x.pairs, 2 * at + 1, valid, ds, head, d, 1, 1)


@triton.jit
def _about_targets(x, d: tl.constexpr, target, in_range, head):
    """do (R, HB, BV), r and du (R, HB, BD), and lse and delta (R, HB), also left in `ends`.

    An lse of -inf, of a target without edges, becomes +inf, so that all p are 0.
    """
    precision: tl.constexpr = x.lse.dtype.element_ty
    grad = gather(x.grad, target, in_range, head, d, d.V, d.BV).to(precision)
    out = gather(x.out, target, in_range, head, d, d.V, d.BV).to(precision)
    delta, edge_query, wanted = tl.sum(grad * out, 2), in_range, in_range
    if x.edge_query is not None:
        edge_query = gather(x.edge_query, target, in_range, head, d, d.D, d.BD).to(precision)
        wanted = gather(x.grad_edge_out, target, in_range, head, d, d.D, d.BD).to(precision)
        out = gather(x.edge_out, target, in_range, head, d, d.D, d.BD).to(precision)
        delta += tl.sum(wanted * out, 2)
    if x.grad_lse is not None:
        delta -= heads_of(x.grad_lse, target, in_range, head, d)
    lse = heads_of(x.lse, target, in_range, head, d)
    lse = tl.where(lse == float("-inf"), float("inf"), lse)
    if x.ends is not None:  # parts of a row leave the same numbers
        scatter(x.ends, 2 * target, in_range, lse, head, d, 1, 1)
        scatter(x.ends, 2 * target + 1, in_range, delta, head, d, 1, 1)
    return grad, edge_query, wanted, lse, delta


@triton.jit
def _write_features(x, d: tl.constexpr, at, valid, ds, edge_query, p, wanted):
    """df_e (BE, R, BD), summed over the heads of this group."""
    df = tl.sum(ds[:, :, :, None] * edge_query + p[:, :, :, None] * wanted, 2)
    column = tl.arange(0, d.BD)
    pointer, mask = pointers(x.dattr, at, valid, column, column < d.D, d.D)
    tl.store(pointer, tl.reshape(df, [at.numel, d.BD]), mask=mask)


@triton.jit
def _additive(x, n, d: tl.constexpr, inner, ds, weight, at, e, valid, head, dq, dweight, dkey):
    slope = precise(n.slope, n.slope_rest, inner.dtype)
    leaky = ds[:, :, :, None] * tl.where(inner > 0, 1.0, slope)
    dweight += tl.sum(tl.sum(leaky * inner, 0), 0)
    inner = leaky * weight
    dq += tl.sum(inner, 0)
    if x.edge_key is not None:
        number = 0
        while number < d.D:
            feature, column = feature_and_key(x, d, number, e, valid, head)
            if x.dattr is not None:
                df = tl.sum(tl.sum(inner * column, 3), 2)
                tl.store(x.dattr + at * d.D + number, df, mask=valid)
            more = tl.sum(tl.sum(inner * spread(feature), 0), 0)
            dkey += tl.where(spread(key_numbers(d) == number), more, 0.0)
            number += 1
    return dq, dweight, dkey
