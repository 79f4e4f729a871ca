"""Token graphs from PyG, and fields of a PyG `Data` that tokens do not hold back onto it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokennet.checks import check_type
from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.base import same_features
from tokennet.graphs.disjoint import Disjoint
from tokennet.graphs.edges import Edges
from tokennet.graphs.formulas import Full
from tokennet.graphs.indices import set_of_each

if TYPE_CHECKING:  # takes long to load
    from torch_geometric.data import Data


def from_pyg(data: Data) -> Edges:
    """Return the token graph of a PyG `Data`; of several graphs in one, a `Disjoint`.

    Several graphs are what has a vector `batch` (or `ptr`), such as a `Batch`. It is read as it is
    now, whatever was done to it after batching. `edge_attr` and `edge_type` stay with their edges;
    without `edge_attr`, `edge_weight` becomes a single column of it. A `Disjoint` lists the edges
    graph by graph, each graph's in the order of `edge_index`.

    Raises:
        TypeError: `data` is not a `Data`; of a `HeteroData`, pass `data.to_homogeneous()`.
        ValueError: it has no `edge_index`, its number of nodes is not known, its nodes are not
            sorted by graph, or an edge connects two graphs.

    >>> from torch_geometric.data import Data
    >>> from_pyg(Data(edge_index=torch.tensor([[0, 1], [1, 2]]), num_nodes=3))
    Edges(3): 3 tokens, 2 edges, density 0.222
    """
    from torch_geometric.data import Data

    check_type("data", data, Data, "a PyG Data or Batch")
    if data.edge_index is None:
        raise ValueError(f"data must have an edge_index, got {data}")
    attr = data.edge_attr if data.edge_attr is not None else data.edge_weight
    types = data.get("edge_type")
    edges = Edges(data.edge_index, _number_of_nodes(data), edge_attr=attr, edge_type=types)
    sizes = _sizes(data, edges.num_targets)
    if sizes is None:
        return edges
    source, target = edges.edge_index()
    owner = set_of_each(sizes)
    between = (owner[source] != owner[target]).nonzero().flatten().tolist()
    if between:
        j, i = int(source[between[0]]), int(target[between[0]])
        raise ValueError(
            f"data must have no edges between its graphs, got {j} -> {i} "
            f"from graph {int(owner[j])} to graph {int(owner[i])}"
        )
    return Disjoint(Full(size) for size in sizes).split(edges)


def onto_pyg(like: Data, z: Tensor, graph: TokenGraph, pos: Tensor | None) -> Data:
    """Return a copy of `like` with these node features; see `Tokens.to_pyg`."""
    theirs = from_pyg(like)
    if (
        (theirs.is_ragged, theirs.sizes) != (graph.is_ragged, graph.sizes)
        or theirs.num_edges != graph.num_edges
        or not torch.equal(theirs.edge_index(), graph.edge_index())
    ):
        raise ValueError(
            f"like must be on the graph of the tokens, {graph!r}, so that its fields belong to "
            f"these nodes and edges; got {theirs!r}"
        )
    result = copy.copy(like)
    result.x = z
    if pos is not None:
        result.pos = pos
    for field, rows in graph.fields().items():
        if rows is not None and not same_features(rows, theirs.fields()[field]):
            # Tokens list edges graph by graph.
            order = graph.batch()[like.edge_index[1].cpu()].argsort(stable=True).argsort()
            result[field] = rows[order.to(rows.device)]
    return result


def _number_of_nodes(data: Data) -> int:
    for name in ("x", "pos", "batch"):
        value = data.get(name)
        if value is not None:
            return len(value)
    if data.get("ptr") is not None:
        return int(data.ptr[-1])
    if "num_nodes" not in data:
        raise ValueError(f"data must have x, pos or num_nodes, got {data}")
    return data.num_nodes  # type: ignore[return-value]


def _sizes(data: Data, n: int) -> list[int] | None:
    """Number of nodes of each graph in `data`; None if it is a single graph without `batch`."""
    batch, ptr = data.get("batch"), data.get("ptr")
    if batch is not None:
        if batch.shape != (n,) or batch.is_floating_point():
            raise ValueError(f"data.batch must have the graph of each of {n} nodes, got {batch}")
        if n and (int(batch[0]) < 0 or bool((batch.diff() < 0).any())):
            raise ValueError(
                "data.batch must ascend from 0: sort the nodes by graph; "
                f"got {batch.unique_consecutive().tolist()}"
            )
        # `ptr` counts the graphs, the last of which may have no nodes; its ends may be old.
        return torch.bincount(batch.cpu(), minlength=0 if ptr is None else len(ptr) - 1).tolist()
    if ptr is None:
        return None
    sizes = ptr.diff().tolist()
    if int(ptr[0]) != 0 or int(ptr[-1]) != n or min(sizes, default=0) < 0:
        raise ValueError(f"data.ptr must ascend from 0 to the {n} nodes, got {ptr.tolist()}")
    return sizes
