"""Permutation groups of tokens: of a graph, of a model, by generators and by name."""

from tokennet.testing.groups.discovery import GroupReport, discover_group
from tokennet.testing.groups.graph_automorphisms import automorphisms, automorphisms_of_coloring
from tokennet.testing.groups.naming import name
from tokennet.testing.groups.permutations import Permutation, contains, orbits, order, sample

__all__ = [  # noqa: RUF022  in groups, as one reads them
    "GroupReport", "discover_group", "automorphisms", "automorphisms_of_coloring",
    "Permutation", "contains", "name", "orbits", "order", "sample",
]  # fmt: skip
