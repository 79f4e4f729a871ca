"""The one operation, and the only dispatcher."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from tokennet.attend import banded, dense, flex, fused, reference, sets, sparse
from tokennet.attend.call import Call, make_call
from tokennet.attend.check import Bias
from tokennet.attend.combine import attention_weights, combine, edge_scores
from tokennet.attend.cost import seconds as predicted_seconds
from tokennet.attend.explain import Explanation, Prospect
from tokennet.attend.normalize import NORMALIZERS, normalize
from tokennet.attend.score import Additive, EdgeFeatures
from tokennet.graphs import TokenGraph

BACKENDS: dict[str, ModuleType] = {
    "dense": dense,
    "sets": sets,
    "banded": banded,
    "fused": fused,
    "sparse": sparse,
    "flex": flex,
    "reference": reference,
}


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
    A target without neighbours, or with biases of -inf only, gets exactly 0, with
    finite gradients.

    Args:
        q: (..., N, H, C) queries of the targets.
        k: (..., M, H, C) keys of the sources.
        v: (..., M, H, Cv) values of the sources.
        graph: N targets, M sources; shared by the leading dimensions.
        bias: None; (E, H) per edge in the order of `graph.edge_index()`; dense, to
            broadcast to (..., H, N, M); or an elementwise function of (h, i, j).
        scale: factor of the scores; `C ** -0.5` by default, 1 for additive scores.
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
    call = make_call(q, k, v, graph, bias, scale, score, edges)
    return call.unfold(BACKENDS[_choose(call, backend)].run(call))


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
    call = make_call(q, k, v, graph, bias, scale, score, edges)
    chosen, prospects = _choose(call, backend), _prospects(call)
    why = "you named it"
    if backend == "auto":
        able = choices([prospect.backend for prospect in prospects if prospect.reason is None])
        why = f"the least predicted time of {', '.join(able)}" if able[1:] else "nothing else can"
        if _needs_no_choice(call):
            why = "the graph is complete or causal, and nothing beats SDPA without a mask"
    return Explanation(chosen, why, prospects)


def _prospects(call: Call) -> list[Prospect]:
    prospects = []
    for name, module in BACKENDS.items():
        reason = module.unsupported(call)
        work = None if reason else module.work(call)
        seconds = None if work is None else predicted_seconds(name, call, work)
        note = module.note(call) if reason is None and hasattr(module, "note") else None
        prospects.append(Prospect(name, reason, work, seconds, note))
    return prospects


def _choose(call: Call, backend: str) -> str:
    if backend == "auto":
        if _needs_no_choice(call):
            return "dense"
        able = choices([name for name in BACKENDS if BACKENDS[name].unsupported(call) is None])
        cost = [predicted_seconds(name, call, BACKENDS[name].work(call)) for name in able]
        return able[cost.index(min(cost))]  # not min(..., key=...), which dynamo does not know
    if backend not in BACKENDS:
        names = ", ".join(["auto", *BACKENDS])
        raise ValueError(f"backend must be one of {names}; got {backend!r}")
    reason = BACKENDS[backend].unsupported(call)
    if reason:
        raise RuntimeError(f"backend {backend!r} cannot run this call: {reason}")
    return backend


def choices(able: list[str]) -> list[str]:
    """Of the backends that can run a call, those to choose from: the reference only for want."""
    return [name for name in able if name != "reference"] or able


def _needs_no_choice(call: Call) -> bool:
    """Without a mask SDPA is the best there is; and sizes may be symbolic while exporting."""
    return not dense.needs_mask(call) and dense.unsupported(call) is None


__all__ = [
    "BACKENDS",
    "NORMALIZERS",
    "Additive",
    "EdgeFeatures",
    "Explanation",
    "attend",
    "attention_weights",
    "combine",
    "edge_scores",
    "explain",
    "normalize",
]
