"""Attention written out target by target: slow, and independent of every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet import TokenGraph


def attend_oracle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: TokenGraph,
    bias=None,
    *,
    scale: float | None = None,
    score=None,
    edges=None,
    softmax=None,
    backend: str = "auto",
) -> Tensor:
    """The formula of `attend` as loops over targets; takes (..., N, H, C)."""
    if scale is None:
        scale = q.shape[-1] ** -0.5 if score is None else 1.0
    features = edges
    share = q.shape[-2] // max(k.shape[-2], 1)
    k, v = k.repeat_interleave(share, -2), v.repeat_interleave(share, -2)
    edges = graph.edge_index().tolist()
    batch = torch.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3])
    # So that each input has a gradient; a NaN in one target's row is none of the others'.
    rows, connected = [], sum(0 * x.nan_to_num(0, 0, 0).sum() for x in (q, k, v))
    for target in range(graph.num_targets):
        numbers = [e for e, i in enumerate(edges[1]) if i == target]
        sources = [edges[0][e] for e in numbers]
        row = torch.zeros(*batch, q.shape[-2], v.shape[-1], dtype=v.dtype, device=v.device)
        if sources:
            keys, values = k[..., sources, :, :], v[..., sources, :, :]  # (..., S, H, C)
            if features is not None:
                keys = keys + _mapped(features.key, features.attr[numbers])
                values = values + _mapped(features.value, features.attr[numbers])
            if score is None:
                scores = scale * (q[..., [target], :, :] * keys).sum(-1)  # (..., S, H)
            else:
                inner = q[..., [target], :, :] + keys
                leaky = torch.where(inner > 0, inner, score.negative_slope * inner)
                inner = inner.tanh() if score.activation == "tanh" else leaky
                scores = scale * (inner * score.weight).sum(-1)
            if softmax is not None and softmax.softcap is not None:
                scores = softmax.softcap * (scores / softmax.softcap).tanh()
            scores = scores + _bias_of(bias, numbers, target, sources, q.shape[-2], scores)
            alive = (scores != -torch.inf).any(-2, keepdim=True)
            scores = torch.where(alive, scores, torch.zeros_like(scores))
            weights = scores.softmax(-2) * alive
            if softmax is not None and softmax.sinks is not None:
                lse = scores.logsumexp(-2, keepdim=True)
                weights = weights * lse.exp() / (lse.exp() + softmax.sinks.exp())
            row = (weights[..., None] * values).sum(-3)
        rows.append(row.expand(*batch, *row.shape[-2:]))
    if not rows:
        return v.new_zeros(*batch, 0, *v.shape[-2:]) + connected
    return torch.stack(rows, dim=-3) + connected


def _mapped(matrix: Tensor | None, attr: Tensor) -> Tensor | float:
    """(H, C, D) times (S, D): (S, H, C)"""
    return 0.0 if matrix is None else torch.einsum("hcd,sd->shc", matrix, attr)


def _bias_of(bias, numbers: list[int], target: int, sources: list[int], heads: int, like: Tensor):
    if bias is None:
        return torch.zeros_like(like)
    if not isinstance(bias, Tensor):
        of = bias(torch.arange(heads), torch.tensor(target), torch.tensor(sources)[:, None])
        return of.expand(len(sources), heads).to(like)  # (S, H)
    if bias.dim() == 2:
        return bias[numbers]
    full = bias.expand(*bias.shape[:-3], heads, *bias.shape[-2:])
    return full[..., target, sources].transpose(-1, -2)
