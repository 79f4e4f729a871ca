"""Learned tokens that stand beside those of the data in some layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.graphs.prefix import prefixed
from tokennet.layer import TokenLayer, check_step
from tokennet.nets.net import TokenNet
from tokennet.nets.prepend import DropTokens, PrependTokens
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class MemoryTokens(TokenLayer):
    """Learned tokens are put before the tokens, go through layers with them, and are taken off.

    `PrependTokens`, the layers, `DropTokens`: memory of Burtsev et al., 2020
    (arXiv 2006.11527), registers of Darcet et al., 2023 (arXiv 2309.16588). All tokens listen
    to the memory, whatever the graph, and the memory to all tokens, so that two layers take
    anything anywhere. With `listening=False` it does not: what it says is learned only, and
    causal graphs stay causal. Each set of a ragged batch has the memory to itself.

    Args:
        layers: a layer, or a net of several without a readout.
        dim: channels D of the tokens.
        count: number of memory tokens.
        listening: whether the memory listens to the tokens.

    Raises:
        ValueError: the memory would listen on a causal graph.

    >>> import torch
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
        self.memory = PrependTokens(dim, count, listening=listening)
        self.layers, self.drop = layers, DropTokens(count)

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
        longer = self.layers(self.memory(tokens), *given)
        return tokens.replace(z=self.drop(longer).z)  # type: ignore[union-attr]

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The memory goes first, at the first step; states of the layers are the state.

        Raises:
            TypeError: the memory listens, to tokens that are not there yet.
        """
        if self.memory.listening:
            raise TypeError(
                "MemoryTokens does not support incremental decoding: the memory attends to all"
            )
        count, dim = self.memory.vectors.shape
        check_step(tokens, graph, dim)
        first = state is None
        longer = prefixed(graph, count, attend_to_all=False, as_targets=first)
        given = self.memory.join(tokens) if first else tokens
        out, state = self.layers.step(given, longer, state, source)
        return tokens.replace(z=out.z[..., count:, :] if first else out.z), state

    def flops(self, tokens: Tokens, *source: Any) -> int:
        return self.layers.flops(self.memory(tokens), *source)
