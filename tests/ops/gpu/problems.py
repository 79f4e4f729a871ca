"""Problems for the kernels, on the device that DEVICE names."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from tokennet import Edges, TokenGraph
from tokennet.ops import Additive, EdgeFeatures
from tokennet.ops.call import make_call
from tokennet.ops.edge_plans import edge_plan
from tokennet.ops.kernels.problem import Problem

DEVICE = os.environ.get("DEVICE", "cpu")


def hubs(degree: int = 30, tokens: int = 20) -> Edges:
    """Target 1 and source 2 have many edges; token 0 has none. Edges in no order."""
    others = torch.randint(3, tokens, (4, degree))
    ones = torch.ones(degree, dtype=torch.long)
    edges = torch.stack([torch.cat([others[0], 2 * ones]), torch.cat([ones, others[1]])])
    edges = torch.cat([edges, others[2:]], 1)
    return Edges(edges[:, torch.randperm(edges.shape[1])], tokens)


def tensors(
    graph: TokenGraph, kind: str, shape, batch=(), dtype=torch.float64
) -> dict[str, Tensor]:
    """Leaves of all that a call of this kind depends on."""
    heads, channels, values = shape
    own = heads // 2 if "shared" in kind else heads
    sizes = {
        "q": (*batch, graph.num_targets, heads, channels),
        "k": (*batch, graph.num_sources, own, channels),
        "v": (*batch, graph.num_sources, own, values),
    }
    if "bias" in kind:
        sizes["bias"] = (graph.num_edges, heads)
    if "pairs" in kind:
        sizes["bias"] = (*batch, heads, graph.num_targets, graph.num_sources)
    if "additive" in kind:
        sizes["weight"] = (heads, channels)
    if "features" in kind:
        sizes |= {"attr": (graph.num_edges, 3), "key": (heads, channels, 3)}
        if "additive" not in kind:
            sizes["value"] = (heads, values, 3)
    made = {name: torch.randn(size, dtype=dtype, device=DEVICE) for name, size in sizes.items()}
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def run(function, graph: TokenGraph, given: dict[str, Tensor], scale: float | None = None):
    score = Additive(given["weight"], 0.3) if "weight" in given else None
    edges = None
    if "attr" in given:
        edges = EdgeFeatures(given["attr"], given["key"], given.get("value"))
    bias = given.get("bias")
    q, k, v = given["q"], given["k"], given["v"]
    return function(q, k, v, graph, bias, scale=scale, score=score, edges=edges)


def as_problem(q, k, v, graph, bias, *, scale, score, edges) -> Problem:
    call = make_call(q, k, v, graph, bias, scale, score, edges)
    slope = 0.0 if score is None else score.negative_slope
    plan = edge_plan(graph, q.device)
    return Problem(call.q, call.k, call.v, call.terms(), call.scale, slope, plan).contiguous()
