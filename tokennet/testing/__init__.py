"""Laws for any model of tokens: `check` says which it obeys, and where in the code it breaks one.

`parametrize_with_checks` makes a test suite of them (needs pytest), `tokennet.testing.strategies`
draws inputs (needs hypothesis). The `check_...` functions hold a model to one law with options
of your own, the `assert_...` functions raise where it does not PASS.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokennet.testing._check import LawReport, applicable_laws, check
from tokennet.testing.engine.actions import (
    Action,
    AsSet,
    Conjugate,
    Invariant,
    Permute,
    PermutePart,
    PermuteWithin,
    RelabelEdges,
)
from tokennet.testing.engine.draws import Draw, Draws
from tokennet.testing.engine.graph_actions import Relabel, ReorderEdges, Shuffle, random_permutation
from tokennet.testing.engine.wrapped import GradientOf
from tokennet.testing.geometry import GeometryReport, check_group, discover_geometry
from tokennet.testing.groups import GroupReport, automorphisms, discover_group
from tokennet.testing.laws import LAWS
from tokennet.testing.laws.batch import assert_batch_independent, check_batch
from tokennet.testing.laws.declared import DeclaredReport, check_declared
from tokennet.testing.laws.dependency import (
    assert_causal,
    assert_dependency,
    check_dependency,
    dependency_matrix,
)
from tokennet.testing.laws.equivariance import (
    assert_automorphism_equivariant,
    assert_equivariant,
    assert_invariant,
    assert_relabeling_equivariant,
    assert_set_to_set,
    check_equivariance,
)
from tokennet.testing.laws.finiteness import check_finite
from tokennet.testing.laws.padding import assert_padding_ignored, check_padding
from tokennet.testing.lie import (
    LieError,
    LieGenerator,
    ShiftTable,
    lie_contributions,
    lie_error,
    lie_errors_by_layer,
    shift_table,
)
from tokennet.testing.measure import relabeling_error, shuffling_error
from tokennet.testing.report import Counterexample, Location, SymmetryReport, Verdict

if TYPE_CHECKING:
    from tokennet.testing.parametrize import parametrize_with_checks

__all__ = [  # noqa: RUF022  in groups, as one reads them
    # the verdict on a model
    "LAWS", "LawReport", "applicable_laws", "check", "parametrize_with_checks",
    "Counterexample", "Location", "SymmetryReport", "Verdict",
    # one law, with options of your own
    "DeclaredReport", "check_batch", "check_declared", "check_dependency", "check_equivariance",
    "check_finite", "check_padding", "dependency_matrix", "relabeling_error", "shuffling_error",
    "assert_automorphism_equivariant", "assert_batch_independent", "assert_causal",
    "assert_dependency", "assert_equivariant", "assert_invariant", "assert_padding_ignored",
    "assert_relabeling_equivariant", "assert_set_to_set",
    # how permutations act
    "Action", "AsSet", "Conjugate", "Draw", "Draws", "GradientOf", "Invariant", "Permute",
    "PermutePart", "PermuteWithin", "Relabel", "RelabelEdges", "ReorderEdges", "Shuffle",
    "random_permutation",
    # groups, and flows of space
    "GeometryReport", "GroupReport", "automorphisms", "check_group", "discover_geometry",
    "discover_group",
    "LieError", "LieGenerator", "ShiftTable", "lie_contributions", "lie_error",
    "lie_errors_by_layer", "shift_table",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what needs pytest only where it is used."""
    if name == "parametrize_with_checks":
        return importlib.import_module("tokennet.testing.parametrize").parametrize_with_checks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
