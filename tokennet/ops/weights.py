"""Attention in its parts: scores of edges, their weights, and linear combinations by weights.

For weights other than a softmax, and to look at them. Time and memory follow the edges; on complete
graphs, whose edges are the entries of a matrix, products of matrices are quicker.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from tokennet.graphs import PerHead, TokenGraph, repeat
from tokennet.graphs.base import DENSE_LIMIT
from tokennet.ops._per_head import check_heads, masked
from tokennet.ops.backends import reference, sparse
from tokennet.ops.call import Call, fold, make_call
from tokennet.ops.edge_plans import edge_plan
from tokennet.ops.edge_products import edge_combine
from tokennet.ops.normalizers import check_edge_values, normalize
from tokennet.ops.normalizers import softmax as with_sinks
from tokennet.ops.terms import Additive, Bias, EdgeFeatures, Softmax


def edge_scores(
    q: Tensor,
    k: Tensor,
    graph: TokenGraph,
    bias: Bias | None = None,
    *,
    scale: float | None = None,
    score: Additive | None = None,
    edges: EdgeFeatures | None = None,
    softmax: Softmax | None = None,
) -> Tensor:
    r"""The scores of each edge, differentiable: what `attend` takes the softmax of.

        s_ij = scale q_i . (k_j + K f_ij) + bias_h(i, j)

    Arguments as for `attend`.

    Returns:
        (..., E, H), in the order of `graph.edge_index()`.

    >>> from tokennet import Full
    >>> q, k = torch.ones(2, 1, 4), torch.ones(3, 1, 4)
    >>> edge_scores(q, k, Full(2, 3)).flatten().tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """
    call = make_call(q, k, k, graph, bias, scale, score, _of_keys(edges), softmax)
    return call.unfold(_scores(call))


def attention_weights(
    q: Tensor,
    k: Tensor,
    graph: TokenGraph | PerHead,
    bias: Bias | None = None,
    *,
    scale: float | None = None,
    score: Additive | None = None,
    edges: EdgeFeatures | None = None,
    softmax: Softmax | None = None,
    normalizer: str = "softmax",
) -> Tensor:
    r"""The weight of each edge in `attend`, in every mode of differentiation.

        w_ij = normalizer_j(s_ij),   s_ij as of `edge_scores`

    Arguments as for `attend`; computed in at least float32, and none is dropped. On a `PerHead`
    they are those of the edges of its `union`, 0 where a head lacks the edge.

    Args:
        normalizer: "softmax", or another name in `NORMALIZERS`.

    Returns:
        (..., E, H), in the order of `graph.edge_index()`; those of a softmax sum to 1 over
        the edges of each target, without what goes to sinks.

    >>> from tokennet import Causal
    >>> q = k = torch.zeros(3, 1, 4)
    >>> attention_weights(q, k, Causal(3)).flatten().tolist()[:3]
    [1.0, 0.5, 0.5]
    """
    if isinstance(graph, PerHead):
        check_heads(q, k, graph, bias, edges)
        bias = masked(graph, bias)
        graph = graph.union
    call = make_call(q, k, k, graph, bias, scale, score, _of_keys(edges), softmax)
    precise = torch.promote_types(q.dtype, torch.float32)
    call = call._replace(q=call.q.to(precise), k=call.k.to(precise))
    sinks = call.softmax.sinks
    if sinks is None:
        return call.unfold(normalize(_scores(call), graph, normalizer).to(q.dtype))
    if normalizer != "softmax":
        raise ValueError(f"softmax.sinks must be None with the normalizer {normalizer!r}")
    return call.unfold(with_sinks(_scores(call), graph, sinks.to(precise)).to(q.dtype))


def _of_keys(edges: EdgeFeatures | None) -> EdgeFeatures | None:
    """Without what features add to values, which scores do not read."""
    return replace(edges, value=None) if isinstance(edges, EdgeFeatures) else edges


def _scores(call: Call) -> Tensor:
    """(B, E, H)"""
    if call.score is None and _by_pairs(call):
        return _scores_of_pairs(call)
    able = sparse if sparse.unsupported(call) is None else reference
    return able.scores(call)


def combine(
    weights: Tensor, v: Tensor, graph: TokenGraph, edges: EdgeFeatures | None = None
) -> Tensor:
    r"""Linear combinations of values along the edges of a graph, with any weights.

        out_i = \sum_{j -> i} w_ij (v_j + U f_ij)

    Args:
        weights: (..., E, H), in the order of `graph.edge_index()`; without leading
            dimensions they are the same for the whole batch.
        v: (..., M, H, Cv) values of the sources, or of fewer heads, as for `attend`.
        graph: N targets, M sources.
        edges: features of the edges whose `value` is added to the values.

    Returns:
        (..., N, H, Cv); exactly 0 for a target without neighbors.

    Raises:
        TypeError, ValueError: an argument that does not fit, by name.

    >>> from tokennet import Window
    >>> combine(torch.ones(7, 1), torch.ones(3, 1, 2), Window(3, 1))[:, 0, 0].tolist()
    [2.0, 3.0, 2.0]
    """
    check_edge_values("weights", weights, graph)
    if not isinstance(v, Tensor):
        raise TypeError(f"v must be a tensor, got {type(v).__name__}")
    heads = weights.shape[-1]
    fits = v.dim() > 2 and v.shape[-3] == graph.num_sources
    if not fits or (v.shape[-2] != heads and (v.shape[-2] == 0 or heads % v.shape[-2])):
        raise ValueError(
            f"v must have shape (..., M, H, Cv) with M = {graph.num_sources} and "
            f"H = {heads}, or a number that divides it, got {tuple(v.shape)}"
        )
    batch = torch.broadcast_shapes(weights.shape[:-2], v.shape[:-3])
    shared = weights.dim() == 2
    w, values = weights, fold(v, batch)  # (B, M, H, Cv)
    if shared:  # by the whole batch, whose values count as channels
        values = values.permute(1, 2, 0, 3).flatten(2)[None]  # (1, M, H, B Cv)
        w = w[None]
    else:
        w = fold(w, batch, 2)
    as_call = Call(values, values, w, graph, None, 1.0)  # all that can be differentiated
    product = _by_matrix if _by_pairs(as_call) else _by_edges
    with torch.autocast(v.device.type, enabled=False):
        out = product(w, values, graph)  # (B or 1, N, H, B Cv or Cv)
    if shared:
        out = out[0].unflatten(-1, (math.prod(batch), v.shape[-1])).permute(2, 0, 1, 3)
    if edges is not None and edges.value is not None:
        weighted = w[..., None] * edges.attr[:, None].to(w)  # (B or 1, E, H, D)
        summed = weighted.new_zeros(len(w), graph.num_targets, *weighted.shape[2:])
        summed = summed.index_add(1, graph.edge_index(w.device)[1], weighted)
        out = out + edges.as_values(summed)
    return out.to(v.dtype).reshape(*batch, graph.num_targets, heads, v.shape[-1])


def _by_pairs(call: Call) -> bool:
    """Whether to compute all pairs: where each is an edge, or edge products are impossible."""
    if call.graph.is_full:
        return True
    pairs = call.graph.num_targets * call.graph.num_sources
    return pairs <= DENSE_LIMIT and sparse.unsupported(call) is not None


def _pair_index(graph: TokenGraph, device: torch.device) -> Tensor:
    """(E,) index of each edge in the flat matrix of all pairs."""
    source, target = graph.edge_index(device)
    return target * graph.num_sources + source


def _scores_of_pairs(call: Call) -> Tensor:
    """(B, E, H) from one product of matrices for each head."""
    with torch.autocast(call.q.device.type, enabled=False):
        q, k = call.q.transpose(1, 2), call.k.transpose(1, 2)  # (B, H, N, C), (B, K, M, C)
        if call.queries_per_key > 1:
            k = k.repeat_interleave(call.queries_per_key, 1)
        scores = (call.scale * q @ k.transpose(-1, -2)).flatten(2)  # (B, H, N M)
        if not call.graph.is_full:
            scores = scores.index_select(2, _pair_index(call.graph, q.device))
        scores = scores.transpose(1, 2)  # (B, E, H)
        terms = call.terms()
        if terms.edge_attr is not None and terms.edge_query is not None:
            query = terms.edge_query.index_select(1, call.graph.edge_index(q.device)[1])
            features = terms.edge_attr[:, None].to(query)  # (E, 1, D)
            scores = scores + call.scale * (query * features).sum(-1).to(scores)
        scores = call.softmax.capped(scores)
        return scores if terms.bias is None else scores + terms.bias


def _by_matrix(weights: Tensor, values: Tensor, graph: TokenGraph) -> Tensor:
    n, m = graph.num_targets, graph.num_sources
    matrix = weights.transpose(1, 2)  # (B, H, E)
    if not graph.is_full:
        flat = matrix.new_zeros(*matrix.shape[:2], n * m)
        index = _pair_index(graph, weights.device)
        matrix = flat.index_add(2, index, matrix)  # parallel edges add up
    matrix = matrix.unflatten(2, (n, m)).to(values.dtype)
    if matrix.shape[1] != values.shape[2]:
        values = values.repeat_interleave(matrix.shape[1] // values.shape[2], 2)
    return (matrix @ values.transpose(1, 2)).transpose(1, 2)  # (B, N, H, Cv)


def _by_edges(weights: Tensor, values: Tensor, graph: TokenGraph) -> Tensor:
    count, precise = len(values), torch.promote_types(values.dtype, torch.float32)
    plan = edge_plan(graph if count == 1 else repeat(graph, count), values.device)
    w = plan.by_target(weights.to(precise).flatten(0, 1).t(), 1)  # (H, B E)
    out = edge_combine(w.contiguous(), values.to(precise).flatten(0, 1), plan)
    return out.unflatten(0, (count, graph.num_targets))
