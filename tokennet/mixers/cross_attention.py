"""Attention to another set only."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.layer import check_step
from tokennet.mixers.attention import Attention, map_flops
from tokennet.tokens import Tokens


class CrossAttention(Attention):
    """Attention to another set only: what a decoder asks of an encoder.

    In a `TokenNet` it listens to the net's `source`. Arguments as for `Attention`.

    Raises:
        ValueError: called without `source`.

    >>> import torch
    >>> CrossAttention(32, num_heads=4)(torch.zeros(2, 10, 32), torch.zeros(2, 7, 32)).shape
    torch.Size([2, 10, 32])
    """

    needs_source = True

    def resolve(
        self, tokens: Tokens, source: Tokens | Tensor | None, graph: TokenGraph | None
    ) -> tuple[Tokens, TokenGraph]:
        if source is None:
            raise ValueError("source must be given: CrossAttention listens to another set only")
        return super().resolve(tokens, source, graph)

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The keys and values of the source, computed once, are the state."""
        check_step(tokens, graph, self.dim)
        source, between = self.resolve(tokens, source, None)
        _, sources = self._places(tokens, source, between)
        score = self.score
        if state is None:
            state = self._keys(score, source.z, sources), self._heads(self.value(source.z))
        targets = self._last_places(tokens, graph)
        q, (k, v) = self._queries(score, tokens.z, targets), state
        return tokens.replace(z=self._attend(score, q, k, v, between, targets, sources)), state

    def flops(self, tokens: Tokens, source: Tokens | Tensor | None = None) -> int:
        """As for `Attention`, on the complete graph from tokens to source."""
        asked, graph = self.resolve(tokens, source, None)
        batch, edges = tokens.z.shape[:-2].numel(), graph.num_edges
        return (
            sum(map_flops(module, tokens.z) for module in (self.query, self.out))
            + sum(map_flops(module, asked.z) for module in (self.key, self.value))
            + batch * edges * 4 * self.dim
            + batch * self.score.flops(tokens.num_tokens, edges, self.dim)
        )
