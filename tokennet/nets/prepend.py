"""`PrependTokens`, learned tokens such as class tokens; `DropTokens`, which removes them."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, checked
from tokennet.graphs import TokenGraph
from tokennet.graphs.prefix import is_one_sided, prefixed, without_prefix
from tokennet.layer import TokenLayer, Upstream
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class PrependTokens(TokenLayer):
    """Adds learned tokens before those of each set: class tokens, registers, virtual nodes.

    Use it for a token that collects what its set holds (`ClassTokenReadout` reads it), or that
    connects all tokens of a sparse graph. `MemoryTokens` removes them again after some layers.

    The new tokens attend to all tokens of their set and to each other, and all tokens attend to
    them; between the other tokens the graph stays as it is. New edges have features of 0 where
    edges have features. Where tokens have positions, the position of a new token is the mean of
    its set, rounded if positions are integers.

    Devlin et al., 2018 (arXiv 1810.04805) for sentences, Dosovitskiy et al., 2020
    (arXiv 2010.11929) for images.

    Args:
        dim: channels D.
        count: how many.
        attend_to_all: whether they attend to all tokens. If not, their values are learned only:
            each attends to itself and those before it, and a causal graph stays causal.
        visible_to_all: whether all tokens attend to them. If not, they only collect.

    Raises:
        ValueError: a causal graph with both, where information would flow from later to earlier
            tokens.

    >>> from tokennet import Window
    >>> out = PrependTokens(8)(Tokens.batch([Tokens(torch.zeros(n, 8)) for n in (2, 3)]))
    >>> out.graph
    Disjoint([Full(3), Full(4)]): 7 tokens, 25 edges, density 0.51
    >>> PrependTokens(8)(Tokens(torch.zeros(5, 8), Window(5, 1))).graph
    prefixed(Window(5, radius=1), 1): 6 tokens, 24 edges, density 0.667
    """

    @checked(count=0)
    def __init__(
        self, dim: int, count: int = 1, *, attend_to_all: bool = True, visible_to_all: bool = True
    ) -> None:
        super().__init__()
        self.attend_to_all, self.visible_to_all = attend_to_all, visible_to_all
        self.vectors = nn.Parameter(torch.randn(check_size("count", count), dim) * 0.02)

    @property
    def count(self) -> int:
        return len(self.vectors)

    def reads_after(self, upstream: Upstream) -> tuple[Set[str], Upstream]:
        reads, upstream = super().reads_after(upstream)
        return reads, upstream._replace(prepended=upstream.prepended + self.count)

    def transform(self, tokens: Tokens) -> Tokens:
        flags = self.attend_to_all, self.visible_to_all
        graph = tokens.graph.cached(_prefixed, self.count, *flags)
        if not graph.parts:
            return tokens
        parts = [self.prepend(part) for part in tokens.unbatch()]
        if len(parts) == 1:
            return parts[0].replace(graph=graph)
        pos = None if tokens.pos is None else torch.cat([p.pos for p in parts], dim=-2)  # type: ignore[misc]
        return Tokens(torch.cat([part.z for part in parts], dim=-2), graph, pos)

    def prepend(self, tokens: Tokens) -> Tokens:
        """The tokens of one set after the learned tokens, on the complete graph."""
        z, pos = tokens.z, tokens.pos
        vectors = self.vectors.to(z.dtype).expand(*z.shape[:-2], -1, -1)
        if pos is not None:
            middle = pos.double().sum(-2, keepdim=True) / max(tokens.num_tokens, 1)
            middle = middle if pos.is_floating_point() else middle.round()
            pos = torch.cat([middle.to(pos.dtype).expand(*pos.shape[:-2], self.count, -1), pos], -2)
        return Tokens(torch.cat([vectors, z], dim=-2), pos=pos)


def _prefixed(
    graph: TokenGraph, count: int, attend_to_all: bool, visible_to_all: bool
) -> TokenGraph:
    if count and attend_to_all and visible_to_all and is_one_sided(graph):
        raise ValueError(
            "graph must not be causal where prepended tokens attend to all and are visible to all: "
            "earlier tokens would receive from later tokens through them; give "
            f"attend_to_all=False or visible_to_all=False. Got {graph!r}"
        )
    return prefixed(graph, count, attend_to_all=attend_to_all, visible_to_all=visible_to_all)


class DropTokens(TokenLayer):
    """Removes the first tokens of each set, with their edges.

    Use it to remove what `PrependTokens` has added. It depends on the index, and declares so.

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

    @checked(count=0)
    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.count = check_size("count", count)

    def reads_after(self, upstream: Upstream) -> tuple[Set[str], Upstream]:
        """To remove learned tokens is not to depend on the index of the others."""
        prepended = upstream.prepended
        reads = frozenset() if self.count <= prepended else self.symmetry.reads - upstream.hidden
        return reads, upstream._replace(prepended=max(prepended - self.count, 0))

    def transform(self, tokens: Tokens) -> Tokens:
        graph = tokens.graph
        sizes = [part.num_targets for part in graph.parts if part.num_targets < self.count]
        if sizes:
            raise ValueError(f"tokens must hold {self.count} to drop, got a set of {sizes[0]}")
        # Kept with the graph: sizes that depend on values of a tensor cannot be exported.
        keep = graph.cached(_kept_indices, self.count, device=tokens.z.device)
        pos = None if tokens.pos is None else tokens.pos.index_select(-2, keep)
        z = tokens.z.index_select(-2, keep)
        return Tokens(z, graph.cached(without_prefix, self.count), pos)


def _kept_indices(graph: TokenGraph, count: int) -> Tensor:
    """Indices of all tokens but the first `count` of each set."""
    return (graph.local_index() >= count).nonzero().flatten()
