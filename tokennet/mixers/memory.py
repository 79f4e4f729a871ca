"""Attention that remembers the segment before."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.graphs.base import check_size
from tokennet.mixers.attention import Attention
from tokennet.mixers.place import Place
from tokennet.tokens import Tokens


class RecurrentAttention(Attention):
    """Attention to the segment at hand and to the last tokens of those before.

    Segment-level recurrence of Transformer-XL (Dai et al., 2019, arXiv 1901.02860): a long
    sequence is gone through by `step`, a segment at a time; keys and values of the last
    `memory` tokens are carried on, and no derivative goes back through them. A call without
    `step` is one segment. With `memory` for all that came before, and `detach=False`, steps in
    a row equal one call on the whole; token by token, they equal the graph
    `Causal(n) & Window(n, memory)`.

    Args:
        dim: channels D of tokens and output.
        heads: number of heads; divides `dim`.
        memory: tokens that are remembered.
        detach: whether derivatives stop at the memory.
        options: as for `Attention`; positions should be relative, as those of `position` are.

    >>> import torch
    >>> from tokennet import Causal
    >>> layer, state = RecurrentAttention(8, 2, memory=4), None
    >>> for start in (0, 6, 12):
    ...     segment = Tokens(torch.randn(6, 8))
    ...     out, state = layer.step(segment, Causal(start + 6).last(6), state)
    >>> [tuple(tensor.shape) for tensor in state]
    [(4, 2, 4), (4, 2, 4)]
    """

    def __init__(
        self, dim: int, heads: int = 8, *, memory: int, detach: bool = True, **options: Any
    ) -> None:
        super().__init__(dim, heads, **options)
        self.memory, self.detach = check_size("memory", memory), detach

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """Keys and values of the last `memory` tokens are the state."""
        out, state = super().step(tokens, graph, state, source)
        size = min(self.memory, state[0].shape[-3])
        kept = tuple(one.narrow(-3, one.shape[-3] - size, size) for one in state)
        return out, tuple(one.detach() for one in kept) if self.detach else kept

    def _remembered(
        self, state: list[Tensor], graph: TokenGraph
    ) -> tuple[Place | None, TokenGraph]:
        sources, graph = super()._remembered(state, graph)
        known = state[0].shape[-3]
        return sources, graph if known == graph.num_sources else graph.T.last(known).T
