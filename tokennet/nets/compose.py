"""Layers made of layers: on another graph, or in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

from torch import nn

from tokennet.checks import check_items, checked
from tokennet.graphs import Disjoint, Full, Self, TokenGraph
from tokennet.layer import TokenLayer, Upstream, check_layer
from tokennet.symmetry import Symmetry, intersection
from tokennet.tokens import Tokens

GraphOf = Callable[[TokenGraph], TokenGraph]


def complete(graph: TokenGraph) -> TokenGraph:
    """The complete graph on the tokens of each set.

    >>> from tokennet import Cycle
    >>> complete(Cycle(5))
    Full(5): 5 tokens, 25 edges, density 1
    """
    if graph.is_ragged:
        return Disjoint(Full(size) for size in graph.sizes)
    return Full(graph.num_targets)


def add_self_loops(graph: TokenGraph) -> TokenGraph:
    """The graph in which each token attends to itself too, as graph attention nets need it.

    >>> import torch
    >>> from tokennet import Edges
    >>> add_self_loops(Edges(torch.tensor([[0], [1]]), 2)).edge_index().tolist()
    [[0, 0, 1], [1, 0, 1]]
    """
    return graph | Self(graph.num_targets)


class WithGraph(TokenLayer):
    """Replaces the graph of the tokens, for all layers that follow.

    Use it at the start of a net that has its own graph, whatever graph the tokens come with;
    `OnGraph` changes the graph of one layer only.

    Args:
        graph_of: from the graph of the tokens to the new one, as for `OnGraph`.
        reads: what `graph_of` reads, as for `OnGraph`.

    >>> import torch
    >>> from tokennet import Grid
    >>> WithGraph(complete)(Tokens(torch.zeros(6, 8), Grid(2, 3))).graph
    Full(6): 6 tokens, 36 edges, density 1
    """

    @checked()
    def __init__(self, graph_of: GraphOf, *, reads: Iterable[str] | None = None) -> None:
        super().__init__()
        self.graph_of, self.reads = graph_of, _checked_reads(reads)

    @property
    def symmetry(self) -> Symmetry:  # type: ignore[override]
        return _symmetry_of(self.graph_of, self.reads)

    def reads_after(self, upstream: Upstream) -> tuple[Set[str], Upstream]:
        reads, upstream = super().reads_after(upstream)
        if self.graph_of is complete:
            upstream = upstream._replace(hidden=upstream.hidden | {"graph"})
        return reads, upstream

    def transform(self, tokens: Tokens) -> Tokens:
        return tokens.replace(graph=tokens.graph.cached(self.graph_of))


class OnGraph(TokenLayer):
    """A layer on another graph than the one that the tokens have.

    Use it for one mixer that needs its own graph; `WithGraph` changes the graph of all layers
    that follow.

    Args:
        graph_of: from the graph of the tokens to the one to be used, such as `complete`,
            `add_self_loops`, or `lambda graph: graph.reach(2)`. Called once for each graph.
        layer: the layer that runs on it.
        reads: what `graph_of` reads. `{"graph"}` promises that the graph of relabeled
            tokens is the new graph relabeled, as with `reach`. By default that is known of
            `complete` and `add_self_loops` only; others may read the index, as
            `lambda graph: Causal(graph.num_targets)` does, and take the symmetry away.

    >>> import torch
    >>> from tokennet import Attention, Cycle
    >>> layer = OnGraph(complete, Attention(8, num_heads=2))
    >>> layer(Tokens(torch.zeros(5, 8), Cycle(5))).graph
    Cycle(5, radius=1): 5 tokens, 15 edges, density 0.6
    """

    @checked()
    def __init__(
        self, graph_of: GraphOf, layer: Any, *, reads: Iterable[str] | None = None
    ) -> None:
        super().__init__()
        check_layer("layer", layer)
        self.graph_of, self.layer, self.reads = graph_of, layer, _checked_reads(reads)

    @property
    def symmetry(self) -> Symmetry:  # type: ignore[override]
        hidden = {"graph"} if self.graph_of is complete else set()
        made = _symmetry_of(self.graph_of, self.reads)
        return made & Symmetry(self.layer.symmetry.reads - hidden)

    @property
    def is_tokenwise(self) -> bool:  # type: ignore[override]
        return self.layer.is_tokenwise

    def transform(self, tokens: Tokens) -> Tokens:
        graph = tokens.graph.cached(self.graph_of)
        return self.layer(tokens.replace(graph=graph)).replace(graph=tokens.graph)

    def flops(self, tokens: Tokens) -> int:
        return self.layer.flops(tokens.replace(graph=self.graph_of(tokens.graph)))


class Parallel(TokenLayer):
    """The sum of the outputs of several layers, each on the same tokens.

    Use it for blocks with two mixers, such as messages along a graph and attention among all
    tokens (`gps`).

    Args:
        layers: each gets the same tokens; they must keep their graph and agree on channels.

    >>> import torch
    >>> from tokennet import Aggregate, Attention, Cycle
    >>> layer = Parallel([Aggregate(8, "sum"), OnGraph(complete, Attention(8, num_heads=2))])
    >>> layer(Tokens(torch.zeros(5, 8), Cycle(5))).z.shape
    torch.Size([5, 8])
    """

    @checked()
    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        layers = check_items("layers", layers, object, "token layers")
        for number, layer in enumerate(layers):
            check_layer(f"layers[{number}]", layer)
        if not layers:
            raise ValueError("layers must hold at least one, got none")
        self.layers = nn.ModuleList(layers)

    @property
    def symmetry(self) -> Symmetry:  # type: ignore[override]
        return intersection(layer.symmetry for layer in self.layers)  # type: ignore[misc]

    @property
    def is_tokenwise(self) -> bool:  # type: ignore[override]
        return all(layer.is_tokenwise for layer in self.layers)  # type: ignore[misc]

    def transform(self, tokens: Tokens) -> Tokens:
        return tokens.replace(z=sum(layer(tokens).z for layer in self.layers))

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        """The state is a list of the states of all layers."""
        states = [None] * len(self.layers) if state is None else state
        steps = [
            layer.step(tokens, graph, old, source)  # type: ignore[operator]
            for layer, old in zip(self.layers, states, strict=True)
        ]
        return tokens.replace(z=sum(out.z for out, _ in steps)), [new for _, new in steps]

    def flops(self, tokens: Tokens) -> int:
        return sum(layer.flops(tokens) for layer in self.layers)  # type: ignore[operator]


def _symmetry_of(graph_of: GraphOf, reads: Iterable[str] | None) -> Symmetry:
    """The symmetry of making the new graph: what `graph_of` reads, as far as that is known."""
    if reads is None and graph_of not in (complete, add_self_loops):
        return Symmetry({"index"})
    return Symmetry(frozenset(reads or ()))


def _checked_reads(reads: Any) -> Set[str] | None:
    return None if reads is None else Symmetry(reads).reads
