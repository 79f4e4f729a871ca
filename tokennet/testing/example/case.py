"""`Case`: a model with an example, how it is called, and how permutations act on its outputs.

Every law reads a `Case`. `make_case` finds by a few runs, with one token, edge or set less,
which dimensions of each output belong to tokens, edges and sets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.engine.actions import (
    Action,
    AsSet,
    Conjugate,
    Invariant,
    Permute,
    PermutePart,
)
from tokennet.testing.engine.intervention import Inputs, PermutationIntervention, difference
from tokennet.testing.engine.run import call_model
from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.example.calls import ByName, OnData, Selected
from tokennet.testing.example.inputs import Example, parameters_of, read_example
from tokennet.testing.example.layout import Layout
from tokennet.testing.example.parts import keep_edges, one_set_less, one_token_less
from tokennet.testing.example.values import is_pyg_data

TRIED = 4
"""Permutations by which it is told whether an output is a set of rows."""


@dataclass(frozen=True)
class Case:
    """What the laws need to know of a model and an example.

    Attributes:
        function: called with the inputs of the example; refers to the model.
        layouts: which dimensions of each output belong to tokens, edges and sets.
        out_actions: how a permutation of the tokens acts on each output.
    """

    model: Any
    function: Callable[..., Any]
    example: Example
    layouts: tuple[Layout, ...]
    out_actions: tuple[Action, ...]

    @property
    def inputs(self) -> Inputs:
        return self.example.inputs

    @property
    def pooled(self) -> bool:
        return not any(layout.tokens for layout in self.layouts)


def make_case(model: Callable[..., Any], example: Any) -> Case:
    """Infer what an example holds, and from the outputs how permutations act on them.

    Raises:
        TypeError: the example has no form that the laws know, or the model is a class.
        ValueError: it has one, but its shapes do not fit together.
    """
    if isinstance(model, type):
        raise TypeError(f"model must be an instance, got the class {model.__name__}")
    if not callable(model):
        raise TypeError(f"model must be callable, got {type(model).__name__}")
    names = parameters_of(model)
    function: Callable[..., Any] = model
    if isinstance(example, dict):
        example = {name: value for name, value in example.items() if value is not None}
        names = sorted(example, key=lambda name: "mask" in name)  # tokens come first
        example = tuple(example[name] for name in names)
        function = ByName(model, tuple(names))
    found = read_example(example, names)
    if is_pyg_data(example) and "edge_index" in names:
        function = OnData(model, tuple(names))
    return _with_outputs(model, function, found)


def _with_outputs(model: Any, function: Callable[..., Any], example: Example) -> Case:
    with sandboxed(function, dtype=None, jitter=0), torch.no_grad():
        outputs = call_model(function, example.inputs)
        layouts = _layouts(function, example, outputs)
        known = [n for n, y in enumerate(outputs) if _has_a_known_action(y, layouts[n], example)]
        if not known:
            shapes = [tuple(y.shape) for y in outputs]
            raise ValueError(
                f"the output, of shape {shapes}, follows the {example.num_tokens} tokens in no way "
                "that is known: use check_equivariance, with an action of your own"
            )
        if len(known) < len(outputs):
            function = Selected(function, tuple(known), ())
        layouts, outputs = [layouts[n] for n in known], [outputs[n] for n in known]
        actions = _actions(function, example, outputs, layouts)
    for n, action in enumerate(actions):  # tokens are where the action on the output has them
        if isinstance(action, PermutePart):
            before, width = action.start, action.width
            layouts[n] = dataclasses.replace(layouts[n], before=before, width=width)
        if any(outputs[n].shape[dim] < example.num_tokens for dim in layouts[n].tokens):
            layouts[n] = dataclasses.replace(layouts[n], tokens=())  # some of them, or made of them
    if example.mask is not None and any(layout.tokens for layout in layouts):
        mask, real = example.inputs[example.mask], example.real
        assert real is not None
        numbers, hides = tuple(range(len(layouts))), torch.equal(mask == 0, real)
        function = Selected(function, numbers, tuple(layouts), example.mask, hides)
    return Case(model, function, example, tuple(layouts), tuple(actions))


def _has_a_known_action(y: Tensor, layout: Layout, example: Example) -> bool:
    """Whether it is known what permutations do to an output; outputs that are indices are not."""
    if not y.is_floating_point() and not y.is_complex() and layout.tokens:
        return False
    edges = example.edge_index
    if edges is not None and any(y.shape[dim] != edges.shape[1] for dim in layout.edges):
        return False
    fewer = [dim for dim in layout.tokens if y.shape[dim] < example.num_tokens]
    return not fewer or (len(layout.tokens) == 1 and example.membership is None)


_Dims = tuple[int, ...] | None
"""The dimensions of an output of another size with other inputs; None where unknown."""


def _layouts(function: Callable[..., Any], example: Example, outputs: list[Tensor]) -> list[Layout]:
    """Which dimensions change their size with the numbers of tokens, edges and sets."""
    n, edge_index = example.num_tokens, example.edge_index
    tokens: list[_Dims] = [None] * len(outputs)
    edges, sets = tokens, tokens
    if n > 2:
        tokens = _changed(function, outputs, lambda: one_token_less(example))
    if edge_index is not None and edge_index.shape[1] > 1:
        keep = torch.arange(edge_index.shape[1]) < edge_index.shape[1] - 1
        edges = _changed(function, outputs, lambda: keep_edges(example, keep))
    if len(example.lead) > 1 and example.lead[0] > 1:
        sets = _changed(function, outputs, lambda: one_set_less(example))
    return [_layout(y, n, *dims) for y, *dims in zip(outputs, tokens, edges, sets, strict=True)]


def _changed(
    function: Callable[..., Any], outputs: list[Tensor], inputs: Callable[[], Inputs]
) -> list[_Dims]:
    try:
        others = call_model(function, inputs())
    except Exception:  # whatever a model of other people raises at another size
        return [None] * len(outputs)
    dims: list[_Dims] = [
        tuple(d for d in range(-y.dim(), 0) if other.shape[d] != y.shape[d])
        if other.dim() == y.dim()
        else None
        for y, other in zip(outputs, others, strict=False)
    ]
    return dims + [None] * (len(outputs) - len(dims))


def _layout(y: Tensor, n: int, tokens: _Dims, edges: _Dims, sets: _Dims) -> Layout:
    edges = edges or ()
    if tokens is None:  # the model accepts no other number of tokens
        tokens = tuple(d for d in range(-y.dim(), 0) if y.shape[d] == n and d not in edges)
        tokens = (-2,) if -2 in tokens else tokens[:1]
    usual = -y.dim() if sets is None and y.dim() else None
    tokens = tuple(d for d in tokens if d not in edges)
    return Layout(tokens, edges=edges, sets=sets[0] if sets else usual)


def _actions(
    function: Callable[..., Any], example: Example, outputs: list[Tensor], layouts: list[Layout]
) -> list[Action]:
    """The action on each output that its layout says, or another that holds where that fails."""
    n = example.num_tokens
    if n < 2:
        return [Invariant()] * len(outputs)
    generator = torch.Generator().manual_seed(0)
    rows = [_row_dim(y, layout, example) for y, layout in zip(outputs, layouts, strict=True)]
    # A permutation may keep the order of the few rows of a set by chance.
    perms = [
        example.actions[0].random(example.inputs[0], generator)
        for _ in range(1 if set(rows) == {None} else TRIED)
    ]
    moved = [_moved(function, example, perm, outputs) for perm in perms]
    actions = []
    for number, (y, layout) in enumerate(zip(outputs, layouts, strict=True)):
        candidates = _candidates(y, layout, n, rows[number])
        errors = [
            max(
                difference([action.compared(action.apply(y, perm))], [action.compared(m[number])])
                for perm, m in zip(perms, moved, strict=True)
            )
            for action in candidates
        ]
        best = min(range(len(candidates)), key=errors.__getitem__)
        actions.append(candidates[best if errors[best] < 1e-3 < errors[0] else 0])
    return actions


def _moved(
    function: Callable[..., Any], example: Example, perm: Tensor, outputs: list[Tensor]
) -> list[Tensor]:
    """The outputs for permuted tokens."""
    try:
        return call_model(
            function, PermutationIntervention(perm, example.actions, ()).apply(example.inputs)
        )
    except Exception:  # a model that raises here breaks a law, and the law reports it
        return outputs


def _row_dim(y: Tensor, layout: Layout, example: Example) -> int | None:
    """The dimension of rows that may be a set, fewer than the tokens, as a pooling keeps them."""
    dim = layout.tokens[0] if layout.tokens else -2
    if y.dim() < 2 or y.is_complex() or not y.is_floating_point():
        return None
    is_batch = len(example.lead) > 1 and dim == layout.sets
    return dim if not is_batch and 1 < y.shape[dim] < example.num_tokens else None


def _candidates(y: Tensor, layout: Layout, n: int, rows: int | None) -> list[Action]:
    """Actions that the shape allows, the most probable first."""
    if rows is not None:
        return [Invariant(), AsSet(rows)]
    if not layout.tokens:
        return [Invariant()]
    if len(layout.tokens) > 1:
        return [Conjugate((layout.tokens[0], layout.tokens[1])), Invariant()]
    dim = layout.tokens[0]
    size = y.shape[dim]
    if size == n:
        return [Permute(dim), Invariant()]
    if size % n == 0:
        return [PermutePart(dim, n, 0, size // n), Invariant()]
    between = range(1, size - n) if size - n < n else ()
    parts = [PermutePart(dim, n, start) for start in (size - n, 0, *between)]
    return [*parts, Invariant()]
