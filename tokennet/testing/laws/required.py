"""The requirement "equivariant at least under G", G a group of space or of permutations.

`check(model, example, group=...)` asks it; `discover_group` and `discover_geometry` find all of G.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tokennet.testing.engine.wrapped import GradientOf
from tokennet.testing.example.case import Case
from tokennet.testing.example.inputs import Example
from tokennet.testing.geometry.laws import laws_of_group
from tokennet.testing.laws.equivariance import can_be_permuted, check_nodes
from tokennet.testing.laws.law import Law, Options, on_views, with_gradients
from tokennet.testing.report import SymmetryReport

PERMUTATIONS = "permutations"
"""The name of the law where the group is one of permutations of the tokens."""


def _cycle(n: int) -> list[int]:
    return [*range(1, n), 0]


TOKEN_GROUPS: dict[str, Callable[[int], list[list[int]] | None]] = {
    "S_n": lambda n: None,
    "A_n": lambda n: (
        [[1, 2, 0, *range(3, n)], _cycle(n) if n % 2 else [0, *range(2, n), 1]] if n > 2 else []
    ),
    "C_n": lambda n: [_cycle(n)],
    "D_n": lambda n: [_cycle(n), list(range(n))[::-1]],
}
"""Generators of groups of permutations of n tokens, by name; None for all permutations."""


def required_laws(group: Any) -> tuple[str, ...]:
    """The laws of a required group.

    Raises:
        TypeError, ValueError: there is no such group.

    >>> required_laws("E(3)"), required_laws([[1, 2, 0]])
    (('rotations', 'reflections', 'translations'), ('permutations',))
    """
    if isinstance(group, str) and group not in TOKEN_GROUPS:
        return laws_of_group(group)
    if not isinstance(group, str | Sequence):
        raise TypeError(f"group must be a name or a list of permutations, got {group!r}")
    return (PERMUTATIONS,)


def law_of_permutations(group: Any) -> Law:
    """The law that a model commutes with permutations of its tokens, at least with these.

    Args:
        group: "S_n", "A_n", "C_n" (the rotations of a ring), "D_n" of the tokens of each set, or
            a list of permutations of the tokens that generate it.

    >>> law_of_permutations("C_n").summary
    'the model commutes with C_n, permutations of the tokens'
    """

    def check(case: Case, options: Options, gradient: GradientOf | None) -> SymmetryReport:
        generators = _generators(group, case.example) if isinstance(group, str) else group
        return check_nodes(case, options, gradient, group=generators)

    name = group if isinstance(group, str) else "given generators"
    summary = f"the model commutes with {name}, permutations of the tokens"
    law = Law(summary, can_be_permuted, with_gradients(check))
    return on_views(law) if isinstance(group, str) else law


def _generators(group: str, example: Example) -> list[list[int]] | None:
    """Generators of a group of the tokens, of a ragged batch those of each set.

    Raises:
        ValueError: the sets have no such permutations.
    """
    n, membership = example.num_tokens, example.membership
    if membership is None:
        membership = getattr(example.actions[0], "membership", None)
        if group != "S_n" and membership is not None and len(membership.unique()) > 1:
            raise ValueError(
                f"group {group!r} needs sets of the same length, as the order of padding is fixed "
                "by lengths: give a mask, or sets without padding"
            )
    if group == "S_n":
        return None
    if membership is None:
        membership = torch.zeros(n, dtype=torch.long)
    found = []
    for number in membership.unique():
        own = (membership == number).nonzero().flatten().tolist()
        for generator in TOKEN_GROUPS[group](len(own)) or []:
            perm = list(range(n))
            for place, image in zip(own, generator, strict=True):
                perm[place] = own[image]
            found.append(perm)
    found = [perm for perm in found if perm != list(range(n))]
    if not found:
        raise ValueError(f"group {group!r} moves none of the {n} tokens")
    return found
