"""A model with an example: how it is called, and how permutations act on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from tokennet.symmetry import Action, Conjugate, Invariant, Permute
from tokennet.symmetry.borrow import borrowed
from tokennet.symmetry.trial.experiment import called
from tokennet.symmetry.values import features
from tokennet.testing.example import ByName, Example, Kind, OnData, parameters_of, recognised
from tokennet.testing.fewer import one_fewer


@dataclass(frozen=True)
class Case:
    """What the laws need to know of a model and an example.

    Attributes:
        function: called with `inputs`; refers to the model.
        out_actions: how a permutation of the tokens acts on each output.
    """

    model: Any
    function: Callable[..., Any]
    example: Example
    out_actions: tuple[Action, ...]

    @property
    def kind(self) -> Kind:
        return self.example.kind

    @property
    def inputs(self) -> tuple[Any, ...]:
        return self.example.inputs

    @property
    def in_actions(self) -> tuple[Action, ...]:
        return self.example.actions

    @property
    def real(self) -> Tensor | None:
        return self.example.real

    @property
    def membership(self) -> Tensor | None:
        return self.example.membership

    @property
    def num_tokens(self) -> int:
        return next(
            degree
            for action, value in zip(self.in_actions, self.inputs, strict=True)
            if (degree := action.degree(value)) is not None
        )

    @property
    def pooled(self) -> bool:
        return all(isinstance(action, Invariant) for action in self.out_actions)


def make_case(model: Callable[..., Any], example: Any) -> Case:
    """Infer what an example is, and from the output's shape how permutations act on it.

    Raises:
        TypeError: the example is nothing that the laws know.
        ValueError: it is, but its shapes do not fit together.
    """
    if not callable(model):
        raise TypeError(f"model must be callable, got {type(model).__name__}")
    names = parameters_of(model)
    function: Callable[..., Any] = model
    if isinstance(example, dict):
        names = list(example)
        function, example = ByName(model, tuple(names)), tuple(example.values())
    found = recognised(example, names)
    if isinstance(example, Data) and "edge_index" in names:
        function = OnData(model, tuple(names))
    outs = _out_actions(function, found)
    return Case(model, function, found, outs)


def _out_actions(function: Callable[..., Any], example: Example) -> tuple[Action, ...]:
    """From which dimensions of the output follow the number of tokens."""
    inputs = example.inputs
    n = example.actions[0].degree(inputs[0]) or 0
    with borrowed(function, dtype=_dtype(inputs)), torch.no_grad():
        shapes = [tuple(y.shape) for y in called(function, inputs)]
        try:
            fewer = one_fewer(example) if n > 2 else inputs
            others = [tuple(y.shape) for y in called(function, fewer)]
        except Exception:  # whatever a model of other people raises at another size
            others = []
    if n < 3 or [len(s) for s in others] != [len(s) for s in shapes]:
        return tuple(_by_size(shape, n) for shape in shapes)
    return tuple(_by_change(shape, less) for shape, less in zip(shapes, others, strict=True))


def _dtype(inputs: tuple[Any, ...]) -> torch.dtype:
    x = features(inputs[0])
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def _by_change(shape: tuple[int, ...], less: tuple[int, ...]) -> Action:
    dims = [d - len(shape) for d, (a, b) in enumerate(zip(shape, less, strict=True)) if a != b]
    return _action(dims)


def _by_size(shape: tuple[int, ...], n: int) -> Action:
    dims = [d - len(shape) for d, size in enumerate(shape) if size == n]
    if len(dims) > 1 and -2 in dims:  # a feature dimension or a batch of the same size
        dims = [-2]
    return _action(dims[:1])


def _action(dims: list[int]) -> Action:
    if not dims:
        return Invariant()
    return Permute(dims[0]) if len(dims) == 1 else Conjugate((dims[0], dims[1]))
