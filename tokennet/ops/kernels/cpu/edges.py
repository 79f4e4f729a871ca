"""Call the kernel of `edges.cpp` on tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from tokennet.ops.edge_plans import EdgePlan
from tokennet.ops.kernels.cpu.build import Kind, library
from tokennet.ops.kernels.problem import WANTED, Gradients, Outputs, Problem, Wanted
from tokennet.ops.terms import Terms

SCALARS = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16"}

_SIZES = "batch targets sources edges bias_batch blocks threads"
_FACTORS = "scale slope"
_POINTERS = (
    "indptr indices edge_id t_indptr t_indices t_order q k v bias weight edge_attr edge_query "
    "edge_key out edge_out lse grad grad_edge_out grad_lse dq dk dv dbias dweight "
    "dedge_attr dedge_query dedge_key stats saved"
)


class _Args(ctypes.Structure):
    """`struct Args` of the source."""

    _fields_ = (
        [(name, ctypes.c_int64) for name in _SIZES.split()]
        + [(name, ctypes.c_double) for name in _FACTORS.split()]
        + [(name, ctypes.c_void_p) for name in _POINTERS.split()]
    )


def forward(problem: Problem) -> Outputs:
    out, edge_out, lse = problem.empty_outputs()
    _call("attend_forward", problem, _blocks(problem), out=out, edge_out=edge_out, lse=lse)
    return out, edge_out, lse


def backward(
    problem: Problem, grads: Outputs, saved: Outputs, wanted: Wanted = WANTED
) -> Gradients:
    """Gradients of all inputs, from those of the outputs and the outputs of `forward`."""
    (grad, grad_edge_out, grad_lse), (out, edge_out, lse) = grads, saved
    blocks = _blocks(problem)
    batch, n, heads, _ = problem.q.shape
    results = problem.empty_gradients(wanted, blocks)
    _call(
        "attend_backward", problem, blocks, out=out, edge_out=edge_out, lse=lse, grad=grad,
        grad_edge_out=grad_edge_out, grad_lse=grad_lse, stats=problem.empty(batch, n, 2, heads),
        saved=problem.empty(batch, problem.plan.num_edges, 2 if edge_out.shape[-1] else 1, heads),
        **{f"d{name}": tensor for name, tensor in results._asdict().items()},
    )  # fmt: skip
    return results.added_up(problem)


def kind(dtype: torch.dtype, q: Tensor, v: Tensor, attr: Tensor | None, additive: bool) -> Kind:
    """What the kernel is compiled for: `dtype` is that of the numbers, `attr` of the edges."""
    features, (heads, channels) = 0 if attr is None else attr.shape[1], q.shape[-2:]
    return Kind(SCALARS[dtype], heads, v.shape[-2], channels, v.shape[-1], features, additive)


def _blocks(problem: Problem) -> int:
    """Parts that threads take one by one: some tenths of a millisecond each.

    A matter of the problem alone, so that sums over parts do not depend on the threads.
    """
    q = problem.q
    rows, width = max(q.shape[1], problem.k.shape[1]), q.shape[2] * q.shape[3]
    return min(1024, 1 + problem.plan.num_edges * width // 2**18 + rows * width // 2**17)


def _call(function: str, problem: Problem, blocks: int, **tensors: Tensor) -> None:
    q, k, v, terms, scale, slope, plan = problem
    given = [("q", q), ("k", k), ("v", v), *zip(Terms._fields, terms, strict=True)]
    given += zip(EdgePlan._fields, plan, strict=True)
    args = _Args(
        batch=q.shape[0],
        targets=q.shape[1],
        sources=k.shape[1],
        edges=plan.num_edges,
        bias_batch=0 if terms.bias is None else terms.bias.shape[0],
        blocks=blocks,
        threads=max(1, min(torch.get_num_threads(), q.shape[0] * blocks)),
        scale=scale,
        slope=slope,
    )
    for name, tensor in (*given, *tensors.items()):
        if tensor is not None and name != "rows":  # the kernel knows the row that it is in
            if not tensor.is_contiguous():
                raise AssertionError(f"{name} is not contiguous")
            setattr(args, name, tensor.data_ptr() if tensor.numel() else None)
    kernel = library(kind(q.dtype, q, v, terms.edge_attr, terms.weight is not None))
    if kernel.attend_size_of_args() != ctypes.sizeof(_Args):
        raise RuntimeError("the kernel is of another version of tokennet; start the process again")
    getattr(kernel, function)(ctypes.byref(args))
