"""Ragged batches set by set, for mixers whose result depends on a whole set."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.mixers.base import Mixer
from tokennet.ops.batching import sets_alike, stacked_sources, stacked_targets, unstacked

Mix = Callable[[Tensor, Tensor, TokenGraph], Tensor]
"""(..., n, D), (..., m, Ds) and the graph between them to (..., n, D)."""


def set_by_set(mix: Mix, z: Tensor, source: Tensor, graph: TokenGraph) -> Tensor:
    """Apply `mix` to every set of a ragged batch alone; sets of one shape form a batch.

    A graph that is not ragged is a single set. Sets on grids are of one shape if the grids
    are, other sets if they have the same number of tokens; `mix` is given the graph of the first.
    """
    if not graph.is_ragged:
        return mix(z, source, graph)
    sets = sets_alike(graph, z.device)
    targets = stacked_targets(z, sets, -2)  # (..., S, n, D) each
    sources = targets if source is z else stacked_sources(source, sets, -2)
    firsts = [graph.parts[alike.first] for alike in sets.shapes]
    return unstacked([*map(mix, targets, sources, firsts)], z[..., :0, :], sets, -2)


class CompleteMixer(Mixer):
    """Base of mixers in which every token receives from all of its set: on complete graphs."""

    def check_graph(self, graph: TokenGraph) -> None:
        if not graph.cached(_all_complete):
            part = next(part for part in graph.parts if not part.is_complete)
            raise ValueError(
                f"graph must be complete, set by set, for {type(self).__name__}, in which every "
                f"token receives from all; got {part!r}"
            )


def _all_complete(graph: TokenGraph) -> bool:
    return all(part.is_complete for part in graph.parts)
