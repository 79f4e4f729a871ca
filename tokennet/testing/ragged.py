"""Sets and graphs of different sizes side by side: one alone, others changed, nobody near."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from tokennet.graphs import Disjoint, Edges, TokenGraph
from tokennet.symmetry import Invariant, SymmetryReport
from tokennet.symmetry.laws.judge import judge
from tokennet.symmetry.trial.change import Inputs, Outputs, Perturbing, Unaffected
from tokennet.symmetry.trial.content import new_content
from tokennet.symmetry.values import features, with_features
from tokennet.testing.case import Case
from tokennet.tokens import Tokens


def check_ragged(
    case: Case, function: Callable[..., Any], *, per_token: bool, **options: Any
) -> SymmetryReport:
    """Whether each set of a ragged batch is what it is alone, and whoever is beside it.

    Args:
        per_token: every output has a row for each token, as gradients have.
    """
    assert case.membership is not None
    changes = []
    for number in case.membership.unique()[:2].tolist():
        nodes = (case.membership == number).nonzero().flatten()
        changes += [_others(case, number, nodes, per_token), _alone(case, number, nodes, per_token)]
    return judge("batch_composition", function, case.inputs, changes, **options)


def alone(case: Case, number: int, nodes: Tensor) -> Inputs:
    """The inputs of one set or graph of a ragged batch."""
    first = case.inputs[0]
    if isinstance(first, Tokens):
        return (Tokens.batch([first.unbatch()[number]]),)
    if isinstance(first, Batch):
        return (Batch.from_data_list([first.get_example(number)]),)
    n, index = features(first).shape[0], nodes.to(features(first).device)
    kept: list[Any] = []
    edges = case.inputs[1] if case.kind == "graph" else None
    inside = None if edges is None else torch.isin(edges, index).all(0)
    for position, value in enumerate(case.inputs):
        if value is edges and edges is not None:
            place = torch.full((n,), -1, device=edges.device)
            place[index] = torch.arange(len(index), device=edges.device)
            kept.append(place[edges[:, inside]])
        elif isinstance(value, Tensor) and value is case.membership:
            kept.append(torch.zeros_like(value[index]))
        elif inside is not None and position > 1 and value.shape[:1] == inside.shape:
            kept.append(value[inside])
        else:
            kept.append(value[index])
    return tuple(kept)


def without_neighbours(case: Case) -> list[Inputs]:
    """Inputs in which a token listens to nobody, and in which a set is empty."""
    if case.kind == "padded":
        return _sets_without(case)
    if case.kind == "ragged":
        x, membership, *rest = case.inputs
        return [(x, membership + 1, *rest)]  # nobody is in the first set now
    if case.kind == "graph":
        return _graphs_without(case)
    if case.kind == "data":
        return [
            (_without_edges(case.inputs[0], keep),) for keep in _kept(case.inputs[0].edge_index)
        ]
    if case.kind == "tokens" and is_listed(case.inputs[0].graph):
        tokens = case.inputs[0]
        graph, found = tokens.graph, []
        for keep in _kept(graph.edge_index()):
            attr = None if graph.edge_attr is None else graph.edge_attr[keep]
            fewer = Edges(graph.edge_index()[:, keep], graph.num_targets, edge_attr=attr)
            found.append((tokens.replace(graph=fewer),))
        return found
    return []


def _kept(edge_index: Tensor) -> list[Tensor]:
    """Which edges stay: all but those into one node, and none."""
    if not edge_index.shape[1]:
        return [torch.ones(0, dtype=torch.bool, device=edge_index.device)]
    into = edge_index[1] == edge_index[1, 0]
    return [~into, torch.zeros_like(into)]


def is_listed(graph: TokenGraph) -> bool:
    """Whether a graph is one list of edges."""
    return isinstance(graph, Edges) and not isinstance(graph, Disjoint)


def _sets_without(case: Case) -> list[Inputs]:
    """The first set has no token."""
    assert case.real is not None
    x, mask, *rest = case.inputs
    empty = mask.clone()
    first = empty if empty.dim() == 1 else empty[(0,) * (empty.dim() - 1)]
    first.fill_(0 if torch.equal(mask.bool(), case.real) else 1)
    return [(x, empty, *rest)]


def _graphs_without(case: Case) -> list[Inputs]:
    edges, found = case.inputs[1], []
    for keep in _kept(edges):
        rest = [
            value[keep] if isinstance(value, Tensor) and value.shape[:1] == keep.shape else value
            for value in case.inputs[2:]
        ]
        found.append((case.inputs[0], edges[:, keep], *rest))
    return found


def _without_edges(data: Data, keep: Tensor) -> Data:
    fewer, count = data.clone(), data.num_edges
    for key, value in data:
        if key == "edge_index":
            fewer[key] = value[:, keep]
        elif isinstance(value, Tensor) and data.is_edge_attr(key) and len(value) == count:
            fewer[key] = value[keep]
    return fewer


def _others(case: Case, number: int, nodes: Tensor, per_token: bool) -> Perturbing:
    others = torch.ones(features(case.inputs[0]).shape[-2], dtype=torch.bool)
    others[nodes.cpu()] = False

    def change(inputs: Inputs) -> Inputs:
        old = features(inputs[0])
        new = torch.where(others.to(old.device)[:, None], new_content(old, number, 3.0), old)
        return (with_features(inputs[0], new), *inputs[1:])

    kept = [Unaffected.at(size, index) for size, index in _places(case, number, nodes)]
    return Perturbing(change, kept, _rows(case, number, nodes, per_token))


def _alone(case: Case, number: int, nodes: Tensor, per_token: bool) -> Perturbing:
    return Perturbing(
        lambda inputs: alone(_of(case, inputs), number, nodes),
        [
            Unaffected(size, index, len(index), torch.arange(len(index)))
            for size, index in _places(case, number, nodes)
        ],
        wanted=_rows(case, number, nodes, per_token),
    )


def _places(case: Case, number: int, nodes: Tensor) -> list[tuple[int, Tensor]]:
    """Sizes of dimensions of tokens, sets and edges, and where in them one set is."""
    count, own = _count(case), torch.arange(len(nodes))
    assert case.membership is not None
    longest = int(case.membership.bincount().max())
    places = [
        (features(case.inputs[0]).shape[-2], nodes),
        (count, torch.tensor([number])),
        # Sets brought to one size by padding, as by PyG's to_dense_batch.
        (longest, own),
        (count * longest, number * longest + own),
    ]
    edges = _edges(case)
    if edges is not None and edges.shape[1]:
        places.append((edges.shape[1], torch.isin(edges, nodes).all(0).nonzero().flatten()))
    return places


def _of(case: Case, inputs: Inputs) -> Case:
    """The case with inputs of another precision."""
    membership = inputs[-1] if case.kind in ("graph", "ragged") else case.membership
    example = dataclasses.replace(case.example, inputs=inputs, membership=membership)
    return dataclasses.replace(case, example=example)


def _rows(case: Case, number: int, nodes: Tensor, per_token: bool) -> Callable[[Outputs], Outputs]:
    """The part of outputs that belongs to one set: rows of its tokens, or its own row."""

    def select(outputs: Outputs) -> Outputs:
        picked = []
        for position, y in enumerate(outputs):
            action = case.out_actions[min(position, len(case.out_actions) - 1)]
            if per_token or not isinstance(action, Invariant):
                dim, index = getattr(action, "dim", -2), nodes
            else:
                dim, index = -min(2, y.dim()), torch.tensor([number])
            picked.append(y.index_select(dim, index.to(y.device)))
        return picked

    return select


def _count(case: Case) -> int:
    assert case.membership is not None
    return int(case.membership.max()) + 1


def _edges(case: Case) -> Tensor | None:
    first = case.inputs[0]
    if case.kind == "graph":
        return case.inputs[1]
    if isinstance(first, Data):
        return first.edge_index
    return first.graph.edge_index() if isinstance(getattr(first, "graph", None), Disjoint) else None
