"""From scores of edges to weights of edges: softmax, and what mixers may use instead."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tokennet.checks import lookup
from tokennet.graphs import TokenGraph


def normalize(scores: Tensor, graph: TokenGraph, normalizer: str = "softmax") -> Tensor:
    r"""Turn scores into weights, over the edges of each target.

        softmax:  w_ij = exp(s_ij) / \sum_{j' -> i} exp(s_ij')
        hard:     w_ij = 1 for the best source of i, else 0
        sigmoid:  w_ij = 1 / (1 + exp(-s_ij))
        none:     w_ij = s_ij

    Sources with equal scores share the 1, so that no order of tokens or edges enters. The
    derivative of "hard" is that of softmax: straight-through (Bengio, Léonard, Courville,
    2013, arXiv 1308.3432). A score of -inf gives a weight of 0 with any of them.

    Args:
        scores: (..., E, H), in the order of `graph.edge_index()`.
        graph: whose edges they belong to.
        normalizer: a name in `NORMALIZERS`.

    Returns:
        (..., E, H), in the same order.

    Raises:
        ValueError: an unknown name, or scores that are not of these edges.

    >>> from tokennet import Full
    >>> scores = torch.tensor([[1.0], [0.0], [2.0], [2.0]])
    >>> normalize(scores, Full(2), "hard").flatten().tolist()
    [1.0, 0.0, 0.5, 0.5]
    """
    weights_of = lookup("normalizer", normalizer, NORMALIZERS)
    check_edge_values("scores", scores, graph)
    return weights_of(scores, graph)


def check_edge_values(name: str, values: Tensor, graph: TokenGraph) -> None:
    """Raise unless `values` are (..., E, H) of the edges of `graph`."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(values).__name__}")
    if values.dim() < 2 or values.shape[-2] != graph.num_edges or not values.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point of shape (..., E, H) with E = {graph.num_edges}, "
            f"got {values.dtype} of shape {tuple(values.shape)}"
        )


def softmax(scores: Tensor, graph: TokenGraph, sinks: Tensor | None = None) -> Tensor:
    """Of scores (..., E, H) over the edges of each target; 0 where all its scores are -inf.

    Sinks (H,) are scores of sources that are not there, whose weights are left out.
    """
    peak = _largest(scores, graph)
    if sinks is not None:
        peak = torch.maximum(peak, sinks.detach())
    peak = peak.masked_fill(peak == -math.inf, 0.0)
    weights = (scores - peak).exp()
    total = _over_targets(weights, graph, torch.sum)
    if sinks is not None:
        total = total + (sinks - peak).exp()
    return weights / total.masked_fill(total == 0, 1.0)


def log_sum_exp(scores: Tensor, graph: TokenGraph) -> Tensor:
    """(..., E, H) to (..., N, H), over the edges of each target; -inf where there is nothing."""
    target = graph.edge_index(scores.device)[1]
    shape = (*scores.shape[:-2], graph.num_targets, scores.shape[-1])
    index = target[:, None].expand_as(scores)
    peak = scores.new_full(shape, -math.inf).scatter_reduce(-2, index, scores.detach(), "amax")
    peak = peak.masked_fill(peak == -math.inf, 0.0)
    weights = (scores - peak.index_select(-2, target)).exp()
    total = weights.new_zeros(shape, dtype=sums_in(weights))
    total = total.index_add(-2, target, weights.to(total.dtype)).to(scores.dtype)
    empty = total == 0
    return (peak + total.masked_fill(empty, 1.0).log()).masked_fill(empty, -math.inf)


def _hard(scores: Tensor, graph: TokenGraph) -> Tensor:
    soft, peak = softmax(scores, graph), _largest(scores, graph)
    best = ((scores == peak) & (peak > -math.inf)).to(scores.dtype)
    best = best / _over_targets(best, graph, torch.sum).clamp(min=1.0)
    return best + (soft - soft.detach())


def _sigmoid(scores: Tensor, graph: TokenGraph) -> Tensor:
    return scores.sigmoid()


def _none(scores: Tensor, graph: TokenGraph) -> Tensor:
    return scores.masked_fill(scores == -math.inf, 0.0)


NORMALIZERS: dict[str, Callable[[Tensor, TokenGraph], Tensor]] = {
    "softmax": softmax,
    "hard": _hard,
    "sigmoid": _sigmoid,
    "none": _none,
}


def _largest(scores: Tensor, graph: TokenGraph) -> Tensor:
    """Of each target, for each of its edges; -inf where there is nothing else."""
    return _over_targets(scores.detach(), graph, torch.amax)


def _over_targets(values: Tensor, graph: TokenGraph, reduce: Callable[..., Tensor]) -> Tensor:
    """The sum, or the largest, of values (..., E, H) of each target, for each of its edges."""
    if graph.is_full and values.numel():  # listed by target: a matrix
        pairs = values.unflatten(-2, (graph.num_targets, graph.num_sources))
        return reduce(pairs, -2, keepdim=True).expand_as(pairs).flatten(-3, -2)
    target = graph.edge_index(values.device)[1]
    shape = (*values.shape[:-2], graph.num_targets, values.shape[-1])
    if reduce is torch.sum:
        dtype = sums_in(values)
        found = values.new_zeros(shape, dtype=dtype).index_add(-2, target, values.to(dtype))
        found = found.to(values.dtype)
    else:
        index = target[:, None].expand_as(values)
        found = values.new_full(shape, -math.inf).scatter_reduce(-2, index, values, "amax")
    return found.index_select(-2, target)


def sums_in(values: Tensor) -> torch.dtype:
    """The type to add up the edges of a target in, one by one: a million lose 1 % in float32."""
    return torch.float64 if values.device.type in ("cpu", "cuda") else values.dtype
