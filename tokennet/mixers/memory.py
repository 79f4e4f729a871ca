"""Attention to a segment and to the last tokens before it, for long sequences."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokennet.checks import check_size, checked
from tokennet.graphs import TokenGraph
from tokennet.mixers._decoding import State
from tokennet.mixers._positions import Positions
from tokennet.mixers.attention import Attention
from tokennet.tokens import Tokens


class RecurrentAttention(Attention):
    """Attention to a segment and to the last tokens before it, for sequences of any length.

    Segment-level recurrence of Transformer-XL (Dai et al., 2019, arXiv 1901.02860): `step`
    runs a long sequence a segment at a time; keys and values of the last `memory` tokens are
    kept, and no derivative goes back through them. A call without `step` is one segment. A
    step refuses a graph with edges to tokens that are not kept; `remembering` leaves them out.
    So values of successive steps are those of one call on the same edges: all of `Causal(n)`
    with `memory` for all that came before, or, token by token, `Causal(n) & Window(n, memory)`.
    Derivatives are the same too with `detach=False`.

    Args:
        dim: channels D of tokens and output.
        num_heads: number of heads; divides `dim`.
        memory: number of tokens that are kept.
        detach: whether derivatives stop at the memory.
        options: as for `Attention`; positions should be relative, as those of `position` are.

    >>> import torch
    >>> from tokennet import Causal
    >>> layer, state = RecurrentAttention(8, 2, memory=4), None
    >>> for start in (0, 6, 12):
    ...     segment = Tokens(torch.randn(6, 8))
    ...     graph = layer.remembering(Causal(start + 6).last(6))
    ...     out, state = layer.step(segment, graph, state)
    >>> [tuple(tensor.shape) for tensor in state]
    [(4, 2, 4), (4, 2, 4)]
    """

    @checked(memory=0)
    def __init__(
        self, dim: int, num_heads: int = 8, *, memory: int, detach: bool = True, **options: Any
    ) -> None:
        super().__init__(dim, num_heads, **options)
        self.memory, self.detach = check_size("memory", memory), detach

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """Keys and values of the last `memory` tokens are the state.

        Raises:
            ValueError: `graph` has an edge to a token that is not kept.
        """
        out, state = super().step(tokens, graph, state, source)
        size = min(self.memory, state[0].shape[-3])
        kept = tuple(tensor.narrow(-3, tensor.shape[-3] - size, size) for tensor in state)
        return out, tuple(tensor.detach() for tensor in kept) if self.detach else kept

    def remembering(self, graph: TokenGraph) -> TokenGraph:
        """The graph of a step without edges to the tokens that are not kept.

        >>> from tokennet import Causal
        >>> layer = RecurrentAttention(8, 2, memory=1)
        >>> layer.remembering(Causal(5).last(2)).dense().int().tolist()
        [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
        """
        known = graph.num_targets + self.memory
        if known >= graph.num_sources:
            return graph
        return graph & _LastSources(graph.num_targets, graph.num_sources, known)

    def kept_sources(self, state: State, graph: TokenGraph) -> tuple[Positions | None, TokenGraph]:
        sources, graph = super().kept_sources(state, graph)
        known = state[0].shape[-3]
        if known == graph.num_sources:
            return sources, graph
        kept = graph.T.last(known).T
        if kept.num_edges != graph.num_edges:
            raise ValueError(
                f"graph must have no edge to tokens that are not kept, all but the last {known}; "
                f"give remembering(graph), got {graph!r}"
            )
        return sources, kept


class _LastSources(TokenGraph):
    """All targets attend to the last `count` sources."""

    def __init__(self, num_targets: int, num_sources: int, count: int) -> None:
        super().__init__(num_targets, num_sources)
        self.count = count

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return (j >= self.num_sources - self.count) & (i >= 0)

    def _name(self) -> str:
        return f"last {self.count} sources"
