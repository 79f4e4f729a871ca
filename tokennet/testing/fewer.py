"""The same example with one token less, to see which dimensions of the output count tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from tokennet.graphs import Disjoint
from tokennet.symmetry import Relabel
from tokennet.testing.example import Example
from tokennet.tokens import Tokens


def one_fewer(example: Example) -> tuple[Any, ...]:
    """The inputs without one token, which is not the only one of its set.

    Raises:
        NotImplementedError: there is no such example.
    """
    first = example.inputs[0]
    if isinstance(first, Tokens) and isinstance(first.graph, Disjoint):
        sets = first.unbatch()
        return (Tokens.batch(_first_cut(sets, [s.num_tokens for s in sets])),)
    if isinstance(first, Batch):
        graphs = first.to_data_list()
        return (Batch.from_data_list(_first_cut(graphs, [g.num_nodes for g in graphs])),)
    n = example.actions[0].degree(first) or 0
    membership = example.membership
    keep = torch.arange(n - 1) if membership is None else _without_one(membership)
    if example.kind == "graph":
        return _graph(example.inputs, keep)
    if example.kind == "ragged":
        return tuple(value[keep.to(value.device)] for value in example.inputs)
    pairs = zip(example.actions, example.inputs, strict=True)
    return tuple(action.restrict(value, keep) for action, value in pairs)


def _first_cut(parts: list[Any], sizes: list[int]) -> list[Any]:
    """The parts, the largest without its last token."""
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    if sizes[largest] < 2:
        raise NotImplementedError("every set has one token")
    cut = Relabel().restrict(_single(parts[largest]), torch.arange(sizes[largest] - 1))
    return [*parts[:largest], cut, *parts[largest + 1 :]]


def _single(part: Any) -> Any:
    """A graph of a batch, without what says that it was of one."""
    if isinstance(part, Data):
        return Data(**{key: value for key, value in part if key not in ("batch", "ptr")})
    return part


def _without_one(membership: Tensor) -> Tensor:
    sizes = membership.bincount()
    largest = int(sizes.argmax())
    if int(sizes[largest]) < 2:
        raise NotImplementedError("every set has one token")
    last = int((membership == largest).nonzero().flatten()[-1])
    return torch.tensor([i for i in range(len(membership)) if i != last])


def _graph(inputs: tuple[Any, ...], keep: Tensor) -> tuple[Any, ...]:
    x, edges, *others = inputs
    place = torch.full((x.shape[0],), -1, device=edges.device)
    place[keep] = torch.arange(len(keep), device=edges.device)
    inside = (place[edges] >= 0).all(0)
    fewer = [x[keep.to(x.device)], place[edges[:, inside]]]
    for value in others:
        if isinstance(value, Tensor) and value.shape[:1] == inside.shape:
            value = value[inside]
        elif isinstance(value, Tensor) and value.shape[:1] == x.shape[:1]:
            value = value[keep.to(value.device)]
        fewer.append(value)
    return tuple(fewer)
