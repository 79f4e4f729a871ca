"""`Example`: inputs in standard form with their roles, seen from one of its sets of tokens.

Needed to say how a permutation of tokens or edges acts on the inputs. `reading` makes it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
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
from tokennet.testing.example.forms import Slot
from tokennet.testing.example.roles import Kind, Role
from tokennet.testing.example.values import features, is_pyg_data
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class Example:
    """Inputs of a model in standard form, and what they hold. Made by `read_example`.

    The first input holds the vectors (or ids) of the tokens of `set`: laws change it.

    Attributes:
        roles: in dimensions of the standard form; every set is named in them.
        slots: where each input goes in the call of the model.
        anchors: for each set of tokens the name of the input with its vectors.
        set: the set that this is seen from; '' where there are no tokens.
        edge_list: the name of the input with the edges in question, by default the first.
    """

    inputs: tuple[Any, ...]
    roles: tuple[Role, ...]
    names: tuple[str, ...]
    slots: tuple[Slot, ...]
    anchors: dict[str, str]
    set: str = ""
    edge_list: str = ""
    hetero: bool = False

    def view(self, name: str) -> Example:
        """The same example seen from another set."""
        first = self.names.index(self.anchors[name])
        rest = sorted(range(len(self.inputs)), key=lambda n: self.slots[n].at)
        order = [first, *(n for n in rest if n != first)]
        fields = ("inputs", "roles", "names", "slots")
        moved: dict[str, Any] = {
            field: tuple(getattr(self, field)[n] for n in order) for field in fields
        }
        return dataclasses.replace(self, set=name, **moved)

    def views(self) -> list[Example]:
        """The example seen from each of its sets."""
        return [self.view(name) for name in self.anchors] or [self]

    @property
    def num_tokens(self) -> int:
        """Tokens of a set, or of all sets of a ragged batch; 0 where there are none."""
        first, role = self.inputs[0], self.roles[0]
        if role.kind is Kind.WHOLE:
            return int(Relabel().degree(first))
        return first.shape[role.dims[0]] if role.kind is Kind.TOKENS else 0

    @property
    def token_dim(self) -> int:
        """The dimension of the first input that counts tokens."""
        role = self.roles[0]
        return role.dims[0] if role.kind is Kind.TOKENS else -2

    @property
    def num_sets(self) -> int:
        """Sets of a batch in the first dimension; 1 where there is no such dimension."""
        return features(self.inputs[0]).shape[0] if self.is_batched(0) else 1

    def is_batched(self, number: int) -> bool:
        """Whether the first dimension of an input counts the sets of a batch."""
        value, role = self.inputs[number], self.roles[number]
        if isinstance(value, Tokens):
            return value.z.dim() > 2 and self.membership is None
        if not isinstance(value, Tensor) or not value.dim() or self.membership is not None:
            return False
        if role.kind in (Kind.PER_SET, Kind.LENGTHS):
            return True
        if not role.kind.moves and role.kind is not Kind.PAIRS:
            return False
        inner = role.dims or (-1,)
        count = value.shape[0]
        return -inner[0] < value.dim() and (number == 0 or count == self.num_sets)

    @property
    def edge_index(self) -> Tensor | None:
        """(2, E), where the example is a graph."""
        first = self.inputs[0]
        if is_pyg_data(first):
            return first.edge_index
        number = self.edge_number
        return None if number is None else self.inputs[number]

    @property
    def edge_number(self) -> int | None:
        """The number of the input with the edges in question."""
        numbers = [n for n, role in enumerate(self.roles) if role.kind is Kind.EDGE_INDEX]
        if self.edge_list:
            return self.names.index(self.edge_list)
        own = [n for n in numbers if self.set in self.roles[n].sets]
        return min(own, key=lambda n: "label" in self.names[n], default=None)

    @property
    def edge_lists(self) -> list[str]:
        """The names of all inputs that list edges."""
        pairs = zip(self.names, self.roles, strict=True)
        return [name for name, role in pairs if role.kind is Kind.EDGE_INDEX]

    @property
    def membership(self) -> Tensor | None:
        """(N,) the index of the set or graph of each token, in a ragged batch."""
        first = self.inputs[0]
        if isinstance(first, Tokens):
            return first.graph.batch() if first.graph.is_ragged else None
        if is_pyg_data(first):
            return first.batch if isinstance(first.batch, Tensor) else None
        number = self.number_of(Kind.MEMBERSHIP)
        return None if number is None else self.inputs[number]

    def number_of(self, *kinds: Kind) -> int | None:
        """The number of the first input of a kind that speaks of the set in question."""
        own = (n for n, r in enumerate(self.roles) if r.kind in kinds and self.set in r.sets)
        return next(own, None)

    @property
    def mask(self) -> int | None:
        """The number of the input that says which tokens are padding."""
        return self.number_of(Kind.PADDING, Kind.LENGTHS)

    @property
    def real(self) -> Tensor | None:
        """(..., N) True for tokens and False for padding."""
        if self.mask is None:
            return None
        real = real_tokens(self.inputs[self.mask], self.how, self.num_tokens)
        count = self.num_sets
        return real.expand(count, -1) if count > 1 and len(real) != count else real  # shared

    @property
    def how(self) -> str:
        """How the mask says what is padding: 'keep', 'pad', 'added' or 'lengths'."""
        assert self.mask is not None
        role = self.roles[self.mask]
        if role.kind is Kind.LENGTHS:
            return "lengths"
        return "added" if role.keeps is None else "keep" if role.keeps else "pad"

    @property
    def actions(self) -> tuple[Action, ...]:
        """How a permutation of the tokens acts on each input."""
        return tuple(self._action(role) for role in self.roles)

    def _action(self, role: Role) -> Action:
        if role.kind is Kind.WHOLE:
            return Relabel()
        if self.set not in role.sets:
            return Invariant()
        if role.kind.moves:
            dim = role.dims[0] if role.dims else -1
            if self.membership is not None:
                return PermuteWithin(dim, self.membership)
            if self.mask is not None and self.how == "lengths":
                return PermuteWithin(dim, self._columns())
            return Permute(dim)
        both = len(set(role.sets)) == 1
        if role.kind is Kind.PAIRS:
            dims = (role.dims[0], role.dims[1])
            return Conjugate(dims) if both else Permute(dims[role.sets.index(self.set)])
        if role.kind is Kind.EDGE_INDEX:
            return RelabelEdges(self.num_tokens, None if both else role.sets.index(self.set))
        return Invariant()

    def _columns(self) -> Tensor:
        """Tokens that are padding in the same sets: lengths stay true where these are moved."""
        assert self.real is not None
        return self.real.reshape(-1, self.num_tokens).unique(dim=1, return_inverse=True)[1]

    @property
    def can_be_permuted(self) -> bool:
        """Whether there are two tokens that may change places."""
        if self.mask is not None and self.how == "lengths":
            return int(self._columns().bincount().max()) > 1
        return self.num_tokens > 1

    @property
    def edge_actions(self) -> tuple[Action, ...]:
        """How a permutation of the edges in question acts on each input."""
        return tuple(self._edge_action(n, role) for n, role in enumerate(self.roles))

    def _edge_action(self, number: int, role: Role) -> Action:
        if role.kind is Kind.WHOLE or number == self.edge_number:
            return ReorderEdges()
        if role.kind is Kind.EDGES and role.sets == self._edges_in_question:
            return Permute(role.dims[0])
        return Invariant()

    @property
    def _edges_in_question(self) -> tuple[str, ...]:
        number = self.edge_number
        return () if number is None else (self.names[number],)

    @property
    def adjacency(self) -> int | None:
        """The number of the input that is a dense adjacency: of pairs, named so or of 0 and 1."""
        for number, (value, role) in enumerate(zip(self.inputs, self.roles, strict=True)):
            if role.kind is Kind.PAIRS and role.sets == (self.set,):
                binary = bool(((value == 0) | (value == 1)).all())
                name = self.names[number]
                if "adj" in name or (binary and "mask" not in name and value.dtype != torch.bool):
                    return number
        return None


def real_tokens(mask: Tensor, how: str, num_tokens: int) -> Tensor:
    """(..., N) True for tokens, from a mask or lengths."""
    if how == "lengths":
        return torch.arange(num_tokens, device=mask.device) < mask[:, None]
    return mask != 0 if how == "keep" else mask == 0


def parameters_of(model: Any) -> list[str]:
    """Names of the arguments of a model, none where it has no signature."""
    target = model.forward if isinstance(model, nn.Module) else model
    try:
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return []


def positional(names: Sequence[str], model: Any) -> list[str]:
    """Those of the names that a call may give by their order, without `*args` and `**kwargs`."""
    target = model.forward if isinstance(model, nn.Module) else model
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return list(names)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name in names if parameters[name].kind in kinds]
