"""`MemoryTokens`: learned tokens that are added for some layers and removed after them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokennet.checks import checked
from tokennet.graphs import TokenGraph
from tokennet.graphs.prefix import prefixed
from tokennet.layer import IncrementalDecodingError, TokenLayer, check_step
from tokennet.nets.net import TokenNet
from tokennet.nets.prepend import DropTokens, PrependTokens
from tokennet.tokens import Tokens


class MemoryTokens(TokenLayer):
    """Learned tokens are added before the tokens, pass through layers with them, and are removed.

    Use it for a memory or for registers: `PrependTokens`, the layers, `DropTokens`. Burtsev et
    al., 2020 (arXiv 2006.11527), Darcet et al., 2023 (arXiv 2309.16588).

    All tokens attend to the memory, whatever the graph, and the memory to all tokens, so that two
    layers connect any two tokens. With `attend_to_all=False` the values of the memory are
    learned only, and causal graphs stay causal. Each set of a ragged batch has its own memory.

    Args:
        layers: a layer, or a net of several without a readout.
        dim: channels D of the tokens.
        count: number of memory tokens.
        attend_to_all: whether the memory attends to the tokens.

    Raises:
        ValueError: the memory would attend to the tokens of a causal graph.

    >>> import torch
    >>> from tokennet import Attention, Window
    >>> net = TokenNet([Attention(8, 2), Attention(8, 2)])
    >>> MemoryTokens(net, 8, count=2)(Tokens(torch.zeros(3, 6, 8), Window(6, 1)))
    Tokens(z=(3, 6, 8), graph=Window(6, radius=1): 6 tokens, 16 edges, density 0.444)
    """

    @checked(count=0)
    def __init__(
        self, layers: TokenLayer | TokenNet, dim: int, count: int, *, attend_to_all: bool = True
    ) -> None:
        super().__init__()
        if isinstance(layers, TokenNet) and layers.readout is not None:
            raise ValueError("layers must give tokens: the net has a readout")
        self.memory = PrependTokens(dim, count, attend_to_all=attend_to_all)
        self.layers, self.drop = layers, DropTokens(count)

    symmetry = property(lambda self: self.layers.symmetry)  # type: ignore[assignment]
    source_symmetry = property(lambda self: self.layers.source_symmetry)  # type: ignore[assignment]
    needs_source = property(lambda self: self.layers.needs_source)  # type: ignore[assignment]
    takes_source = needs_source

    def transform(self, tokens: Tokens, source: Tokens | Tensor | None = None) -> Tokens:
        sources = (source,) if self.needs_source else ()
        out = self.layers(self.memory(tokens), *sources)
        return tokens.replace(z=self.drop(out).z)  # type: ignore[union-attr]

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The memory is part of the first step; the state is that of the layers.

        Raises:
            IncrementalDecodingError: the memory attends to tokens that do not exist yet.
        """
        if self.memory.attend_to_all:
            raise IncrementalDecodingError(self, "the memory attends to all tokens")
        count, dim = self.memory.vectors.shape
        check_step(tokens, graph, dim)
        first = state is None
        longer = prefixed(graph, count, attend_to_all=False, as_targets=first)
        new = self.memory.prepend(tokens) if first else tokens
        out, state = self.layers.step(new, longer, state, source)
        return tokens.replace(z=out.z[..., count:, :] if first else out.z), state

    def flops(self, tokens: Tokens, *source: Any) -> int:
        return self.layers.flops(self.memory(tokens), *source)
