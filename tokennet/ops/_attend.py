"""`attend` and `explain`: the one operation, and what it would do; attention in parts."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tokennet.graphs import PerHead, TokenGraph
from tokennet.ops._per_head import by_graph
from tokennet.ops.backends import BACKENDS
from tokennet.ops.call import Call, in_autocast_type, make_call
from tokennet.ops.kernels.flash import plain_attention
from tokennet.ops.planner import Explanation, choose, explained
from tokennet.ops.terms import Additive, Bias, EdgeFeatures, Softmax


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: TokenGraph | PerHead,
    bias: Bias | None = None,
    *,
    scale: float | None = None,
    score: Additive | None = None,
    edges: EdgeFeatures | None = None,
    softmax: Softmax | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Attention along the edges of a graph.

        out_i = \sum_{j -> i} softmax_j(scale q_i . k_j + bias_h(i, j)) v_j

    On a complete graph this is scaled dot-product attention (Vaswani et al., 2017,
    arXiv 1706.03762); on any other it is message passing with that aggregation.
    A target without neighbors, or with biases of -inf only, gets exactly 0, with
    finite gradients. A target that attends to a token with NaN or inf gets what is not finite,
    and no other target does (on a GPU `explain` notes where others of its set may). In
    gradients, what such a target adds is NaN or left out, which depends on the backend; those of
    queries, keys and values that meet no such target are what they are without it. Second
    derivatives work on every graph. Under autocast the result has the type of autocast.

    Args:
        q: (..., N, H, C) queries of the targets.
        k: (..., M, H, C) keys of the sources. Or of K heads that divide H: head h of q then
            asks head h // (H / K) of k and v, as with `enable_gqa=True` in
            `scaled_dot_product_attention`; they are not repeated in memory.
        v: (..., M, H, Cv) values of the sources, of the same heads as k.
        graph: N targets, M sources; shared by the leading dimensions. A `PerHead` has a graph
            for each head; then bias is not per edge, and `edges` is None.
        bias: None; (E, H) per edge in the order of `graph.edge_index()`; dense, to
            broadcast to (..., H, N, M); or an elementwise function of (h, i, j).
        scale: factor of the scores, any finite real number; `C ** -0.5` by default, 1 for
            additive scores.
        score: None for dot products, or `Additive`.
        edges: features of the edges that enter keys and values, `EdgeFeatures`.
        softmax: what else becomes of scores, `Softmax`: soft-capping, sinks, dropout.
        backend: "auto" takes the cheapest that can; a backend named here runs or
            raises, it never falls back. See `explain`.

    Returns:
        (..., N, H, Cv).

    Raises:
        TypeError, ValueError: an argument that does not fit, by name.
        RuntimeError: the named backend cannot run this call, with the reason.

    >>> import torch
    >>> from tokennet import Window
    >>> q = k = v = torch.ones(6, 2, 4)
    >>> attend(q, k, v, Window(6, radius=1)).shape
    torch.Size([6, 2, 4])
    """
    is_plain = bias is score is edges is scale is softmax is None and backend == "auto"
    if isinstance(graph, PerHead):
        given = {"scale": scale, "score": score, "edges": edges, "softmax": softmax}
        return by_graph(attend, q, k, v, graph, bias, **given, backend=backend)
    if is_plain and (getattr(graph, "is_full", False) or getattr(graph, "is_causal", False)):
        out = plain_attention(q, k, v, graph)
        if out is not None:
            return out
    q, k, v = in_autocast_type(q, k, v)
    call = make_call(q, k, v, graph, bias, scale, score, edges, softmax)
    if call.wants_lse:
        return call.unfold(_run_with_lse(call, backend)[0])
    return call.unfold(BACKENDS[choose(call, backend, BACKENDS)].run(call))


def attend_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: TokenGraph | PerHead,
    bias: Bias | None = None,
    *,
    scale: float | None = None,
    score: Additive | None = None,
    edges: EdgeFeatures | None = None,
    softmax: Softmax | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""`attend`, and the log-sum-exp of the scores, by which parts can be merged.

        lse_i = log \sum_{j -> i} exp(s_ij)

    Use it where the sources of a target come in parts, from several graphs, caches or devices;
    `merge_attention` makes one of them. Arguments as for `attend`; both are differentiable.

    Returns:
        (..., N, H, Cv), and (..., N, H): -inf for a target without neighbors.

    >>> import torch
    >>> from tokennet import Full
    >>> q = k = v = torch.zeros(3, 1, 2)
    >>> attend_with_lse(q, k, v, Full(3))[1].exp().flatten().round().tolist()
    [3.0, 3.0, 3.0]
    """
    if isinstance(graph, PerHead):
        given = {"scale": scale, "score": score, "edges": edges, "softmax": softmax}
        return by_graph(attend_with_lse, q, k, v, graph, bias, **given, backend=backend)
    q, k, v = in_autocast_type(q, k, v)
    call = make_call(q, k, v, graph, bias, scale, score, edges, softmax, wants_lse=True)
    out, lse = _run_with_lse(call, backend)
    return call.unfold(out), call.unfold(lse)


def _run_with_lse(call: Call, backend: str) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp. Sinks take their part of the weight afterwards, on any backend."""
    out, lse = BACKENDS[choose(call, backend, BACKENDS)].run_with_lse(call)
    if call.softmax.sinks is None:
        return out, lse
    sinks = call.softmax.sinks.to(lse)  # (H,)
    kept = (lse - sinks).sigmoid()  # (B, N, H)
    return (out * kept[..., None]).to(out.dtype), sinks - logsigmoid(sinks - lse)


def merge_attention(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    r"""Attention to all sources, from attention to parts of them.

        lse = log \sum_p exp(lse_p),    out = \sum_p exp(lse_p - lse) out_p

    As in flash-decoding and ring attention (Liu, Zaharia, Abbeel, 2023, arXiv 2310.01889).

    Args:
        parts: what `attend_with_lse` returned for the same queries, on graphs that share no
            edge; (..., N, H, Cv) and (..., N, H) each.

    Returns:
        The same of their union.

    Raises:
        ValueError: there is no part, or their shapes differ.

    >>> import torch
    >>> from tokennet import Full
    >>> q, k, v = torch.randn(3, 4, 2, 8)
    >>> parts = [attend_with_lse(q, k[i:i + 2], v[i:i + 2], Full(4, 2)) for i in (0, 2)]
    >>> out, lse = merge_attention(parts)
    >>> torch.allclose(out, attend(q, k, v, Full(4)), atol=1e-5)
    True
    """
    outs: list[Tensor] = []
    lses: list[Tensor] = []
    for out, lse in parts:
        if out.shape[:-1] != lse.shape or (outs and out.shape != outs[0].shape):
            raise ValueError(
                "parts must be outputs (..., N, H, Cv) of one shape with their log-sum-exp "
                f"(..., N, H), got {tuple(out.shape)} and {tuple(lse.shape)}"
            )
        outs.append(out)
        lses.append(lse)
    if not outs:
        raise ValueError("parts must be at least one output with its log-sum-exp, got none")
    stacked = torch.stack(lses)  # (P, ..., N, H)
    total = stacked.logsumexp(0)
    weights = (stacked - total.masked_fill(total == -math.inf, 0.0)).exp()
    merged = (weights[..., None] * torch.stack(outs)).sum(0)
    return merged.to(outs[0].dtype), total


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: TokenGraph,
    bias: Bias | None = None,
    *,
    scale: float | None = None,
    score: Additive | None = None,
    edges: EdgeFeatures | None = None,
    softmax: Softmax | None = None,
    backend: str = "auto",
) -> Explanation:
    """What `attend` would do with the same arguments, and why.

    Returns:
        The chosen backend and, for each, its FLOPs, bytes and predicted time, or the reason
        it cannot run.

    >>> import torch
    >>> from tokennet import Window
    >>> q = k = v = torch.ones(2048, 4, 16)
    >>> explain(q, k, v, Window(2048, radius=2)).chosen in ("fused", "sparse")
    True
    """
    q, k, v = in_autocast_type(q, k, v)
    call = make_call(q, k, v, graph, bias, scale, score, edges, softmax)
    return explained(call, backend, BACKENDS)
