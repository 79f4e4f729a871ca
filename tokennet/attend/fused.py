"""A kernel in C++ along the edges: time of the edges, memory of the tokens; on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.attend.call import Call
from tokennet.attend.fused_op import fused_attention
from tokennet.attend.kernels.build import Kind, problem
from tokennet.attend.kernels.edges import SCALARS, Problem
from tokennet.attend.plan import edge_plan

_INT32 = 2**31


def unsupported(call: Call) -> str | None:
    if call.q.device.type != "cpu":
        return f"the kernel is for a CPU, not for {call.q.device.type}"
    if call.has_tangent:
        return "the kernel has no forward-mode derivative"
    if max(call.graph.num_edges, call.graph.num_targets, call.graph.num_sources) >= _INT32:
        return "the graph has 2**31 edges or more, and the kernel counts in int32"
    return _build_problem(_kind(call))


@torch._dynamo.assume_constant_result
def _build_problem(kind: tuple) -> str | None:
    return problem(Kind(*kind))


def predicted_bytes(call: Call) -> int:
    edges = call.groups * call.graph.num_edges
    return call.io_bytes + edges * (call.q.shape[-1] + call.v.shape[-1] + 2) * call.q.element_size()


def run(call: Call) -> Tensor:
    dtype = _computed(call.q.dtype)
    q, k, v = call.q.to(dtype), call.k.to(dtype), call.v.to(dtype)
    scale, slope = call.scale, call.score.negative_slope if call.score else 0.0
    given = Problem(q, k, v, call.terms(), scale, slope, edge_plan(call.graph, q.device))
    out, edge_out, _ = fused_attention(given)
    return call.add_edge_values(out, edge_out).to(call.v.dtype)


def _kind(call: Call) -> Kind:
    scalar = SCALARS[_computed(call.q.dtype)]
    channels, values = call.q.shape[-1], call.v.shape[-1]
    return Kind(scalar, channels, values, call.score is not None, call.edges is not None)


def _computed(dtype: torch.dtype) -> torch.dtype:
    """The kernel knows no float16; what it does not know it takes as float32."""
    return dtype if dtype in SCALARS else torch.float32
