"""A model with an example: how it is called, and how permutations act on it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from tokennet.graphs import Disjoint
from tokennet.symmetry import (
    Action,
    Conjugate,
    Invariant,
    Permute,
    PermuteWithin,
    Relabel,
    RelabelEdges,
)
from tokennet.symmetry.borrow import borrowed
from tokennet.symmetry.trial.experiment import called
from tokennet.symmetry.values import describe, features
from tokennet.testing.fewer import one_fewer
from tokennet.tokens import Tokens

Kind = Literal["set", "padded", "ids", "tokens", "data", "graph", "ragged"]


@dataclass(frozen=True)
class Case:
    """What the laws need to know of a model and an example.

    Attributes:
        function: called with `inputs`; refers to the model.
        in_actions: how a permutation of the tokens acts on each input.
        out_actions: and on each output.
        real: (..., N) True where a padded set has a token.
        membership: (N,) the number of the set or graph of each token of a ragged batch.
    """

    model: Any
    kind: Kind
    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    in_actions: tuple[Action, ...]
    out_actions: tuple[Action, ...]
    real: Tensor | None = None
    membership: Tensor | None = None

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
    kind, inputs, ins, real, membership = _recognise(model, example)
    function = _function(model, inputs)
    outs = _out_actions(function, kind, inputs, ins, membership)
    return Case(model, kind, function, inputs, ins, outs, real, membership)


def _recognise(model: Any, example: Any) -> tuple[Any, ...]:
    if isinstance(example, Tokens):
        membership = _membership(example.graph) if isinstance(example.graph, Disjoint) else None
        return "tokens", (example,), (Relabel(),), None, membership
    if isinstance(example, Data):
        features(example)
        membership = example.batch if isinstance(example, Batch) else None
        return "data", (example,), (Relabel(),), None, membership
    if isinstance(example, Tensor):
        return _recognise_tensor(example)
    if isinstance(example, tuple | list) and example and isinstance(example[0], Tensor):
        return _recognise_several(model, tuple(example))
    raise TypeError(
        "example must be a tensor (..., N, D), (x, mask), Tokens, Data, Batch, "
        f"(x, edge_index, ...) or (x, batch index), got {describe(example)}"
    )


def _recognise_tensor(example: Tensor) -> tuple[Any, ...]:
    if example.dim() < 2:
        raise ValueError(f"example must have shape (..., N, D), got {tuple(example.shape)}")
    if example.is_floating_point():
        return "set", (example,), (Permute(-2),), None, None
    return "ids", (example,), (Permute(-1),), None, None


def _recognise_several(model: Any, example: tuple[Any, ...]) -> tuple[Any, ...]:
    x, second = example[0], example[1] if len(example) > 1 else None
    if second is None:
        return _recognise_tensor(x)
    if isinstance(second, Tensor) and second.shape == x.shape[:-1] and second.dim() == x.dim() - 1:
        if x.dim() == 2 and second.dtype == torch.long:
            return "ragged", example, (PermuteWithin(0, second), *_held(example[1:])), None, second
        real = ~second.bool() if _means_padding(model) else second.bool()
        return "padded", example, (Permute(-2), Permute(-1), *_held(example[2:])), real, None
    if isinstance(second, Tensor) and second.dim() == 2 and second.shape[0] == 2:
        n = x.shape[0]
        last = example[-1]
        membership = None
        if len(example) > 2 and isinstance(last, Tensor) and last.shape == (n,):
            membership = last if last.dtype == torch.long else None
        actions = (PermuteWithin(0, membership), RelabelEdges(n), *_held(example[2:]))
        return "graph", example, actions, None, membership
    raise TypeError(
        f"the second part of example must be a mask {tuple(x.shape[:-1])}, an edge_index "
        f"(2, E) or a batch index ({x.shape[0]},), got {describe(second)}"
    )


def _held(values: tuple[Any, ...]) -> tuple[Action, ...]:
    return (Invariant(),) * len(values)


def _membership(graph: Disjoint) -> Tensor:
    return torch.repeat_interleave(torch.tensor(graph.sizes))


def _parameters(model: Any) -> list[str]:
    target = model.forward if isinstance(model, nn.Module) else model
    try:
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return []


def _means_padding(model: Any) -> bool:
    """Whether True in a mask means padding, as in `key_padding_mask`, or a token."""
    names = _parameters(model)
    return len(names) > 1 and "padding" in names[1]


def _function(model: Any, inputs: tuple[Any, ...]) -> Callable[..., Any]:
    """The model, or for PyG modules on `Data` a call with the parts that they ask for."""
    names = _parameters(model)
    if not isinstance(inputs[0], Data) or "edge_index" not in names:
        return model
    return OnData(model, tuple(names))


@dataclass(frozen=True)
class OnData:
    """A model of (x, edge_index, ...), called with a `Data` that has these."""

    function: Any
    names: tuple[str, ...]

    def expression(self, inner: str) -> tuple[str, str]:
        """The import and the expression that make this of `inner` in a script."""
        return "from tokennet.testing.case import OnData", f"OnData({inner}, {self.names})"

    def __call__(self, data: Data) -> Any:
        given = {name: data[name] for name in self.names if name in data}
        return self.function(**given)


def _out_actions(
    function: Callable[..., Any],
    kind: Kind,
    inputs: tuple[Any, ...],
    ins: tuple[Action, ...],
    membership: Tensor | None,
) -> tuple[Action, ...]:
    """From which dimensions of the output follow the number of tokens."""
    n = ins[0].degree(inputs[0]) or 0
    with borrowed(function, dtype=_dtype(inputs)), torch.no_grad():
        shapes = [tuple(y.shape) for y in called(function, inputs)]
        try:
            fewer = one_fewer(kind, inputs, ins, membership) if n > 2 else inputs
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
