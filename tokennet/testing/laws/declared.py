"""`check_declared`: the symmetry that a layer declares against the group that is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokennet.nets.compose import complete
from tokennet.symmetry import Symmetry
from tokennet.testing.engine.actions import Invariant, Permute
from tokennet.testing.engine.graph_actions import Relabel, Shuffle
from tokennet.testing.groups.discovery import GroupReport, discover_group
from tokennet.testing.groups.graph_automorphisms import automorphisms
from tokennet.testing.groups.permutations import Permutation, order
from tokennet.testing.laws.equivariance import check_equivariance
from tokennet.testing.report import SymmetryReport, Verdict
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class DeclaredReport:
    """Whether a layer has the symmetry that it declares, or more. Made by `check_declared`.

    Attributes:
        laws: verdicts on relabeling and shuffling, where a group is declared for them.
        declared_order: elements of the group declared for shuffling on these tokens.
        measured: the group found, None where the search was left out.
    """

    declared: Symmetry
    laws: dict[str, SymmetryReport]
    declared_order: int
    measured: GroupReport | None = None

    @property
    def holds(self) -> bool:
        """Whether declared is contained in measured."""
        return all(law.verdict in (Verdict.PASS, Verdict.VACUOUS) for law in self.laws.values())

    @property
    def larger(self) -> bool:
        """Whether the measured group is strictly larger than the declared one."""
        return self.measured is not None and self.measured.order > self.declared_order

    def __str__(self) -> str:
        measured = "" if self.measured is None else f"; measured {self.measured}"
        larger = ", more than declared" if self.larger else ""
        lines = [f"declared {self.declared} of order {self.declared_order}{measured}{larger}"]
        lines += [str(law) for law in self.laws.values() if law.verdict is not Verdict.PASS]
        return "\n".join(lines)


def check_declared(
    layer: Callable[[Tokens], Any],
    tokens: Tokens,
    *,
    pooled: bool = False,
    discover: bool = True,
    seed: int = 0,
) -> DeclaredReport:
    """Hold the `symmetry` that a layer declares against what it does on given tokens.

    For tests of a layer that declares one: declared must be contained in measured.

    Relabeling is checked with random permutations, shuffling with the generators of the
    declared group: the automorphisms of what the layer reads of the tokens.

    Args:
        layer: with an attribute `symmetry`, from `Tokens` to `Tokens` or a tensor.
        pooled: the output has no dimension of tokens.
        discover: also find the group that the layer has.

    Raises:
        TypeError: the layer declares no symmetry.

    >>> import torch
    >>> from tokennet import Attention, Cycle
    >>> report = check_declared(Attention(4, num_heads=2), Tokens(torch.randn(6, 4), Cycle(6, 1)))
    >>> report.holds, report.larger, report.measured.name
    (True, False, 'D_6')
    """
    symmetry = getattr(layer, "symmetry", None)
    if not isinstance(symmetry, Symmetry):
        raise TypeError(f"layer must have a symmetry that it declares, got {type(layer).__name__}")
    declared = symmetry.on(tokens)
    options: dict[str, Any] = {"out_action": Invariant() if pooled else Permute(-2), "seed": seed}
    generators = _generators(declared, tokens)
    laws = {}
    if declared.relabeling == "S_n" and tokens.num_tokens > 1:
        laws["relabeling"] = check_equivariance(layer, tokens, in_action=Relabel(), **options)
    if generators:
        laws["shuffling"] = check_equivariance(
            layer, tokens, group=generators, in_action=Shuffle(), **options
        )
    size = order(generators, tokens.num_tokens)
    out_dim = None if pooled else -2
    measured = discover_group(layer, tokens, out_dim=out_dim, seed=seed) if discover else None
    return DeclaredReport(declared, laws, size, measured)


def _generators(declared: Symmetry, tokens: Tokens) -> list[Permutation]:
    """Generators of the group declared for shuffling."""
    if "index" in declared.reads:
        return []
    graph = tokens.graph if "graph" in declared.reads else complete(tokens.graph)
    if "pos" not in declared.reads or tokens.pos is None:
        return automorphisms(graph)
    return automorphisms(graph, tokens.pos.movedim(-2, 0).flatten(1))
