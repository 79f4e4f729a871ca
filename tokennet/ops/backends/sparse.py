"""CSR products with hand-written derivatives: any graph on CPU and CUDA, without a compiler."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.graphs import repeat
from tokennet.ops.call import Call, without_autocast
from tokennet.ops.edge_plans import EdgePlan, edge_plan
from tokennet.ops.edge_products import (
    Activate,
    edge_attention,
    edge_log_sum_exp,
    edge_scores,
)
from tokennet.ops.planner import Work
from tokennet.ops.terms import Terms


def unsupported(call: Call) -> str | None:
    if call.q.device.type not in ("cpu", "cuda"):
        return f"CSR products exist on cpu and cuda, not on {call.q.device.type}"
    if call.in_func_grad:
        return "its operators have derivatives by autograd, not by torch.func"
    if call.has_tangent:
        return "its products have no forward-mode derivative"
    return None


def work(call: Call) -> Work:
    """A key and a value gathered per edge; heads are walked one by one."""
    n, edges = call.graph.num_targets, call.graph.num_edges
    calls = 10 + 2 * call.num_heads
    return Work.of(call, calls=calls, pieces=call.groups * n, scores=edges, gathered=edges)


@without_autocast
def run(call: Call) -> Tensor:
    q, k, v, terms, activate, plan = _as_one_graph(call)
    found = edge_scores(q, k, terms, call.scale, activate, plan, call.softmax)
    return _output(call, v, found, terms, plan)


@without_autocast
def run_with_lse(call: Call) -> tuple[Tensor, Tensor]:
    """Output (B, N, H, Cv) and log-sum-exp (B, N, H)."""
    q, k, v, terms, activate, plan = _as_one_graph(call)
    found = edge_scores(q, k, terms, call.scale, activate, plan, call.softmax)
    lse = edge_log_sum_exp(found, plan).unflatten(0, (call.batch, call.graph.num_targets))
    return _output(call, v, found, terms, plan), lse


def _output(call: Call, v: Tensor, found: Tensor, terms: Terms, plan: EdgePlan) -> Tensor:
    out, summed = edge_attention(v, found, terms, plan, call.softmax)
    size = (call.batch, call.graph.num_targets)
    summed = None if summed is None else summed.unflatten(0, size)  # (B, N, H, D)
    return call.add_edge_values(out.unflatten(0, size), summed).to(call.v.dtype)


@without_autocast
def scores(call: Call) -> Tensor:
    """Scores (B, E, H) in the order of `edge_index`, before they are normalized."""
    q, k, _, terms, activate, plan = _as_one_graph(call)
    found = edge_scores(q, k, terms, call.scale, activate, plan, call.softmax)
    found = plan.as_listed(found, 1).unflatten(1, (call.batch, call.graph.num_edges))
    return found.permute(1, 2, 0).to(call.q.dtype)


def _as_one_graph(call: Call) -> tuple[Tensor, Tensor, Tensor, Terms, Activate, EdgePlan]:
    """The batch as one graph, a copy for each entry: q, k, v (B N, H, C) and what goes with them.

    In at least float32: CSR products know nothing smaller.
    """
    graph = call.graph if call.batch == 1 else repeat(call.graph, call.batch)
    bias, weight, attr, query, key = call.terms()
    if bias is not None:
        bias = bias.expand(call.batch, -1, -1).flatten(0, 1)  # (B E, H)
    if attr is not None:
        attr = attr.repeat(call.batch, 1)
    if query is not None:
        query = query.flatten(0, 1)  # (B N, H, D)
    precise = torch.promote_types(call.q.dtype, torch.float32)
    q, k, v = [tensor.to(precise).flatten(0, 1) for tensor in (call.q, call.k, call.v)]
    terms = Terms(bias, weight, attr, query, key).to(precise)
    activate = None if call.score is None else call.score.activate
    return q, k, v, terms, activate, edge_plan(graph, call.q.device)
