"""Permutation groups of tokens: of a graph, of a model, by generators and by name."""

from tokennet.testing.groups.discovery import GroupReport, discover_group
from tokennet.testing.groups.graph_automorphisms import automorphisms, automorphisms_of_coloring
from tokennet.testing.groups.naming import name
from tokennet.testing.groups.permutations import Permutation, contains, orbits, order, sample

__all__ = [
    "GroupReport",
    "Permutation",
    "automorphisms",
    "automorphisms_of_coloring",
    "contains",
    "discover_group",
    "name",
    "orbits",
    "order",
    "sample",
]
