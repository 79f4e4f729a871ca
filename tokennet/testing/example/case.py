"""A model with an example: how it is called, and how permutations act on what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from tokennet.testing.engine.actions import Action, Conjugate, Invariant, Permute, PermutePart
from tokennet.testing.engine.intervention import Permuting, difference
from tokennet.testing.engine.run import called
from tokennet.testing.engine.sandbox import borrowed
from tokennet.testing.example.calls import ByName, OnData, Selected
from tokennet.testing.example.inputs import Example, parameters_of, recognized
from tokennet.testing.example.layout import Layout
from tokennet.testing.example.parts import Inputs, keep_edges, one_set_less, one_token_less


@dataclass(frozen=True)
class Case:
    """What the laws need to know of a model and an example.

    Attributes:
        function: called with the inputs of the example; refers to the model.
        layouts: which dimensions of each output count tokens, edges and sets.
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
    """Infer what an example is, and from the outputs how permutations act on them.

    Raises:
        TypeError: the example is nothing that the laws know, or the model is a class.
        ValueError: it is, but its shapes do not fit together.
    """
    if isinstance(model, type):
        raise TypeError(f"model must be an instance, got the class {model.__name__}")
    if not callable(model):
        raise TypeError(f"model must be callable, got {type(model).__name__}")
    names = parameters_of(model)
    function: Callable[..., Any] = model
    if isinstance(example, dict):
        example = {name: value for name, value in example.items() if value is not None}
        order = sorted(example, key=lambda name: "mask" in name)  # tokens come first
        names, example = order, tuple(example[name] for name in order)
        function = ByName(model, tuple(names))
    found = recognized(example, names)
    if isinstance(example, Data) and "edge_index" in names:
        function = OnData(model, tuple(names))
    return _with_outputs(model, function, found)


def _with_outputs(model: Any, function: Callable[..., Any], example: Example) -> Case:
    with borrowed(function, dtype=None, jitter=0), torch.no_grad():
        outputs = called(function, example.inputs)
        layouts = _layouts(function, example, outputs)
        chosen = [n for n, y in enumerate(outputs) if _has_a_known_action(y, layouts[n], example)]
        if not chosen:
            shapes = [tuple(y.shape) for y in outputs]
            raise ValueError(
                f"the output, of shape {shapes}, follows the {example.num_tokens} tokens in no way "
                "that is known: take check_equivariance, with an action of your own"
            )
        layouts, outputs = [layouts[n] for n in chosen], [outputs[n] for n in chosen]
        if len(chosen) < len(called(function, example.inputs)):
            function = Selected(function, tuple(chosen), ())
        actions = _actions(function, example, outputs, layouts)
        layouts = [_placed(layout, a) for layout, a in zip(layouts, actions, strict=True)]
    if example.mask is not None and any(layout.tokens for layout in layouts):
        mask, real = example.inputs[example.mask], example.real
        assert real is not None
        numbers, hides = tuple(range(len(layouts))), torch.equal(mask == 0, real)
        function = Selected(function, numbers, tuple(layouts), example.mask, hides)
    return Case(model, function, example, tuple(layouts), tuple(actions))


def _has_a_known_action(y: Tensor, layout: Layout, example: Example) -> bool:
    """Whether it can be said what permutations do to an output; indices are left out."""
    if not y.is_floating_point() and not y.is_complex() and layout.tokens:
        return False
    edges = example.edge_index
    if edges is not None and any(y.shape[dim] != edges.shape[1] for dim in layout.edges):
        return False
    return all(y.shape[dim] >= example.num_tokens for dim in layout.tokens)


def _layouts(function: Callable[..., Any], example: Example, outputs: list[Tensor]) -> list[Layout]:
    """From which dimensions follow the numbers of tokens, edges and sets."""
    n, shapes = example.num_tokens, [tuple(y.shape) for y in outputs]
    fewer = _shapes(function, lambda: one_token_less(example)) if n > 2 else None
    edges = None
    if example.edge_index is not None and example.edge_index.shape[1] > 1:
        keep = torch.ones(example.edge_index.shape[1], dtype=torch.bool)
        keep[-1] = False
        edges = _shapes(function, lambda: keep_edges(example, keep))
    sets = None
    if len(example.lead) > 1 and example.lead[0] > 1:
        sets = _shapes(function, lambda: one_set_less(example))
    return [
        _layout(shape, n, *(_of(found, number, shape) for found in (fewer, edges, sets)))
        for number, shape in enumerate(shapes)
    ]


def _shapes(function: Callable[..., Any], inputs: Callable[[], Inputs]) -> list[Any] | None:
    try:
        return [tuple(y.shape) for y in called(function, inputs())]
    except Exception:  # whatever a model of other people raises at another size
        return None


def _of(found: list[Any] | None, number: int, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if found is None or number >= len(found) or len(found[number]) != len(shape):
        return None
    return found[number]


def _layout(
    shape: tuple[int, ...],
    n: int,
    fewer: tuple[int, ...] | None,
    edges: tuple[int, ...] | None,
    sets: tuple[int, ...] | None,
) -> Layout:
    dims = range(-len(shape), 0)
    of_edges = tuple(d for d in dims if edges is not None and edges[d] != shape[d])
    of_sets = [d for d in dims if sets is not None and sets[d] != shape[d]]
    if fewer is None:  # the model takes no other number of tokens
        same = [d for d in dims if shape[d] == n and d not in of_edges]
        tokens = tuple(same if len(same) < 2 or -2 not in same else [-2])[:1]
    else:
        tokens = tuple(d for d in dims if fewer[d] != shape[d] and d not in of_edges)
    usual = -len(shape) if sets is None and shape else None
    return Layout(tokens, edges=of_edges, sets=of_sets[0] if of_sets else usual)


def _actions(
    function: Callable[..., Any],
    example: Example,
    outputs: list[Tensor],
    layouts: Sequence[Layout],
) -> list[Action]:
    """The action on each output that its layout says, or another that holds where that fails."""
    n = example.num_tokens
    if n < 2:
        return [Invariant()] * len(outputs)
    generator = torch.Generator().manual_seed(0)
    perm = example.actions[0].random(example.inputs[0], generator)
    try:
        moved = called(function, Permuting(perm, example.actions, ()).move(example.inputs))
    except Exception:  # a model that raises here breaks a law, and is told so by it
        moved = outputs
    return [
        _fitting(_candidates(y, layout, n), y, got, perm)
        for y, layout, got in zip(outputs, layouts, moved, strict=True)
    ]


def _placed(layout: Layout, action: Action) -> Layout:
    """The layout, with the tokens where the action that explains the output has them."""
    if isinstance(action, PermutePart):
        return dataclasses.replace(layout, before=action.start, width=action.width)
    return dataclasses.replace(layout, before=0)


def _fitting(candidates: list[Action], y: Tensor, moved: Tensor, perm: Tensor) -> Action:
    """The likeliest action, or one that explains the output where that does not."""
    errors = [difference([action.apply(y, perm)], [moved]) for action in candidates]
    best = min(range(len(candidates)), key=errors.__getitem__)
    return candidates[best] if errors[best] < 1e-3 < errors[0] else candidates[0]


def _candidates(y: Tensor, layout: Layout, n: int) -> list[Action]:
    """Actions that the shape allows, the likeliest first."""
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
    return [PermutePart(dim, n, size - n), PermutePart(dim, n, 0), Invariant()]
