"""One call of `attend`, checked, in the one form that every backend reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tokennet.attend.check import Bias, check_bias, check_edges, check_score, check_tensors
from tokennet.attend.edge_attention import Terms
from tokennet.attend.score import Additive, EdgeFeatures
from tokennet.graphs import TokenGraph


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
    score: Additive | None = None
    """None for dot products."""
    edges: EdgeFeatures | None = None
    leading: Sequence[int] = ()
    """The dimensions that are folded into B."""

    def unfold(self, out: Tensor) -> Tensor:
        """Bring the leading dimensions back: (B, ...) to (..., ...)."""
        if len(self.leading) == 1:
            return out
        return out.reshape(*self.leading, *out.shape[1:]) if self.leading else out.squeeze(0)

    @property
    def tensors(self) -> list[Tensor]:
        """All that the call depends on, and may be differentiated by."""
        given: list[Any] = [self.q, self.k, self.v, self.bias]
        if self.score is not None:
            given.append(self.score.weight)
        if self.edges is not None:
            given += [self.edges.attr, self.edges.key, self.edges.value]
        return [tensor for tensor in given if isinstance(tensor, Tensor)]

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
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self.tensors)

    @property
    def has_tangent(self) -> bool:
        """Whether a forward-mode derivative is being taken."""
        if forward_ad._current_level < 0:
            return False
        return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in self.tensors)

    @property
    def more_than_dot_products(self) -> str | None:
        """What keeps kernels away that know dot products alone, or None."""
        if self.score is not None:
            return "its scores are additive, and the kernel knows dot products only"
        if self.edges is not None:
            return "it has features of edges, which the kernel does not know"
        return None

    @property
    def in_func_grad(self) -> bool:
        """Whether `torch.func.grad`, or what is built on it, is being taken."""
        if torch.compiler.is_compiling():
            return False
        level = torch._C._functorch.peek_interpreter_stack()
        return level is not None and level.key() == torch._C._functorch.TransformType.Grad

    @property
    def io_bytes(self) -> int:
        """Bytes of q, k, v and the output, each moved once."""
        n, m, c, cv = self.q.shape[-3], self.k.shape[-3], self.q.shape[-1], self.v.shape[-1]
        return self.groups * (n + m) * (c + cv) * self.q.element_size()

    def edge_bias(self) -> Tensor | None:
        """Bias of each edge, (B or 1, E, H) in the order of `edge_index`, or None.

        In float32 at least, as scores are: one that is given so is not rounded to the type of q.
        """
        if self.bias is None:
            return None
        source, target = self.graph.edge_index(self.q.device)
        if not isinstance(self.bias, Tensor):
            heads = torch.arange(self.num_heads, device=self.q.device)
            bias = self.bias(heads, target[:, None], source[:, None])
            bias = bias.expand(len(source), self.num_heads)[None]
        elif self.bias.dim() == 2:
            bias = self.bias[None]
        else:
            bias = self.bias[..., target, source].transpose(1, 2)
        return bias.to(torch.promote_types(self.q.dtype, torch.float32))  # (B or 1, E, H)

    def terms(self) -> Terms:
        """What enters the scores of edges: `bias` with, and `edge_query` by, the batch."""
        edges, query, key = self.edges, None, None
        weight = None if self.score is None else self.score.weight
        if edges is not None and self.score is not None:
            key = edges.key.permute(2, 0, 1)  # type: ignore[union-attr]  # (D, H, C)
        elif edges is not None:
            precise = torch.promote_types(self.q.dtype, torch.float32)
            query = self.q.new_zeros(*self.q.shape[:3], edges.attr.shape[1], dtype=precise)
            if edges.key is not None:
                query = torch.einsum("bnhc,hcd->bnhd", self.q.to(precise), edges.key.to(precise))
        attr = None if edges is None else edges.attr
        return Terms(self.edge_bias(), weight, attr, query, key)

    def add_edge_values(self, out: Tensor, summed: Tensor | None) -> Tensor:
        """Add what features, summed (B, N, H, D) by their weights, are worth as values."""
        if self.edges is None or self.edges.value is None:
            return out
        return out + torch.einsum("bnhd,hcd->bnhc", summed, self.edges.value.to(summed)).to(out)

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
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: TokenGraph,
    bias: Bias | None = None,
    scale: float | None = None,
    score: Additive | None = None,
    edges: EdgeFeatures | None = None,
) -> Call:
    """Check the arguments of `attend`, naming the one at fault, and fold their batches."""
    check_tensors(q, k, v, graph)
    if scale is not None and not isinstance(scale, int | float):
        raise TypeError(f"scale must be a number or None, got {type(scale).__name__}")
    check_score(score, q)
    check_edges(edges, q, v, graph, score)
    batch = _leading_shape(q, k, v)
    check_bias(bias, q, graph, batch)
    if scale is None:
        scale = q.shape[-1] ** -0.5 if score is None else 1.0
    q, k, v = (_fold(tensor, batch) for tensor in (q, k, v))
    if isinstance(bias, Tensor) and bias.dim() > 2:
        pairs = (q.shape[2], graph.num_targets, graph.num_sources)
        bias = _fold(bias.expand(*bias.shape[:-3], *pairs), batch if bias.dim() > 3 else ())
    if edges is not None and edges.key is None and edges.value is None:
        edges = None
    return Call(q, k, v, graph, bias, float(scale), score, edges, batch)


def _leading_shape(q: Tensor, k: Tensor, v: Tensor) -> Sequence[int]:
    """The leading dimensions of the output, those of q, k and v broadcast."""
    batch = q.shape[:-3]
    if k.shape[:-3] == batch == v.shape[:-3]:
        return batch  # broadcasting costs tens of microseconds, more than small attention does
    try:
        return torch.broadcast_shapes(batch, k.shape[:-3], v.shape[:-3])
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (q, k, v))
        raise ValueError(
            f"q, k and v must have leading dimensions that broadcast, got shapes {shapes}"
        ) from error


def _fold(tensor: Tensor, batch: Sequence[int]) -> Tensor:
    if not batch and tensor.dim() == 3:
        return tensor.unsqueeze(0)
    if len(batch) == 1 and tensor.shape[:-3] == batch:
        return tensor
    inner = tensor.shape[-3:]
    return tensor.expand(*batch, *inner).reshape(math.prod(batch), *inner)
