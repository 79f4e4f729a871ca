"""Parts of an example: fewer tokens, edges or sets, and one set alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from tokennet.graphs import Edges, TokenGraph
from tokennet.testing.engine.graph_actions import Relabel
from tokennet.testing.example.inputs import Example, Role
from tokennet.tokens import Tokens

Inputs = tuple[Any, ...]


def with_inputs(example: Example, inputs: Inputs) -> Example:
    """The example with inputs of another precision or content."""
    membership = example.membership
    for value, given in zip(inputs, example.roles, strict=True):
        if given.role is Role.SETS:
            membership = value
    return dataclasses.replace(example, inputs=inputs, membership=membership)


def keep_tokens(example: Example, index: Tensor) -> Inputs:
    """The inputs of some tokens, and of the edges between them.

    Raises:
        NotImplementedError: such a smaller input cannot be made.
    """
    n, edges = example.num_tokens, example.edge_index
    inside = None
    if edges is not None and example.roles[0].role is not Role.WHOLE:
        place = torch.full((n,), -1, device=edges.device)
        place[index.to(edges.device)] = torch.arange(len(index), device=edges.device)
        inside = (place[edges] >= 0).all(0)
    kept: list[Any] = []
    for value, given in zip(example.inputs, example.roles, strict=True):
        if given.role in (Role.TOKENS, Role.SETS):
            kept.append(value.index_select(given.dim, index.to(value.device)))
        elif given.role is Role.PAIRS:
            on = index.to(value.device)
            kept.append(value.index_select(-2, on).index_select(-1, on))
        elif given.role is Role.EDGE_INDEX:
            kept.append(place[value[:, inside]])
        elif given.role is Role.EDGES:
            kept.append(value[inside])
        elif given.role is Role.WHOLE:
            kept.append(Relabel().restrict(value, index))
        else:
            kept.append(value)
    return tuple(kept)


def keep_edges(example: Example, keep: Tensor) -> Inputs:
    """The inputs with some of the edges, `keep` (E,) being True for these."""
    index = keep.nonzero().flatten()
    pairs = zip(example.edge_actions, example.inputs, strict=True)
    return tuple(action.apply(value, index) for action, value in pairs)


def one_token_less(example: Example) -> Inputs:
    """The inputs without the last token of the largest set.

    Raises:
        NotImplementedError: there is no such example.
    """
    first = example.inputs[0]
    if isinstance(first, Tokens) and first.graph.is_ragged:
        sets = first.unbatch()
        return (Tokens.batch(_cut(sets, [s.num_tokens for s in sets])),)
    if isinstance(first, Batch):
        graphs = first.to_data_list()
        return (Batch.from_data_list(_cut(graphs, [g.num_nodes for g in graphs])),)
    if example.membership is None:
        return keep_tokens(example, torch.arange(example.num_tokens - 1))
    sizes = example.membership.bincount()
    largest = int(sizes.argmax())
    if int(sizes[largest]) < 2:
        raise NotImplementedError("every set has one token")
    last = int((example.membership == largest).nonzero().flatten()[-1])
    others = [i for i in range(example.num_tokens) if i != last]
    return keep_tokens(example, torch.tensor(others))


def one_set_less(example: Example) -> Inputs:
    """The inputs without the last set of a batch in leading dimensions."""
    count = example.lead[0]
    return tuple(
        value[: count - 1] if isinstance(value, Tensor) and value.shape[:1] == (count,) else value
        for value in example.inputs
    )


def one_set(example: Example, number: int) -> Inputs:
    """The inputs of one set or graph of a ragged batch, alone."""
    first = example.inputs[0]
    if isinstance(first, Tokens):
        return (Tokens.batch([first.unbatch()[number]]),)
    if isinstance(first, Batch):
        return (Batch.from_data_list([first.get_example(number)]),)
    assert example.membership is not None
    nodes = (example.membership == number).nonzero().flatten()
    kept = keep_tokens(example, nodes)
    return tuple(
        torch.zeros_like(value) if given.role is Role.SETS else value
        for value, given in zip(kept, example.roles, strict=True)
    )


def without_neighbors(example: Example) -> list[Inputs]:
    """Inputs in which a token listens to nobody, or a set is empty."""
    if example.kind == "padded":
        return [_first_set_empty(example)]
    if example.kind == "ragged":
        return [
            tuple(
                value + 1 if given.role is Role.SETS else value
                for value, given in zip(example.inputs, example.roles, strict=True)
            )
        ]
    edges = example.edge_index
    if isinstance(example.inputs[0], Tokens) and is_listed(example.inputs[0].graph):
        edges = example.inputs[0].graph.edge_index()
    if edges is None:
        return []
    into = torch.zeros(edges.shape[1], dtype=torch.bool, device=edges.device)
    if edges.shape[1]:
        into = edges[1] == edges[1, 0]
    return [keep_edges(example, keep) for keep in (~into, torch.zeros_like(into))]


def is_listed(graph: TokenGraph) -> bool:
    """Whether a graph is one list of edges."""
    return isinstance(graph, Edges) and not graph.is_ragged


def _cut(parts: list[Any], sizes: list[int]) -> list[Any]:
    """The parts, the largest without its last token."""
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    if sizes[largest] < 2:
        raise NotImplementedError("every set has one token")
    part = parts[largest]
    if isinstance(part, Data):
        part = Data(**{key: value for key, value in part if key not in ("batch", "ptr")})
    cut = Relabel().restrict(part, torch.arange(sizes[largest] - 1))
    return [*parts[:largest], cut, *parts[largest + 1 :]]


def _first_set_empty(example: Example) -> Inputs:
    assert example.real is not None
    assert example.mask is not None
    mask = example.inputs[example.mask].clone()
    hidden = mask[~example.real].flatten()
    first = mask if mask.dim() == 1 else mask[(0,) * (mask.dim() - 1)]
    says_real = torch.equal(mask != 0, example.real)
    first.fill_(hidden[0] if len(hidden) else (0 if says_real else 1))
    return tuple(
        mask if number == example.mask else value for number, value in enumerate(example.inputs)
    )
