r"""Attention along edges as one operator, forward and backward: in C++, on CUDA in Triton.

    s_e = scale (q_i . k_j + r_i . f_e) + b_e                      dot product
    s_e = scale a . LeakyReLU(q_i + k_j + K f_e) + b_e             additive
    p_e = exp(s_e - lse_i),  lse_i = log \sum_{e -> i} exp(s_e)
    o_i = \sum p_e v_j,      u_i = \sum p_e f_e

    delta_i = do_i . o_i + du_i . u_i
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

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from tokennet.ops.edge_plans import EdgePlan
from tokennet.ops.edge_products import Terms, edge_attention
from tokennet.ops.kernels.cpu import edges
from tokennet.ops.kernels.cpu.edges import Problem, Wanted
from tokennet.ops.kernels.registration import operator

_TERMS, _PLAN = len(Terms._fields), len(EdgePlan._fields)
_TAGS = (torch.Tag.cudagraph_unsafe,)
"""Tables for CUDA are found by the identity of a plan, and those who compile with CUDA graphs
(`mode="reduce-overhead"`) copy it. Captured by hand, with `torch.cuda.graph`, it is the same."""


def fused_attention(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Output (B, N, H, Cv), sums of features (B, N, H, D), and log-sum-exp (B, N, H).

    The log-sum-exp, -inf for a target without edges, has no derivative.
    """
    q, k, v, terms, scale, slope, plan = problem
    forward = _Taped.apply if _is_plain() else _forward
    return forward(q, k, v, *terms, scale, slope, *plan)


def _is_plain() -> bool:
    """Whether a tape is kept, and nothing besides traces or transforms the call."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return torch.is_grad_enabled()


def _kernels(device: torch.device) -> ModuleType:
    """The module whose `forward` and `backward` take problems on this device."""
    if device.type == "cpu":
        return edges
    from tokennet.ops.kernels.cuda import launch

    return launch


def _problem(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor | float | None) -> Problem:
    """From the flat arguments that an operator must have."""
    terms, (scale, slope), plan = rest[:_TERMS], rest[_TERMS : _TERMS + 2], rest[_TERMS + 2 :]
    return Problem(q, k, v, Terms(*terms), scale, slope, EdgePlan(*plan))  # type: ignore[arg-type]


def _contiguous(problem: Problem) -> Problem:
    q, k, v, terms, scale, slope, plan = problem
    precise = problem.accumulator
    small = [None if term is None else term.to(precise).contiguous() for term in terms]
    return Problem(
        q.contiguous(), k.contiguous(), v.contiguous(), Terms(*small), scale, slope, plan
    )


@operator("edge_attention", tags=_TAGS)
def _forward(
    q: Tensor, k: Tensor, v: Tensor,
    bias: Tensor | None, weight: Tensor | None,
    edge_attr: Tensor | None, edge_query: Tensor | None, edge_key: Tensor | None,
    scale: float, slope: float,
    indptr: Tensor, indices: Tensor, rows: Tensor, edge_id: Tensor,
    t_indptr: Tensor, t_indices: Tensor, t_order: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    problem = _contiguous(_problem(
        q, k, v, bias, weight, edge_attr, edge_query, edge_key, scale, slope,
        indptr, indices, rows, edge_id, t_indptr, t_indices, t_order,
    ))  # fmt: skip
    return _kernels(q.device).forward(problem)


@operator("edge_attention_backward", tags=_TAGS)
def _backward(
    grad: Tensor, grad_edge_out: Tensor, out: Tensor, edge_out: Tensor, lse: Tensor,
    q: Tensor, k: Tensor, v: Tensor,
    bias: Tensor | None, weight: Tensor | None,
    edge_attr: Tensor | None, edge_query: Tensor | None, edge_key: Tensor | None,
    scale: float, slope: float,
    indptr: Tensor, indices: Tensor, rows: Tensor, edge_id: Tensor,
    t_indptr: Tensor, t_indices: Tensor, t_order: Tensor,
    bias_wanted: bool = True, edge_attr_wanted: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    problem = _contiguous(_problem(
        q, k, v, bias, weight, edge_attr, edge_query, edge_key, scale, slope,
        indptr, indices, rows, edge_id, t_indptr, t_indices, t_order,
    ))  # fmt: skip
    given = grad.contiguous(), grad_edge_out.contiguous(), (out, edge_out, lse)
    wanted = Wanted(bias_wanted, edge_attr_wanted)
    found = _kernels(q.device).backward(problem, *given, wanted)
    terms = _asked((bias, weight, edge_attr, edge_query, edge_key), wanted)
    return (
        *found[:3],
        *(  # type: ignore[return-value]
            q.new_empty(0) if term is None else gradient.to(term.dtype)
            for gradient, term in zip(found[3:], terms, strict=True)
        ),
    )


def _asked(terms: tuple[Tensor | None, ...], wanted: Wanted) -> Terms:
    """The terms, without those whose gradients nobody asks for."""
    asked = Terms(*terms)
    return asked._replace(
        bias=asked.bias if wanted.bias else None,
        edge_attr=asked.edge_attr if wanted.edge_attr else None,
    )


@torch.library.register_fake(_forward)
def _(q, k, v, bias, weight, edge_attr, *rest):  # type: ignore[no-untyped-def]
    precise = torch.promote_types(q.dtype, torch.float32)
    summed = 0 if edge_attr is None or weight is not None else edge_attr.shape[1]
    out = q.new_empty(*q.shape[:3], v.shape[3])
    edge_out = q.new_empty(*q.shape[:3], summed, dtype=precise)
    return out, edge_out, q.new_empty(q.shape[:3], dtype=precise)


@torch.library.register_fake(_backward)
def _(grad, grad_edge_out, out, edge_out, lse, q, k, v, *rest):  # type: ignore[no-untyped-def]
    """Contiguous, whatever the inputs are."""
    asked = _asked(rest[:_TERMS], Wanted(*rest[_TERMS + 2 + _PLAN :]))
    terms = [q.new_empty(0) if term is None else term.new_empty(term.shape) for term in asked]
    return (q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), *terms)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.factors = inputs[3 + _TERMS : 5 + _TERMS]
    ctx.save_for_backward(*inputs[: 3 + _TERMS], *inputs[5 + _TERMS :], *output)
    ctx.set_materialize_grads(True)


def _first_derivative(ctx, grad, grad_edge_out, grad_lse):  # type: ignore[no-untyped-def]
    *inputs, out, edge_out, lse = ctx.saved_tensors
    given, plan = inputs[: 3 + _TERMS], inputs[3 + _TERMS :]
    wanted = ctx.needs_input_grad[3], ctx.needs_input_grad[5]  # of bias, of edge_attr
    found = _backward(grad, grad_edge_out, out, edge_out, lse, *given, *ctx.factors, *plan, *wanted)
    gradients = [
        gradient if needed else None
        for gradient, needed in zip(found, ctx.needs_input_grad, strict=False)
    ]
    return *gradients, None, None, *(None,) * _PLAN


def _save_backward(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.factors = inputs[8 + _TERMS : 10 + _TERMS]
    ctx.save_for_backward(*inputs[:2], *inputs[5 : 8 + _TERMS], *inputs[10 + _TERMS : -2])


def _second_derivative(ctx, *upstream):  # type: ignore[no-untyped-def]
    """Differentiate the same formula, written in operators that have all derivatives.

    `out` and what comes with it are functions of the other inputs, which get the whole.
    """
    create_graph = torch.is_grad_enabled()
    if len(ctx.saved_tensors[2]) == 0:  # a batch of nothing
        inputs = ctx.saved_tensors[: 5 + _TERMS]
        zeros = [None if x is None else torch.zeros_like(x) for x in inputs]
        return *zeros[:2], None, None, None, *zeros[2:], *(None,) * (4 + _PLAN)
    with torch.enable_grad():
        # Views, because the same tensor may have been given for q and k.
        saved = [x if x is None or not x.requires_grad else x.view_as(x) for x in ctx.saved_tensors]
        grads, given, plan = saved[:2], saved[2 : 5 + _TERMS], saved[5 + _TERMS :]
        outputs = _composite(_problem(*given, *ctx.factors, *plan))
        outputs, above = zip(
            *((out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad),
            strict=True,
        )
        wanted = [x for x in given if x is not None and x.requires_grad]
        first = torch.autograd.grad(
            outputs, wanted, above, create_graph=True, materialize_grads=True
        )
        further = [
            g for x, g in zip(given, upstream, strict=True) if x is not None and x.requires_grad
        ]
        # Where values alone are differentiated by, their gradient depends on nothing.
        pairs = [(x, g) for x, g in zip(first, further, strict=True) if x.requires_grad]
        inputs = [x for x in (*grads, *given) if x is not None and x.requires_grad]
        second = iter(torch.autograd.grad(
            [x for x, _ in pairs], inputs, [g for _, g in pairs],
            create_graph=create_graph, materialize_grads=True,
        ) if pairs else [torch.zeros_like(x) for x in inputs])  # fmt: skip
    found = [next(second) if x is not None and x.requires_grad else None for x in (*grads, *given)]
    return *found[:2], None, None, None, *found[2:], *(None,) * (4 + _PLAN)


def _composite(problem: Problem) -> tuple[Tensor, Tensor]:
    """The first two outputs of the forward operator, one entry of the batch after the other."""
    precise, plan = problem.accumulator, problem.plan
    q, k, v = problem.q.to(precise), problem.k.to(precise), problem.v.to(precise)
    activate = partial(leaky_relu, negative_slope=problem.slope)
    out, edge_out = [], []
    for b in range(len(q)):
        terms = Terms(*(None if term is None else term.to(precise) for term in problem.terms))
        if terms.bias is not None:
            terms = terms._replace(bias=terms.bias[b if len(terms.bias) > 1 else 0])
        if terms.edge_query is not None:
            terms = terms._replace(edge_query=terms.edge_query[b])
        one, summed = edge_attention(q[b], k[b], v[b], terms, problem.scale, activate, plan)
        out.append(one)
        edge_out.append(one.new_zeros(*one.shape[:2], 0) if summed is None else summed)
    return torch.stack(out).to(problem.q.dtype), torch.stack(edge_out)


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
