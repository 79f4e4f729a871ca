"""CSR products with hand-written derivatives: time and memory follow the edges."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.attend.call import Call
from tokennet.attend.edge_ops import EdgePlan, edge_combine, edge_dot, edge_plan, edge_softmax
from tokennet.graphs import repeat


def unsupported(call: Call) -> str | None:
    if call.q.device.type not in ("cpu", "cuda"):
        return f"CSR products exist on cpu and cuda, not on {call.q.device.type}"
    if call.has_tangent:
        return "its products have no forward-mode derivative"
    return None


def predicted_bytes(call: Call) -> int:
    """A key and a value gathered per edge, the indices, and the scores three times over."""
    # Heads are walked one by one; each walk costs what it takes to move this much.
    launch = 200_000
    size = max(call.q.element_size(), 4)
    per_edge = (call.q.shape[-1] + call.v.shape[-1] + 6) * size + 8
    edges = call.groups * call.graph.num_edges
    return call.io_bytes + edges * per_edge + call.num_heads * launch


def run(call: Call) -> Tensor:
    plan, weights = _weights(call)
    out = edge_combine(weights, _fold_batch(call.v), plan)  # (B N, H, Cv)
    return out.unflatten(0, (call.batch, call.graph.num_targets)).to(call.v.dtype)


def weights(call: Call) -> Tensor:
    """Attention weights (B, E, H) in the order of `edge_index`."""
    _, weights = _weights(call)
    edge_id = call.graph.csr(call.q.device).edge_id
    weights = weights.view(call.num_heads, call.batch, len(edge_id))
    weights = weights.index_select(2, torch.argsort(edge_id))
    return weights.permute(1, 2, 0).to(call.q.dtype)


def _weights(call: Call) -> tuple[EdgePlan, Tensor]:
    """The batch as one graph of as many copies, and the weights (H, B E) by target."""
    graph = call.graph if call.batch == 1 else repeat(call.graph, call.batch)
    plan = edge_plan(graph, call.q.device)
    scores = edge_dot(_fold_batch(call.q), _fold_batch(call.k), plan, call.scale)
    bias = call.edge_bias()  # (B or 1, H, E), the caller's order
    if bias is not None:
        bias = bias.index_select(2, call.graph.csr(call.q.device).edge_id).transpose(0, 1)
        bias = bias.expand(call.num_heads, call.batch, bias.shape[2])
        scores = scores + bias.reshape(scores.shape)
    return plan, edge_softmax(scores, plan)


def _fold_batch(tensor: Tensor) -> Tensor:
    """(B, N, H, C) to (B N, H, C), in at least float32: CSR products know nothing smaller."""
    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return tensor.flatten(0, 1)
