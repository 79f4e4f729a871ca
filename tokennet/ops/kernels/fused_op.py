r"""Attention along edges as one operator, forward and backward: in C++, on CUDA in Triton.

    s_e = scale (q_i . k_j + r_i . f_e) + b_e                      dot product
    s_e = scale a . LeakyReLU(q_i + k_j + K f_e) + b_e             additive
    p_e = exp(s_e - lse_i),  lse_i = log \sum_{e -> i} exp(s_e)
    o_i = \sum p_e v_j,      u_i = \sum p_e f_e

    delta_i = do_i . o_i + du_i . u_i - dlse_i
    ds_e = p_e (do_i . v_j + du_i . f_e - delta_i)

Forward and first derivative take O(N H C + E H) memory, and E D for the gradient of features:
the backward pass computes p again from the log-sum-exp (as in Dao et al., 2022, arXiv
2205.14135), goes once along the edges by source for dk, dv and ds, and once by target, where it
needs no more than ds and the keys, for dq and what belongs to edges. Derivatives of higher
order come from the edge operators.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from tokennet.ops.edge_products import edge_attention, edge_log_sum_exp, edge_scores
from tokennet.ops.kernels.cpu import edges
from tokennet.ops.kernels.problem import DIFFERENTIABLE, SCHEMA, TENSORS, Problem, Wanted
from tokennet.ops.kernels.registration import operator
from tokennet.ops.terms import Terms

_TAGS = (torch.Tag.cudagraph_unsafe,)
"""Tables for CUDA are found by the identity of a plan, and those who compile with CUDA graphs
(`mode="reduce-overhead"`) copy it. Captured by hand, with `torch.cuda.graph`, it is the same."""


def fused_attention(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Output (B, N, H, Cv), sums of features (B, N, H, D), and log-sum-exp (B, N, H).

    The log-sum-exp is -inf for a target without edges.
    """
    is_taped = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if is_taped and not torch._C._are_functorch_transforms_active():
        return _Taped.apply(*problem.flat())
    return _forward(*problem.flat())


def _kernels(device: torch.device) -> ModuleType:
    """The module whose `forward` and `backward` take problems on this device."""
    if device.type == "cpu":
        return edges
    from tokennet.ops.kernels.cuda import launch

    return launch


@operator("edge_attention", f"({SCHEMA}) -> (Tensor, Tensor, Tensor)", tags=_TAGS)
def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    problem = Problem.from_flat(arguments).contiguous()
    return _kernels(problem.q.device).forward(problem)


@operator(
    "edge_attention_backward",
    "(Tensor grad, Tensor grad_edge_out, Tensor grad_lse, Tensor out, Tensor edge_out, Tensor lse, "
    f"{SCHEMA}, bool bias_wanted, bool edge_attr_wanted) "
    f"-> ({', '.join(['Tensor'] * DIFFERENTIABLE)})",
    tags=_TAGS,
)
def _backward(*arguments: Any) -> tuple[Tensor, ...]:
    upstream, saved, rest = arguments[:3], arguments[3:6], arguments[6:]
    problem, wanted = Problem.from_flat(rest[:-2]), Wanted(*rest[-2:])
    grads, kernels = tuple(x.contiguous() for x in upstream), _kernels(problem.q.device)
    found = kernels.backward(problem.contiguous(), grads, saved, wanted)
    terms = [
        problem.q.new_empty(0) if term is None else gradient.to(term.dtype)
        for gradient, term in zip(found[3:], _wanted_terms(problem, wanted), strict=True)
    ]
    return (*found[:3], *terms)


def _wanted_terms(problem: Problem, wanted: Wanted) -> Terms:
    """The terms, without those whose gradients are not wanted."""
    terms = problem.terms
    return terms._replace(
        bias=terms.bias if wanted.bias else None,
        edge_attr=terms.edge_attr if wanted.edge_attr else None,
    )


@torch.library.register_fake(_forward)
def _(*arguments):  # type: ignore[no-untyped-def]
    return Problem.from_flat(arguments).empty_outputs()


@torch.library.register_fake(_backward)
def _(*arguments):  # type: ignore[no-untyped-def]
    """Contiguous, whatever the inputs are."""
    grad, rest = arguments[0], arguments[6:]
    problem = Problem.from_flat(rest[:-2])
    terms = _wanted_terms(problem, Wanted(*rest[-2:]))
    empty = [grad.new_empty(0) if term is None else term.new_empty(term.shape) for term in terms]
    return (*(x.new_empty(x.shape) for x in problem[:3]), *empty)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.factors = inputs[TENSORS:]
    ctx.save_for_backward(*inputs[:TENSORS], *output)
    ctx.set_materialize_grads(True)


def _first_derivative(ctx, grad, grad_edge_out, grad_lse):  # type: ignore[no-untyped-def]
    *tensors, out, edge_out, lse = ctx.saved_tensors
    needed = ctx.needs_input_grad
    wanted = needed[3], needed[5]  # of bias, of edge_attr
    upstream, saved = (grad, grad_edge_out, grad_lse), (out, edge_out, lse)
    found = _backward(*upstream, *saved, *tensors, *ctx.factors, *wanted)
    gradients = [x if need else None for x, need in zip(found, needed, strict=False)]
    return *gradients, *(None,) * (len(needed) - len(gradients))


def _save_backward(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.factors = inputs[6 + TENSORS : -2]
    ctx.save_for_backward(*inputs[:3], *inputs[6 : 6 + TENSORS])


def _second_derivative(ctx, *upstream):  # type: ignore[no-untyped-def]
    """Differentiate the same formula, written in operators that have all derivatives.

    `out` and what comes with it are functions of the other inputs: their own gradient is None.
    """
    create_graph, saved = torch.is_grad_enabled(), ctx.saved_tensors
    if len(saved[3]) == 0:  # a batch of nothing
        found = [None if x is None else torch.zeros_like(x) for x in saved[: 3 + DIFFERENTIABLE]]
    else:
        with torch.enable_grad():
            found = _composite_derivative(saved, ctx.factors, upstream, create_graph)
    rest = len(ctx.needs_input_grad) - 6 - DIFFERENTIABLE
    return *found[:3], None, None, None, *found[3:], *(None,) * rest


def _composite_derivative(saved, factors, upstream, create_graph):  # type: ignore[no-untyped-def]
    """Derivatives by the upstream gradients of the first derivative, and by q, k, v, terms."""
    # Views, because the same tensor may have been given for q and k.
    saved = [x if x is None or not x.requires_grad else x.view_as(x) for x in saved]
    grads, given = saved[:3], saved[3 : 3 + DIFFERENTIABLE]
    outputs = _composite(Problem.from_flat((*saved[3:], *factors)))
    pairs = [(x, grad) for x, grad in zip(outputs, grads, strict=True) if x.requires_grad]
    by = [x for x in given if x is not None and x.requires_grad]
    first = _gradients(pairs, by, create_graph=True)
    above = [g for x, g in zip(given, upstream, strict=True) if x is not None and x.requires_grad]
    # Where values alone are differentiated by, their gradient depends on nothing.
    pairs = [(x, g) for x, g in zip(first, above, strict=True) if x.requires_grad]
    by = [x for x in (*grads, *given) if x is not None and x.requires_grad]
    second = iter(
        _gradients(pairs, by, create_graph) if pairs else [torch.zeros_like(x) for x in by]
    )
    return [next(second) if x is not None and x.requires_grad else None for x in (*grads, *given)]


def _gradients(pairs, by, create_graph):  # type: ignore[no-untyped-def]
    """Gradients by some tensors, from pairs of an output and its own gradient."""
    outputs, above = [x for x, _ in pairs], [grad for _, grad in pairs]
    return torch.autograd.grad(
        outputs, by, above, create_graph=create_graph, materialize_grads=True
    )


def _composite(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs of the forward operator, one entry of the batch after the other."""
    precise, plan = problem.accumulator, problem.plan
    q, k, v = problem.q.to(precise), problem.k.to(precise), problem.v.to(precise)
    all_terms = problem.terms.to(precise)
    activate = partial(leaky_relu, negative_slope=problem.slope)
    out, edge_out, lse = [], [], []
    for b in range(len(q)):
        terms = all_terms
        if terms.bias is not None:
            terms = terms._replace(bias=terms.bias[b if len(terms.bias) > 1 else 0])
        if terms.edge_query is not None:
            terms = terms._replace(edge_query=terms.edge_query[b])
        scores = edge_scores(q[b], k[b], terms, problem.scale, activate, plan)
        entry, summed = edge_attention(v[b], scores, terms, plan)
        out.append(entry)
        lse.append(edge_log_sum_exp(scores, plan))
        edge_out.append(entry.new_zeros(*entry.shape[:2], 0) if summed is None else summed)
    return torch.stack(out).to(problem.q.dtype), torch.stack(edge_out), torch.stack(lse)


class _Taped(torch.autograd.Function):
    """The forward operator with the derivative it is registered with.

    A registered derivative has its arguments filled in from the schema of the operator, for a
    tenth of a millisecond in each call, which is more than small graphs take.
    """

    @staticmethod
    def forward(ctx, *inputs):  # type: ignore[no-untyped-def]
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output

    backward = staticmethod(_first_derivative)


torch.library.register_autograd(_forward, _first_derivative, setup_context=_save)
torch.library.register_autograd(_backward, _second_derivative, setup_context=_save_backward)
