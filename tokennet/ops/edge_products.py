r"""Attention along edges in CSR products, for the backend `sparse` and for second derivatives.

Two operators on a graph, each the derivative of the other:

    edge_dot:      s_e = x_{i(e)} . y_{j(e)}              (N, H, C), (M, K, C) -> (H, E)
    edge_combine:  o_i = \sum_{e: j -> i} w_e y_{j(e)}    (H, E), (M, K, C) -> (N, H, C)

    d edge_dot:      dx = edge_combine(ds, y),  dy = edge_combine^T(ds, x)
    d edge_combine:  dw = edge_dot(do, y),      dy = edge_combine^T(w, do)

So autograd never sees a sparse matrix (whose own backward allocates N x M), memory stays
O(H E + N H C), and derivatives of every order exist in reverse mode. Edges are in CSR order.
Where y has K heads, fewer than H, head h is paired with head h // (H / K) of y.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tokennet.ops.edge_plans import EdgePlan
from tokennet.ops.kernels.registration import operator
from tokennet.ops.terms import PLAIN, Softmax, Terms

with warnings.catch_warnings():
    # PyTorch announces once per process that CSR tensors are in beta.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long), [])


def edge_dot(x: Tensor, y: Tensor, plan: EdgePlan, scale: float = 1.0) -> Tensor:
    """Return (H, E), scale x_i . y_j of every edge; y may have fewer heads than x."""
    return _edge_dot(x, y, scale, *plan)


def edge_combine(
    weights: Tensor, y: Tensor, plan: EdgePlan, scale: float = 1.0, transposed: bool = False
) -> Tensor:
    """Return (N, H, C), scale times the sum of y_j over the edges of each target, weighted.

    Transposed, the tokens y are those of the targets, and the sums those of the sources. The
    heads of y may be fewer than those of the weights.
    """
    return _edge_combine(weights, y, scale, transposed, *plan)


def edge_softmax(scores: Tensor, plan: EdgePlan) -> Tensor:
    """Return (H, E), scores normalized over the edges of each target.

    A target whose scores are all -inf gets weights of 0.
    """
    return _edge_softmax(scores, *plan)


def edge_sum(values: Tensor, plan: EdgePlan) -> Tensor:
    """Return (H, N), the sum over the edges of each target of values (H, E)."""
    ones = values.new_ones(plan.t_indptr.numel() - 1, len(values), 1)
    return edge_combine(values, ones, plan)[..., 0].t()


def _product(values: Tensor, indptr: Tensor, indices: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A sparse matrix of `values` and what it is multiplied with, the rows y (M, C).

    PyTorch accepts no CSR tensor with more entries than rows times columns, which parallel edges
    can make; columns of zeros, for sources without edges, are added then. On CUDA entries are
    read as if they were contiguous, which a gradient is not always.
    """
    targets, edges = indptr.numel() - 1, indices.numel()
    missing = -(-edges // targets) - len(y)
    if missing > 0:
        y = torch.nn.functional.pad(y, (0, 0, 0, missing))
    size, values = (targets, len(y)), values.contiguous()
    matrix = torch.sparse_csr_tensor(indptr, indices, values, size, check_invariants=False)
    return matrix, y.contiguous()


def _dtype_of_sums(indptr: Tensor, like: Tensor) -> torch.dtype:
    """Float64 for long rows on a CPU, whose entries are added one by one: a million lose 1 %."""
    is_long = (
        like.dtype == torch.float32
        and like.device.type == "cpu"
        and int(indptr[-1]) > _LONG
        and int(indptr.diff().max()) > _LONG
    )
    return torch.float64 if is_long else like.dtype


_LONG = 2**12
_PLAN = ", ".join(f"Tensor {name}" for name in EdgePlan._fields)


@operator("edge_dot", f"(Tensor x, Tensor y, float scale, {_PLAN}) -> Tensor")
def _edge_dot(x: Tensor, y: Tensor, scale: float, *fields: Tensor) -> Tensor:
    plan = EdgePlan(*fields)
    out = x.new_zeros(x.shape[1], plan.num_edges)
    if out.numel() == 0:
        return out
    with torch.autocast(x.device.type, enabled=False):
        for head in range(x.shape[1]):
            own = head * y.shape[1] // x.shape[1]
            dots, rows = _product(out[head], plan.indptr, plan.indices, y[:, own])
            a = x[:, head].contiguous()
            torch.sparse.sampled_addmm(dots, a, rows.t(), beta=0.0, alpha=scale, out=dots)
    return out


@operator(
    "edge_combine", f"(Tensor weights, Tensor y, float scale, bool transposed, {_PLAN}) -> Tensor"
)
def _edge_combine(
    weights: Tensor, y: Tensor, scale: float, transposed: bool, *fields: Tensor
) -> Tensor:
    plan = EdgePlan(*fields)
    indptr, indices = plan.indptr, plan.indices
    if transposed:
        indptr, indices = plan.t_indptr, plan.t_indices
    heads = weights.shape[0]
    shape = (indptr.numel() - 1, heads, y.shape[2])
    if 0 in shape or indices.numel() == 0:
        return y.new_zeros(shape)
    out, dtype = y.new_empty(shape), _dtype_of_sums(indptr, y)
    with torch.autocast(y.device.type, enabled=False):
        for head in range(heads):
            own = head * y.shape[1] // heads
            values = weights[head].index_select(0, plan.t_order) if transposed else weights[head]
            # Copied first: rows are gathered many times, and gathered close together.
            values, rows = values.to(dtype), y[:, own].to(dtype)
            matrix, rows = _product(values, indptr, indices, rows)
            if dtype != out.dtype:
                out[:, head] = scale * (matrix @ rows)
                continue
            into = out[:, head]
            torch.addmm(into, matrix, rows, beta=0.0, alpha=scale, out=into)
    return out


@operator("edge_softmax", f"(Tensor scores, {_PLAN}) -> Tensor")
def _edge_softmax(scores: Tensor, *fields: Tensor) -> Tensor:
    if scores.numel() == 0:
        return scores.clone()
    plan = EdgePlan(*fields)
    offsets, out = plan.indptr.long(), torch.empty_like(scores)
    dtype = _dtype_of_sums(plan.indptr, scores)
    for head in range(scores.shape[0]):
        peak = torch.segment_reduce(scores[head], "max", offsets=offsets)  # (N,)
        peak.masked_fill_(peak == -math.inf, 0.0)
        torch.sub(scores[head], peak.index_select(0, plan.rows), out=out[head]).exp_()  # (E,)
        total = torch.segment_reduce(out[head].to(dtype), "sum", offsets=offsets).to(out.dtype)
        total.masked_fill_(total == 0, 1.0)
        out[head].div_(total.index_select(0, plan.rows))
    return out


@operator("edge_softmax_backward", f"(Tensor weights, Tensor grad, {_PLAN}) -> Tensor")
def _edge_softmax_backward(weights: Tensor, grad: Tensor, *fields: Tensor) -> Tensor:
    """w (g - sum w g), head by head, so that what lies between stays in the cache."""
    plan = EdgePlan(*fields)
    offsets, out = plan.indptr.long(), torch.empty_like(weights)
    dtype = _dtype_of_sums(plan.indptr, weights)
    if weights.numel() == 0:
        return out
    for head in range(weights.shape[0]):
        torch.mul(weights[head], grad[head], out=out[head])
        mean = torch.segment_reduce(out[head].to(dtype), "sum", offsets=offsets).to(out.dtype)
        out[head].addcmul_(weights[head], mean.index_select(0, plan.rows), value=-1.0)
    return out


@torch.library.register_fake(_edge_dot)
def _(x, y, scale, *fields):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[1], EdgePlan(*fields).num_edges)


@torch.library.register_fake(_edge_combine)
def _(weights, y, scale, transposed, *fields):  # type: ignore[no-untyped-def]
    plan = EdgePlan(*fields)
    rows = (plan.t_indptr if transposed else plan.indptr).shape[0] - 1
    return y.new_empty(rows, weights.shape[0], y.shape[2])


@torch.library.register_fake(_edge_softmax)
@torch.library.register_fake(_edge_softmax_backward)
def _(values, *rest):  # type: ignore[no-untyped-def]
    return torch.empty_like(values)


_NO_GRADIENT = (None,) * len(EdgePlan._fields)


def _save_inputs(ctx, inputs, output):  # type: ignore[no-untyped-def]
    """Two tensors, numbers, and a plan."""
    ctx.options = inputs[2 : -len(_NO_GRADIENT)]
    ctx.save_for_backward(*inputs[:2], *inputs[-len(_NO_GRADIENT) :])


def _dot_backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, y, *plan = ctx.saved_tensors
    plan, (scale,), needs = EdgePlan(*plan), ctx.options, ctx.needs_input_grad
    grad_x = edge_combine(grad, y, plan, scale) if needs[0] else None
    grad_y = edge_combine(grad, x, plan, scale, transposed=True) if needs[1] else None
    return grad_x, _by_head_of(y, grad_y), None, *_NO_GRADIENT


def _by_head_of(y, grad):  # type: ignore[no-untyped-def]
    """Summed over the heads that share a head of y."""
    if grad is None or grad.shape[1] == y.shape[1]:
        return grad
    return grad.unflatten(1, (y.shape[1], -1)).sum(2)


def _combine_backward(ctx, grad):  # type: ignore[no-untyped-def]
    weights, y, *plan = ctx.saved_tensors
    plan, (scale, transposed), needs = EdgePlan(*plan), ctx.options, ctx.needs_input_grad
    ends = (y, grad) if transposed else (grad, y)
    grad_weights = edge_dot(*ends, plan, scale) if needs[0] else None
    grad_y = edge_combine(weights, grad, plan, scale, not transposed) if needs[1] else None
    return grad_weights, _by_head_of(y, grad_y), None, None, *_NO_GRADIENT


def _save_output(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output, *inputs[1:])


def _softmax_backward(ctx, grad):  # type: ignore[no-untyped-def]
    weights, *plan = ctx.saved_tensors
    return _edge_softmax_backward(weights, grad, *plan), *_NO_GRADIENT


def _softmax_double_backward(ctx, grad):  # type: ignore[no-untyped-def]
    weights, inner, *plan = ctx.saved_tensors
    plan = EdgePlan(*plan)
    mean = edge_sum(weights * inner, plan).index_select(1, plan.rows)
    other = edge_sum(weights * grad, plan).index_select(1, plan.rows)
    grad_weights = grad * (inner - mean) - other * inner
    return grad_weights, weights * (grad - other), *_NO_GRADIENT


torch.library.register_autograd(_edge_dot, _dot_backward, setup_context=_save_inputs)
torch.library.register_autograd(_edge_combine, _combine_backward, setup_context=_save_inputs)
torch.library.register_autograd(_edge_softmax, _softmax_backward, setup_context=_save_output)
torch.library.register_autograd(
    _edge_softmax_backward, _softmax_double_backward, setup_context=_save_inputs
)


_EDGES_AT_ONCE = 2**16
Activate = Callable[[Tensor], Tensor] | None
"""What is applied within additive scores; None for dot products."""


def edge_scores(
    q: Tensor,
    k: Tensor,
    terms: Terms,
    scale: float,
    activate: Activate,
    plan: EdgePlan,
    softmax: Softmax = PLAIN,
) -> Tensor:
    """Scores (H, E) in the order of the plan."""
    if terms.weight is not None and activate is not None:
        scores = scale * _additive_scores(q, k, terms, activate, plan)
    else:
        scores = edge_dot(q, k, plan, scale)
        if terms.edge_attr is not None and terms.edge_query is not None:
            features = _per_head(terms.edge_attr, q.shape[1])
            scores = scores + edge_dot(terms.edge_query, features, plan.edge_tokens(), scale)
    scores = softmax.capped(scores)
    if terms.bias is not None:
        scores = scores + plan.by_target(terms.bias, 0).t()
    return scores


def edge_attention(
    v: Tensor, scores: Tensor, terms: Terms, plan: EdgePlan, softmax: Softmax = PLAIN
) -> tuple[Tensor, Tensor | None]:
    """Output (N, H, Cv) and, for dot products with features, their sums (N, H, D).

    Of scores (H, E) as `edge_scores` gives them.
    """
    weights, edge_out = softmax.dropped(edge_softmax(scores, plan)), None
    if terms.edge_attr is not None and terms.weight is None:
        features = _per_head(terms.edge_attr, len(weights))
        edge_out = edge_combine(weights, features, plan.edge_tokens())
    return edge_combine(weights, v, plan), edge_out


def edge_log_sum_exp(scores: Tensor, plan: EdgePlan) -> Tensor:
    """(H, E) to (N, H), over the edges of each target; -inf where there is nothing to add."""
    peak = scores.new_full((len(scores), plan.indptr.numel() - 1), -math.inf)
    rows = plan.rows.long().expand_as(scores)
    peak = peak.scatter_reduce(1, rows, scores.detach(), "amax")
    peak = peak.masked_fill(peak == -math.inf, 0.0)
    total = edge_sum((scores - peak.index_select(1, plan.rows)).exp(), plan)  # (H, N)
    empty = total == 0
    return (peak + total.masked_fill(empty, 1.0).log()).masked_fill(empty, -math.inf).t()


def _per_head(attr: Tensor, heads: int) -> Tensor:
    return attr[:, None].expand(-1, heads, -1)  # (E, H, D)


def _additive_scores(
    q: Tensor, k: Tensor, terms: Terms, activate: Callable[[Tensor], Tensor], plan: EdgePlan
) -> Tensor:
    """(H, E); the (E, H, C) that is activated exists for at most 2^16 edges at a time."""
    of_edges = [plan.rows, plan.indices]
    if terms.edge_attr is not None:
        of_edges.append(plan.by_target(terms.edge_attr, 0))

    def some(rows: Tensor, indices: Tensor, attr: Tensor | None = None) -> Tensor:
        inner = q.index_select(0, rows) + k.index_select(0, indices)  # (e, H, C)
        if attr is not None:
            inner = inner + torch.tensordot(attr, terms.edge_key, 1)
        return (activate(inner) * terms.weight).sum(-1)  # type: ignore[operator]  # (e, H)

    parts = list(zip(*(x.split(_EDGES_AT_ONCE) for x in of_edges), strict=True))
    if len(parts) == 1:
        return some(*parts[0]).t()
    return torch.cat([checkpoint(some, *part, use_reentrant=False) for part in parts]).t()
