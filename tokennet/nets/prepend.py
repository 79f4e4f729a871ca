"""Learned tokens beside those of the data: put before them, and taken off again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokennet.checks import check_size
from tokennet.graphs import TokenGraph
from tokennet.graphs.prefix import is_one_sided, prefixed, without_prefix
from tokennet.layer import TokenLayer
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class PrependTokens(TokenLayer):
    """Puts learned tokens before those of each set: class tokens, registers, virtual nodes.

    They listen to all tokens of their set and to each other, and all tokens listen to them;
    between the other tokens the graph stays what it was. New edges have features of 0 where
    edges have features. Where tokens have positions, the new ones stand in the middle of their
    set, rounded if positions are integers.

    Devlin et al., 2018 (arXiv 1810.04805) for sentences, Dosovitskiy et al., 2020
    (arXiv 2010.11929) for images.

    Args:
        dim: channels D.
        count: how many.
        listening: whether they listen to the tokens. If not, what they say is learned only,
            each hears itself and those before it, and a causal graph stays causal.
        heard: whether the other tokens listen to them. If not, they only collect.

    Raises:
        ValueError: they would be heard on a causal graph, whose future they have heard.

    >>> from tokennet import Window
    >>> out = PrependTokens(8)(Tokens.batch([Tokens(torch.zeros(n, 8)) for n in (2, 3)]))
    >>> out.graph
    Disjoint([Full(3), Full(4)]): 7 tokens, 25 edges, density 0.51
    >>> PrependTokens(8)(Tokens(torch.zeros(5, 8), Window(5, 1))).graph
    prefixed(Window(5, radius=1), 1): 6 tokens, 24 edges, density 0.667
    """

    symmetry = Symmetry()

    def __init__(
        self, dim: int, count: int = 1, *, listening: bool = True, heard: bool = True
    ) -> None:
        super().__init__()
        self.listening, self.heard = listening, heard
        self.vectors = nn.Parameter(torch.randn(check_size("count", count), dim) * 0.02)

    @property
    def count(self) -> int:
        return len(self.vectors)

    def transform(self, tokens: Tokens) -> Tokens:
        graph = tokens.graph.cached(_checked, self.count, self.listening, self.heard)
        if not graph.parts:
            return tokens
        parts = [self.join(part) for part in tokens.unbatch()]
        if len(parts) == 1:
            return parts[0].replace(graph=graph)
        pos = None if tokens.pos is None else torch.cat([p.pos for p in parts], dim=-2)  # type: ignore[misc]
        return Tokens(torch.cat([part.z for part in parts], dim=-2), graph, pos)

    def join(self, tokens: Tokens) -> Tokens:
        """One set with the learned tokens before it, on the complete graph."""
        z, pos = tokens.z, tokens.pos
        vectors = self.vectors.to(z.dtype).expand(*z.shape[:-2], -1, -1)
        if pos is not None:
            middle = pos.double().sum(-2, keepdim=True) / max(tokens.num_tokens, 1)
            middle = middle if pos.is_floating_point() else middle.round()
            pos = torch.cat([middle.to(pos.dtype).expand(*pos.shape[:-2], self.count, -1), pos], -2)
        return Tokens(torch.cat([vectors, z], dim=-2), pos=pos)

    def flops(self, tokens: Tokens) -> int:
        return 0


def _checked(graph: TokenGraph, count: int, listening: bool, heard: bool) -> TokenGraph:
    if count and listening and heard and is_one_sided(graph):
        raise ValueError(
            "graph must not be causal where tokens put before it listen and are heard: later "
            "tokens would reach earlier ones through them; give listening=False or heard=False. "
            f"Got {graph!r}"
        )
    return prefixed(graph, count, attend_to_all=listening, visible_to_all=heard)


class DropTokens(TokenLayer):
    """Takes the first tokens of each set off, with their edges.

    It goes by place, so it declares to read the index.

    Args:
        count: how many.

    Raises:
        ValueError: a set has fewer tokens.

    >>> from tokennet import Window
    >>> tokens = Tokens(torch.zeros(4, 8), Window(4, 1))
    >>> DropTokens()(PrependTokens(8)(tokens)).graph
    Window(4, radius=1): 4 tokens, 10 edges, density 0.625
    """

    symmetry = Symmetry({"index"})

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.count = check_size("count", count)

    def transform(self, tokens: Tokens) -> Tokens:
        graph = tokens.graph
        sizes = [part.num_targets for part in graph.parts if part.num_targets < self.count]
        if sizes:
            raise ValueError(f"tokens must hold {self.count} to take off, got a set of {sizes[0]}")
        left = graph.cached(without_prefix, self.count)
        # Kept with the graph: what is asked of a tensor's values cannot be exported.
        keep = graph.cached(_behind, self.count, device=tokens.z.device)
        pos = None if tokens.pos is None else tokens.pos.index_select(-2, keep)
        return Tokens(tokens.z.index_select(-2, keep), left, pos)

    def flops(self, tokens: Tokens) -> int:
        return 0


def _behind(graph: TokenGraph, count: int) -> Tensor:
    """Numbers of all tokens but the first `count` of each set."""
    return (graph.local_index() >= count).nonzero().flatten()
