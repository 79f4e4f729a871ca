"""What an example is: sets, padded sets, graphs, ragged batches; what each input holds."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from tokennet.testing.engine.actions import (
    Action,
    Conjugate,
    Invariant,
    Permute,
    PermuteWithin,
    RelabelEdges,
)
from tokennet.testing.engine.graph_actions import Relabel, ReorderEdges
from tokennet.testing.example.values import describe, features
from tokennet.tokens import Tokens

Kind = Literal["set", "padded", "tokens", "data", "graph", "ragged"]
FORMS = (
    "a tensor (..., N, D) or of ids (B, N), (x, mask), Tokens, Data, Batch, "
    "(x, edge_index, ...), (x, batch index), or a dict of such tensors by argument"
)


class Role(StrEnum):
    """What the entries of an input belong to."""

    TOKENS = "tokens"
    PAIRS = "pairs of tokens"
    EDGES = "edges"
    EDGE_INDEX = "edge_index"
    SETS = "the number of the set of each token"
    WHOLE = "tokens with all about them"
    OTHER = "neither tokens nor edges"


@dataclass(frozen=True)
class Input:
    """The role of an input, and the dimension that counts tokens or edges."""

    role: Role
    dim: int = 0


@dataclass(frozen=True)
class Example:
    """Inputs of a model and what they hold.

    Attributes:
        real: (..., N) True where a padded set has a token.
        mask: the number of the input that says so.
        membership: (N,) the number of the set or graph of each token of a ragged batch.
    """

    kind: Kind
    inputs: tuple[Any, ...]
    roles: tuple[Input, ...]
    real: Tensor | None = None
    mask: int | None = None
    membership: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        first = self.inputs[0]
        if self.roles[0].role is Role.WHOLE:
            return int(Relabel().degree(first))
        return first.shape[self.roles[0].dim]

    @property
    def lead(self) -> torch.Size:
        """(..., N), the leading dimensions of the tokens."""
        z = features(self.inputs[0])
        return z.shape[:-1] if z.is_floating_point() or z.is_complex() else z.shape

    @property
    def edge_index(self) -> Tensor | None:
        """(2, E), where the example is a graph."""
        for value, given in zip(self.inputs, self.roles, strict=True):
            if given.role is Role.EDGE_INDEX:
                return value
        if isinstance(self.inputs[0], Data):
            return self.inputs[0].edge_index
        return None

    @property
    def actions(self) -> tuple[Action, ...]:
        """How a permutation of the tokens acts on each input."""
        return tuple(self._action(given) for given in self.roles)

    def _action(self, given: Input) -> Action:
        if given.role is Role.TOKENS:
            if self.membership is not None:
                return PermuteWithin(given.dim, self.membership)
            return Permute(given.dim)
        if given.role is Role.PAIRS:
            return Conjugate()
        if given.role is Role.EDGE_INDEX:
            return RelabelEdges(self.num_tokens)
        return Relabel() if given.role is Role.WHOLE else Invariant()

    @property
    def edge_actions(self) -> tuple[Action, ...]:
        """How a permutation of the edges acts on each input."""
        found: dict[Role, Action] = {
            Role.EDGE_INDEX: ReorderEdges(),
            Role.WHOLE: ReorderEdges(),
            Role.EDGES: Permute(0),
        }
        return tuple(found.get(given.role, Invariant()) for given in self.roles)


def recognized(given: Any, names: Sequence[str]) -> Example:
    """Tell from names, types and shapes what an example is.

    Args:
        names: of the model's arguments; a mask with "pad" in its name is True for padding.

    Raises:
        TypeError: the example has no form that the laws know.
        ValueError: it has, but what belongs to what cannot be told.
    """
    if isinstance(given, Tokens):
        membership = given.graph.batch() if given.graph.is_ragged else None
        return Example("tokens", (given,), (Input(Role.WHOLE),), membership=membership)
    if isinstance(given, Data):
        _check_data(given)
        membership = given.batch if isinstance(given, Batch) else None
        return Example("data", (given,), (Input(Role.WHOLE),), membership=membership)
    parts = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not parts or not isinstance(parts[0], Tensor):
        raise TypeError(f"example must be {FORMS}, got {describe(given)}")
    x, others = parts[0], parts[1:]
    if any(_is_edge_index(x, value) for value in others):
        return _graph(parts, names)
    lead = x.shape[:-1] if x.is_floating_point() or x.is_complex() else x.shape
    if x.dim() < 2 or not lead:
        raise ValueError(f"example must have shape (..., N, D), got {tuple(x.shape)}")
    for number, value in enumerate(others, start=1):
        name = names[number] if number < len(names) else ""
        if _is_membership(x, value, name):
            roles = [Input(Role.TOKENS, 0), *(_along(v, lead) for v in others)]
            roles[number] = Input(Role.SETS)
            return Example("ragged", parts, tuple(roles), membership=value)
    return _set(parts, lead, names)


def parameters_of(model: Any) -> list[str]:
    """Names of the arguments of a model, none where it does not tell."""
    target = model.forward if isinstance(model, nn.Module) else model
    try:
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return []


def _set(parts: tuple[Any, ...], lead: torch.Size, names: Sequence[str]) -> Example:
    x = parts[0]
    roles = [Input(Role.TOKENS, len(lead) - 1 - x.dim())]
    roles += [_along(value, lead) for value in parts[1:]]
    number = _mask_number(parts, lead, names)
    if number is None:
        return Example("set", parts, tuple(roles))
    mask = parts[number]
    name = names[number] if number < len(names) else ""
    real = _real(mask, name)
    return Example("padded", parts, tuple(roles), real=real, mask=number)


def _along(value: Any, lead: torch.Size) -> Input:
    """The role of a further input beside tokens with leading dimensions `lead`."""
    if not isinstance(value, Tensor):
        return Input(Role.OTHER)
    if value.shape == (*lead, lead[-1]):
        return Input(Role.PAIRS, -2)
    if value.shape[: len(lead)] == lead:
        return Input(Role.TOKENS, len(lead) - 1 - value.dim())
    if value.shape == (1, lead[-1]) or value.shape == lead[-1:]:  # positions for all sets
        return Input(Role.TOKENS, -1)
    return Input(Role.OTHER)


def _mask_number(parts: tuple[Any, ...], lead: torch.Size, names: Sequence[str]) -> int | None:
    fitting = [
        n
        for n, value in enumerate(parts)
        if n and isinstance(value, Tensor) and value.shape == lead
    ]
    named = [n for n in fitting if n < len(names) and "mask" in names[n]]
    if named:
        return named[0]
    likely = [n for n in fitting if n >= len(names) or not _says_otherwise(names[n])]
    return next((n for n in likely if parts[n].dtype == torch.bool or _is_binary(parts[n])), None)


def _says_otherwise(name: str) -> bool:
    return any(word in name for word in ("position", "type", "segment", "label", "weight"))


def _is_binary(value: Tensor) -> bool:
    return bool(((value == 0) | (value == 1)).all())


def _real(mask: Tensor, name: str) -> Tensor:
    if mask.is_floating_point() and not _is_binary(mask):
        if not bool(((mask == 0) | (mask < -1e3)).all()):
            raise ValueError(f"a mask must hold truth values, 0 and 1, or 0 and -inf, got {mask}")
        return mask == 0
    return ~mask.bool() if "pad" in name else mask.bool()


def _is_edge_index(x: Tensor, value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and x.dim() == 2
        and value.dim() == 2
        and value.shape[0] == 2
        and value.dtype in (torch.long, torch.int32)
        and (x.shape[0] != 2 or value.shape[1] != x.shape[1] or x.is_floating_point())
    )


def _is_membership(x: Tensor, value: Any, name: str) -> bool:
    return (
        isinstance(value, Tensor)
        and x.dim() == 2
        and x.is_floating_point()
        and value.dtype == torch.long
        and value.shape == x.shape[:1]
        and "mask" not in name
    )


def _graph(parts: tuple[Any, ...], names: Sequence[str]) -> Example:
    n = parts[0].shape[0]
    place = next(k for k, value in enumerate(parts) if k and _is_edge_index(parts[0], value))
    edges = parts[place].shape[1]
    roles, membership = [Input(Role.TOKENS, 0)], None
    for number, value in enumerate(parts[1:], start=1):
        name = names[number] if number < len(names) else ""
        size = value.shape[0] if isinstance(value, Tensor) and value.dim() else None
        if number == place:
            roles.append(Input(Role.EDGE_INDEX))
        elif size == n and value.dtype == torch.long and "batch" in name:
            membership = value
            roles.append(Input(Role.SETS))
        elif size == edges and (size != n or "edge" in name):
            roles.append(Input(Role.EDGES))
        elif size == n and size == edges:
            raise ValueError(
                f"example has as many edges as nodes, {n}, so that what input {number} belongs "
                "to cannot be told: take another number, or name it edge_... in the model"
            )
        elif size == n and value.dtype == torch.long and number == len(parts) - 1:
            membership = value
            roles.append(Input(Role.SETS))
        else:
            roles.append(Input(Role.TOKENS, 0) if size == n else Input(Role.OTHER))
    return Example("graph", parts, tuple(roles), membership=membership)


def _check_data(data: Data) -> None:
    features(data)
    if data.edge_index is None:
        raise ValueError(f"Data must have an edge_index, got {data}")
