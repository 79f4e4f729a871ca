"""`attend` and `explain`: the one operation, and what it would do."""

from __future__ import annotations

from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.ops.backends import BACKENDS
from tokennet.ops.call import in_autocast_type, make_call
from tokennet.ops.kernels.flash import plain_attention
from tokennet.ops.planner import Explanation, choose, explained
from tokennet.ops.terms import Additive, Bias, EdgeFeatures


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: TokenGraph,
    bias: Bias | None = None,
    *,
    scale: float | None = None,
    score: Additive | None = None,
    edges: EdgeFeatures | None = None,
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
        k: (..., M, H, C) keys of the sources.
        v: (..., M, H, Cv) values of the sources.
        graph: N targets, M sources; shared by the leading dimensions.
        bias: None; (E, H) per edge in the order of `graph.edge_index()`; dense, to
            broadcast to (..., H, N, M); or an elementwise function of (h, i, j).
        scale: factor of the scores, any finite real number; `C ** -0.5` by default, 1 for
            additive scores.
        score: None for dot products, or `Additive`.
        edges: features of the edges that enter keys and values, `EdgeFeatures`.
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
    is_plain = bias is score is edges is scale is None and backend == "auto"
    if is_plain and (getattr(graph, "is_full", False) or getattr(graph, "is_causal", False)):
        out = plain_attention(q, k, v, graph)
        if out is not None:
            return out
    q, k, v = in_autocast_type(q, k, v)
    call = make_call(q, k, v, graph, bias, scale, score, edges)
    return call.unfold(BACKENDS[choose(call, backend, BACKENDS)].run(call))


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
    call = make_call(q, k, v, graph, bias, scale, score, edges)
    return explained(call, backend, BACKENDS)
