"""Learned tokens beside those of the data: put before them, and taken off again."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tokennet.graphs import Disjoint, Edges, Full, TokenGraph
from tokennet.graphs.prefix import is_one_sided
from tokennet.layer import TokenLayer
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class PutBefore(TokenLayer):
    """Puts learned tokens before those of each set: class tokens, registers, virtual nodes.

    They listen to all tokens of their set and to each other, and all tokens listen to them;
    between the other tokens the graph stays what it was. A complete graph stays complete. New
    edges have features of 0. Where tokens have positions, the new ones stand in the middle of
    their set.

    Devlin et al., 2018 (arXiv 1810.04805) for sentences, Dosovitskiy et al., 2020
    (arXiv 2010.11929) for images.

    Args:
        dim: channels D.
        count: how many.
        heard: whether the other tokens listen to them. If not, they only collect.

    Raises:
        ValueError: they would be heard on a causal graph, whose future they have heard.

    >>> out = PutBefore(8)(Tokens.batch([Tokens(torch.zeros(n, 8)) for n in (2, 3)]))
    >>> out.graph
    Disjoint([Full(3), Full(4)]): 7 tokens, 25 edges, density 0.51
    """

    symmetry = Symmetry()

    def __init__(self, dim: int, count: int = 1, *, heard: bool = True) -> None:
        super().__init__()
        self.count, self.heard = count, heard
        self.vectors = nn.Parameter(torch.randn(count, dim) * 0.02)

    def transform(self, tokens: Tokens) -> Tokens:
        extend = partial(_checked, count=self.count, heard=self.heard)
        graph = tokens.graph.derive(f"{self.count} before, heard {self.heard}", None, extend)
        batch = tokens.z.shape[:-2]
        zs, positions = [], []
        for part in tokens.unbatch():
            zs += [self.vectors.to(part.z.dtype).expand(*batch, -1, -1), part.z]
            if part.pos is not None:
                middle = part.pos.double().mean(-2, keepdim=True).nan_to_num()
                positions += [middle.to(part.pos.dtype).expand(*middle.shape[:-2], self.count, -1)]
                positions += [part.pos]
        pos = torch.cat(positions, dim=-2) if positions else None
        return Tokens(torch.cat(zs, dim=-2) if zs else tokens.z, graph, pos)

    def flops(self, tokens: Tokens) -> int:
        return 0


class TakeOff(TokenLayer):
    """Takes the first tokens of each set off again, with their edges.

    It goes by place, so it declares to read the index.

    Args:
        count: how many.

    >>> tokens = Tokens(torch.zeros(4, 8))
    >>> TakeOff()(PutBefore(8)(tokens)).graph
    Full(4): 4 tokens, 16 edges, density 1
    """

    symmetry = Symmetry({"index"})

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.count = count

    def transform(self, tokens: Tokens) -> Tokens:
        graph = tokens.graph
        smallest = min(graph.sizes) if isinstance(graph, Disjoint) else tokens.num_tokens
        if isinstance(graph, Disjoint) and not graph.sizes:
            return tokens
        if smallest < self.count:
            raise ValueError(f"tokens must hold {self.count} to take off, got a set of {smallest}")
        shorten = partial(shortened, count=self.count)
        left = graph.derive(f"without first {self.count}", None, shorten)
        keep = (graph.local_index(tokens.z.device) >= self.count).nonzero().flatten()
        pos = None if tokens.pos is None else tokens.pos.index_select(-2, keep)
        return Tokens(tokens.z.index_select(-2, keep), left, pos)

    def flops(self, tokens: Tokens) -> int:
        return 0


def check_no_leak(graph: TokenGraph, hub: str, way_out: str) -> None:
    """Raise ValueError on a causal graph, where the hub would carry later tokens to earlier ones.

    Args:
        hub: what listens to all tokens and is heard by all.
        way_out: the argument that makes it one or the other.
    """
    if is_one_sided(graph):
        raise ValueError(
            f"graph must not be causal where the {hub} listens: later tokens would reach earlier "
            f"ones through it; give {way_out}. Got {graph!r}"
        )


def _checked(graph: TokenGraph, count: int, heard: bool) -> TokenGraph:
    if heard and count:
        check_no_leak(graph, "class token", "heard=False")
    return extended(graph, count, heard)


def extended(graph: TokenGraph, count: int, heard: bool = True) -> TokenGraph:
    """The graph with `count` hubs before its tokens, set by set."""
    if isinstance(graph, Disjoint):
        return Disjoint(extended(part, count, heard) for part in graph.graphs)
    n = graph.num_targets
    if isinstance(graph, Full) and heard:
        return Full(n + count)
    hubs = [Full(count, n + count).edge_index()]
    if heard:
        hubs.append(Full(n, count).edge_index() + torch.tensor([[0], [count]]))
    edges = torch.cat([graph.edge_index() + count, *hubs], dim=1)
    attr = getattr(graph, "edge_attr", None)
    if attr is not None:
        attr = torch.cat([attr, attr.new_zeros(edges.shape[1] - len(attr), attr.shape[1])])
    return Edges(edges, n + count, edge_attr=attr)


def shortened(graph: TokenGraph, count: int) -> TokenGraph:
    """The graph without its first `count` tokens, set by set."""
    if isinstance(graph, Disjoint):
        return Disjoint(shortened(part, count) for part in graph.graphs)
    n = graph.num_targets - count
    if isinstance(graph, Full):
        return Full(n)
    edges = graph.edge_index()
    keep = (edges >= count).all(0)
    attr: Tensor | None = getattr(graph, "edge_attr", None)
    return Edges(edges[:, keep] - count, n, edge_attr=None if attr is None else attr[keep])
