"""What an example is: sets, padded sets, graphs, ragged batches; and how to permute it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from tokennet.graphs import Disjoint
from tokennet.symmetry import Action, Invariant, Permute, PermuteWithin, Relabel, RelabelEdges
from tokennet.symmetry.trial.wrapped import Wrapped
from tokennet.symmetry.values import describe, features
from tokennet.tokens import Tokens

Kind = Literal["set", "padded", "ids", "tokens", "data", "graph", "ragged"]
FORMS = (
    "a tensor (..., N, D) or of ids (B, N), (x, mask), Tokens, Data, Batch, "
    "(x, edge_index, ...), (x, batch index), or a dict of such tensors by argument"
)


@dataclass(frozen=True)
class Example:
    """Inputs of a model and what they mean.

    Attributes:
        actions: how a permutation of the tokens acts on each input.
        real: (..., N) True where a padded set has a token.
        membership: (N,) the number of the set or graph of each token of a ragged batch.
    """

    kind: Kind
    inputs: tuple[Any, ...]
    actions: tuple[Action, ...]
    real: Tensor | None = None
    membership: Tensor | None = None


def recognised(given: Any, names: Sequence[str]) -> Example:
    """Tell from types and shapes what an example is.

    Args:
        names: of the model's arguments; one with "padding" in it is True for padding.

    Raises:
        TypeError: the example has no form that the laws know.
        ValueError: it has, but its shapes do not fit together.
    """
    if isinstance(given, Tokens):
        return Example("tokens", (given,), (Relabel(),), membership=_of_tokens(given))
    if isinstance(given, Data):
        features(given)
        membership = given.batch if isinstance(given, Batch) else None
        return Example("data", (given,), (Relabel(),), membership=membership)
    parts = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not parts or not isinstance(parts[0], Tensor):
        raise TypeError(f"example must be {FORMS}, got {describe(given)}")
    if len(parts) == 1:
        return _one_tensor(parts[0])
    return _several(parts, names)


def parameters_of(model: Any) -> list[str]:
    """Names of the arguments of a model, none where it does not tell."""
    target = model.forward if isinstance(model, nn.Module) else model
    try:
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return []


def _one_tensor(x: Tensor) -> Example:
    if x.dim() < 2:
        raise ValueError(f"example must have shape (..., N, D), got {tuple(x.shape)}")
    if x.is_floating_point():
        return Example("set", (x,), (Permute(-2),))
    return Example("ids", (x,), (Permute(-1),))


def _several(parts: tuple[Any, ...], names: Sequence[str]) -> Example:
    x, second, *others = parts
    if isinstance(second, Tensor):
        lead = x.shape[:-1] if x.is_floating_point() else x.shape
        if second.shape == lead and not (x.dim() == 2 and x.is_floating_point()):
            return _padded(parts, names)
        if second.shape == lead:
            if second.dtype == torch.long:
                actions = (PermuteWithin(0, second), *_held(parts[1:]))
                return Example("ragged", parts, actions, membership=second)
            return _padded(parts, names)
        if second.dim() == 2 and second.shape[0] == 2 and not second.is_floating_point():
            return _graph(x, parts, others)
    raise TypeError(
        f"the second part of example must be a mask {tuple(x.shape[:-1])}, an edge_index "
        f"(2, E) or a batch index ({x.shape[0]},), got {describe(second)}"
    )


def _padded(parts: tuple[Any, ...], names: Sequence[str]) -> Example:
    x, mask = parts[:2]
    hides = len(names) > 1 and "padding" in names[1]
    real = ~mask.bool() if hides else mask.bool()
    dim = -2 if x.is_floating_point() else -1
    actions = [Permute(dim), Permute(-1)]
    for value in parts[2:]:  # ids of positions, kinds of tokens
        along = isinstance(value, Tensor) and value.shape == mask.shape
        actions.append(Permute(-1) if along else Invariant())  # type: ignore[arg-type]
    return Example("padded", parts, tuple(actions), real=real)


def _graph(x: Tensor, parts: tuple[Any, ...], others: list[Any]) -> Example:
    n, membership = x.shape[0], None
    if others and isinstance(others[-1], Tensor) and others[-1].shape == (n,):
        membership = others[-1] if others[-1].dtype == torch.long else None
    actions = [PermuteWithin(0, membership), RelabelEdges(n)]
    edges = parts[1].shape[1]
    for value in others:  # what belongs to nodes moves with them
        is_nodes = isinstance(value, Tensor) and value.shape[:1] == (n,) and n != edges
        actions.append(Permute(0) if is_nodes else Invariant())  # type: ignore[arg-type]
    return Example("graph", parts, tuple(actions), membership=membership)


def _held(values: tuple[Any, ...]) -> tuple[Action, ...]:
    return (Invariant(),) * len(values)


def _of_tokens(tokens: Tokens) -> Tensor | None:
    if not isinstance(tokens.graph, Disjoint):
        return None
    return torch.repeat_interleave(torch.tensor(tokens.graph.sizes))


@dataclass(frozen=True)
class OnData(Wrapped):
    """A model of (x, edge_index, ...), called with a `Data` that has these."""

    names: tuple[str, ...]

    def expression(self, inner: str) -> tuple[str, str]:
        """The import and the expression that make this of `inner` in a script."""
        return "from tokennet.testing.example import OnData", f"OnData({inner}, {self.names})"

    def __call__(self, *inputs: Any) -> Any:
        data = inputs[0]
        given = {name: data[name] for name in self.names if name in data}
        return self.function(**given)


@dataclass(frozen=True)
class ByName(Wrapped):
    """A model called with arguments by name."""

    names: tuple[str, ...]

    def expression(self, inner: str) -> tuple[str, str]:
        """The import and the expression that make this of `inner` in a script."""
        return "from tokennet.testing.example import ByName", f"ByName({inner}, {self.names})"

    def __call__(self, *inputs: Any) -> Any:
        return self.function(**dict(zip(self.names, inputs, strict=True)))
