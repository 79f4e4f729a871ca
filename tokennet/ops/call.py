"""The arguments of `attend`: checked, and folded into the one form that backends read, `Call`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tokennet.graphs import TokenGraph
from tokennet.ops.terms import PLAIN, Additive, Bias, EdgeFeatures, Softmax, Terms
from tokennet.ops.validation import (
    check_bias,
    check_edges,
    check_score,
    check_softmax,
    check_tensors,
    finite,
)

_NO_TERMS = Terms()


class Call(NamedTuple):
    """Checked arguments of `attend`, with all leading dimensions folded into one, B."""

    q: Tensor
    """(B, N, H, C)"""
    k: Tensor
    """(B, M, K, C), of K heads that divide H: heads h of q ask head h // (H / K) of k and v."""
    v: Tensor
    """(B, M, K, Cv)"""
    graph: TokenGraph
    bias: Bias | None
    """(E, H), (B or 1, H, N, M), a function of (h, i, j), or None."""
    scale: float
    score: Additive | None = None
    """None for dot products."""
    edges: EdgeFeatures | None = None
    leading: Sequence[int] = ()
    """The dimensions that are folded into B."""
    softmax: Softmax = PLAIN
    wants_lse: bool = False
    """Whether the log-sum-exp of the scores is asked for: by the caller, or for sinks."""

    def unfold(self, out: Tensor) -> Tensor:
        """Bring the leading dimensions back: (B, ...) to (..., ...)."""
        if len(self.leading) == 1:
            return out
        return out.reshape(*self.leading, *out.shape[1:]) if self.leading else out.squeeze(0)

    @property
    def tensors(self) -> list[Tensor]:
        """All that the call depends on, and may be differentiated by."""
        tensors = [self.q, self.k, self.v]
        if isinstance(self.bias, Tensor):
            tensors.append(self.bias)
        if self.score is not None:
            tensors.append(self.score.weight)
        if self.edges is not None:
            given = self.edges.attr, self.edges.key, self.edges.value
            tensors += [tensor for tensor in given if tensor is not None]
        if self.softmax.sinks is not None:
            tensors.append(self.softmax.sinks)
        return tensors

    @property
    def batch(self) -> int:
        return self.q.shape[0]

    @property
    def num_heads(self) -> int:
        return self.q.shape[-2]

    @property
    def groups(self) -> int:
        """Number of independent attentions: batch times heads."""
        return self.q.shape[0] * self.q.shape[-2]

    @property
    def queries_per_key(self) -> int:
        """Heads of q that share a head of k and v."""
        return self.q.shape[-2] // max(self.k.shape[-2], 1)

    @property
    def more_than_softmax(self) -> str | None:
        """What keeps kernels away that know a plain softmax alone, or None."""
        if self.softmax.softcap is not None:
            return "its scores are bounded by softcap, which the kernel does not know"
        if self.softmax.dropout:
            return "its weights are dropped by chance, which the kernel does not know"
        if self.wants_lse:
            return "sinks or parts to merge need a log-sum-exp, which the kernel does not return"
        return None

    @property
    def needs_mask(self) -> bool:
        """Whether SDPA needs a mask for this call: not on complete and causal graphs."""
        return self.bias is not None or not (self.graph.is_full or self.graph.is_causal)

    @property
    def needs_grad(self) -> bool:
        if torch.is_grad_enabled():
            for tensor in self.tensors:  # no generator: this is asked in each call
                if tensor.requires_grad:
                    return True
        return False

    @property
    def has_tangent(self) -> bool:
        """Whether a forward-mode derivative is being taken."""
        if forward_ad._current_level < 0:
            return False
        return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in self.tensors)

    @property
    def transform(self) -> Any:
        """The innermost transform of `torch.func` around the call, or None."""
        if torch.compiler.is_compiling():
            return None
        level = torch._C._functorch.peek_interpreter_stack()
        return None if level is None else level.key()

    @property
    def in_func_grad(self) -> bool:
        """Whether `torch.func.grad`, or what is built on it, is being taken."""
        return self.transform == torch._C._functorch.TransformType.Grad

    @property
    def more_than_dot_products(self) -> str | None:
        """What keeps kernels away that know dot products alone, or None."""
        if self.score is not None:
            return "its scores are additive, and the kernel knows dot products only"
        if self.edges is not None:
            return "it has features of edges, which the kernel does not know"
        return None

    @property
    def io_bytes(self) -> float:
        """Bytes of q, k, v and the output, each moved once."""
        n, m, c, cv = self.q.shape[-3], self.k.shape[-3], self.q.shape[-1], self.v.shape[-1]
        return self.groups * (n + m / self.queries_per_key) * (c + cv) * self.q.element_size()

    def edge_bias(self) -> Tensor | None:
        """Bias of each edge, (B or 1, E, H) in the order of `edge_index`, or None.

        In float32 at least, as scores are: a bias in float32 is not rounded to the type of q.
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
        if edges is None:
            if self.bias is None and self.score is None:
                return _NO_TERMS
        elif self.score is not None:
            key = edges.key.permute(2, 0, 1)  # type: ignore[union-attr]  # (D, H, C)
        else:
            precise = torch.promote_types(self.q.dtype, torch.float32)
            query = self.q.new_zeros(*self.q.shape[:3], edges.attr.shape[1], dtype=precise)
            if edges.key is not None:
                query = torch.einsum("bnhc,hcd->bnhd", self.q.to(precise), edges.key.to(precise))
        weight = None if self.score is None else self.score.weight
        attr = None if edges is None else edges.attr
        return Terms(self.edge_bias(), weight, attr, query, key)

    def add_edge_values(self, out: Tensor, summed: Tensor | None) -> Tensor:
        """Add what features, summed (B, N, H, D) by their weights, are worth as values."""
        if self.edges is None or self.edges.value is None:
            return out
        return out + self.edges.as_values(summed).to(out)  # type: ignore[arg-type]

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
            rows = self.bias.to(self.q.dtype).t()  # autocast knows no other small type than its own
            flat = rows.new_zeros(self.num_heads, n * m).index_copy(1, target * m + source, rows)
            bias = flat.view(1, self.num_heads, n, m)
        else:
            bias = self.bias
        return bias.to(self.q.dtype)


_Result = TypeVar("_Result")


def without_autocast(run: Callable[[Call], _Result]) -> Callable[[Call], _Result]:
    """For kernels that choose their types themselves: run with autocast switched off."""

    @wraps(run)
    def run_precisely(call: Call) -> _Result:
        device = call.q.device.type
        if not torch.is_autocast_enabled(device):  # the context alone takes as long as a kernel
            return run(call)
        with torch.autocast(device, enabled=False):
            return run(call)

    return run_precisely


def in_autocast_type(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as PyTorch's SDPA takes them: under autocast in its type, but for float64."""
    if isinstance(q, Tensor) and torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = (_narrowed(x, dtype) for x in (q, k, v))
    return q, k, v


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    wide = not isinstance(tensor, Tensor) or tensor.dtype == torch.float64
    return tensor if wide or not tensor.is_floating_point() else tensor.to(dtype)


def make_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: TokenGraph,
    bias: Bias | None = None,
    scale: float | None = None,
    score: Additive | None = None,
    edges: EdgeFeatures | None = None,
    softmax: Softmax | None = None,
    wants_lse: bool = False,
) -> Call:
    """Check the arguments of `attend`, naming the one at fault, and fold their batches.

    What is not given is not looked at: checks take as long as attention among a few tokens.
    """
    check_tensors(q, k, v, graph)
    if score is not None:
        check_score(score, q, k)
    if edges is not None:
        check_edges(edges, q, v, graph, score)
        if edges.key is None and edges.value is None:
            edges = None
    if softmax is not None:
        check_softmax(softmax, q)
        wants_lse = wants_lse or softmax.sinks is not None
    if scale is None:
        scale = q.shape[-1] ** -0.5 if score is None else 1.0
    else:
        scale = finite("scale", scale, "a number or None")
    batch: Sequence[int] = q.shape[:-3]
    same = True
    if not k.shape[:-3] == batch == v.shape[:-3]:  # `broadcast_shapes` takes tens of microseconds
        batch, same = _broadcast_leading(q, k, v), False
    if bias is not None:
        check_bias(bias, q, graph, batch)
        if isinstance(bias, Tensor) and bias.dim() > 2:
            pairs = (q.shape[-2], graph.num_targets, graph.num_sources)
            bias = fold(bias.expand(*bias.shape[:-3], *pairs), batch if bias.dim() > 3 else ())
    if same and not batch:
        q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
    elif not same or len(batch) > 1:
        q, k, v = fold(q, batch), fold(k, batch), fold(v, batch)
    softmax = softmax or PLAIN
    return Call(q, k, v, graph, bias, scale, score, edges, batch, softmax, wants_lse)


def fold(tensor: Tensor, batch: Sequence[int], inner: int = 3) -> Tensor:
    """Broadcast all but the inner dimensions and fold them into one; none are a batch of 1."""
    kept = tensor.shape[-inner:]
    return tensor.expand(*batch, *kept).reshape(math.prod(batch), *kept)


def _broadcast_leading(q: Tensor, k: Tensor, v: Tensor) -> Sequence[int]:
    """The leading dimensions of the output, those of q, k and v broadcast."""
    try:
        return torch.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3])
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (q, k, v))
        raise ValueError(
            f"q, k and v must have leading dimensions that broadcast, got shapes {shapes}"
        ) from error
