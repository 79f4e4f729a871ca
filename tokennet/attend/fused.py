"""A kernel in C++ along the edges: time of the edges, memory of the tokens; on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.attend.call import Call
from tokennet.attend.cost import Work
from tokennet.attend.fused_op import fused_attention
from tokennet.attend.kernels.build import Kind, problem
from tokennet.attend.kernels.edges import SCALARS, Problem
from tokennet.attend.plan import edge_plan

_INT32 = 2**31


def unsupported(call: Call) -> str | None:
    if call.q.device.type != "cpu":
        return f"the kernel is for a CPU, not for {call.q.device.type}"
    if call.score is not None and call.score.activation != "leaky_relu":
        return f"the kernel knows LeakyReLU within additive scores, not {call.score.activation}"
    if call.in_func_grad:
        return "its operators have derivatives by autograd, not by torch.func"
    if call.has_tangent:
        return "the kernel has no forward-mode derivative"
    if max(call.graph.num_edges, call.graph.num_targets, call.graph.num_sources) >= _INT32:
        return "the graph has 2**31 edges or more, and the kernel counts in int32"
    return _build_problem(*_kind(call))


@torch.compiler.assume_constant_result
def _build_problem(scalar: str, *rest: int) -> str | None:
    """Of plain arguments: dynamo does not hand over a NamedTuple whole."""
    return problem(Kind(scalar, *rest))  # type: ignore[arg-type]


def work(call: Call) -> Work:
    """A key and a value gathered per edge, in one walk over the rows."""
    n, edges = call.graph.num_targets, call.graph.num_edges
    return Work.of(call, calls=1, pieces=call.batch * n, scores=edges, gathered=edges)


def run(call: Call) -> Tensor:
    with torch.autocast(call.q.device.type, enabled=False):
        return _run(call)


def _run(call: Call) -> Tensor:
    dtype = _computed(call.q.dtype)
    q, k, v = call.q.to(dtype), call.k.to(dtype), call.v.to(dtype)
    scale, slope = call.scale, call.score.negative_slope if call.score else 0.0
    given = Problem(q, k, v, call.terms(), scale, slope, edge_plan(call.graph, q.device))
    out, edge_out, _ = fused_attention(given)
    return call.add_edge_values(out, edge_out).to(call.v.dtype)


def _kind(call: Call) -> tuple:
    """The fields of `Kind`."""
    scalar = SCALARS[_computed(call.q.dtype)]
    heads, channels = call.q.shape[-2:]
    features = 0 if call.edges is None else call.edges.attr.shape[1]
    return scalar, heads, channels, call.v.shape[-1], features, call.score is not None


def _computed(dtype: torch.dtype) -> torch.dtype:
    """The kernel knows no float16; what it does not know it takes as float32."""
    return dtype if dtype in SCALARS else torch.float32
