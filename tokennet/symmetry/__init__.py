"""Which permutations a layer commutes with: declared, measured, checked and discovered."""

from tokennet.symmetry.actions import (
    Action,
    Conjugate,
    Invariant,
    Permute,
    PermuteWithin,
    RelabelEdges,
)
from tokennet.symmetry.declare import Symmetry, intersection
from tokennet.symmetry.graph_actions import Relabel, ReorderEdges, Shuffle, random_permutation
from tokennet.symmetry.groups import GroupReport, automorphisms, discover_group
from tokennet.symmetry.laws.declared import DeclaredReport, check_declared
from tokennet.symmetry.laws.dependency import (
    assert_causal,
    assert_dependency,
    check_dependency,
)
from tokennet.symmetry.laws.equivariance import (
    assert_automorphism_equivariant,
    assert_equivariant,
    assert_invariant,
    assert_relabelling_equivariant,
    assert_set_to_set,
    check_equivariance,
)
from tokennet.symmetry.laws.finite import check_finite
from tokennet.symmetry.laws.influence import dependency_matrix
from tokennet.symmetry.laws.isolation import (
    assert_batch_independent,
    assert_padding_ignored,
    check_batch,
    check_padding,
)
from tokennet.symmetry.lie import (
    LieError,
    LieGenerator,
    ShiftTable,
    lie_contributions,
    lie_error,
    lie_errors_by_layer,
    shift_table,
)
from tokennet.symmetry.measure import relabelling_error, shuffling_error
from tokennet.symmetry.report import Location, SymmetryReport, Verdict, Witness
from tokennet.symmetry.trial.gradient import GradientOf

__all__ = [
    "Action",
    "Conjugate",
    "DeclaredReport",
    "GradientOf",
    "GroupReport",
    "Invariant",
    "LieError",
    "LieGenerator",
    "Location",
    "Permute",
    "PermuteWithin",
    "Relabel",
    "RelabelEdges",
    "ReorderEdges",
    "ShiftTable",
    "Shuffle",
    "Symmetry",
    "SymmetryReport",
    "Verdict",
    "Witness",
    "assert_automorphism_equivariant",
    "assert_batch_independent",
    "assert_causal",
    "assert_dependency",
    "assert_equivariant",
    "assert_invariant",
    "assert_padding_ignored",
    "assert_relabelling_equivariant",
    "assert_set_to_set",
    "automorphisms",
    "check_batch",
    "check_declared",
    "check_dependency",
    "check_equivariance",
    "check_finite",
    "check_padding",
    "dependency_matrix",
    "discover_group",
    "intersection",
    "lie_contributions",
    "lie_error",
    "lie_errors_by_layer",
    "random_permutation",
    "relabelling_error",
    "shift_table",
    "shuffling_error",
]
