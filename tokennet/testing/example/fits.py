"""Whether an input fits the role that it is said to have: errors name the input and its shape."""

from __future__ import annotations

import math

from torch import Tensor

from tokennet.testing.example.forms import Leaf, bounds_in, members_of
from tokennet.testing.example.guess import Found, is_integer
from tokennet.testing.example.roles import Kind, Role
from tokennet.testing.example.values import describe


def check_members(leaf: Leaf, kind: Kind, found: Found) -> None:
    """Refuse what does not say which tokens of a set are in a set of a batch.

    Raises:
        ValueError: its shape or numbers do not fit the tokens, or the last set is empty, so that
            the tokens do not tell how many there are.
    """
    value, name, n = leaf.value, leaf.name, found.size
    label, own = f"roles[{name!r}] is {kind}", f"{describe(value)} for {n} tokens of {found.name}"
    if kind is Kind.MEMBERSHIP:
        if not is_integer(value) or value.shape != (n,):
            also = bounds_in(value, n)
            hint = f"; pass {_ROLES[also]!r}" if also else ""
            raise ValueError(f"{label}: it must have an integer for each token, got {own}{hint}")
        return
    if kind is Kind.LENGTHS and len(found.lead) > 1:
        if not is_integer(value) or value.shape != found.batch or int(value.max()) > n:
            raise ValueError(f"{label}: it must have at most {n} for each set, got {own}")
        return
    form = bounds_in(value, n)
    if not form or _ROLES[form] != kind:
        wanted = f"sum to {n}" if kind is Kind.LENGTHS else f"rise from 0 to {n}"
        hint = f"; pass {_ROLES[form]!r}" if form else ""
        numbers = value.tolist() if isinstance(value, Tensor) and value.numel() < 9 else own
        raise ValueError(f"{label}: its integers must {wanted}, got {numbers}{hint}")
    members = members_of(value, form, n)
    count = len(value) - (form == "ptr")
    if not n or int(members[-1]) + 1 < count:
        raise ValueError(f"{name}: the last of {count} sets is empty; take an example in which "
                         "another is")  # fmt: skip


_ROLES = {"ptr": Kind.PTR.value, "starts": Kind.PTR.value, "lengths": Kind.LENGTHS.value}


def check_sizes(leaf: Leaf, role: Role, known: dict[str, Found]) -> None:
    """Refuse an input without an entry for each token, or for each pair.

    Raises:
        ValueError: a dimension has another size than there are tokens.
    """
    value, own = leaf.value, role.sets * 2 if len(role.sets) == 1 else role.sets
    if not isinstance(value, Tensor) or not (role.kind.moves or role.kind is Kind.PAIRS):
        return
    given: list[tuple[tuple[int, ...], str]] = [(role.dims or (-1,), own[0])]
    if role.kind is Kind.PAIRS:
        given = [((dim,), name) for dim, name in zip(role.dims, own, strict=True)]
    for dims, name in given:
        size = math.prod(value.shape[dim] for dim in dims)
        if size != known[name].size:
            raise ValueError(
                f"roles[{leaf.name!r}] is {role.kind}: dimension {', '.join(map(str, dims))} must "
                f"have the {known[name].size} tokens of {name}, got {size} in {describe(value)}"
            )
