"""Attention to another set only."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.layer import check_step
from tokennet.mixers._positions import last_positions, positions_of
from tokennet.mixers.attention import Attention
from tokennet.tokens import Tokens


class CrossAttention(Attention):
    """Attention to another set only, as a decoder needs it to read the output of an encoder.

    In a `TokenNet` it attends to the net's `source`; use `Attention` where the source may be
    left out. Arguments as for `Attention`.

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
            raise ValueError("source must be given: CrossAttention attends to another set only")
        return super().resolve(tokens, source, graph)

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The keys and values of the source, computed once, are the state."""
        check_step(tokens, graph, self.dim)
        source, between = self.resolve(tokens, source, None)
        targets = sources = None
        if self.reads_positions:
            _, sources = positions_of(self.position, tokens, source, between)
            targets = last_positions(self.position, tokens, graph)
        if state is None:
            state = self.keys(source.z, sources), self.values(source.z)
        q, (k, v) = self.queries(tokens.z, targets), state
        return tokens.replace(z=self.attend(q, k, v, between, targets, sources, tokens.z)), state
