"""What `attend` takes and what it does not, in errors that name the argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tokennet.attend.score import Additive, EdgeFeatures
from tokennet.graphs import TokenGraph

Bias = Tensor | Callable[[Tensor, Tensor, Tensor], Tensor]


def check_tensors(q: Tensor, k: Tensor, v: Tensor, graph: TokenGraph) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dim() < 3 or not tensor.is_floating_point():
            raise ValueError(
                f"{name} must be floating-point with shape (..., tokens, heads, channels), "
                f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
        if tensor is not q and (tensor.dtype != q.dtype or tensor.device != q.device):
            raise ValueError(
                f"{name} must have the dtype and device of q, {q.dtype} on {q.device}, "
                f"got {tensor.dtype} on {tensor.device}"
            )
    if not isinstance(graph, TokenGraph):
        raise TypeError(f"graph must be a TokenGraph, got {type(graph).__name__}")
    _check_shapes(q, k, v, graph)


def check_score(score: Any, q: Tensor) -> None:
    if score is None:
        return
    if not isinstance(score, Additive):
        raise TypeError(f"score must be Additive or None, got {type(score).__name__}")
    if not isinstance(score.negative_slope, int | float):
        kind = type(score.negative_slope).__name__
        raise TypeError(f"score.negative_slope must be a number, got {kind}")
    if score.activation not in ("leaky_relu", "tanh"):
        raise ValueError(
            f"score.activation must be 'leaky_relu' or 'tanh', got {score.activation!r}"
        )
    _check_weights("score.weight", score.weight, "(H, C)", tuple(q.shape[-2:]), q)


def check_edges(
    edges: Any, q: Tensor, v: Tensor, graph: TokenGraph, score: Additive | None
) -> None:
    if edges is None:
        return
    if not isinstance(edges, EdgeFeatures):
        raise TypeError(f"edges must be EdgeFeatures or None, got {type(edges).__name__}")
    attr = edges.attr
    if not isinstance(attr, Tensor):
        raise TypeError(f"edges.attr must be a tensor, got {type(attr).__name__}")
    if attr.dim() != 2:
        raise ValueError(f"edges.attr must have shape (E, D), got {tuple(attr.shape)}")
    _check_weights("edges.attr", attr, "(E, D)", (graph.num_edges, attr.shape[1]), q)
    for name, tensor, channels in (
        ("key", edges.key, q.shape[-1]),
        ("value", edges.value, v.shape[-1]),
    ):
        if tensor is not None:
            shape = (q.shape[-2], channels, attr.shape[1])
            _check_weights(f"edges.{name}", tensor, "(H, C, D)", shape, q)
    if score is not None and edges.value is not None:
        raise ValueError("edges.value must be None where the score is additive")


def _check_weights(name: str, tensor: Any, form: str, shape: tuple[int, ...], q: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point of shape {form} = {shape}, "
            f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    if tensor.device != q.device:
        raise ValueError(f"{name} must be on the device of q, {q.device}, got {tensor.device}")


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, graph: TokenGraph) -> None:
    n, heads, channels = q.shape[-3:]
    m = graph.num_sources
    found = n, *k.shape[-3:], *v.shape[-3:-1]
    if channels and found == (graph.num_targets, m, heads, channels, m, heads):
        return  # what is below asks again, one by one, and takes longer
    if channels == 0:
        raise ValueError(f"q must have at least one channel, got shape {tuple(q.shape)}")
    for name, tensor, tokens in (
        ("q", q, graph.num_targets), ("k", k, graph.num_sources), ("v", v, graph.num_sources),
    ):  # fmt: skip
        if tensor.shape[-3] != tokens:
            raise ValueError(f"{name} has {tensor.shape[-3]} tokens, the graph {tokens}: {graph!r}")
        if tensor.shape[-2] != heads:
            raise ValueError(f"{name} must have the {heads} heads of q, got {tensor.shape[-2]}")
    if k.shape[-1] != channels:
        raise ValueError(f"k must have the {channels} channels of q, got {k.shape[-1]}")


def check_bias(bias: Any, q: Tensor, graph: TokenGraph, batch: Sequence[int]) -> None:
    if bias is None:
        return
    if callable(bias) and not isinstance(bias, Tensor):
        sample = bias(*torch.zeros(3, 1, dtype=torch.long, device=q.device))
        if not isinstance(sample, Tensor) or sample.dtype == torch.bool:
            got = sample.dtype if isinstance(sample, Tensor) else type(sample).__name__
            raise TypeError(f"bias must be a function to numbers in a tensor, got {got}")
        return
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias must be a tensor, a function or None, got {type(bias).__name__}")
    if not bias.is_floating_point():
        raise TypeError(
            f"bias must be floating-point, got {bias.dtype}; a boolean mask is a graph: "
            "graph & from_mask(mask)"
        )
    if bias.device != q.device:
        raise ValueError(f"bias must be on the device of q, {q.device}, got {bias.device}")
    heads = q.shape[-2]
    if bias.dim() == 2:
        if bias.shape != (graph.num_edges, heads):
            raise ValueError(
                f"a per-edge bias must have shape (E, H) = ({graph.num_edges}, {heads}), "
                f"got {tuple(bias.shape)}"
            )
        return
    full = (*batch, heads, graph.num_targets, graph.num_sources)
    try:
        fits = torch.broadcast_shapes(bias.shape, full) == full and bias.dim() >= 3
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"bias must have shape (E, H) = ({graph.num_edges}, {heads}) or broadcast to "
            f"(..., H, N, M) = {tuple(full)}, got {tuple(bias.shape)}"
        )
