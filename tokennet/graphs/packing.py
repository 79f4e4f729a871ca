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


class TakenOut(NamedTuple):
    """Stands where a tensor was, which is now a part of the joined tensor of its dtype."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class BareGraph(NamedTuple):
    """A graph whose tensors are taken out: its class and its attributes."""

    kind: type
    state: Any


def pack(graphs: Sequence[Any]) -> tuple[list[Any], dict[torch.dtype, Tensor]]:
    """The graphs without their tensors, and these joined to one of each dtype."""
    tensors: dict[torch.dtype, list[Tensor]] = {}
    with torch.inference_mode(False):
        bare = [_take_out(graph, tensors) for graph in graphs]
        return bare, {dtype: torch.cat(parts) for dtype, parts in tensors.items()}


def unpack(bare: Sequence[Any], joined: dict[torch.dtype, Tensor]) -> list[Any]:
    """The graphs again; their tensors are views of the joined ones."""
    taken = dict.fromkeys(joined, 0)
    return [_put_back(graph, joined, taken) for graph in bare]


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


torch.serialization.add_safe_globals([TakenOut, BareGraph])
