"""Smaller inputs from an example: some of its tokens or edges, one set less, one set alone.

Needed to find the layout of outputs, and by the laws of batches and empty neighborhoods.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.testing.engine.graph_actions import Relabel
from tokennet.testing.engine.intervention import Inputs
from tokennet.testing.example.inputs import Example
from tokennet.testing.example.roles import Kind
from tokennet.testing.example.values import (
    features,
    graphs_of,
    is_pyg_data,
    is_ragged_data,
    with_features,
)
from tokennet.tokens import Tokens


def keep_tokens(example: Example, index: Tensor) -> Inputs:
    """The inputs of some tokens of a set, and of the edges between them.

    Raises:
        NotImplementedError: such smaller inputs cannot be made.
    """
    inside = _edges_inside(example, index)
    return tuple(
        _kept(example, number, index, inside.get(number)) for number in range(len(example.inputs))
    )


def _edges_inside(example: Example, index: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """For each input that lists edges: which have their ends among the tokens, and new ends."""
    found = {}
    for number, role in enumerate(example.roles):
        if role.kind is Kind.EDGE_INDEX and example.set in role.sets:
            edges = example.inputs[number]
            new_index = torch.full((example.num_tokens,), -1, device=edges.device)
            new_index[index.to(edges.device)] = torch.arange(len(index), device=edges.device)
            own = role.sets * 2 if len(role.sets) == 1 else role.sets
            rows = [
                new_index[row] if name == example.set else row
                for name, row in zip(own, edges, strict=True)
            ]
            new = torch.stack(rows)
            found[number] = ((new >= 0).all(0), new)
    features = [(n, r.sets) for n, r in enumerate(example.roles) if r.kind is Kind.EDGES]
    for number, (name,) in features:
        edges = example.names.index(name)
        if edges in found:
            found[number] = found[edges]
    return found


def _kept(
    example: Example, number: int, index: Tensor, inside: tuple[Tensor, Tensor] | None
) -> Any:
    value, role = example.inputs[number], example.roles[number]
    if role.kind is Kind.WHOLE:
        return Relabel().restrict(value, index)
    if inside is not None:
        keep, new = inside
        return new[:, keep] if role.kind is Kind.EDGE_INDEX else value[keep]
    if example.set not in role.sets:
        return value
    at = index.to(value.device)
    if role.kind.moves or role.kind is Kind.MEMBERSHIP:
        return value.index_select(role.dims[0] if role.dims else -1, at)
    if role.kind is Kind.LENGTHS:
        return (at < value[:, None]).sum(1).to(value.dtype)
    if role.kind is Kind.PAIRS:
        names = role.sets * 2 if len(role.sets) == 1 else role.sets
        for name, dim in zip(names, role.dims, strict=True):
            value = value.index_select(dim, at) if name == example.set else value
    return value


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
    if is_ragged_data(first):
        graphs = graphs_of(first)
        return (_pyg_batch(_cut(graphs, [graph.num_nodes for graph in graphs])),)
    n = example.num_tokens
    last = n - 1
    if example.membership is not None:
        last = int((example.membership == _largest(example.membership.bincount())).nonzero()[-1])
    return keep_tokens(example, torch.tensor([i for i in range(n) if i != last]))


def one_set_less(example: Example) -> Inputs:
    """The inputs without the last set of a batch.

    Raises:
        NotImplementedError: there is no such example.
    """
    first = example.inputs[0]
    if isinstance(first, Tokens) and first.graph.is_ragged:
        return (Tokens.batch(first.unbatch()[:-1]),)
    if is_ragged_data(first):
        return (_pyg_batch(graphs_of(first)[:-1]),)
    if example.membership is not None:
        return _some_sets(example, range(int(example.membership.max())))
    return rows(example, slice(0, example.num_sets - 1))


def rows(example: Example, chosen: slice) -> Inputs:
    """The inputs of some sets of a batch in the first dimension."""
    return tuple(
        _rows_of(value, chosen) if example.is_batched(number) else value
        for number, value in enumerate(example.inputs)
    )


def _rows_of(value: Any, chosen: slice) -> Any:
    if not isinstance(value, Tokens):
        return value[chosen]
    pos, z = value.pos, value.z
    if pos is not None and pos.dim() == z.dim() and len(pos) == len(z):
        pos = pos[chosen]
    return value.replace(z=z[chosen], pos=pos)


def one_set(example: Example, number: int) -> Inputs:
    """The inputs of one set or graph of a ragged batch, alone."""
    first = example.inputs[0]
    if isinstance(first, Tokens):
        return (Tokens.batch([first.unbatch()[number]]),)
    if is_ragged_data(first):
        return (_pyg_batch([graphs_of(first)[number]]),)
    return _some_sets(example, [number])


def _some_sets(example: Example, numbers: Sequence[int]) -> Inputs:
    """Some sets of a ragged batch, renumbered; the rows of all sets of tokens go together."""
    own, wanted = example.set, torch.tensor(list(numbers))
    for name in example.anchors:
        example = example.view(name)
        if example.membership is not None:
            index = torch.isin(example.membership.cpu(), wanted).nonzero().flatten()
            example = dataclasses.replace(example, inputs=keep_tokens(example, index))
    new = torch.zeros(int(wanted.max()) + 1, dtype=torch.long)
    new[wanted] = torch.arange(len(wanted))
    example = example.view(own)
    inputs = []
    for value, role in zip(example.inputs, example.roles, strict=True):
        if role.kind is Kind.MEMBERSHIP:
            value = new.to(value.device)[value].to(value.dtype)
        elif role.kind is Kind.PER_SET:
            value = value.index_select(0, wanted.to(value.device))
        inputs.append(value)
    return tuple(inputs)


def without_neighbors(example: Example) -> list[Inputs]:
    """Inputs in which a token has no neighbors, or a set has no tokens."""
    first, edges = example.inputs[0], example.edge_index
    if example.mask is not None:
        return [_first_set_empty(example)]
    if edges is None and isinstance(first, Tensor) and example.membership is not None:
        return [] if example.slots[0].ragged else [_first_set_of_none(example)]
    if isinstance(first, Tokens) and is_listed(first.graph):
        edges = first.graph.edge_index()
    if edges is None:
        return _without_pairs(example)
    into_first = edges[1] == edges[1, :1]  # (E,), edges with the target of edge 0
    keeps = [~into_first, torch.zeros_like(into_first)]
    return [keep_edges(example, keep) for keep in keeps]


def last_token_isolated(example: Example) -> Inputs | None:
    """The inputs without the edges of the last token; None where there are no edges.

    What counts tokens by the edges, as a sum into rows without `dim_size`, gives one row less.
    """
    first, number = example.inputs[0], example.edge_number
    if isinstance(first, Tokens) or example.edge_index is None:
        return None
    edges, last = example.edge_index, example.num_tokens - 1
    ends = (example.set, example.set) if number is None else example.roles[number].sets
    own = ends * 2 if len(ends) == 1 else ends
    at_last = torch.zeros(edges.shape[1], dtype=torch.bool, device=edges.device)
    for name, row in zip(own, edges, strict=True):
        if name == example.set:
            at_last |= row == last
    return keep_edges(example, ~at_last)


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


def with_more_padding(example: Example) -> Inputs:
    """The inputs with two more tokens in every set, that are padding."""
    assert example.mask is not None
    n = example.num_tokens
    inputs = list(keep_tokens(example, torch.tensor([*range(n), *range(min(n, 2))])))
    for number, role in enumerate(example.roles):
        if role.kind is Kind.PAIRS and example.set in role.sets:
            inputs[number] = _padded_pairs(example, number, inputs[number])
    mask = example.inputs[example.mask]
    if example.how != "lengths":
        mask = inputs[example.mask].clone()
        mask[..., n:] = _hidden(example)
    inputs[example.mask] = mask
    return tuple(inputs)


def _padded_pairs(example: Example, number: int, longer: Tensor) -> Tensor:
    """Pairs with more padding: as those of the padding are, where these are all alike."""
    value, role, real = example.inputs[number], example.roles[number], example.real
    assert real is not None
    own = role.sets * 2 if len(role.sets) == 1 else role.sets
    fits = example.is_batched(number) if real.dim() == 2 else value.dim() == 2
    for name, dim in zip(own, role.dims, strict=True):
        if fits and name == example.set:
            padding = value.movedim(dim, real.dim() - 1)[~real.to(value.device)].flatten()
            if len(padding) and bool((padding == padding[0]).all()):
                index = torch.arange(example.num_tokens, longer.shape[dim], device=longer.device)
                longer = longer.index_fill(dim, index, padding[0])
    return longer


def beyond_zero(example: Example) -> Inputs | None:
    """The inputs with each feature of one sign in all tokens; None for ids.

    What takes a maximum or minimum over padding of zeros gives the right result where some
    token is beyond zero, and is found by these.
    """
    z = features(example.inputs[0])
    if not z.is_floating_point() or not z.numel() or example.token_dim == -1:
        return None
    size = float(z.square().mean().sqrt()) or 1.0
    generator = torch.Generator().manual_seed(7)
    signs = torch.randint(0, 2, z.shape[-1:], generator=generator).to(z) * 2 - 1
    signs[0] = -1.0
    shifted = z + 10 * size * signs
    return (with_features(example.inputs[0], shifted), *example.inputs[1:])


def _hidden(example: Example) -> float:
    """What the mask has for padding."""
    assert example.mask is not None
    mask = example.inputs[example.mask]
    return {"keep": 0, "pad": 1, "lengths": 0}.get(example.how, _added(mask))


def _first_set_empty(example: Example) -> Inputs:
    """All tokens of the first set are padding."""
    assert example.mask is not None
    mask = example.inputs[example.mask].clone()
    first = mask if mask.dim() == 1 and example.how != "lengths" else mask[:1]
    first = first if first.dim() < 3 else first.flatten(0, -2)[:1]
    first.fill_(_hidden(example))
    return (*example.inputs[: example.mask], mask, *example.inputs[example.mask + 1 :])


def _added(mask: Tensor) -> float:
    """What a mask adds to the scores of padding."""
    return float(mask.min()) if mask.is_floating_point() and bool((mask < 0).any()) else -math.inf


def _first_set_of_none(example: Example) -> Inputs:
    """A set without tokens, before the others."""
    inputs = []
    for value, role in zip(example.inputs, example.roles, strict=True):
        if role.kind is Kind.MEMBERSHIP:
            value = value + 1
        elif role.kind is Kind.PER_SET:
            value = torch.cat([value[:1], value])
        inputs.append(value)
    return tuple(inputs)


def _without_pairs(example: Example) -> list[Inputs]:
    """No entry of the first token in a dense adjacency, and none at all."""
    number = example.adjacency
    if number is None:
        return []
    found, dims = [], example.roles[number].dims
    for index in (torch.tensor([0]), torch.arange(example.num_tokens)):
        pairs = example.inputs[number]
        for dim in dims:
            pairs = pairs.index_fill(dim, index.to(pairs.device), 0)
        found.append((*example.inputs[:number], pairs, *example.inputs[number + 1 :]))
    return found
