"""PyG message passing with attention as the aggregation function: defines what is right.

Written for clarity. It makes an E x H x C tensor, as PyG does; every other backend is
held to its values and gradients.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.utils import scatter

from tokennet.ops.call import Call
from tokennet.ops.planner import Work


class AttentionAggregation(Aggregation):
    """Sum the messages of each target with the softmax of their scores as weights.

    Unlike `SoftmaxAggregation`, the scores come with the messages. A target without
    messages, or with scores of -inf only, gets exactly 0.
    """

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        index: Tensor,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = 0,
        *,
        scores: Tensor,
    ) -> Tensor:
        peak = scatter(scores.detach(), index, 0, dim_size, reduce="max")  # (N, B, H)
        peak = peak.masked_fill(peak == -math.inf, 0.0)
        weights = (scores - peak[index]).exp()  # (E, B, H)
        total = scatter(weights, index, 0, dim_size, reduce="sum")
        weights = weights / total.masked_fill(total == 0, 1.0)[index]
        return scatter(weights[..., None] * x, index, 0, dim_size, reduce="sum")


class AttentionMessagePassing(MessagePassing):
    """Each edge j -> i sends its value with its score, and the features of the edge in both."""

    def __init__(self) -> None:
        super().__init__(aggr=AttentionAggregation(), node_dim=0)

    def forward(self, call: Call) -> Tensor:
        n, m = call.graph.num_targets, call.graph.num_sources
        # PyG wants the tokens first: (N, B, H, C).
        q, k, v = (tensor.movedim(1, 0) for tensor in (call.q, call.k, call.v))
        bias = call.edge_bias()
        if bias is not None:
            bias = bias.transpose(0, 1)  # (E, B or 1, H)
        out = self.propagate(
            call.graph.edge_index(call.q.device),
            size=(m, n), q=(None, q), k=(k, None), v=(v, None), bias=bias, call=call,
        )  # fmt: skip
        return out.movedim(0, 1).to(call.v.dtype)  # (B, N, H, Cv)

    def message(
        self, q_i: Tensor, k_j: Tensor, v_j: Tensor, bias: Tensor | None, call: Call
    ) -> tuple:  # type: ignore[override]
        k_j, v_j = self._with_features(k_j, v_j, call)
        if call.score is None:
            scores = call.scale * (q_i * k_j).sum(-1)  # (E, B, H)
        else:
            inner = call.score.activate(q_i + k_j)
            scores = call.scale * (inner * call.score.weight.to(inner)).sum(-1)
        return v_j, scores if bias is None else scores + bias

    def _with_features(self, k_j: Tensor, v_j: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        if call.edges is not None:
            attr = call.edges.attr[:, None].to(k_j)  # (E, 1, D)
            if call.edges.key is not None:
                k_j = k_j + torch.einsum("ebd,hcd->ebhc", attr, call.edges.key.to(k_j))
            if call.edges.value is not None:
                v_j = v_j + torch.einsum("ebd,hcd->ebhc", attr, call.edges.value.to(v_j))
        return k_j, v_j

    def aggregate(self, inputs: tuple, index: Tensor, dim_size: int) -> Tensor:  # type: ignore[override]
        values, scores = inputs
        return self.aggr_module(values, index, dim_size=dim_size, dim=0, scores=scores)


@cache
def _message_passing() -> AttentionMessagePassing:
    # PyG writes a source file for every instance; it holds no parameters, so one serves.
    return AttentionMessagePassing()


def unsupported(call: Call) -> str | None:
    return None


def work(call: Call) -> Work:
    """Gathered q, k and v of every edge, and as much again for the products."""
    edges = call.graph.num_edges
    return Work.of(call, calls=20, pieces=0, scores=edges, gathered=4 * edges)


def run(call: Call) -> Tensor:
    with torch.autocast(call.q.device.type, enabled=False):
        return _message_passing()(call)


def scores(call: Call) -> Tensor:
    """Scores (B, E, H) in the order of `edge_index`, of a call without features in values."""
    source, target = call.graph.edge_index(call.q.device)
    q_i, k_j = call.q.movedim(1, 0)[target], call.k.movedim(1, 0)[source]  # (E, B, H, C)
    bias = call.edge_bias()
    bias = None if bias is None else bias.transpose(0, 1)  # (E, B or 1, H)
    with torch.autocast(call.q.device.type, enabled=False):
        _, found = _message_passing().message(q_i, k_j, k_j, bias, call)
    return found.transpose(0, 1)
