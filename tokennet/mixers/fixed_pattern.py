"""Mixers with a fixed sparsity pattern: they connect tokens by their index."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from tokennet.graphs import Full, TokenGraph
from tokennet.mixers._ragged import set_by_set
from tokennet.mixers.base import Mixer
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class FixedPatternMixer(Mixer):
    """Base of mixers that connect tokens by their index, with weights that are parameters.

    Subclass it for layers such as a convolution, whose edges do not depend on the graph. A
    graph says which edges are allowed. So it is honored if it contains the pattern of the
    mixer, in each set of a ragged batch, and refused otherwise; further edges are not used.

    A subclass sets `pattern` and defines `mix_set`.

    Args:
        dim: number of channels D of the tokens.

    >>> import torch
    >>> from tokennet import Causal, Offsets
    >>> def previous(graph):
    ...     return Offsets(graph.num_sources, (-1,))
    >>> class Before(FixedPatternMixer):
    ...     pattern = (previous,)
    ...
    ...     def mix_set(self, z, graph):
    ...         return torch.cat([torch.zeros_like(z[..., :1, :]), z[..., :-1, :]], dim=-2)
    >>> Before(1)(torch.tensor([[1.0], [2.0], [3.0]]), graph=Causal(3)).flatten()
    tensor([0., 1., 2.])
    """

    symmetry = Symmetry({"index"})
    pattern: tuple[Any, ...]
    """(build, *args): `build(graph, *args)` is the graph of the mixer for a set like that of
    `graph`, or raises ValueError. A function of a module and hashable arguments, as for
    `graph.cached`: each graph is compared once with all mixers of the same pattern. Mixers with
    a `step` return the edges to its targets, the last tokens: `.last(graph.num_targets)`."""

    @abstractmethod
    def mix_set(self, z: Tensor, graph: TokenGraph) -> Tensor:
        """Tokens (..., n, D) of one set, or of several of one shape, to new tokens.

        The graph, or that of the first set, has been checked.
        """

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        return set_by_set(lambda _, z, part: self.mix_set(z, part), tokens.z, source.z, graph)

    def resolve(
        self, tokens: Tokens, source: Tokens | Tensor | None, graph: TokenGraph | None
    ) -> tuple[Tokens, TokenGraph]:
        if source is not None:
            raise ValueError(
                f"source must be left out: {type(self).__name__} mixes the tokens of one set"
            )
        return super().resolve(tokens, source, graph)

    def check_graph(self, graph: TokenGraph) -> None:
        """Raise ValueError if an edge of the pattern is no edge of `graph`."""
        for part in graph.parts:
            if not part.cached(_contains_pattern, *self.pattern):
                raise ValueError(
                    f"graph must be {self.pattern_for(part)._name()} or contain it: "
                    f"{type(self).__name__} has these edges whatever the graph; got {part!r}"
                )

    def pattern_for(self, graph: TokenGraph) -> TokenGraph:
        """The edges of the mixer for a set like that of `graph`."""
        build, *args = self.pattern
        return build(graph, *args)

    def pattern_edges(self, tokens: Tokens) -> int:
        """Number of edges of the mixer for all tokens given."""
        edges = sum(self.pattern_for(part).num_edges for part in tokens.graph.parts)
        return tokens.z.shape[:-2].numel() * edges


def _contains_pattern(graph: TokenGraph, build: Callable[..., TokenGraph], *args: Any) -> bool:
    needed = build(graph, *args)
    if (needed.num_targets, needed.num_sources) != (graph.num_targets, graph.num_sources):
        return False
    if needed.is_causal and graph.is_causal:
        return True  # by their formula, without a list of the edges
    return graph.contains(needed)


class AllToAll(FixedPatternMixer):
    """A mixer with weights between all pairs of exactly `num_tokens` tokens."""

    def __init__(self, dim: int, num_tokens: int) -> None:
        super().__init__(dim)
        self.num_tokens, self.pattern = num_tokens, (_all_to_all, num_tokens)


def _all_to_all(graph: TokenGraph, num_tokens: int) -> TokenGraph:
    return Full(num_tokens)
