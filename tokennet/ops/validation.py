"""Whether the arguments of `attend` fit, with errors that name the one that does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import check_type, lookup
from tokennet.graphs import TokenGraph
from tokennet.ops.terms import ACTIVATIONS, Additive, EdgeFeatures, Softmax
from tokennet.tokens import broadcasts_to


def check_tensors(q: Tensor, k: Tensor, v: Tensor, graph: TokenGraph) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not isinstance(graph, TokenGraph):
        raise TypeError(f"graph must be a TokenGraph, got {type(graph).__name__}")
    shape, n, m = q.shape, graph.num_targets, graph.num_sources
    if (
        q.is_floating_point()
        and q.dtype == k.dtype == v.dtype
        and q.device == k.device == v.device
        and len(shape) > 2
        and shape[-1]
        and shape[-3] == n
        and k.shape[-3:] == (m, *shape[-2:])
        and v.shape[-3:-1] == (m, shape[-2])
    ):
        return
    for name, tensor, tokens in (("q", q, n), ("k", k, m), ("v", v, m)):
        _check_tensor(name, tensor, tokens, q, graph)
    if shape[-1] == 0:
        raise ValueError(f"q must have at least one channel, got shape {tuple(shape)}")
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"v must have the {k.shape[-2]} heads of k, got {v.shape[-2]}")
    if shape[-1] != k.shape[-1]:
        raise ValueError(f"k must have the {shape[-1]} channels of q, got {k.shape[-1]}")


def _check_tensor(name: str, tensor: Tensor, tokens: int, q: Tensor, graph: TokenGraph) -> None:
    if tensor.dim() < 3 or not tensor.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point with shape (..., tokens, heads, channels), "
            f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    if tensor.dtype != q.dtype or tensor.device != q.device:
        raise ValueError(
            f"{name} must have the dtype and device of q, {q.dtype} on {q.device}, "
            f"got {tensor.dtype} on {tensor.device}"
        )
    if tensor.shape[-3] != tokens:
        raise ValueError(f"{name} has {tensor.shape[-3]} tokens, the graph {tokens}: {graph!r}")
    heads, own = q.shape[-2], tensor.shape[-2]
    if own != heads and (not own or heads % own):
        raise ValueError(
            f"{name} must have the {heads} heads of q, or a number that divides it, got {own}"
        )


def finite(name: str, value: Any, described: str) -> float:
    """Any real number, of numpy and `fractions` too, as a float."""
    check_type(name, value, Real, described)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


def check_score(score: Any, q: Tensor, k: Tensor) -> None:
    check_type("score", score, Additive, "Additive or None")
    if k.shape[-2] != q.shape[-2]:
        raise ValueError(
            f"k must have the {q.shape[-2]} heads of q where the score is additive, "
            f"got {k.shape[-2]}"
        )
    lookup("score.activation", score.activation, ACTIVATIONS)
    _check_weights("score.weight", score.weight, "(H, C)", tuple(q.shape[-2:]), q)


def check_edges(edges: Any, q: Tensor, v: Tensor, graph: TokenGraph, score: Any) -> None:
    check_type("edges", edges, EdgeFeatures, "EdgeFeatures or None")
    attr = edges.attr
    check_type("edges.attr", attr, Tensor, "a tensor")
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
    check_type(name, tensor, Tensor, "a tensor")
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point of shape {form} = {shape}, "
            f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    if tensor.device != q.device:
        raise ValueError(f"{name} must be on the device of q, {q.device}, got {tensor.device}")


def check_softmax(softmax: Any, q: Tensor) -> None:
    check_type("softmax", softmax, Softmax, "Softmax or None")
    if softmax.sinks is not None:
        _check_weights("softmax.sinks", softmax.sinks, "(H,)", (q.shape[-2],), q)


def check_bias(bias: Any, q: Tensor, graph: TokenGraph, batch: Sequence[int]) -> None:
    if not isinstance(bias, Tensor):
        if not callable(bias):
            kind = type(bias).__name__
            raise TypeError(f"bias must be a tensor, a function or None, got {kind}")
        try:
            sample = bias(*torch.zeros(3, 1, dtype=torch.long, device=q.device))
        except TypeError as error:
            raise TypeError(f"bias must take (head, target, source): {error}") from error
        if not isinstance(sample, Tensor) or sample.dtype == torch.bool:
            got = sample.dtype if isinstance(sample, Tensor) else type(sample).__name__
            raise TypeError(f"bias must be a function to numbers in a tensor, got {got}")
        return
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
    if bias.dim() < 3 or not broadcasts_to(bias.shape, full):
        raise ValueError(
            f"bias must have shape (E, H) = ({graph.num_edges}, {heads}) or broadcast to "
            f"(..., H, N, M) = {tuple(full)}, got {tuple(bias.shape)}"
        )
