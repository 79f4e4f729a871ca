"""`Mixer`: a layer that moves information between tokens, along a graph."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, checked, lookup
from tokennet.graphs import Disjoint, Full, TokenGraph, repeat
from tokennet.layer import TokenLayer, check_channels
from tokennet.ops import BACKENDS
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class Mixer(TokenLayer):
    """Base of layers by which tokens receive from tokens, or from those of another set.

    Subclass it for a mixer of your own: define `mix`, and `check_graph` if there are graphs
    that it cannot honor. Called as `mixer(tokens)` it mixes along the graph of the tokens. As
    `mixer(tokens, source)` it reads another set, along a graph of N targets and M sources that
    is complete unless given; between two ragged batches of the same number of sets, complete
    within each pair. The graphs of tokens and source then only say which sets these are.

    Args:
        dim: number of channels D of the tokens.
        source_dim: channels of the other set, where they differ.

    >>> class Sum(Mixer):
    ...     def mix(self, tokens, source, graph):
    ...         return graph.dense().to(source.z) @ source.z
    >>> Sum(1)(torch.ones(3, 1)).flatten()
    tensor([3., 3., 3.])
    """

    symmetry = Symmetry({"graph"})
    takes_source = True
    num_edge_types: int | None = None
    """Number of types of edges that are read from `graph.edge_type`; None where none are."""
    reads_edge_attr = False
    """Whether features of edges are read in another way than by a map in `edge`."""
    _has_warned = False

    @checked()
    def __init__(self, dim: int, source_dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.source_dim = dim if source_dim is None else source_dim

    @abstractmethod
    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        """N targets and M sources to the targets' new z (..., N, D).

        `source` is `tokens` itself where no other set is given; `graph` is the one to honor,
        whatever graph `tokens` and `source` have.
        """

    def check_graph(self, graph: TokenGraph) -> None:
        """Raise ValueError if the mixer cannot honor `graph`, or lacks the features it reads.

        Features of edges that it does not read are said once for each layer, by a warning.
        """
        count = self.num_edge_types
        if count is not None and (graph.edge_type is None or graph.num_edge_types > count):
            largest = "none" if graph.edge_type is None else f"up to {graph.num_edge_types - 1}"
            raise ValueError(
                f"graph must be one with edge_type 0 .. {count - 1} (num_edge_types) on each edge, "
                f"got {largest} on {graph!r}"
            )
        edge = getattr(self, "edge", None)  # the map of features of edges, where there is one
        if edge is None:
            if graph.edge_attr is not None and not self.reads_edge_attr:
                self._warn_of_features(graph.edge_attr)
        else:
            attr, expected = graph.edge_attr, (graph.num_edges, edge.in_features)
            got = None if attr is None else tuple(attr.shape)
            if got != expected:
                raise ValueError(
                    f"graph.edge_attr must have shape (E, edge_dim) = {expected}, got {got}"
                )

    def _warn_of_features(self, edge_attr: Tensor) -> None:
        if self._has_warned or torch.compiler.is_compiling():
            return
        self._has_warned = True
        option = f"; edge_dim={edge_attr.shape[1]} would read it" if hasattr(self, "edge") else ""
        warnings.warn(f"{type(self).__name__} does not use graph.edge_attr{option}", stacklevel=2)

    def transform(
        self,
        tokens: Tokens,
        source: Tokens | Tensor | None = None,
        graph: TokenGraph | None = None,
    ) -> Tokens:
        source, graph = self.resolve(tokens, source, graph)
        return tokens.replace(z=self.mix(tokens, source, graph))

    def inputs(
        self,
        tokens: Tokens | Tensor,
        source: Tokens | Tensor | None = None,
        graph: TokenGraph | None = None,
    ) -> tuple[Tokens, Tokens, TokenGraph]:
        """What `mix` would be given for a call with these arguments."""
        if isinstance(tokens, Tensor):
            tokens, graph = (
                (Tokens(tokens, graph), None) if source is None else (Tokens(tokens), graph)  # type: ignore[arg-type]
            )
        return tokens, *self.resolve(tokens, source, graph)

    def resolve(
        self, tokens: Tokens, source: Tokens | Tensor | None, graph: TokenGraph | None
    ) -> tuple[Tokens, TokenGraph]:
        """The source that the tokens receive from, and the graph; checked."""
        dim, channels = self.dim, tokens.z.shape[-1]
        if source is None and graph is None and self.source_dim == dim == channels:
            self.check_graph(tokens.graph)
            return tokens, tokens.graph
        check_channels(tokens.z, dim)
        if source is None:
            if graph is not None:
                raise ValueError(
                    "graph goes with source; the tokens have a graph of their own, "
                    "write layer(tokens.replace(graph=...))"
                )
            source, graph = tokens, tokens.graph
        source = Tokens(source) if isinstance(source, Tensor) else source
        if isinstance(source, TokenGraph):
            raise TypeError(
                f"source must be Tokens or a tensor, got a graph, {source!r}; write graph=..."
            )
        if not isinstance(source, Tokens):
            raise TypeError(f"source must be Tokens or a tensor, got {type(source).__name__}")
        if graph is not None and not isinstance(graph, TokenGraph):
            raise TypeError(f"graph must be a TokenGraph, got {type(graph).__name__}")
        graph = graph or cross_graph(tokens.graph, source.graph)
        if source is not tokens or self.source_dim != self.dim:
            check_channels(source.z, self.source_dim, "source")
        if (graph.num_targets, graph.num_sources) != (tokens.num_tokens, source.num_tokens):
            raise ValueError(
                f"graph must have {tokens.num_tokens} targets and {source.num_tokens} sources, "
                f"got {graph!r}"
            )
        self.check_graph(graph)
        return source, graph


class WeightedMixer(Mixer):
    """Base of mixers that weigh the edges, with weights that can be shown; define `weigh`."""

    @abstractmethod
    def weigh(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        """Weights (..., E, H) in the order of the graph's `edge_index()`; arguments of `mix`."""

    def attention_weights(
        self,
        tokens: Tokens | Tensor,
        source: Tokens | Tensor | None = None,
        graph: TokenGraph | None = None,
    ) -> Tensor:
        """Attention weights (..., E, H) of a call, in the order of the graph's `edge_index()`."""
        return self.weigh(*self.inputs(tokens, source, graph))


def cross_graph(targets: TokenGraph, sources: TokenGraph) -> TokenGraph:
    """The complete graph from one set to another, or from ragged batch to ragged batch.

    Raises:
        ValueError: only one of the two is a ragged batch, or they differ in length.
    """
    ragged = targets.is_ragged, sources.is_ragged
    if ragged == (False, False):
        return Full(targets.num_targets, sources.num_targets)
    if ragged != (True, True) or targets.num_graphs != sources.num_graphs:  # type: ignore[attr-defined]
        raise ValueError(
            "graph must be given where tokens and source are not ragged batches of the same "
            f"number of sets; tokens are on {targets!r}, source on {sources!r}"
        )
    sizes = sources.sizes  # type: ignore[attr-defined]
    return targets.cached(_all_to_all, tuple(sizes))


def _all_to_all(targets: Disjoint, source_sizes: tuple[int, ...]) -> TokenGraph:
    return Disjoint(Full(n, m) for n, m in zip(targets.sizes, source_sizes, strict=True))


_all_to_all.most_kept = 4  # type: ignore[attr-defined]


def fold_batch(
    z: Tensor, source: Tensor, graph: TokenGraph
) -> tuple[Tensor, Tensor, TokenGraph, torch.Size]:
    """Fold a batch that shares a graph into one set on a larger graph: (B N, D), (B M, Ds).

    For mixers built on libraries without leading dimensions. Undo it on the result with
    `.reshape(*batch, N, -1)`; the leading dimensions are returned last.
    """
    batch = torch.broadcast_shapes(z.shape[:-2], source.shape[:-2])
    count = math.prod(batch)
    if count != 1:
        graph = repeat(graph, count)
    z = z.expand(*batch, *z.shape[-2:]).reshape(count * z.shape[-2], z.shape[-1])
    source = source.expand(*batch, *source.shape[-2:])
    source = source.reshape(count * source.shape[-2], source.shape[-1])
    return z, source, graph, batch


def check_heads(dim: int, num_heads: int) -> int:
    """Channels per head, or ValueError if the heads do not divide the channels."""
    check_size("dim", dim, 1)
    if check_size("num_heads", num_heads, 1) and dim % num_heads:
        raise ValueError(f"num_heads must divide dim = {dim}, got {num_heads}")
    return dim // num_heads


def check_backend(backend: str) -> str:
    """Return `backend` if `attend` knows it, or raise ValueError."""
    lookup("backend", backend, {"auto": None, **BACKENDS})
    return backend


def reset_linears(*linears: Any) -> None:
    """Xavier's initial weights and biases of 0, for those of the arguments that are `nn.Linear`."""
    for linear in linears:
        if isinstance(linear, nn.Linear):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
