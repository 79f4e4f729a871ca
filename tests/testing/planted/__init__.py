"""Models with one planted bug each, and models without, to hold a law checker to."""

from tests.testing.planted import (
    batches,
    causal,
    graphs,
    masks,
    obedient,
    sequences,
    sets,
    truthful,
)
from tests.testing.planted.base import Planted, Truthful, bug_line

BUGS: list[Planted] = [
    *sequences.ORDERED,
    *causal.CAUSAL,
    *sets.MIXED_UP,
    *sets.LEAKS,
    *sets.RANDOM,
    *masks.PADDING,
    *masks.NOTHING_THERE,
    *graphs.EDGES,
    *graphs.NODES,
    *batches.BATCHES,
]

TRUTHFUL: list[Truthful] = [
    *truthful.SETS_OBEY,
    *obedient.MASKS_OBEY,
    *obedient.GRAPHS_OBEY,
    *obedient.TOKENS_OBEY,
]

__all__ = ["BUGS", "TRUTHFUL", "Planted", "Truthful", "bug_line"]
