"""The law that sets and graphs of different sizes side by side do not see each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokennet.graphs import Disjoint
from tokennet.testing.engine.content import new_content
from tokennet.testing.engine.intervention import Inputs, Outputs, Perturbing, Unaffected
from tokennet.testing.engine.verdict import judge
from tokennet.testing.example.case import Case
from tokennet.testing.example.inputs import Example
from tokennet.testing.example.parts import one_set, with_inputs
from tokennet.testing.example.values import features, with_features
from tokennet.testing.report import SymmetryReport


def check_ragged(
    case: Case, function: Callable[..., Any], *, per_token: bool, **options: Any
) -> SymmetryReport:
    """Whether each set of a ragged batch is what it is alone, and whoever is beside it.

    Args:
        per_token: every output has a row for each token, as gradients have.
    """
    assert case.example.membership is not None
    changes = []
    for number in case.example.membership.unique()[:2].tolist():
        nodes = (case.example.membership == number).nonzero().flatten().cpu()
        rows = _rows(case, number, nodes, per_token)
        changes.append(_others(case.example, number, nodes, rows))
        alone = _rows(case, 0, torch.arange(len(nodes)), per_token)
        changes.append(_alone(case.example, number, nodes, alone, rows))
    return judge("batch_composition", function, case.inputs, changes, **options)


def _others(
    example: Example, number: int, nodes: Tensor, rows: Callable[[Outputs], Outputs]
) -> Perturbing:
    others = torch.ones(example.num_tokens, dtype=torch.bool)
    others[nodes] = False

    def change(inputs: Inputs) -> Inputs:
        old = features(inputs[0])
        new = torch.where(others.to(old.device)[:, None], new_content(old, number, 3.0), old)
        return (with_features(inputs[0], new), *inputs[1:])

    kept = [Unaffected.at(size, index) for size, index in _places(example, number, nodes)]
    return Perturbing(change, kept, rows)


def _alone(
    example: Example,
    number: int,
    nodes: Tensor,
    rows: Callable[[Outputs], Outputs],
    wanted: Callable[[Outputs], Outputs],
) -> Perturbing:
    return Perturbing(
        lambda inputs: one_set(with_inputs(example, inputs), number),
        [
            Unaffected(size, index, len(index), torch.arange(len(index)))
            for size, index in _places(example, number, nodes)
        ],
        rows,
        wanted=wanted,
    )


def _places(example: Example, number: int, nodes: Tensor) -> list[tuple[int, Tensor]]:
    """Sizes of dimensions of tokens, sets and edges, and where in them one set is."""
    assert example.membership is not None
    sizes = example.membership.bincount()
    count, longest, own = len(sizes), int(sizes.max()), torch.arange(len(nodes))
    places = [
        (example.num_tokens, nodes),
        (count, torch.tensor([number])),
        # Sets brought to one size by padding, as by PyG's to_dense_batch.
        (longest, own),
        (count * longest, number * longest + own),
    ]
    edges = example.edge_index
    if edges is None and isinstance(getattr(example.inputs[0], "graph", None), Disjoint):
        edges = example.inputs[0].graph.edge_index()
    if edges is not None and edges.shape[1]:
        inside = torch.isin(edges.cpu(), nodes).all(0)
        places.append((edges.shape[1], inside.nonzero().flatten()))
    return places


def _rows(case: Case, number: int, nodes: Tensor, per_token: bool) -> Callable[[Outputs], Outputs]:
    """The part of outputs that belongs to one set: rows of its tokens, or its own row."""

    def select(outputs: Outputs) -> Outputs:
        picked = []
        for y, layout in zip(outputs, case.layouts, strict=False):
            if per_token:
                picked.append(y.index_select(-2, nodes.to(y.device)))
            elif layout.tokens:
                picked.append(layout.of_tokens(y, nodes))
            elif not layout.edges:
                picked.append(y.narrow(-min(2, y.dim()), number, 1))
        return picked

    return select
