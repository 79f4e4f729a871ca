"""Attention with a graph for each head: heads that share a graph go together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokennet.graphs import PerHead
from tokennet.ops.terms import Bias


def by_graph(
    run: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: PerHead,
    bias: Any,
    **given: Any,
) -> Any:
    """`run(q, k, v, graph, bias, ...)` once for each graph, its outputs joined head by head."""
    check_heads(q, k, graph, bias, given["edges"])
    found, heads = [], []
    for shared, mine in graph.groups():
        keys = _keys_of(mine, q.shape[-2] // k.shape[-2])
        some = {**given, "score": _part(given["score"], "weight", mine)}
        some["softmax"] = _part(given["softmax"], "sinks", mine)
        qkv = q[..., mine, :], k[..., keys, :], v[..., keys, :]
        found.append(run(*qkv, shared, _bias_of(bias, mine), **some))
        heads += mine
    back = torch.tensor(heads, device=q.device).argsort()
    if isinstance(found[0], Tensor):
        return torch.cat(found, -2).index_select(-2, back)
    out, lse = zip(*found, strict=True)
    return torch.cat(out, -2).index_select(-2, back), torch.cat(lse, -1).index_select(-1, back)


def masked(graph: PerHead, bias: Bias | None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A bias on the union of the graphs, -inf where a head lacks an edge."""
    if isinstance(bias, Tensor):
        raise ValueError("bias must be a function or None for the weights of a graph for each head")

    def of(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        given = torch.zeros((), device=h.device) if bias is None else bias(h, i, j)
        return torch.where(graph.attends(h, i, j), given, -math.inf)

    return of


def check_heads(q: Tensor, k: Tensor, graph: PerHead, bias: Any, edges: Any) -> None:
    if q.dim() < 3 or q.shape[-2] != graph.num_heads:
        heads = q.shape[-2] if q.dim() > 2 else "none"
        raise ValueError(f"graph must have a graph for each head of q, {heads}, got {graph!r}")
    if k.dim() < 3 or not k.shape[-2] or q.shape[-2] % k.shape[-2]:
        raise ValueError(f"k must have the {q.shape[-2]} heads of q, or a number that divides it")
    if edges is not None or (isinstance(bias, Tensor) and bias.dim() == 2):
        raise ValueError(
            "edges must be None, and bias dense, a function or None, where each head has a graph: "
            "their edges have no common order"
        )


def _keys_of(heads: list[int], queries_per_key: int) -> list[int]:
    """Heads of k and v for some heads of q: one for several if all share alike, else for each."""
    asked = [head // queries_per_key for head in heads]
    shared = Counter(asked)
    return list(shared) if len(set(shared.values())) == 1 else asked


def _part(options: Any, name: str, heads: list[int]) -> Any:
    """Options with a tensor (H, ...), for some heads."""
    tensor = None if options is None else getattr(options, name)
    return options if tensor is None else replace(options, **{name: tensor[heads]})


def _bias_of(bias: Any, heads: list[int]) -> Any:
    if isinstance(bias, Tensor):
        return bias if bias.shape[-3] == 1 else bias[..., heads, :, :]
    return None if bias is None else partial(_of_heads, bias, heads)


def _of_heads(bias: Any, heads: list[int], h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return bias(torch.tensor(heads, device=h.device)[h], i, j)
