"""`Symmetry`: what a layer declares to read, and the permutations it commutes with."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from tokennet.checks import check_items
from tokennet.tokens import Tokens

READABLE = ("graph", "pos", "index")


@dataclass(frozen=True)
class Symmetry:
    """The permutations a layer commutes with, given by what it reads besides `z`.

    Set it as the class attribute `symmetry` of a layer. A layer that reads nothing but z commutes
    with every permutation of the tokens. Each further thing that it reads leaves only the
    permutations that keep that thing as it is:

    - `"graph"`: which token attends to which (attention on a graph, message passing),
    - `"pos"`: `tokens.pos` (positional encodings made from content),
    - `"index"`: the index of a token in the array (learned tables, MLP-Mixer).

    Two actions tell them apart. *Relabeling* moves z, graph and pos together, so that
    only reading the index can break it. *Shuffling* moves z alone.

    >>> attention, table = Symmetry({"graph"}), Symmetry({"index"})
    >>> attention.relabeling, attention.shuffling
    ('S_n', 'Aut(graph)')
    >>> (attention & table).relabeling
    'trivial'
    """

    reads: Set[str] = frozenset()

    def __post_init__(self) -> None:
        reads = check_items("reads", self.reads, str, "names")
        object.__setattr__(self, "reads", frozenset(reads))
        unknown = sorted(self.reads - set(READABLE))
        if unknown:
            raise ValueError(f"reads must be among {READABLE}, got {unknown}")

    def __and__(self, other: Symmetry) -> Symmetry:
        """Intersection: what a net of both layers commutes with."""
        return Symmetry(self.reads | other.reads)

    @property
    def relabeling(self) -> str:
        """The group under which f(P tokens) = P f(tokens), all parts of tokens moved."""
        return "trivial" if "index" in self.reads else "S_n"

    @property
    def shuffling(self) -> str:
        """The group under which f commutes with moving z alone."""
        if "index" in self.reads:
            return "trivial"
        if not self.reads:
            return "S_n"
        return f"Aut({', '.join(sorted(self.reads))})"

    def on(self, tokens: Tokens) -> Symmetry:
        """The symmetry on given tokens: reading a complete graph or absent positions is harmless.

        In a ragged batch, permutations are those within each set.
        """
        invisible = set()
        if all(part.is_full for part in tokens.graph.parts):
            invisible.add("graph")
        if tokens.pos is None:
            invisible.add("pos")
        return Symmetry(self.reads - invisible)

    def __str__(self) -> str:
        return f"relabeling {self.relabeling}, shuffling {self.shuffling}"


def intersection(symmetries: Iterable[Symmetry]) -> Symmetry:
    """Symmetry of layers in sequence: the permutations that all of them commute with.

    >>> str(intersection([Symmetry({"graph"}), Symmetry({"pos"})]))
    'relabeling S_n, shuffling Aut(graph, pos)'
    """
    return Symmetry(frozenset().union(*(symmetry.reads for symmetry in symmetries)))
