"""Smaller inputs from an example: some of its tokens or edges, one set less, one set alone.

Needed to find the layout of outputs, and by the laws of batches and empty neighborhoods.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.testing.engine.actions import Permute
from tokennet.testing.engine.graph_actions import Relabel
from tokennet.testing.engine.intervention import Inputs
from tokennet.testing.example.inputs import Example, Role
from tokennet.testing.example.values import is_pyg_batch, is_pyg_data
from tokennet.tokens import Tokens


def keep_tokens(example: Example, index: Tensor) -> Inputs:
    """The inputs of some tokens, and of the edges between them.

    Raises:
        NotImplementedError: such smaller inputs cannot be made.
    """
    edges = example.edge_index
    if edges is not None and example.roles[0].role is not Role.WHOLE:
        new_index = torch.full((example.num_tokens,), -1, device=edges.device)
        new_index[index.to(edges.device)] = torch.arange(len(index), device=edges.device)
        inside = (new_index[edges] >= 0).all(0)
    kept: list[Any] = []
    rows = zip(example.inputs, example.roles, example.actions, strict=True)
    for value, given, action in rows:
        match given.role:
            case Role.TOKENS | Role.SETS:
                kept.append(Permute(given.dim).restrict(value, index))
            case Role.EDGE_INDEX:
                kept.append(new_index[value[:, inside]])
            case Role.EDGES:
                kept.append(value[inside])
            case _:
                kept.append(action.restrict(value, index))
    return tuple(kept)


def keep_edges(example: Example, keep: Tensor) -> Inputs:
    """The inputs with some of the edges; `keep` (E,) is True for these."""
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
        return (Tokens.batch(_cut(first.unbatch(), first.graph.sizes)),)
    if is_pyg_batch(first):
        graphs = first.to_data_list()
        return (_pyg_batch(_cut(graphs, [graph.num_nodes for graph in graphs])),)
    last = example.num_tokens - 1
    if example.membership is not None:
        last = int((example.membership == _largest(example.membership.bincount())).nonzero()[-1])
    return keep_tokens(example, torch.tensor([i for i in range(example.num_tokens) if i != last]))


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
    if is_pyg_batch(first):
        return (_pyg_batch([first.get_example(number)]),)
    assert example.membership is not None
    kept = keep_tokens(example, (example.membership == number).nonzero().flatten())
    return tuple(
        torch.zeros_like(value) if given.role is Role.SETS else value
        for value, given in zip(kept, example.roles, strict=True)
    )


def without_neighbors(example: Example) -> list[Inputs]:
    """Inputs in which a token has no neighbors, or a set has no tokens."""
    first, edges = example.inputs[0], example.edge_index
    if example.mask is not None:
        return [_first_set_empty(example)]
    if edges is None and any(given.role is Role.SETS for given in example.roles):
        roles = zip(example.inputs, example.roles, strict=True)
        return [tuple(value + 1 if given.role is Role.SETS else value for value, given in roles)]
    if isinstance(first, Tokens) and is_listed(first.graph):
        edges = first.graph.edge_index()
    if edges is None:
        return []
    into_first = edges[1] == edges[1, :1]  # (E,), edges with the target of edge 0
    return [keep_edges(example, keep) for keep in (~into_first, torch.zeros_like(into_first))]


def is_listed(graph: TokenGraph) -> bool:
    """Whether a graph is one list of edges."""
    return graph.is_explicit and not graph.is_ragged


def _pyg_batch(graphs: list[Any]) -> Any:
    from torch_geometric.data import Batch

    return Batch.from_data_list(graphs)


def _largest(sizes: Any) -> int:
    """The index of the largest set."""
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    if sizes[largest] < 2:
        raise NotImplementedError("every set has one token")
    return largest


def _cut(parts: list[Any], sizes: list[int]) -> list[Any]:
    """The parts, the largest without its last token."""
    largest = _largest(sizes)
    part = parts[largest]
    if is_pyg_data(part):
        part = copy.copy(part)
        for key in {"batch", "ptr"}.intersection(part.keys()):
            del part[key]
    cut = Relabel().restrict(part, torch.arange(sizes[largest] - 1))
    return [*parts[:largest], cut, *parts[largest + 1 :]]


def _first_set_empty(example: Example) -> Inputs:
    assert example.real is not None
    assert example.mask is not None
    mask = example.inputs[example.mask].clone()
    hidden = mask[~example.real].flatten()
    is_real = torch.equal(mask != 0, example.real)
    first = mask if mask.dim() == 1 else mask[(0,) * (mask.dim() - 1)]
    first.fill_(hidden[0] if len(hidden) else (0 if is_real else 1))
    return (*example.inputs[: example.mask], mask, *example.inputs[example.mask + 1 :])
