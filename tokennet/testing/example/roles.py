"""`Role`: what an input or output holds, as a string that users pass and reports print.

KIND[:PART]...   PART = dimensions "-2" or "-3,-2", a token set "context", "True=keep", "True=pad"
of padding, "True=keep", "True=hide" of masks of pairs
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tokennet.checks import check_type, lookup


class Kind(StrEnum):
    """What the entries of an input or output belong to; the first word of a role."""

    TOKENS = "tokens"
    POSITIONS = "positions"
    PADDING = "padding"
    LENGTHS = "lengths"
    MEMBERSHIP = "membership"
    PTR = "ptr"
    PAIRS = "pairs"
    EDGES = "edges"
    EDGE_INDEX = "edge_index"
    PER_SET = "per_set"
    SCALAR = "scalar"
    OTHER = "other"
    WHOLE = "whole"  # Tokens or Data, which hold several of these: never passed

    @property
    def moves(self) -> bool:
        """Whether it has one row a token, which moves with the tokens."""
        return self in (Kind.TOKENS, Kind.POSITIONS, Kind.PADDING)


OF_INPUTS = tuple(k for k in Kind if k not in (Kind.SCALAR, Kind.WHOLE))
OF_OUTPUTS = (Kind.TOKENS, Kind.PER_SET, Kind.PAIRS, Kind.EDGES, Kind.SCALAR, Kind.OTHER)
_DIMS = {
    Kind.TOKENS: "one or more", Kind.POSITIONS: "one", Kind.PAIRS: "two", Kind.EDGES: "one",
    Kind.PER_SET: "one",
}  # fmt: skip
_COUNTS = {"one": (1,), "two": (2,), "one or more": (1, 2, 3)}
_KEEPS = {
    Kind.PADDING: {"True=keep": True, "True=pad": False},
    Kind.PAIRS: {"True=keep": True, "True=hide": False},
}
_WORDS = {"pad": False, "padding": False, "masked": False, "hidden": False, "hide": False,
          "keep": True, "visible": True, "valid": True, "real": True, "token": True,
          "tokens": True}  # fmt: skip
"""What one may write where True=keep, True=pad or True=hide is meant."""
_WITHOUT_SETS = (Kind.PER_SET, Kind.SCALAR, Kind.OTHER)


@dataclass(frozen=True)
class Role:
    """A role as data; `str(role)` is what a user would pass.

    Attributes:
        dims: of the tokens, pairs, edges or sets.
        sets: names of the token sets it speaks of; two where they differ, as of cross pairs.
        keeps: of masks: True stands for a token, not for padding; for a pair that is visible.

    >>> str(parse_role("x", "tokens:-1:context"))
    'tokens:-1:context'
    """

    kind: Kind
    dims: tuple[int, ...] = ()
    sets: tuple[str, ...] = ()
    keeps: bool | None = None

    def __str__(self) -> str:
        parts = [str(self.kind)]
        if self.dims:
            parts.append(",".join(map(str, self.dims)))
        if self.sets:
            parts.append(",".join(self.sets))
        if self.keeps is not None:
            parts.append(true_is(self.kind, self.keeps))
        return ":".join(parts)


def true_is(kind: Kind, keeps: bool) -> str:
    """The part of a role that says what True is.

    >>> true_is(Kind.PAIRS, False)
    'True=hide'
    """
    return next(text for text, value in _KEEPS[kind].items() if value is keeps)


def check_set(name: str, role: Role, known: Collection[str]) -> None:
    """Refuse a role of a set that is not there.

    Raises:
        ValueError: it names another, or was to say what True is.
    """
    for part in role.sets:
        if part not in known and role.kind in _KEEPS and part.lower() in _WORDS:
            wanted = f"{role.kind}:{true_is(role.kind, _WORDS[part.lower()])}"
            raise ValueError(f"roles[{name!r}]: say what True is, as {wanted!r}, got {part!r}")
        lookup(f"roles[{name!r}]", part, dict.fromkeys(known))


def parse_role(
    name: str, text: Any, kinds: tuple[Kind, ...] = OF_INPUTS, argument: str = "roles"
) -> Role:
    """The role that a string says.

    Raises:
        TypeError: it is no string.
        ValueError: its kind is unknown, or a part does not belong to that kind.

    >>> parse_role("mask", "padding:True=pad").keeps
    False
    >>> parse_role("x", "tokns:-2")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: roles['x'] must be one of ...; got 'tokns'; did you mean tokens?
    """
    label = f"{argument}[{name!r}]"
    check_type(label, text, str, "a string such as 'tokens:-2'")
    first, *parts = (part.strip() for part in text.split(":"))
    kind = lookup(label, first, {str(k): k for k in kinds})
    dims: tuple[int, ...] = ()
    sets: tuple[str, ...] = ()
    keeps = None
    for part in parts:
        if re.fullmatch(r"-?\d+(\s*,\s*-?\d+)*", part):
            dims = tuple(map(int, part.split(",")))
            counted = _DIMS.get(kind)
            if counted is None or len(dims) not in _COUNTS[counted]:
                raise ValueError(
                    f"{label}: {kind} has {counted or 'no'} "
                    f"dimension{'' if counted == 'one' else 's'}, got {text!r}"
                )
        elif "=" in part:
            if kind not in _KEEPS:
                raise ValueError(f"{label}: only padding and pairs say what True is, got {text!r}")
            keeps = lookup(label, part, _KEEPS[kind])
        elif part and kind not in _WITHOUT_SETS:
            sets = tuple(name.strip() for name in part.split(","))
        else:
            raise ValueError(f"{label}: {part!r} is no part of {kind}, got {text!r}")
    return Role(kind, dims, sets, keeps)


def parse_roles(
    roles: Mapping[str, str] | None, kinds: tuple[Kind, ...] = OF_INPUTS, argument: str = "roles"
) -> dict[str, Role]:
    """Roles by name of the input or output; numbers count positional ones."""
    if roles is None:
        return {}
    check_type(argument, roles, Mapping, "a dict of names and roles")
    return {str(k): parse_role(str(k), v, kinds, argument) for k, v in roles.items()}


def counted_from_end(name: str, dims: tuple[int, ...], num_dims: int) -> tuple[int, ...]:
    """Dimensions as negative numbers.

    Raises:
        ValueError: one does not exist.
    """
    for dim in dims:
        if not -num_dims <= dim < num_dims:
            raise ValueError(f"{name}: there is no dimension {dim} in {num_dims} dimensions")
    return tuple(dim - num_dims if dim >= 0 else dim for dim in dims)
