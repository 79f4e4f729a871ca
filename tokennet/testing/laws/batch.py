"""The law that the sets of a batch, padded or ragged, do not depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.engine.content import new_content, replaced
from tokennet.testing.engine.draws import Draw
from tokennet.testing.engine.intervention import ContentIntervention, Inputs, Outputs, Unaffected
from tokennet.testing.engine.verdict import run_law
from tokennet.testing.engine.wrapped import GradientOf
from tokennet.testing.example.case import Case
from tokennet.testing.example.inputs import Example
from tokennet.testing.example.layout import Layout, of_sets
from tokennet.testing.example.parts import beyond_zero, one_set, rows
from tokennet.testing.example.values import describe, features, with_features
from tokennet.testing.laws.law import Law, Options, as_inputs, with_gradients
from tokennet.testing.laws.leading import on_leading
from tokennet.testing.report import SymmetryReport, Verdict
from tokennet.tokens import Tokens

Change = Callable[[Inputs], Inputs]
Select = Callable[[Outputs], Outputs]
Sizes = list[tuple[int, Tensor]]
SCALE, LARGE = 3.0, 1e3
"""Sizes of the other content of other sets, in units of the input's own: first, and in draws."""


def check_batch(
    f: Callable[..., Any],
    inputs: Any,
    *,
    layouts: Sequence[Layout] | None = None,
    **options: Any,
) -> SymmetryReport:
    """Whether the sets along dimension 0 of the inputs do not depend on each other.

    For your own test of a model on batches. Each set is run beside others of other content,
    and alone. Inputs with another size in dimension 0 than the first, and numbers, belong to
    all sets.

    Args:
        layouts: of the outputs, where sets are not counted in dimension 0.

    Raises:
        ValueError: there are not at least 2 sets.

    >>> check_batch(lambda x: x - x.mean(0), torch.randn(3, 4, 2)).verdict.name
    'BROKEN'
    """
    inputs = as_inputs(inputs)
    count = features(inputs[0]).shape[0]
    if count < 2:
        raise ValueError(f"inputs must have at least 2 sets in dimension 0, got {describe(inputs)}")

    def alone(row: int, inputs: Inputs) -> Inputs:
        return tuple(
            v[row : row + 1] if isinstance(v, Tensor) and v.shape[:1] == (count,) else v
            for v in inputs
        )

    on_row = partial(_on_row, count, layouts, alone, (0,))
    return _law_of_rows(f, inputs, count, on_row, options)


def _law_of_rows(
    f: Callable[..., Any],
    inputs: Inputs,
    count: int,
    on_row: Callable[..., tuple[ContentIntervention, ContentIntervention]],
    options: Options,
) -> SymmetryReport:
    """The law for `count` sets along dimension 0: on the first two, and in draws on any."""

    def drawn(draw: Draw) -> ContentIntervention:
        return on_row(draw.seed % count, LARGE, count + draw.seed)[0]

    interventions = [change for row in (0, 1) for change in on_row(row)]
    return run_law("batch_composition", f, inputs, interventions, drawn=drawn, **options)


def assert_batch_independent(f: Callable[..., Any], inputs: Any, **options: Any) -> SymmetryReport:
    """Assert that `check_batch` gives PASS; its options.

    >>> assert_batch_independent(lambda x: x - x.mean(1, keepdim=True), torch.randn(3, 4, 2)).law
    'batch_composition'
    """
    return check_batch(f, inputs, **options).assert_pass()


def _on_row(
    count: int,
    layouts: Sequence[Layout] | None,
    alone: Callable[[int, Inputs], Inputs],
    anchors: Sequence[int],
    row: int,
    scale: float = SCALE,
    seed: int | None = None,
) -> tuple[ContentIntervention, ContentIntervention]:
    """Other content in all sets but one, and that set alone.

    Args:
        anchors: numbers of the inputs with the vectors of tokens.
    """
    first = row if seed is None else seed

    def others(inputs: Inputs) -> Inputs:
        rows = [n for n in range(count) if n != row]
        for at in anchors:
            (new,) = replaced((inputs[at],), 0, rows, first + at, scale)
            inputs = (*inputs[:at], new, *inputs[at + 1 :])
        return inputs

    def of_set(number: int, outputs: Outputs) -> Outputs:
        return of_sets(outputs, layouts or [Layout(sets=-y.dim()) for y in outputs], number)

    sizes = [(count, torch.tensor([row]))]
    return _beside_and_alone(
        others, partial(alone, row), sizes, partial(of_set, row), partial(of_set, 0)
    )


def _on_set(
    case: Case, number: int, per_token: bool, scale: float = SCALE, seed: int | None = None
) -> tuple[ContentIntervention, ContentIntervention]:
    """Other content in all sets of a ragged batch but one, and that set alone.

    Args:
        per_token: every output has a row for each token, as gradients have.
    """
    example = case.example
    assert example.membership is not None
    is_other = example.membership.cpu() != number
    nodes = (~is_other).nonzero().flatten()

    def others(inputs: Inputs) -> Inputs:
        old = features(inputs[0])
        changed = is_other.to(old.device).view(-1, *(1,) * (old.dim() - 1))
        new = new_content(old, number if seed is None else seed, scale)
        new = torch.where(changed, new, old)
        return (with_features(inputs[0], new), *inputs[1:])

    def alone(inputs: Inputs) -> Inputs:
        return one_set(replace(example, inputs=inputs), number)

    def of_set(number: int, nodes: Tensor, edges: Tensor | None, outputs: Outputs) -> Outputs:
        if per_token:
            return [y.index_select(0, nodes.to(y.device)) for y in outputs[: len(case.layouts)]]
        return of_one_set(case.layouts, number, nodes, edges, outputs)

    sizes, edges = sizes_of_set(example, number, nodes), edges_of_set(example, nodes)
    own = torch.arange(len(nodes)), None if edges is None else torch.arange(len(edges))
    beside, by_itself = partial(of_set, number, nodes, edges), partial(of_set, 0, *own)
    return _beside_and_alone(others, alone, sizes, beside, by_itself)


def of_one_set(
    layouts: Sequence[Layout], number: int, nodes: Tensor, edges: Tensor | None, outputs: Outputs
) -> Outputs:
    """The part of outputs that belongs to a set of a ragged batch: its own, of its tokens or edges.

    Args:
        layouts: of the outputs.
        number: of the set.
        nodes: its tokens.
        edges: the numbers of its edges; None where they are not known.
    """
    picked = []
    for y, layout in zip(outputs, layouts, strict=False):
        if layout.tokens:
            picked.append(layout.of_tokens(y, nodes))
        elif layout.edges and edges is not None:
            picked.append(y.index_select(layout.edges[0], edges.to(y.device)))
        elif not layout.edges:
            dim = -min(2, y.dim()) if layout.sets is None else layout.sets
            picked.append(y.narrow(dim, number, 1))
    return picked


def _beside_and_alone(
    others: Change, alone: Change, sizes: Sizes, beside: Select, by_itself: Select
) -> tuple[ContentIntervention, ContentIntervention]:
    """Interventions on a set, from what is changed and what of the outputs belongs to the set."""
    cut = [Unaffected(size, index, len(index), torch.arange(len(index))) for size, index in sizes]
    return (
        ContentIntervention(others, [Unaffected.at(*kept) for kept in sizes], beside),
        ContentIntervention(alone, cut, by_itself, wanted=beside),
    )


def edges_of_set(example: Example, nodes: Tensor) -> Tensor | None:
    """The numbers of the edges between some tokens, None where there is not one list of edges."""
    edges = example.edge_index
    if edges is None or len(example.edge_lists) > 1:
        return None
    return torch.isin(edges.cpu(), nodes).all(0).nonzero().flatten()


def sizes_of_set(example: Example, number: int, nodes: Tensor) -> Sizes:
    """Sizes of dimensions of tokens, sets and edges, and the indices of one set in them."""
    assert example.membership is not None
    counts = example.membership.bincount()
    count, longest, own = len(counts), int(counts.max()), torch.arange(len(nodes))
    found = [
        (example.num_tokens, nodes),
        (count, torch.tensor([number])),
        # Sets padded to one size, as by PyG's to_dense_batch.
        (longest, own),
        (count * longest, number * longest + own),
    ]
    edges, first = example.edge_index, example.inputs[0]
    if isinstance(first, Tokens) and first.graph.is_ragged:
        edges = first.graph.edge_index()
    if edges is not None and edges.shape[1]:
        inside = torch.isin(edges.cpu(), nodes).all(0)
        found.append((edges.shape[1], inside.nonzero().flatten()))
    return found


def is_batch(case: Case, causal: bool) -> bool:
    """Whether the example has at least two sets, and says which is which."""
    example, membership = case.example, case.example.membership
    if not case.of_sets.layouts:
        return False
    if membership is not None:
        return bool(membership.numel()) and int(membership.max()) > 0
    return example.num_sets > 1


def _check(case: Case, options: Options, gradient: GradientOf | None) -> SymmetryReport:
    case, example = case.of_sets, case.example
    function = case.function if gradient is None else GradientOf(case.function)
    if example.membership is not None:
        return _of_ragged(case, function, options, per_token=gradient is not None)

    def alone(row: int, inputs: Inputs) -> Inputs:
        return rows(replace(example, inputs=inputs), slice(row, row + 1))

    layouts = None if gradient else case.layouts
    anchors = [example.names.index(name) for name in example.anchors.values()] or [0]
    on_row = partial(_on_row, example.num_sets, layouts, alone, anchors)
    return _law_of_rows(function, case.inputs, example.num_sets, on_row, options)


def _of_ragged(
    case: Case, function: Callable[..., Any], options: Options, *, per_token: bool
) -> SymmetryReport:
    example = case.example
    assert example.membership is not None
    numbers = example.membership.unique().tolist()
    interventions = [c for number in numbers[:2] for c in _on_set(case, number, per_token)]
    count = int(example.membership.max()) + 1

    def drawn(draw: Draw) -> ContentIntervention:
        number = numbers[draw.seed % len(numbers)]
        return _on_set(case, number, per_token, LARGE, count + draw.seed)[0]

    law = partial(run_law, "batch_composition", function)
    report = law(case.inputs, interventions, drawn=drawn, **options)
    shifted = beyond_zero(example) if options["draws"] and not per_token else None
    if report.verdict is not Verdict.PASS or shifted is None:
        return report
    other = law(shifted, interventions, **{**options, "draws": 0})
    return other if other.verdict is Verdict.BROKEN else report


BATCH_COMPOSITION = Law(
    "a set gives the same alone and beside any others",
    is_batch,
    on_leading(with_gradients(_check)),
    """\
Says: a set or graph gives the same alone and beside any others: what is computed for you does not
depend on who else is in the batch. Of tokens (B, T, N, D) it is asked along B and along T; a break
along T is a question unless the role of the tokens is said.
Measured: the first sets are run beside others of other content, and alone; values are compared,
and where these agree, gradients.
Causes: attention or a mean over all nodes of a batch of graphs; batch norm in training mode; a
norm, maximum or sum taken over the whole tensor; the longest set or the number of sets in a
formula.
Mend: mask by the batch vector, and by to_dense_batch's mask in the keys and in the normalizer
too; reduce along the dimensions of one set only.
""",
)
