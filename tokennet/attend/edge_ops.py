r"""Linear combinations of tokens along edges, and the products that weigh them.

Two operators on a CSR pattern, each the derivative of the other:

    edge_dot:      s_e = x_{i(e)} . y_{j(e)}            (G, N, C), (G, M, C) -> (G, E)
    edge_combine:  o_i = \sum_{e: j -> i} w_e y_{j(e)}     (G, E), (G, M, C) -> (G, N, C)

    d edge_dot:      dx = edge_combine(ds, y),  dy = edge_combine^T(ds, x)
    d edge_combine:  dw = edge_dot(do, y),      dy = edge_combine^T(w, do)

So autograd never sees a sparse matrix (whose own backward allocates N x M), memory stays
O(G E + G N C), and derivatives of every order exist. G counts heads.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph

with warnings.catch_warnings():
    # PyTorch announces once per process that CSR tensors are in beta.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long), [])


class EdgePlan(NamedTuple):
    """A graph's edges by target (CSR) and by source (CSC), and the way between the two."""

    indptr: Tensor
    """(N + 1,) edges of target i: indptr[i] .. indptr[i + 1]."""
    indices: Tensor
    """(E,) source of each edge."""
    t_indptr: Tensor
    """(M + 1,) the same by source."""
    t_indices: Tensor
    """(E,) target of each edge, by source."""
    to_transposed: Tensor
    """(E,) int64: place in CSR order of each edge in CSC order."""
    from_transposed: Tensor
    """(E,) int64: the inverse."""

    @property
    def T(self) -> EdgePlan:
        return EdgePlan(
            self.t_indptr, self.t_indices, self.indptr, self.indices,
            self.from_transposed, self.to_transposed,
        )  # fmt: skip

    @property
    def target(self) -> Tensor:
        """(E,) int64: target of each edge, by target."""
        return self.t_indices.index_select(0, self.from_transposed).long()


def edge_plan(graph: TokenGraph, device: torch.device) -> EdgePlan:
    """Return the plan of a graph, built once per graph and device."""
    return graph.derive("edge_plan", device, _build_plan)


def _build_plan(graph: TokenGraph) -> EdgePlan:
    indptr, indices, _ = graph.csr()
    target = torch.repeat_interleave(indptr.diff().long())
    source, to_transposed = indices.long().sort(stable=True)
    t_indptr = torch.zeros(graph.num_sources + 1, dtype=indptr.dtype)
    t_indptr[1:] = torch.bincount(source, minlength=graph.num_sources).cumsum(0)
    t_indices = target[to_transposed].to(indices.dtype)
    from_transposed = torch.argsort(to_transposed)
    return EdgePlan(indptr, indices, t_indptr, t_indices, to_transposed, from_transposed)


def edge_dot(x: Tensor, y: Tensor, plan: EdgePlan) -> Tensor:
    """Return (G, E), the dot product x_i . y_j of every edge, in CSR order."""
    return _edge_dot(x, y, *plan)


def edge_combine(weights: Tensor, y: Tensor, plan: EdgePlan) -> Tensor:
    """Return (G, N, C), the sum of y_j over the edges of each target, weighted."""
    return _edge_combine(weights, y, *plan)


def edge_softmax(scores: Tensor, plan: EdgePlan) -> Tensor:
    """Return (G, E), scores normalised over the edges of each target, in CSR order.

    A target whose scores are all -inf gets weights of 0.
    """
    return _edge_softmax(scores, *plan)


def _pattern(values: Tensor, indptr: Tensor, indices: Tensor, num_sources: int) -> Tensor:
    size = (indptr.numel() - 1, num_sources)
    return torch.sparse_csr_tensor(indptr, indices, values, size, check_invariants=False)


@torch.library.custom_op("tokennet::edge_dot", mutates_args=())
def _edge_dot(
    x: Tensor, y: Tensor, indptr: Tensor, indices: Tensor, t_indptr: Tensor,
    t_indices: Tensor, to_transposed: Tensor, from_transposed: Tensor,
) -> Tensor:  # fmt: skip
    out = x.new_zeros(x.shape[0], indices.numel())
    if out.numel() == 0:
        return out
    # PyTorch takes no CSR tensor with more entries than places, as parallel edges can make
    # one; sources that nobody listens to make the places.
    missing = -(-indices.numel() // x.shape[1]) - y.shape[1]
    if missing > 0:
        y = torch.nn.functional.pad(y, (0, 0, 0, missing))
    with torch.autocast(x.device.type, enabled=False):
        for group in range(x.shape[0]):
            pattern = _pattern(out[group], indptr, indices, y.shape[1])
            dot = torch.sparse.sampled_addmm(pattern, x[group], y[group].t(), beta=0.0)
            out[group] = dot.values()
    return out


@torch.library.custom_op("tokennet::edge_combine", mutates_args=())
def _edge_combine(
    weights: Tensor, y: Tensor, indptr: Tensor, indices: Tensor, t_indptr: Tensor,
    t_indices: Tensor, to_transposed: Tensor, from_transposed: Tensor,
) -> Tensor:  # fmt: skip
    out = y.new_zeros(y.shape[0], indptr.numel() - 1, y.shape[2])
    if out.numel() == 0 or indices.numel() == 0:
        return out
    with torch.autocast(y.device.type, enabled=False):
        for group in range(y.shape[0]):
            out[group] = _pattern(weights[group], indptr, indices, y.shape[1]) @ y[group]
    return out


@torch.library.custom_op("tokennet::edge_softmax", mutates_args=())
def _edge_softmax(
    scores: Tensor, indptr: Tensor, indices: Tensor, t_indptr: Tensor,
    t_indices: Tensor, to_transposed: Tensor, from_transposed: Tensor,
) -> Tensor:  # fmt: skip
    if scores.numel() == 0:
        return scores.clone()
    offsets = indptr.long()
    target = t_indices.index_select(0, from_transposed)
    out = torch.empty_like(scores)
    for group in range(scores.shape[0]):
        peak = torch.segment_reduce(scores[group], "max", offsets=offsets)  # (N,)
        peak.masked_fill_(peak == -math.inf, 0.0)
        weights = (scores[group] - peak.index_select(0, target)).exp_()  # (E,)
        total = torch.segment_reduce(weights, "sum", offsets=offsets)
        total.masked_fill_(total == 0, 1.0)
        torch.div(weights, total.index_select(0, target), out=out[group])
    return out


@_edge_dot.register_fake
def _(x, y, indptr, indices, *rest):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], indices.shape[0])


@_edge_combine.register_fake
def _(weights, y, indptr, *rest):  # type: ignore[no-untyped-def]
    return y.new_empty(y.shape[0], indptr.shape[0] - 1, y.shape[2])


@_edge_softmax.register_fake
def _(scores, *rest):  # type: ignore[no-untyped-def]
    return torch.empty_like(scores)


def _save_inputs(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _edge_dot_backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, y, *plan = ctx.saved_tensors
    plan = EdgePlan(*plan)
    grad_x = edge_combine(grad, y, plan) if ctx.needs_input_grad[0] else None
    grad_y = None
    if ctx.needs_input_grad[1]:
        grad_y = edge_combine(grad.index_select(1, plan.to_transposed), x, plan.T)
    return grad_x, grad_y, *[None] * len(plan)


def _edge_combine_backward(ctx, grad):  # type: ignore[no-untyped-def]
    weights, y, *plan = ctx.saved_tensors
    plan, grad = EdgePlan(*plan), grad.contiguous()
    grad_weights = edge_dot(grad, y, plan) if ctx.needs_input_grad[0] else None
    grad_y = None
    if ctx.needs_input_grad[1]:
        grad_y = edge_combine(weights.index_select(1, plan.to_transposed), grad, plan.T)
    return grad_weights, grad_y, *[None] * len(plan)


def _save_output(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output, *inputs[1:])


def _edge_softmax_backward(ctx, grad):  # type: ignore[no-untyped-def]
    weights, *plan = ctx.saved_tensors
    plan = EdgePlan(*plan)
    product = weights * grad
    ones = product.new_ones(len(product), plan.t_indptr.numel() - 1, 1)
    mean = edge_combine(product, ones, plan)[..., 0]  # (G, N)
    return product - weights * mean.index_select(1, plan.target), *[None] * len(plan)


_edge_dot.register_autograd(_edge_dot_backward, setup_context=_save_inputs)
_edge_combine.register_autograd(_edge_combine_backward, setup_context=_save_inputs)
_edge_softmax.register_autograd(_edge_softmax_backward, setup_context=_save_output)
