"""Convolutions of PyG on a graph: of the edges that they are given, those that are in it."""

from __future__ import annotations

import sys
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.graphs import TokenGraph


def is_convolution(module: nn.Module) -> bool:
    """Whether it passes messages along the `edge_index` of a call."""
    if "torch_geometric" not in sys.modules:
        return False
    from torch_geometric.nn import MessagePassing

    return isinstance(module, MessagePassing)


def num_nodes(module: nn.Module, args: Any, kwargs: Any) -> tuple[int, int]:
    """Of targets and sources in a call."""
    x = _arguments(module, args, kwargs).get("x")
    source, target = x if isinstance(x, tuple | list) else (x, x)
    if not isinstance(source, Tensor):
        raise TypeError(f"x of {type(module).__name__} must be a tensor on a graph, got {x!r}")
    target = source if target is None else target
    return target.shape[0], source.shape[0]


def on_edges(
    module: Any, args: Any, kwargs: Any, graph: TokenGraph, path: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with the edges that are in the graph, and what goes with them."""
    given = _arguments(module, args, kwargs)
    edges, sizes = given.get("edge_index"), num_nodes(module, args, kwargs)
    if (type(edges) is not Tensor and not isinstance(edges, Tensor)) or edges.is_sparse:
        raise TypeError(
            f"edge_index of {path} must be a tensor (2, E) on a graph, got {type(edges).__name__}"
        )
    if (graph.num_targets, graph.num_sources) != sizes:
        raise ValueError(
            f"graph of {path} must have {sizes[0]} targets and {sizes[1]} sources, got {graph!r}"
        )
    if getattr(module, "add_self_loops", False):
        each = torch.arange(min(sizes), device=edges.device)
        if not bool(graph.attends(each, each).all()):
            raise ValueError(
                f"graph of {path} must have all self-loops, which {type(module).__name__}"
                f"(add_self_loops=True) adds; got {graph!r}"
            )
    first, second = edges
    flows = module.flow == "source_to_target"
    source, target = (first, second) if flows else (second, first)
    keep = graph.attends(target, source)
    for name, value in given.items():
        if name == "edge_index":
            given[name] = edges[:, keep]
        elif name.startswith("edge") and isinstance(value, Tensor) and len(value) == len(keep):
            given[name] = value[keep]
    return (), given


def _arguments(module: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """By name."""
    return dict(signature(module.forward).bind(*args, **kwargs).arguments)
