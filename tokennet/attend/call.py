"""One call of `attend`, checked, in the one form that every backend reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tokennet.graphs import TokenGraph

Bias = Tensor | Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Call:
    """Checked arguments of `attend`, with all leading dimensions folded into one, B."""

    q: Tensor
    """(B, N, H, C)"""
    k: Tensor
    """(B, M, H, C)"""
    v: Tensor
    """(B, M, H, Cv)"""
    graph: TokenGraph
    bias: Bias | None
    """(E, H), (B or 1, H, N, M), a function of (h, i, j), or None."""
    scale: float

    @property
    def batch(self) -> int:
        return self.q.shape[0]

    @property
    def num_heads(self) -> int:
        return self.q.shape[-2]

    @property
    def groups(self) -> int:
        """Number of independent attentions: batch times heads."""
        return self.batch * self.num_heads

    @property
    def needs_grad(self) -> bool:
        tensors = (self.q, self.k, self.v, self.bias)
        return torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in tensors if isinstance(tensor, Tensor)
        )

    @property
    def has_tangent(self) -> bool:
        """Whether a forward-mode derivative is being taken."""
        if forward_ad._current_level < 0:
            return False
        tensors = (self.q, self.k, self.v, self.bias)
        return any(
            forward_ad.unpack_dual(tensor).tangent is not None
            for tensor in tensors
            if isinstance(tensor, Tensor)
        )

    @property
    def io_bytes(self) -> int:
        """Bytes of q, k, v and the output, each moved once."""
        n, m, c, cv = self.q.shape[-3], self.k.shape[-3], self.q.shape[-1], self.v.shape[-1]
        return self.groups * (n + m) * (c + cv) * self.q.element_size()

    def edge_bias(self) -> Tensor | None:
        """Bias of each edge, (B or 1, H, E) in the order of `edge_index`, or None."""
        if self.bias is None:
            return None
        source, target = self.graph.edge_index(self.q.device)
        if isinstance(self.bias, Tensor):
            bias = self.bias.t()[None] if self.bias.dim() == 2 else self.bias[..., target, source]
        else:
            heads = torch.arange(self.num_heads, device=self.q.device)[:, None]
            bias = self.bias(heads, target, source).expand(1, self.num_heads, len(source))
        return bias.to(self.q.dtype)  # (B or 1, H, E)

    def dense_bias(self) -> Tensor | None:
        """Bias of each pair, (B or 1, H, N, M), or None.

        Pairs without an edge hold any value; the graph's mask is not applied here.
        """
        if self.bias is None:
            return None
        n, m = self.graph.num_targets, self.graph.num_sources
        device = self.q.device
        if not isinstance(self.bias, Tensor):
            heads = torch.arange(self.num_heads, device=device)[:, None, None]
            i, j = torch.arange(n, device=device)[:, None], torch.arange(m, device=device)
            bias = self.bias(heads, i, j).expand(1, self.num_heads, n, m)
        elif self.bias.dim() == 2:
            source, target = self.graph.edge_index(device)
            flat = self.bias.new_zeros(self.num_heads, n * m)
            flat = flat.index_copy(1, target * m + source, self.bias.t())
            bias = flat.view(1, self.num_heads, n, m)
        else:
            bias = self.bias
        return bias.to(self.q.dtype)


def make_call(
    q: Tensor, k: Tensor, v: Tensor, graph: TokenGraph, bias: Bias | None, scale: float | None
) -> Call:
    """Check the arguments of `attend`, naming the one at fault, and fold their batches."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dim() < 3 or not tensor.is_floating_point():
            raise ValueError(
                f"{name} must be floating-point with shape (..., tokens, heads, channels), "
                f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
        if (tensor.dtype, tensor.device) != (q.dtype, q.device):
            raise ValueError(
                f"{name} must have the dtype and device of q, {q.dtype} on {q.device}, "
                f"got {tensor.dtype} on {tensor.device}"
            )
    if not isinstance(graph, TokenGraph):
        raise TypeError(f"graph must be a TokenGraph, got {type(graph).__name__}")
    if scale is not None and not isinstance(scale, int | float):
        raise TypeError(f"scale must be a number or None, got {type(scale).__name__}")
    _check_shapes(q, k, v, graph)
    batch = torch.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3])
    _check_bias(bias, q, graph, batch)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    q, k, v = (_fold(tensor, batch) for tensor in (q, k, v))
    if isinstance(bias, Tensor) and bias.dim() > 2:
        pairs = (q.shape[2], graph.num_targets, graph.num_sources)
        bias = _fold(bias.expand(*bias.shape[:-3], *pairs), batch if bias.dim() > 3 else ())
    return Call(q, k, v, graph, bias, scale)


def _fold(tensor: Tensor, batch: Sequence[int]) -> Tensor:
    inner = tensor.shape[-3:]
    return tensor.expand(*batch, *inner).reshape(math.prod(batch), *inner)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, graph: TokenGraph) -> None:
    heads, channels = q.shape[-2:]
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


def _check_bias(bias: Any, q: Tensor, graph: TokenGraph, batch: Sequence[int]) -> None:
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
