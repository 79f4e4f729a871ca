"""Permutation groups of tokens: of a graph, of a model, by generators and by name."""

from tokennet.symmetry.groups.automorphisms import automorphisms, automorphisms_of_colouring
from tokennet.symmetry.groups.discover import GroupReport, discover_group
from tokennet.symmetry.groups.naming import name
from tokennet.symmetry.groups.permutations import Permutation, contains, orbits, order, sample

__all__ = [
    "GroupReport",
    "Permutation",
    "automorphisms",
    "automorphisms_of_colouring",
    "contains",
    "discover_group",
    "name",
    "orbits",
    "order",
    "sample",
]
