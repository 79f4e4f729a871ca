"""Attention along edges in terms of the edge operators: no compiler needed, O(E H) memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tokennet.attend.edge_ops import edge_combine, edge_dot, edge_softmax
from tokennet.attend.plan import EdgePlan

_EDGES_AT_ONCE = 2**16
Activate = Callable[[Tensor], Tensor] | None
"""What is applied within additive scores; None for dot products."""


class Terms(NamedTuple):
    """What enters a score besides queries and keys; edges in the caller's order."""

    bias: Tensor | None = None
    """(E, H) added to the scores"""
    weight: Tensor | None = None
    """(H, C) of additive scores; None for dot products"""
    edge_attr: Tensor | None = None
    """(E, D)"""
    edge_query: Tensor | None = None
    """(N, H, D) what queries ask of the features, for dot products"""
    edge_key: Tensor | None = None
    """(D, H, C) what features add to the keys, for additive scores"""


def edge_weights(
    q: Tensor, k: Tensor, terms: Terms, scale: float, activate: Activate, plan: EdgePlan
) -> Tensor:
    """Attention weights (H, E) in the order of the plan, from q (N, H, C) and k (M, H, C)."""
    return edge_softmax(edge_scores(q, k, terms, scale, activate, plan), plan)


def edge_scores(
    q: Tensor, k: Tensor, terms: Terms, scale: float, activate: Activate, plan: EdgePlan
) -> Tensor:
    """Scores (H, E) in the order of the plan."""
    if terms.weight is not None and activate is not None:
        scores = scale * _additive_scores(q, k, terms.weight, terms, activate, plan)
    else:
        scores = edge_dot(q, k, plan, scale)
        if terms.edge_attr is not None and terms.edge_query is not None:
            features = _per_head(terms.edge_attr, q.shape[1])
            scores = scores + edge_dot(terms.edge_query, features, plan.edge_tokens(), scale)
    if terms.bias is not None:
        scores = scores + plan.by_target(terms.bias, 0).t()
    return scores


def edge_attention(
    q: Tensor, k: Tensor, v: Tensor, terms: Terms, scale: float, activate: Activate, plan: EdgePlan
) -> tuple[Tensor, Tensor | None]:
    """Output (N, H, Cv) and, for dot products with features, their sums (N, H, D)."""
    weights = edge_weights(q, k, terms, scale, activate, plan)
    edge_out = None
    if terms.edge_attr is not None and terms.weight is None:
        features = _per_head(terms.edge_attr, q.shape[1])
        edge_out = edge_combine(weights, features, plan.edge_tokens())
    return edge_combine(weights, v, plan), edge_out


def _per_head(attr: Tensor, heads: int) -> Tensor:
    return attr[:, None].expand(-1, heads, -1)  # (E, H, D)


def _additive_scores(
    q: Tensor,
    k: Tensor,
    weight: Tensor,
    terms: Terms,
    activate: Callable[[Tensor], Tensor],
    plan: EdgePlan,
) -> Tensor:
    """(H, E); the (E, H, C) that is activated exists for at most 2^16 edges at a time."""
    attr = None if terms.edge_attr is None else plan.by_target(terms.edge_attr, 0)

    def some(rows: Tensor, indices: Tensor, attr: Tensor | None) -> Tensor:
        inner = q.index_select(0, rows) + k.index_select(0, indices)  # (e, H, C)
        if attr is not None:
            inner = inner + torch.tensordot(attr, terms.edge_key, 1)
        return (activate(inner) * weight).sum(-1)  # (e, H)

    parts = [plan.rows.split(_EDGES_AT_ONCE), plan.indices.split(_EDGES_AT_ONCE)]
    attrs = [None] * len(parts[0]) if attr is None else attr.split(_EDGES_AT_ONCE)
    if len(parts[0]) == 1:
        return some(plan.rows, plan.indices, attr).t()
    scores = [
        checkpoint(some, *part, use_reentrant=False) for part in zip(*parts, attrs, strict=True)
    ]
    return torch.cat(scores).t()
