"""Which permutations a layer commutes with: declared, and measured."""

from tokennet.symmetry.declare import Symmetry, intersection
from tokennet.symmetry.measure import random_permutation, relabelling_error, shuffling_error

__all__ = [
    "Symmetry",
    "intersection",
    "random_permutation",
    "relabelling_error",
    "shuffling_error",
]
