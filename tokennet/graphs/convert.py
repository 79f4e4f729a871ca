"""Token graphs from and to networkx, PyG, boolean masks and FlexAttention `mask_mod`s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokennet.checks import check_type
from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.base import BLOCK_ENTRIES, as_mask
from tokennet.graphs.disjoint import Disjoint
from tokennet.graphs.edges import Edges

if TYPE_CHECKING:  # both take long to load
    import networkx as nx
    from torch_geometric.data import Data

MaskMod = Callable[[Any, Any, Any, Any], Tensor]


def from_networkx(graph: nx.Graph, edge_attrs: str | Sequence[str] | None = None) -> Edges:
    """Return the token graph of a networkx graph of any of its four kinds.

    An edge u -> v becomes "v attends to u"; an undirected edge becomes one edge each
    way, an undirected self-loop a single edge. Parallel edges of a multigraph stay
    parallel. Tokens are numbered in the order of `graph.nodes`, whose names are kept
    in `names`.

    Args:
        graph: Graph, DiGraph, MultiGraph or MultiDiGraph.
        edge_attrs: edge attributes, each a number or a sequence of numbers on every
            edge, to be joined column by column in `edge_attr`.

    Raises:
        TypeError: `graph` is no networkx graph.
        ValueError: an edge lacks one of `edge_attrs`, or holds something else than numbers.

    >>> import networkx as nx
    >>> from_networkx(nx.path_graph(["a", "b", "c"])).edge_index().tolist()
    [[0, 1, 1, 2], [1, 0, 2, 1]]
    """
    import networkx as nx

    check_type("graph", graph, nx.Graph, "a networkx graph")
    number = {name: i for i, name in enumerate(graph.nodes)}
    directed = graph if graph.is_directed() else graph.to_directed()
    edges = list(directed.edges(data=True))
    ends = [[number[u] for u, _, _ in edges], [number[v] for _, v, _ in edges]]
    edge_attr = None
    if isinstance(edge_attrs, str):
        edge_attrs = [edge_attrs]
    if edge_attrs is not None:
        rows = [_edge_row(u, v, data, edge_attrs) for u, v, data in edges]
        edge_attr = _as_matrix(rows, edge_attrs)
    index = torch.tensor(ends, dtype=torch.long).reshape(2, -1)
    return Edges(index, len(number), edge_attr=edge_attr, names=list(number))


def to_networkx(
    graph: TokenGraph, *, undirected: bool = False, edge_attrs: Sequence[str] | None = None
) -> nx.Graph:
    """Return a networkx graph whose nodes are the names of the tokens, or their indices.

    A bipartite graph has nodes `("target", i)` and `("source", j)`.

    Args:
        graph: any token graph.
        undirected: return a Graph or MultiGraph; the token graph must be symmetric.
        edge_attrs: names for the columns of `edge_attr`, which become edge attributes.

    Raises:
        ValueError: `undirected` and some edge has no reverse, or the number of
            `edge_attrs` is not that of the columns.

    >>> from tokennet import Causal
    >>> sorted(to_networkx(Causal(3)).edges)
    [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    """
    import networkx as nx

    rows = _edge_columns(graph, edge_attrs)
    targets = sources = range(graph.num_targets) if graph.names is None else graph.names
    if not graph.is_square:
        targets = [("target", i) for i in range(graph.num_targets)]
        sources = [("source", j) for j in range(graph.num_sources)]
    result = nx.MultiDiGraph() if graph.has_multi_edges else nx.DiGraph()
    result.add_nodes_from(targets)
    result.add_nodes_from(sources)
    for (j, i), row in zip(graph.edge_index().t().tolist(), rows, strict=True):
        result.add_edge(sources[j], targets[i], **row)
    return _undirected(result) if undirected else result


def from_pyg(data: Data) -> Edges:
    """Return the token graph of a PyG `Data`, or the `Disjoint` graph of a `Batch`.

    `edge_attr` is kept, in the order of `edge_index`. Without it, `edge_weight` becomes a
    single column of `edge_attr`.

    Raises:
        TypeError: `data` is not a `Data`.
        ValueError: it has no `edge_index`, or its number of nodes is not known.

    >>> from torch_geometric.data import Data
    >>> from_pyg(Data(edge_index=torch.tensor([[0, 1], [1, 2]]), num_nodes=3))
    Edges(3): 3 tokens, 2 edges, density 0.222
    """
    from torch_geometric.data import Batch, Data

    check_type("data", data, Data, "a PyG Data or Batch")
    if isinstance(data, Batch):
        return Disjoint(from_pyg(single) for single in data.to_data_list())
    if data.edge_index is None:
        raise ValueError(f"data must have an edge_index, got {data}")
    if not {"x", "pos", "num_nodes"} & set(data.keys()):
        raise ValueError(f"data must have x, pos or num_nodes, got {data}")
    attr = data.edge_attr if data.edge_attr is not None else data.edge_weight
    return Edges(data.edge_index, data.num_nodes, edge_attr=attr)


def from_mask(mask: Tensor) -> Edges:
    """Return the graph of a boolean mask (N, M), True where target i attends to source j.

    This is the meaning of `attn_mask` in `scaled_dot_product_attention`. In
    `nn.MultiheadAttention` a boolean mask means the opposite: pass `~attn_mask`.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: it does not have two dimensions.

    >>> from_mask(torch.ones(2, 2).tril().bool()).edge_index().tolist()
    [[0, 0, 1], [0, 1, 1]]
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a boolean tensor, got {getattr(mask, 'dtype', type(mask))}")
    if mask.dim() != 2:
        raise ValueError(f"mask must have shape (N, M), got {tuple(mask.shape)}")
    target, source = mask.nonzero(as_tuple=True)
    return Edges(torch.stack([source, target]), *mask.shape)


def from_mask_mod(mask_mod: MaskMod, n: int, m: int | None = None) -> TokenGraph:
    """Return the graph of a FlexAttention `mask_mod(batch, head, query, key)`.

    One graph serves all batches and heads, so `mask_mod` is called for batch 0, head 0.
    Its arguments are tensors, so that it must use `&`, `|`, `~` rather than `and`, `or`, `not`.

    Raises:
        ValueError: `mask_mod` does not accept four index tensors, or is not elementwise.

    >>> from_mask_mod(lambda b, h, i, j: i >= j, 4)
    from_mask_mod(<lambda>, 4): 4 tokens, 10 edges, density 0.625
    """
    graph = MaskModGraph(mask_mod, n, m)
    try:
        graph.call(torch.zeros(2, 1, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long))
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            "mask_mod must take (batch, head, query, key) and be elementwise, with & and | for "
            f"`and` and `or`: {error}"
        ) from error
    return graph


class MaskModGraph(TokenGraph):
    """The graph of a FlexAttention `mask_mod`; see `from_mask_mod`."""

    def __init__(self, mask_mod: MaskMod, n: int, m: int | None = None) -> None:
        super().__init__(n, m)
        self.mask_mod = mask_mod

    def call(self, i: Tensor, j: Tensor) -> Tensor:
        zero = torch.zeros_like(i)
        return self.mask_mod(zero, zero, i, j)

    def attends(self, i: Tensor, j: Tensor) -> Tensor:
        return as_mask(self.call(i, j), i, j)

    def _count(self) -> str:
        if self.num_targets * self.num_sources > BLOCK_ENTRIES:
            return "edges not counted"
        return super()._count()

    def _name(self) -> str:
        name = getattr(self.mask_mod, "__name__", "mask_mod")
        return f"from_mask_mod({name}, {self._size()})"


def to_mask_mod(graph: TokenGraph) -> MaskMod:
    """Return the FlexAttention `mask_mod` of a graph.

    >>> from tokennet import Causal
    >>> query, key = torch.tensor([0, 1]), torch.tensor([1, 0])
    >>> to_mask_mod(Causal(2))(torch.tensor(0), torch.tensor(0), query, key)
    tensor([False,  True])
    """

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return graph.attends(query, key)

    return mask_mod


def _edge_row(u: Any, v: Any, data: dict[str, Any], names: Sequence[str]) -> list[float]:
    row: list[float] = []
    for name in names:
        if name not in data:
            raise ValueError(f"edge_attrs: edge {u!r} -> {v!r} has no attribute {name!r}")
        try:
            row += torch.as_tensor(data[name], dtype=torch.float64).flatten().tolist()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"edge_attrs: {name!r} of edge {u!r} -> {v!r} must be numeric, got {data[name]!r}"
            ) from None
    return row


def _as_matrix(rows: list[list[float]], names: Sequence[str]) -> Tensor:
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1:
        raise ValueError(
            f"edge_attrs: {list(names)} must have the same length on every edge, got {widths}"
        )
    width = widths[0] if widths else len(names)
    return torch.tensor(rows, dtype=torch.get_default_dtype()).reshape(len(rows), width)


def _edge_columns(graph: TokenGraph, names: Sequence[str] | None) -> list[dict[str, float]]:
    if names is None:
        return [{} for _ in range(graph.num_edges)]
    attr = graph.edge_attr
    columns = torch.zeros(graph.num_edges, 0) if attr is None else attr.detach()
    if columns.shape[1] != len(names):
        raise ValueError(f"edge_attrs names {len(names)} columns, edge_attr has {columns.shape[1]}")
    return [dict(zip(names, row, strict=True)) for row in columns.tolist()]


def _undirected(graph: nx.DiGraph) -> nx.Graph:
    import networkx as nx

    for u, v in graph.edges():
        if _attributes(graph, u, v) != _attributes(graph, v, u):
            raise ValueError(
                f"undirected: {u!r} -> {v!r} has no reverse with the same attributes; "
                "the graph is directed"
            )
    if not graph.is_multigraph():
        return graph.to_undirected()
    result = nx.MultiGraph()
    result.add_nodes_from(graph.nodes)
    index = {name: number for number, name in enumerate(graph.nodes)}
    for u, v, data in graph.edges(data=True):
        if index[u] <= index[v]:  # an edge and its reverse are one undirected edge
            result.add_edge(u, v, **data)
    return result


def _attributes(graph: nx.DiGraph, u: Any, v: Any) -> list[list[tuple[str, Any]]]:
    """Attributes of every edge from u to v, in an order that does not depend on theirs."""
    found = graph.get_edge_data(u, v, default={})
    edges = found.values() if graph.is_multigraph() else [found] if graph.has_edge(u, v) else []
    return sorted(sorted(data.items()) for data in edges)
