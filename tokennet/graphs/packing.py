"""Many graphs as few tensors: how a ragged batch is pickled.

Each tensor that a worker of a `DataLoader` sends to its parent holds a file open there: a batch of
256 molecules would hold 512 of them, and more than most systems allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokennet.graphs.cache import Cached
from tokennet.graphs.edges import Edges


class TakenOut(NamedTuple):
    """Stands where a tensor was, which is now a part of the joined tensor of its dtype."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class BareGraph(NamedTuple):
    """A graph whose tensors are taken out: its class and its attributes."""

    kind: type
    state: Any


class Columns(NamedTuple):
    """Lists of edges, one behind the other, with whatever else each graph has."""

    rows: list[Any]
    counts: list[int]
    others: list[tuple[int, int, Any]]


_EDGES_ALONG = {"_edge_index": 1, "edge_attr": 0, "edge_type": 0}
"""The attributes of `Edges` that are tensors or None, and along which dimension edges are."""
_OTHERS = ("num_targets", "num_sources", "names")


def pack(graphs: Sequence[Any]) -> tuple[Any, dict[torch.dtype, Tensor]]:
    """The graphs without their tensors, and these joined to one of each dtype."""
    tensors: dict[torch.dtype, list[Tensor]] = {}
    with torch.inference_mode(False):
        bare: Any = _as_columns(graphs)
        if bare is None:
            bare = [_take_out(graph, tensors) for graph in graphs]
        else:
            bare = bare._replace(rows=_take_out(bare.rows, tensors))
        return bare, {dtype: torch.cat(parts) for dtype, parts in tensors.items()}


def unpack(bare: Any, joined: dict[torch.dtype, Tensor]) -> list[Any]:
    """The graphs again; their tensors are views of the joined ones."""
    taken = dict.fromkeys(joined, 0)
    if isinstance(bare, Columns):
        return _from_columns(bare._replace(rows=_put_back(bare.rows, joined, taken)))
    return [_put_back(graph, joined, taken) for graph in bare]


def _as_columns(graphs: Sequence[Any]) -> Columns | None:
    """The graphs as columns if they are lists of edges with features of one kind.

    So are the graphs of most data sets, and it takes a tenth of the time.
    """
    if not graphs or any(type(graph) is not Edges for graph in graphs):
        return None
    rows = []
    for name, dim in _EDGES_ALONG.items():
        parts = [graph.__dict__[name] for graph in graphs]
        kinds = {None if x is None else (x.dtype, x.device, x.shape[dim + 1 :]) for x in parts}
        is_trained = None not in kinds and any(x.requires_grad for x in parts)
        if len(kinds) > 1 or is_trained:
            return None
        rows.append(None if None in kinds else torch.cat(parts, dim))
    counts = [graph._edge_index.shape[1] for graph in graphs]
    others = [tuple(graph.__dict__[name] for name in _OTHERS) for graph in graphs]
    return Columns(rows, counts, others)


def _from_columns(columns: Columns) -> list[Any]:
    none = [None] * len(columns.counts)
    parts = [
        none if x is None else x.split(columns.counts, dim)
        for x, dim in zip(columns.rows, _EDGES_ALONG.values(), strict=True)
    ]
    names, graphs = (*_EDGES_ALONG, *_OTHERS, "_cache"), []
    for *tensors, others in zip(*parts, columns.others, strict=True):
        graph = object.__new__(Edges)
        graph.__setstate__(dict(zip(names, (*tensors, *others, {}), strict=True)))
        graphs.append(graph)
    return graphs


def _take_out(value: Any, tensors: dict[torch.dtype, list[Tensor]]) -> Any:
    if isinstance(value, Tensor) and not value.requires_grad and value.device.type == "cpu":
        tensors.setdefault(value.dtype, []).append(value.flatten())
        return TakenOut(value.dtype, tuple(value.shape))
    if isinstance(value, Cached):
        return BareGraph(type(value), _take_out(value.__getstate__(), tensors))
    if type(value) is dict:
        return {name: _take_out(item, tensors) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)([_take_out(item, tensors) for item in value])
    return value


def _put_back(value: Any, joined: dict[torch.dtype, Tensor], taken: dict[torch.dtype, int]) -> Any:
    if isinstance(value, TakenOut):
        start, size = taken[value.dtype], prod(value.shape)
        taken[value.dtype] += size
        return joined[value.dtype][start : start + size].view(value.shape)
    if isinstance(value, BareGraph):
        graph: Any = object.__new__(value.kind)
        graph.__setstate__(_put_back(value.state, joined, taken))
        return graph
    if type(value) is dict:
        return {name: _put_back(item, joined, taken) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)([_put_back(item, joined, taken) for item in value])
    return value


torch.serialization.add_safe_globals([TakenOut, BareGraph, Columns])
