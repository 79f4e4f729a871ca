"""`Example`: what each input of a model holds, inferred from types, shapes and argument names.

Needed to say how a permutation of tokens or edges acts on the inputs. A new form of example
starts in `read_example`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.testing.engine.actions import (
    Action,
    Conjugate,
    Invariant,
    Permute,
    PermuteWithin,
    RelabelEdges,
)
from tokennet.testing.engine.graph_actions import Relabel, ReorderEdges
from tokennet.testing.example.values import describe, features, is_pyg_batch, is_pyg_data
from tokennet.tokens import Tokens

FORMS = (
    "a tensor (..., N, D) or of ids (B, N), (x, mask), Tokens, Data, Batch, "
    "(x, edge_index, ...), (x, batch index), or a dict of such tensors by argument"
)
_NOT_A_MASK = ("position", "type", "segment", "label", "weight")


class Role(StrEnum):
    """What the entries of an input belong to."""

    TOKENS = "tokens"
    PAIRS = "pairs of tokens"
    EDGES = "edges"
    EDGE_INDEX = "edge_index"
    SETS = "the index of the set of each token"
    WHOLE = "Tokens or Data, which hold all of these"
    OTHER = "neither tokens nor edges"


@dataclass(frozen=True)
class Input:
    """The role of an input, and the dimension of the tokens or edges in it."""

    role: Role
    dim: int = 0


@dataclass(frozen=True)
class Example:
    """Inputs of a model and what they hold.

    Attributes:
        real: (..., N) True for tokens and False for padding.
        mask: the index of the input that is the mask.
    """

    inputs: tuple[Any, ...]
    roles: tuple[Input, ...]
    real: Tensor | None = None
    mask: int | None = None

    @property
    def num_tokens(self) -> int:
        first, given = self.inputs[0], self.roles[0]
        if given.role is Role.WHOLE:
            return int(Relabel().degree(first))
        return first.shape[given.dim]

    @property
    def lead(self) -> torch.Size:
        """(..., N), the leading dimensions of the tokens."""
        return _lead(features(self.inputs[0]))

    @property
    def edge_index(self) -> Tensor | None:
        """(2, E), where the example is a graph."""
        first = self.inputs[0]
        return first.edge_index if is_pyg_data(first) else self._of_role(Role.EDGE_INDEX)

    @property
    def membership(self) -> Tensor | None:
        """(N,) the index of the set or graph of each token, in a ragged batch."""
        first = self.inputs[0]
        if isinstance(first, Tokens):
            return first.graph.batch() if first.graph.is_ragged else None
        return first.batch if is_pyg_batch(first) else self._of_role(Role.SETS)

    def _of_role(self, role: Role) -> Any:
        pairs = zip(self.inputs, self.roles, strict=True)
        return next((value for value, given in pairs if given.role is role), None)

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


def read_example(given: Any, names: Sequence[str]) -> Example:
    """Infer from names, types and shapes what an example holds.

    Args:
        names: of the model's arguments; a mask with "pad" in its name is True for padding.

    Raises:
        TypeError: the example has no form that the laws know.
        ValueError: its shapes are ambiguous.
    """
    if isinstance(given, Tokens):
        return Example((given,), (Input(Role.WHOLE),))
    if is_pyg_data(given):
        features(given)  # an error names what is missing
        if given.edge_index is None:
            raise ValueError(f"Data must have an edge_index, got {given}")
        return Example((given,), (Input(Role.WHOLE),))
    parts = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not parts or not isinstance(parts[0], Tensor):
        raise TypeError(f"example must be {FORMS}, got {describe(given)}")
    x, names = parts[0], [*names, *[""] * len(parts)]
    if any(_is_edge_index(x, value) for value in parts[1:]):
        return _graph(parts, names)
    lead = _lead(x)
    if x.dim() < 2 or not lead:
        raise ValueError(f"example must have shape (..., N, D), got {tuple(x.shape)}")
    first = Input(Role.TOKENS, len(lead) - 1 - x.dim())
    roles = [first, *(_along(value, lead) for value in parts[1:])]
    for number, value in enumerate(parts[1:], start=1):
        if _is_membership(x, value, names[number]):
            roles[0], roles[number] = Input(Role.TOKENS, 0), Input(Role.SETS)
            return Example(parts, tuple(roles))
    mask = _mask_number(parts, lead, names)
    if mask is None:
        return Example(parts, tuple(roles))
    return Example(parts, tuple(roles), _is_real(parts[mask], names[mask]), mask)


def parameters_of(model: Any) -> list[str]:
    """Names of the arguments of a model, none where it has no signature."""
    target = model.forward if isinstance(model, nn.Module) else model
    try:
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return []


def _lead(x: Tensor) -> torch.Size:
    return x.shape[:-1] if x.is_floating_point() or x.is_complex() else x.shape


def _along(value: Any, lead: torch.Size) -> Input:
    """The role of a further input beside tokens with leading dimensions `lead`."""
    if not isinstance(value, Tensor):
        return Input(Role.OTHER)
    if value.shape == (*lead, lead[-1]):
        return Input(Role.PAIRS, -2)
    if value.shape[: len(lead)] == lead:
        return Input(Role.TOKENS, len(lead) - 1 - value.dim())
    if value.shape in ((1, lead[-1]), lead[-1:]):  # the same positions for all sets
        return Input(Role.TOKENS, -1)
    return Input(Role.OTHER)


def _mask_number(parts: tuple[Any, ...], lead: torch.Size, names: Sequence[str]) -> int | None:
    """The index of the input that is a mask: named so, or else of zeros and ones."""
    fitting = [
        n
        for n, value in enumerate(parts)
        if n and isinstance(value, Tensor) and value.shape == lead
    ]
    named = [n for n in fitting if "mask" in names[n]]
    binary = (
        n
        for n in fitting
        if _is_binary(parts[n]) and not any(word in names[n] for word in _NOT_A_MASK)
    )
    return named[0] if named else next(binary, None)


def _is_binary(value: Tensor) -> bool:
    return bool(((value == 0) | (value == 1)).all())


def _is_real(mask: Tensor, name: str) -> Tensor:
    """(..., N) True for tokens."""
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
    index_number = next(k for k, value in enumerate(parts) if k and _is_edge_index(parts[0], value))
    num_edges = parts[index_number].shape[1]
    roles = [Input(Role.TOKENS, 0)]
    for number, value in enumerate(parts[1:], start=1):
        size = value.shape[0] if isinstance(value, Tensor) and value.dim() else None
        if number == index_number:
            roles.append(Input(Role.EDGE_INDEX))
        elif (
            size == n
            and value.dtype == torch.long
            and ("batch" in names[number] or (n != num_edges and number == len(parts) - 1))
        ):
            roles.append(Input(Role.SETS))
        elif size == num_edges and (size != n or "edge" in names[number]):
            roles.append(Input(Role.EDGES))
        elif size == n and size == num_edges:
            raise ValueError(
                f"example has the same number of edges and nodes, {n}: whether input {number} "
                "belongs to nodes or edges is unknown; name it edge_... or take another number"
            )
        else:
            roles.append(Input(Role.TOKENS, 0) if size == n else Input(Role.OTHER))
    return Example(parts, tuple(roles))
