"""Call the kernel of `edges.cpp` on tensors."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.ops.edge_plans import EdgePlan
from tokennet.ops.edge_products import Terms
from tokennet.ops.kernels.cpu.build import Kind, library

SCALARS = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16"}

_SIZES = "batch targets sources edges bias_batch blocks threads"
_FACTORS = "scale slope"
_POINTERS = (
    "indptr indices edge_id t_indptr t_indices t_order q k v bias weight edge_attr edge_query "
    "edge_key out edge_out lse grad grad_edge_out dq dk dv dbias dweight dedge_attr dedge_query "
    "dedge_key stats saved"
)


class _Args(ctypes.Structure):
    """`struct Args` of the source."""

    _fields_ = (
        [(name, ctypes.c_int64) for name in _SIZES.split()]
        + [(name, ctypes.c_double) for name in _FACTORS.split()]
        + [(name, ctypes.c_void_p) for name in _POINTERS.split()]
    )


class Problem(NamedTuple):
    """What a forward pass is given, and the backward pass again."""

    q: Tensor
    """(B, N, H, C)"""
    k: Tensor
    """(B, M, H, C)"""
    v: Tensor
    """(B, M, H, Cv)"""
    terms: Terms
    """With a batch: bias (1 or B, E, H) and edge_query (B, N, H, D)."""
    scale: float
    slope: float
    plan: EdgePlan

    @property
    def kind(self) -> Kind:
        heads, channels = self.q.shape[-2:]
        additive = self.terms.weight is not None
        scalar = SCALARS[self.q.dtype]
        return Kind(scalar, heads, channels, self.v.shape[-1], self.num_features, additive)

    @property
    def accumulator(self) -> torch.dtype:
        return torch.promote_types(self.q.dtype, torch.float32)

    @property
    def num_features(self) -> int:
        return 0 if self.terms.edge_attr is None else self.terms.edge_attr.shape[1]

    @property
    def blocks(self) -> int:
        """Parts that threads take one by one: some tenths of a millisecond each.

        A matter of the problem alone, so that sums over parts do not depend on the threads.
        """
        rows, width = max(self.q.shape[1], self.k.shape[1]), self.q.shape[2:].numel()
        return min(1024, 1 + self.plan.num_edges * width // 2**18 + rows * width // 2**17)


def forward(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Output (B, N, H, Cv), sums of features (B, N, H, D), log-sum-exp (B, N, H)."""
    q, v, accumulator = problem.q, problem.v, problem.accumulator
    out = q.new_empty(*q.shape[:3], v.shape[3])
    summed = 0 if problem.terms.weight is not None else problem.num_features
    edge_out = q.new_empty(*q.shape[:3], summed, dtype=accumulator)
    lse = q.new_empty(q.shape[:3], dtype=accumulator)
    _call("attend_forward", problem, out=out, edge_out=edge_out, lse=lse)
    return out, edge_out, lse


class Wanted(NamedTuple):
    """Which gradients of edges are asked for: they take memory, and time to be written."""

    bias: bool = True
    edge_attr: bool = True


WANTED = Wanted()


class Gradients(NamedTuple):
    """Of everything differentiable in a problem; empty where there was nothing, or no wish."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor
    weight: Tensor
    edge_attr: Tensor
    edge_query: Tensor
    edge_key: Tensor


def backward(
    problem: Problem,
    grad: Tensor,
    grad_edge_out: Tensor,
    saved: tuple[Tensor, Tensor, Tensor],
    wanted: Wanted = WANTED,
) -> Gradients:
    """Gradients of all inputs, from those of the outputs and the outputs of `forward`."""
    q, terms, plan = problem.q, problem.terms, problem.plan
    batch, n, heads, channels = q.shape
    edges, d = plan.num_edges, problem.num_features
    additive, parts = terms.weight is not None, batch * problem.blocks

    def empty(*shape: int) -> Tensor:
        return q.new_empty(shape, dtype=problem.accumulator)

    results = Gradients(
        q.new_empty(q.shape),
        q.new_empty(problem.k.shape),
        q.new_empty(problem.v.shape),
        bias=empty(batch, edges * (terms.bias is not None and wanted.bias), heads),
        weight=empty(parts if additive else 0, heads, channels),
        edge_attr=empty(batch, edges * wanted.edge_attr, d),
        edge_query=empty(batch, n, heads, 0 if additive else d),
        edge_key=empty(parts, d if additive else 0, heads, channels),
    )
    out, edge_out, lse = saved
    _call(
        "attend_backward", problem, out=out, edge_out=edge_out, lse=lse, grad=grad,
        grad_edge_out=grad_edge_out, stats=empty(batch, n, 2, heads),
        saved=empty(batch, edges, 2 if d and not additive else 1, heads),
        **{f"d{name}": tensor for name, tensor in results._asdict().items()},
    )  # fmt: skip
    shared = terms.bias is not None and terms.bias.shape[0] == 1
    return results._replace(
        bias=_total(results.bias)[None] if shared else results.bias,
        weight=_total(results.weight),
        edge_attr=_total(results.edge_attr),
        edge_key=_total(results.edge_key),
    )


def _total(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _call(function: str, problem: Problem, **tensors: Tensor) -> None:
    terms, plan = problem.terms, problem.plan
    tensors |= {"q": problem.q, "k": problem.k, "v": problem.v, **plan._asdict()}
    tensors |= {name: tensor for name, tensor in terms._asdict().items() if tensor is not None}
    del tensors["rows"]
    batch, n = problem.q.shape[:2]
    args = _Args(
        batch=batch,
        targets=n,
        sources=problem.k.shape[1],
        edges=plan.num_edges,
        bias_batch=0 if terms.bias is None else terms.bias.shape[0],
        blocks=problem.blocks,
        threads=max(1, min(torch.get_num_threads(), batch * problem.blocks)),
        scale=problem.scale,
        slope=problem.slope,
    )
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise AssertionError(f"{name} is not contiguous")
        setattr(args, name, tensor.data_ptr() if tensor.numel() else None)
    kernel = library(problem.kind)
    if kernel.attend_size_of_args() != ctypes.sizeof(_Args):
        raise RuntimeError("the kernel is of another version of tokennet; start the process again")
    getattr(kernel, function)(ctypes.byref(args))
