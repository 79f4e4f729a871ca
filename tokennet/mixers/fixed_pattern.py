"""Mixers with connections of their own, which a graph allows or does not."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from tokennet.graphs import Full, TokenGraph
from tokennet.mixers.base import Mixer
from tokennet.mixers.ragged import set_by_set
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class FixedPatternMixer(Mixer):
    """A mixer that connects tokens by their places, whatever the graph: weights are parameters.

    A graph says who may listen to whom. So it is honored if all connections of the mixer are
    among its edges, in each set of a ragged batch, and refused otherwise. The mixer makes no
    use of further edges.

    A subclass defines `connections` and `mix_set`.

    Args:
        dim: number of channels D of the tokens.

    >>> import torch
    >>> from tokennet import Causal, Offsets
    >>> class Before(FixedPatternMixer):
    ...     def connections(self, graph):
    ...         return Offsets(graph.num_sources, (-1,))
    ...
    ...     def mix_set(self, z, graph):
    ...         return torch.cat([torch.zeros_like(z[..., :1, :]), z[..., :-1, :]], dim=-2)
    >>> Before(1)(torch.tensor([[1.0], [2.0], [3.0]]), graph=Causal(3)).flatten()
    tensor([0., 1., 2.])
    """

    symmetry = Symmetry({"index"})

    def __init__(self, dim: int, source_dim: int | None = None) -> None:
        super().__init__(dim, source_dim)
        self.wiring: str | None = None
        """Says which connections, so that a graph is looked at once for all mixers of a class
        that have the same; None to look at it in every call."""

    @abstractmethod
    def connections(self, graph: TokenGraph) -> TokenGraph:
        """Who listens to whom among as many tokens as one set on `graph` has.

        Raises:
            ValueError: the mixer has none for such a set.
        """

    @abstractmethod
    def mix_set(self, z: Tensor, graph: TokenGraph) -> Tensor:
        """Tokens (..., n, D) of one set, or of several of one shape, to as many.

        The graph, or that of one of them, has been checked.
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
        """Raise ValueError if a connection of the mixer is no edge of `graph`.

        In a step the graph has the new tokens as targets and all so far as sources.
        """
        for part in graph.parts:
            if not self._is_allowed_by(part):
                needed = self.connections(part)
                raise ValueError(
                    f"graph must be {needed._name()} or contain it: {type(self).__name__} has "
                    f"these connections whatever the graph; got {part!r}"
                )

    def _is_allowed_by(self, graph: TokenGraph) -> bool:
        return self._is_contained_in(graph)

    def _is_contained_in(self, graph: Any) -> bool:
        needed = self.connections(graph)
        if needed.num_sources != graph.num_sources or graph.num_targets > graph.num_sources:
            return False
        return graph.contains(needed.last(graph.num_targets))


class AllToAll(FixedPatternMixer):
    """A mixer with weights between all pairs of exactly `num_tokens` tokens."""

    def __init__(self, dim: int, num_tokens: int) -> None:
        super().__init__(dim)
        self.num_tokens = num_tokens
        self.wiring = f"all to all {num_tokens}"

    def connections(self, graph: TokenGraph) -> TokenGraph:
        return Full(self.num_tokens)
