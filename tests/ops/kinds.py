"""Calls of `attend` with every kind of term in the scores, and their derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.families import BIPARTITE, SQUARE
from tokennet import TokenGraph, attend
from tokennet.ops import Additive, EdgeFeatures, Softmax

FAMILIES = {**SQUARE, **{f"bipartite_{name}": make for name, make in BIPARTITE.items()}}

KINDS: dict[str, tuple[str, ...]] = {
    "dot": (),
    "edge_bias": ("bias",),
    "pair_bias": ("pairs",),
    "shared_pair_bias": ("shared",),
    "function_bias": ("function",),
    "edge_key": ("attr", "key"),
    "edge_value": ("attr", "value"),
    "edge_both": ("bias", "attr", "key", "value"),
    "additive": ("weight",),
    "additive_edges": ("bias", "weight", "attr", "key"),
    "shared_keys": ("one_head",),
    "shared_keys_edges": ("one_head", "bias", "attr", "key", "value"),
    "shared_keys_pairs": ("one_head", "pairs"),
    "sinks": ("sinks",),
    "softcap": ("softcap",),
    "softcap_sinks": ("one_head", "bias", "sinks", "softcap"),
    "additive_sinks": ("weight", "sinks", "softcap"),
}
"""What enters besides q, k and v."""


def slope(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return 0.3 * (h + 1) * (i - j)


def make_inputs(
    kind: str,
    graph: TokenGraph,
    batch: tuple[int, ...] = (),
    *,
    num_heads: int = 2,
    channels: int = 3,
    values: int = 4,
    features: int = 2,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Every tensor of a call, by name; each may be differentiated by."""
    kv_heads = 1 if "one_head" in KINDS[kind] else num_heads
    n, m, edges = graph.num_targets, graph.num_sources, graph.num_edges
    shapes: dict[str, tuple[int, ...]] = {
        "q": (*batch, n, num_heads, channels),
        "k": (*batch, m, kv_heads, channels),
        "v": (*batch, m, kv_heads, values),
        "bias": (edges, num_heads),
        "pairs": (*batch, num_heads, n, m),
        "shared": (1, n, m),
        "weight": (num_heads, channels),
        "attr": (edges, features),
        "key": (num_heads, channels, features),
        "value": (num_heads, values, features),
        "sinks": (num_heads,),
    }
    wanted = [name for name in shapes if name in ("q", "k", "v", *KINDS[kind])]
    return {name: torch.randn(shapes[name], dtype=dtype).requires_grad_() for name in wanted}


def qkv(graph: TokenGraph, batch: tuple[int, ...] = (), **options: Any) -> list[Tensor]:
    """Queries, keys and values of a call on dot products alone."""
    return list(make_inputs("dot", graph, batch, **options).values())


def call(
    kind: str, inputs: dict[str, Tensor], graph: TokenGraph, function: Any = attend, **options: Any
) -> Tensor:
    get = inputs.get
    bias: Any = slope if kind == "function_bias" else get("bias", get("pairs", get("shared")))
    score = Additive(inputs["weight"]) if "weight" in inputs else None
    edges = None
    if "attr" in inputs:
        edges = EdgeFeatures(inputs["attr"], key=get("key"), value=get("value"))
    softmax = None
    if "sinks" in inputs or "softcap" in KINDS[kind]:
        softmax = Softmax(1.5 if "softcap" in KINDS[kind] else None, get("sinks"))
    q, k, v = (inputs[name] for name in "qkv")
    return function(q, k, v, graph, bias, score=score, edges=edges, softmax=softmax, **options)


def derivatives(out: Tensor, inputs: dict[str, Tensor], order: int = 1) -> list[Tensor]:
    """Gradients of a weighted sum of `out`; with order 2 those of a weighted sum of these too.

    Zeros where there is no dependence.
    """
    found: list[Tensor] = []
    loss, given = _weighted(out), list(inputs.values())
    for left in reversed(range(order)):
        if loss.requires_grad:
            found += torch.autograd.grad(
                loss, given, create_graph=left > 0, allow_unused=True, materialize_grads=True
            )
        else:
            found += [torch.zeros_like(x) for x in given]
        loss = sum((_weighted(gradient) for gradient in found), start=torch.zeros(()))
    return found


def gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of a weighted sum of `out`, zeros where there is no dependence."""
    return derivatives(out, {str(number): x for number, x in enumerate(inputs)})


def _weighted(x: Tensor) -> Tensor:
    """By numbers that every type holds exactly."""
    weight = (torch.arange(x.numel()) % 11 - 4).to(x) / 4
    return (x * weight.view_as(x)).sum()


def assert_all_close(got: list[Tensor], want: list[Tensor], **tolerance: float) -> None:
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other, **tolerance)
