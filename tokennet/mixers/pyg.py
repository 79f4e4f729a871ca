"""Any PyG convolution as a mixer."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.graphs import TokenGraph
from tokennet.mixers.aggregate import check_unordered
from tokennet.mixers.base import Mixer, fold_batch
from tokennet.tokens import Tokens

GIVEN = ("edge_attr", "edge_weight", "edge_type", "batch")
"""What a convolution is given by name, besides x and edge_index, if its `forward` accepts it."""


def _check_keeps(conv: nn.Module, channels: int) -> None:
    """Raise ValueError where `conv` says that it has another number of channels out than in."""
    width = getattr(conv, "out_channels", None)
    if not isinstance(width, int):
        return
    heads = getattr(conv, "heads", 1) if getattr(conv, "concat", False) is True else 1
    width *= heads * len(getattr(conv, "powers", [0]))  # of MixHopConv, a part for each power
    if width != channels:
        raise ValueError(f"conv must keep the number of channels, it makes {width} of {channels}")


class PyGMixer(Mixer):
    """Any `torch_geometric.nn` convolution in a token net, to compare with or to reuse it.

    The convolution receives the edges in the caller's order, and by name what its `forward`
    accepts of these:

    - `edge_attr`: `graph.edge_attr`, (E, F);
    - `edge_weight`: the same where it has one column, (E,);
    - `edge_type`: `graph.edge_type`, (E,);
    - `batch`: (N,) the set of each token, so that sets of a batch stay apart.

    It cannot be given anything else, such as `pos`, `x_0` or `node_type`. Convolutions that change
    the graph themselves (`GCNConv` adds self-loops) do so here too.

    Args:
        conv: a module called as `conv(x, edge_index)`, or `conv((x_source, x_target),
            edge_index)` for two sets. It must keep the number of channels.
        dim: channels D of the tokens, for convolutions that have no `in_channels`.

    Raises:
        ValueError: the channels of `conv` are not known, it changes their number, its aggregation
            depends on the order of neighbors, or its `forward` needs something else than the above;
            or the graph lacks features or types of edges that `conv` needs, or has a weight of
            several columns.

    >>> import torch
    >>> from torch_geometric.nn import GCNConv, RGCNConv
    >>> from tokennet import Cycle, Edges, Tokens
    >>> PyGMixer(GCNConv(8, 8))(Tokens(torch.zeros(5, 8), Cycle(5))).z.shape
    torch.Size([5, 8])
    >>> typed = Edges([(0, 1), (1, 2)], 3, edge_type=[0, 1])
    >>> PyGMixer(RGCNConv(8, 8, num_relations=2))(Tokens(torch.zeros(3, 8), typed)).z.shape
    torch.Size([3, 8])
    """

    @checked()
    def __init__(self, conv: nn.Module, dim: int | None = None) -> None:
        _parameters_of(type(conv))  # type: ignore[arg-type]
        given: Any = getattr(conv, "in_channels", None) if dim is None else dim
        source_dim, channels = given if isinstance(given, tuple) else (given, given)
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"dim must be given: conv has in_channels = {channels!r}")
        super().__init__(channels, source_dim)
        check_unordered(conv)
        _check_keeps(conv, channels)
        self.conv = conv

    @property
    def _given(self) -> frozenset[str]:
        """What of `GIVEN` the convolution accepts."""
        return _parameters_of(type(self.conv))[0]  # type: ignore[arg-type]

    @property
    def _needed(self) -> frozenset[str]:
        return _parameters_of(type(self.conv))[1]  # type: ignore[arg-type]

    def check_graph(self, graph: TokenGraph) -> None:
        name, attr = type(self.conv).__name__, graph.edge_attr
        got = None if attr is None else tuple(attr.shape)
        features = getattr(self.conv, "edge_dim", None)
        if "edge_attr" in self._given and isinstance(features, int) and features > 0:
            if got != (graph.num_edges, features):
                raise ValueError(
                    f"graph.edge_attr must have shape (E, edge_dim) = "
                    f"{(graph.num_edges, features)} for {name}, got {got}"
                )
        elif "edge_attr" in self._needed and attr is None:
            raise ValueError(f"graph.edge_attr must be given: {name} needs edge_attr, got None")
        if "edge_weight" in self._given and "edge_attr" not in self._given and got is not None:
            if got[1] != 1:
                raise ValueError(
                    f"graph.edge_attr must have one column for {name}, which accepts edge_weight, "
                    f"or be None, got {got}; choose with graph.with_edge_attr(...)"
                )
        elif "edge_weight" in self._needed and attr is None:
            raise ValueError(f"graph.edge_attr must be given: {name} needs edge_weight, got None")
        if "edge_type" in self._given:
            self._check_types(graph)

    def _check_types(self, graph: TokenGraph) -> None:
        name, count = type(self.conv).__name__, getattr(self.conv, "num_relations", None)
        if graph.edge_type is None:
            if "edge_type" in self._needed or (isinstance(count, int) and count > 1):
                raise ValueError(f"graph.edge_type must be given: {name} needs it, got None")
        elif isinstance(count, int) and graph.num_edge_types > count:
            raise ValueError(
                f"graph.edge_type must be less than num_relations = {count} of {name}, "
                f"got {graph.num_edge_types - 1}"
            )

    @property
    def reads_edge_attr(self) -> bool:  # type: ignore[override]
        return bool(self._given & {"edge_attr", "edge_weight"})

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        z, sources, folded, batch = fold_batch(tokens.z, source.z, graph)
        x = z if source is tokens else (sources, z)
        given = self._fields(graph, batch.numel(), z)
        if "batch" in self._given and source is tokens:
            given["batch"] = _sets(graph, batch.numel(), z.device)
        out = self.conv(x, folded.edge_index(z.device), **given)
        if not isinstance(out, Tensor):
            raise ValueError(f"conv must return a tensor, it returned {type(out).__name__}")
        if out.shape != z.shape:
            raise ValueError(
                f"conv must keep the tokens' shape {tuple(z.shape)}, it gave {tuple(out.shape)}"
            )
        return out.reshape(*batch, tokens.num_tokens, self.dim)

    def _fields(self, graph: TokenGraph, count: int, z: Tensor) -> dict[str, Tensor]:
        """Features and types of the edges of `count` copies of the graph."""
        given, attr, types = {}, graph.edge_attr, graph.edge_type
        if attr is not None:
            attr = attr.to(z).repeat(count, 1)
            if "edge_attr" in self._given:
                given["edge_attr"] = attr
            elif "edge_weight" in self._given:
                given["edge_weight"] = attr[:, 0]
        if types is not None and "edge_type" in self._given:
            given["edge_type"] = types.to(z.device).repeat(count)
        return given

    def flops(self, tokens: Tokens) -> int:
        """Matrix products as run, and one addition per edge and channel for the sum."""
        batch = tokens.z.shape[:-2].numel()
        return super().flops(tokens) + batch * tokens.graph.num_edges * self.dim


@cache
def _parameters_of(kind: type[nn.Module]) -> tuple[frozenset[str], frozenset[str]]:
    """What of `GIVEN` the forward of a class accepts, and what of it it needs; or ValueError."""
    parameters = dict(inspect.signature(kind.forward).parameters)
    parameters.pop("self", None)
    kinds = {parameter.kind for parameter in parameters.values()}
    named = [
        parameter
        for parameter in parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    needed = {each.name for each in named[2:] if each.default is each.empty}
    reads_edges = len(named) > 1 and named[1].name == "edge_index"
    reads_edges |= inspect.Parameter.VAR_POSITIONAL in kinds
    if not reads_edges or needed - set(GIVEN):
        raise ValueError(
            f"conv must be called as conv(x, edge_index) and need nothing else but "
            f"{', '.join(GIVEN)}; {kind.__name__} is called as "
            f"conv({', '.join(parameter.name for parameter in named)})"
        )
    return frozenset(set(GIVEN) & set(parameters)), frozenset(needed)


def _sets(graph: TokenGraph, count: int, device: torch.device) -> Tensor:
    """(count N,) the number of the set of each token, of `count` copies of the graph."""
    first = torch.arange(count, device=device) * graph.num_graphs
    return (graph.batch(device) + first[:, None]).flatten()
