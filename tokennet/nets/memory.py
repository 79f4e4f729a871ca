"""Learned tokens beside those of the data."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.graphs import Disjoint, TokenGraph
from tokennet.graphs.base import check_size
from tokennet.graphs.prefix import prefixed
from tokennet.layer import TokenLayer, check_step
from tokennet.nets.class_tokens import check_no_leak
from tokennet.nets.net import TokenNet
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class MemoryTokens(TokenLayer):
    """Learned tokens are put before the tokens, go through layers with them, and are taken off.

    Memory of Burtsev et al., 2020 (arXiv 2006.11527), registers of Darcet et al., 2023
    (arXiv 2309.16588). All tokens listen to the memory, whatever the graph, and the memory to
    all tokens, so that two layers take anything anywhere. With `listening=False` it does
    not: what it says is learned only, and causal graphs stay causal. Each set of a ragged
    batch has the memory to itself; with positions, it is at the centre of the set.

    Args:
        layers: a layer, or a net of several without a readout.
        dim: channels D of the tokens.
        count: number of memory tokens.
        listening: whether the memory listens to the tokens.

    Raises:
        ValueError: the memory would listen on a causal graph, or on one that has features of
            edges, which the edges of the memory lack.

    >>> from tokennet import Attention, Window
    >>> net = TokenNet([Attention(8, 2), Attention(8, 2)])
    >>> MemoryTokens(net, 8, count=2)(Tokens(torch.zeros(3, 6, 8), Window(6, 1)))
    Tokens(z=(3, 6, 8), graph=Window(6, radius=1): 6 tokens, 16 edges, density 0.444)
    """

    def __init__(
        self, layers: TokenLayer | TokenNet, dim: int, count: int, *, listening: bool = True
    ) -> None:
        super().__init__()
        if isinstance(layers, TokenNet) and layers.readout is not None:
            raise ValueError("layers must give tokens: the net has a readout")
        self.layers, self.listening = layers, listening
        self.memory = nn.Parameter(torch.randn(check_size("count", count), dim) * dim**-0.5)

    @property
    def symmetry(self) -> Symmetry:  # type: ignore[override]
        return self.layers.symmetry

    @property
    def needs_source(self) -> bool:  # type: ignore[override]
        return self.layers.needs_source

    @property
    def takes_source(self) -> bool:  # type: ignore[override]
        return self.needs_source

    def transform(self, tokens: Tokens, source: Tokens | Tensor | None = None) -> Tokens:
        given = (source,) if self.needs_source else ()
        return self._without(self.layers(self._with(tokens), *given), tokens)

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The memory goes first, at the first step; states of the layers are the state.

        Raises:
            TypeError: the memory listens, to tokens that are not there yet.
        """
        if self.listening:
            raise TypeError("MemoryTokens cannot be run step by step: the memory listens to all")
        check_step(tokens, graph, self.memory.shape[-1])
        count, first = len(self.memory), state is None
        longer = prefixed(graph, count, False, among_targets=first)
        given = self._before(tokens) if first else tokens
        out, state = self.layers.step(given, longer, state, source)
        return tokens.replace(z=out.z[..., count:, :] if first else out.z), state

    def flops(self, tokens: Tokens, *source: Any) -> int:
        return self.layers.flops(self._with(tokens), *source)

    def _with(self, tokens: Tokens) -> Tokens:
        graph, count = tokens.graph, len(self.memory)
        build = partial(_checked_prefix, count, self.listening)
        longer = graph.derive(f"with memory {count} {self.listening}", None, build)
        if not isinstance(graph, Disjoint) or not graph.graphs:
            given = self._before(tokens)
            return given if isinstance(graph, Disjoint) else given.replace(graph=longer)
        parts = [self._before(part) for part in tokens.unbatch()]
        z = torch.cat([part.z for part in parts], dim=-2)
        pos = None if tokens.pos is None else torch.cat([part.pos for part in parts], dim=-2)  # type: ignore[misc]
        return Tokens(z, longer, pos)

    def _before(self, tokens: Tokens) -> Tokens:
        """One set with the memory before it, on a complete graph."""
        z, pos = tokens.z, tokens.pos
        memory = self.memory.to(z.dtype).expand(*z.shape[:-2], -1, -1)
        if pos is not None:
            centre = pos.double().sum(-2, keepdim=True) / max(tokens.num_tokens, 1)
            centre = centre if pos.is_floating_point() else centre.round()
            centre = centre.to(pos.dtype).expand(*pos.shape[:-2], len(self.memory), -1)
            pos = torch.cat([centre, pos], dim=-2)
        return Tokens(torch.cat([memory, z], dim=-2), pos=pos)

    def _without(self, longer: Tokens, tokens: Tokens) -> Tokens:
        count = len(self.memory)
        if not isinstance(longer.graph, Disjoint) or not longer.graph.graphs:
            return tokens.replace(z=longer.z[..., count:, :])
        sets = [part.z[..., count:, :] for part in longer.unbatch()]
        return tokens.replace(z=torch.cat(sets, dim=-2))


def _checked_prefix(count: int, listening: bool, graph: TokenGraph) -> TokenGraph:
    if getattr(graph, "edge_attr", None) is not None:
        raise ValueError(f"graph must have no edge_attr, which edges to memory lack; got {graph!r}")
    if listening and count:
        check_no_leak(graph, "memory", "listening=False")
    return prefixed(graph, count, listening)
