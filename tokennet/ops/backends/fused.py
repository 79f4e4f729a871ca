"""One kernel along the edges, in C++ or Triton: time of the edges, memory of the tokens."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from tokennet._compiling import constant_result
from tokennet.ops.call import Call, without_autocast
from tokennet.ops.edge_plans import edge_plan
from tokennet.ops.kernels.cpu.build import Kind, problem
from tokennet.ops.kernels.cpu.edges import SCALARS, kind
from tokennet.ops.kernels.fused_op import fused_attention
from tokennet.ops.kernels.problem import Problem
from tokennet.ops.planner import Work

_INT32 = 2**31


def unsupported(call: Call) -> str | None:
    device, softmax = call.q.device.type, call.softmax
    if softmax.softcap is not None or softmax.dropout:
        return call.more_than_softmax
    if device not in ("cpu", "cuda"):
        return f"its kernels are for a CPU and for CUDA, not for {device}"
    if call.score is not None and call.score.activation != "leaky_relu":
        return f"the kernel knows LeakyReLU within additive scores, not {call.score.activation}"
    if call.in_func_grad:
        return "its operators have derivatives by autograd, not by torch.func"
    if call.has_tangent:
        return "the kernel has no forward-mode derivative"
    if device == "cuda":
        return _triton_problem(call.q.device.index)
    if max(call.graph.num_edges, call.graph.num_targets, call.graph.num_sources) >= _INT32:
        return "the graph has 2**31 edges or more, and the kernel counts in int32"
    attr = None if call.edges is None else call.edges.attr
    return _build_problem(*kind(_computed(call.q), call.q, call.v, attr, call.score is not None))


@constant_result
def _triton_problem(index: int | None) -> str | None:
    if find_spec("triton") is None:
        return "its kernels for CUDA are in Triton, which is not installed"
    if torch.version.hip is None and torch.cuda.get_device_capability(index) < (7, 0):
        return "Triton needs a GPU of compute capability 7.0"
    return None


@constant_result
def _build_problem(scalar: str, *rest: int) -> str | None:
    """Of plain arguments: dynamo does not hand over a NamedTuple whole."""
    return problem(Kind(scalar, *rest))  # type: ignore[arg-type]


def work(call: Call) -> Work:
    """A key and a value gathered per edge, in one walk over the rows."""
    n, edges = call.graph.num_targets, call.graph.num_edges
    return Work.of(call, calls=1, pieces=call.batch * n, scores=edges, gathered=edges)


def run(call: Call) -> Tensor:
    return run_with_lse(call)[0]


@without_autocast
def run_with_lse(call: Call) -> tuple[Tensor, Tensor]:
    """Output (B, N, H, Cv) and log-sum-exp (B, N, H)."""
    dtype = _computed(call.q)
    q, k, v = call.q.to(dtype), call.k.to(dtype), call.v.to(dtype)
    scale, slope = call.scale, call.score.negative_slope if call.score else 0.0
    given = Problem(q, k, v, call.terms(), scale, slope, edge_plan(call.graph, q.device))
    out, edge_out, lse = fused_attention(given)
    return call.add_edge_values(out, edge_out).to(call.v.dtype), lse


def _computed(q: Tensor) -> torch.dtype:
    """The type that the kernel is given: float32 for those that it does not know."""
    known = q.dtype in SCALARS or (q.is_cuda and q.dtype == torch.float16)
    return q.dtype if known else torch.float32
