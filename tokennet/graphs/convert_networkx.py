"""Token graphs from and to networkx, with attributes of nodes and edges by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokennet.checks import check_flag, check_items, check_type
from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.attributes import Attributes, attribute_matrix
from tokennet.graphs.edges import Edges

if TYPE_CHECKING:  # takes long to load
    import networkx as nx

Row = dict[str, Any]


def from_networkx(
    graph: nx.Graph,
    edge_attrs: Attributes | None = None,
    *,
    edge_type: Attributes | None = None,
    dtype: torch.dtype | None = None,
) -> Edges:
    """Return the token graph of a networkx graph of any of its four kinds.

    An edge u -> v becomes "v attends to u"; an undirected edge becomes one edge each
    way, an undirected self-loop a single edge. Parallel edges of a multigraph stay
    parallel. Tokens are numbered in the order of `graph.nodes`, whose names are kept
    in `names`. For features of the nodes as well, see `Tokens.from_networkx`.

    Args:
        graph: Graph, DiGraph, MultiGraph or MultiDiGraph. Nothing of it is copied but what
            `edge_attrs` and `edge_type` name.
        edge_attrs: names of edge attributes, which become columns of `edge_attr`. Each is a
            number, or numbers of the same shape, on every edge. For an attribute that is text,
            give its categories: `{"weight": None, "kind": ["friend", "foe"]}` makes a column of
            0 and 1 for each kind; `{"kind": {"friend": 0, "foe": 1}}` makes one column of these
            numbers. They are not guessed, so that all graphs of a data set have the same columns.
        edge_type: name of the attribute that is the type of each edge, 0, 1, ...; for text, with
            its categories, `{"kind": ["friend", "foe"]}`, of which the first is type 0.
        dtype: of `edge_attr`; by default torch's default type.

    Raises:
        TypeError: `graph` is no networkx graph.
        ValueError: an edge lacks one of `edge_attrs` or `edge_type`, or holds neither numbers nor
            one of the given categories; or a whole number does not fit `dtype` (in float32, some
            above 2^24).

    >>> import networkx as nx
    >>> from_networkx(nx.path_graph(["a", "b", "c"])).edge_index().tolist()
    [[0, 1, 1, 2], [1, 0, 2, 1]]
    >>> club = nx.karate_club_graph()
    >>> from_networkx(club, "weight").edge_attr.shape
    torch.Size([156, 1])
    """
    import networkx as nx

    check_type("graph", graph, nx.Graph, "a networkx graph")
    names = list(graph.nodes)
    source, target, rows = _edges_of(graph, {name: i for i, name in enumerate(names)})

    def holder(k: int) -> str:
        return f"edge {names[source[k]]!r} -> {names[target[k]]!r}"

    attr = types = None
    if edge_attrs is not None:
        attr = attribute_matrix("edge_attrs", edge_attrs, rows, holder, dtype)
    if edge_type is not None:
        numbered = _numbered(edge_type)
        types = attribute_matrix("edge_type", numbered, rows, holder, torch.long)
        if types.shape[1] != 1:
            raise ValueError(
                f"edge_type must name one attribute, a number for each edge, got {edge_type!r}"
            )
        types = types[:, 0]
    index = torch.tensor([source, target], dtype=torch.long)
    result = Edges(index, len(names), edge_attr=attr, edge_type=types, names=names)
    result.from_multigraph = graph.is_multigraph()
    return result


def node_matrix(
    graph: nx.Graph, argument: str, attrs: Attributes | None, dtype: torch.dtype | None = None
) -> Tensor:
    """(N, F): attributes of the nodes, in the order of `graph.nodes`; as in `from_networkx`."""
    import networkx as nx

    check_type("graph", graph, nx.Graph, "a networkx graph")
    if attrs is None:
        raise ValueError(
            f"{argument} must name attributes of the nodes, got none: without features of nodes, "
            "use Tokens(z, from_networkx(graph, edge_attrs)) with a z (N, D) of your own, such as "
            "degrees or a learned embedding"
        )
    names, rows = list(graph.nodes), list(graph.nodes.values())
    return attribute_matrix(argument, attrs, rows, lambda k: f"node {names[k]!r}", dtype)


def to_networkx(
    graph: TokenGraph,
    *,
    undirected: bool = False,
    multigraph: bool | None = None,
    edge_attrs: str | Sequence[str] | None = None,
    nodes: Mapping[str, Any] | None = None,
    edges: Mapping[str, Any] | None = None,
) -> nx.Graph:
    """Return a networkx graph whose nodes are the names of the tokens, or their indices.

    A bipartite graph has nodes `("target", i)` and `("source", j)`.

    Args:
        graph: any token graph.
        undirected: return a Graph or MultiGraph; the token graph must be symmetric.
        multigraph: whether to return a graph that may have parallel edges. By default, if this
            one has some or was made of such a graph.
        edge_attrs: names for the columns of `edge_attr`, which become edge attributes; a string
            is the name of the only column.
        nodes: further attributes of the nodes by name: a value or row for each token.
        edges: further attributes of the edges by name: a value or row for each edge, in the order
            of `graph.edge_index()`, such as attention weights. Each direction has its own.

    Raises:
        ValueError: `undirected` and some edge has no reverse with the same attributes; parallel
            edges and `multigraph=False`; the number of `edge_attrs` is not that of the columns;
            an attribute has another length, or `nodes` are given for a bipartite graph.

    >>> from tokennet import Causal
    >>> weights = torch.tensor([1.0, 0.25, 0.75])
    >>> to_networkx(Causal(2), edges={"attention": weights}).edges.data("attention")
    OutEdgeDataView([(0, 0, 1.0), (0, 1, 0.25), (1, 1, 0.75)])
    """
    import networkx as nx

    check_type("graph", graph, TokenGraph, "a token graph")
    undirected = check_flag("undirected", undirected)
    multigraph = None if multigraph is None else check_flag("multigraph", multigraph)
    columns = _edge_columns(graph, edge_attrs)
    further = _by_name("edges", edges, graph.num_edges)
    rows = [{**row, **more} for row, more in zip(columns, further, strict=True)]
    pairs = graph.edge_index().t().tolist()
    if multigraph is None:
        multigraph = graph.from_multigraph or graph.has_multi_edges
    if graph.has_multi_edges and not multigraph:
        raise ValueError("multigraph=False would lose parallel edges; graph.coalesce() has none")
    targets = sources = range(graph.num_targets) if graph.names is None else graph.names
    if not graph.is_square:
        if nodes is not None or undirected:
            raise ValueError(
                f"nodes and undirected need the same sources and targets, got {graph!r}"
            )
        targets = [("target", i) for i in range(graph.num_targets)]
        sources = [("source", j) for j in range(graph.num_sources)]
    if undirected:
        _check_reverses(pairs, rows, targets)
        kept = [j <= i for j, i in pairs]  # an edge and its reverse are one undirected edge
        pairs = [pair for pair, keep in zip(pairs, kept, strict=True) if keep]
        rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
        result = nx.MultiGraph() if multigraph else nx.Graph()
    else:
        result = nx.MultiDiGraph() if multigraph else nx.DiGraph()
    result.add_nodes_from(zip(targets, _by_name("nodes", nodes, graph.num_targets), strict=True))
    result.add_nodes_from(sources)
    result.add_edges_from(
        (sources[j], targets[i], row) for (j, i), row in zip(pairs, rows, strict=True)
    )
    return result


def _numbered(attrs: Attributes) -> Attributes:
    """The same attributes, of which categories in a list are numbered from 0."""
    if not isinstance(attrs, Mapping):
        return attrs
    return {
        name: {category: k for k, category in enumerate(given)}
        if isinstance(given, list | tuple)
        else given
        for name, given in attrs.items()
    }


def _edges_of(graph: nx.Graph, number: dict[Any, int]) -> tuple[list[int], list[int], list[Row]]:
    """Source, target and attributes of each edge, of an undirected one in each direction."""
    source: list[int] = []
    target: list[int] = []
    rows: list[Row] = []
    for u, adjacent in graph.adjacency():
        ends = [number[v] for v in adjacent]
        attributes = adjacent.values()
        if graph.is_multigraph():  # those of parallel edges are one dictionary more
            ends = [v for v, edges in zip(ends, attributes, strict=True) for _ in edges]
            attributes = [row for edges in attributes for row in edges.values()]
        source += [number[u]] * len(ends)
        target += ends
        rows += attributes
    return source, target, rows


def _edge_columns(graph: TokenGraph, names: Sequence[str] | None) -> list[Row]:
    """The columns of `edge_attr` under these names, for each edge."""
    if names is None:
        return [{} for _ in range(graph.num_edges)]
    given = [names] if isinstance(names, str) else names
    names = check_items("edge_attrs", given, Hashable, "names")
    attr = graph.edge_attr
    columns = torch.zeros(graph.num_edges, 0) if attr is None else attr.detach()
    if columns.shape[1] != len(names):
        raise ValueError(f"edge_attrs names {len(names)} columns, edge_attr has {columns.shape[1]}")
    return [dict(zip(names, row, strict=True)) for row in columns.tolist()]


def _by_name(argument: str, attrs: Mapping[str, Any] | None, count: int) -> list[Row]:
    """The attributes of each of `count` nodes or edges."""
    if attrs is None:
        return [{} for _ in range(count)]
    check_type(argument, attrs, Mapping, "values by name")
    columns = []
    for name, values in attrs.items():
        values = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(values, Sequence) or len(values) != count:
            got = len(values) if isinstance(values, Sequence) else type(values).__name__
            raise ValueError(f"{argument}[{name!r}] must have {count} values or rows, got {got}")
        columns.append(values)
    return [dict(zip(attrs, [column[k] for column in columns], strict=True)) for k in range(count)]


def _check_reverses(pairs: list[list[int]], rows: list[Row], names: Sequence[Any]) -> None:
    """Raise unless every edge has a reverse with the same attributes."""
    # By `repr`, in which NaN is NaN and lists can be counted.
    keys = [(j, i, repr(row)) for (j, i), row in zip(pairs, rows, strict=True)]
    counts = Counter(keys)
    for j, i, row in keys:
        if counts[j, i, row] != counts[i, j, row]:
            raise ValueError(
                f"undirected: {names[j]!r} -> {names[i]!r} has no reverse with the same "
                "attributes; the graph is directed"
            )
