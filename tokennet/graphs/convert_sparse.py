"""Token graphs from and to sparse matrices of scipy and torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokennet.checks import check_type, lookup
from tokennet.graphs.algebra import TokenGraph
from tokennet.graphs.edges import Edges

if TYPE_CHECKING:  # takes long to load
    import scipy.sparse


def from_scipy(matrix: Any, *, rows: str | None = None, values: bool = False) -> Edges:
    """Return the graph whose edges are the entries of a scipy sparse matrix, row by row.

    Args:
        matrix: in any format. Every stored entry is an edge, also a stored 0; entries that are
            stored twice are added, as everywhere in scipy.
        rows: `"sources"` if entry (u, v) is the edge u -> v, "v attends to u", as in networkx,
            `scipy.sparse.csgraph` and PyG; `"targets"` if entry (i, j) says that target i attends
            to source j, as in a mask or a matrix that is multiplied with z. Only a symmetric
            matrix does without it.
        values: whether the entries become `edge_attr`, (E, 1).

    Raises:
        TypeError: `matrix` is no scipy sparse matrix.
        ValueError: it is not symmetric and `rows` is not given.

    >>> import scipy.sparse
    >>> matrix = scipy.sparse.csr_array([[0.0, 2.0], [0.0, 0.0]])
    >>> from_scipy(matrix, rows="sources").edge_index().tolist()  # 0 -> 1
    [[0], [1]]
    """
    import scipy.sparse

    if not scipy.sparse.issparse(matrix):
        raise TypeError(f"matrix must be a scipy sparse matrix, got {type(matrix).__name__}")
    coo = scipy.sparse.coo_array(matrix)
    coo.sum_duplicates()
    index = torch.stack([torch.as_tensor(coo.row), torch.as_tensor(coo.col)]).long()
    # Sorted by column; a graph is read row by row.
    order = (index[0] * matrix.shape[1] + index[1]).argsort()
    data = torch.as_tensor(coo.data)[order] if values else None
    return _graph(index[:, order], data, tuple(matrix.shape), rows)


def to_scipy(
    graph: TokenGraph, *, rows: str | None = None, values: Tensor | None = None
) -> scipy.sparse.csr_array:
    """Return a scipy sparse matrix with an entry for each edge; parallel edges are added.

    Args:
        graph: any token graph.
        rows: see `from_scipy`; only a symmetric result does without it.
        values: (E,), in the order of `graph.edge_index()`; by default 1 for each edge.

    >>> from tokennet import Causal
    >>> to_scipy(Causal(2), rows="targets").toarray().tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    import scipy.sparse

    index, data, shape = _matrix(graph, values, rows)
    row, column = index.numpy()
    return scipy.sparse.csr_array((data.detach().cpu().numpy(), (row, column)), shape=shape)


def from_torch_sparse(matrix: Tensor, *, rows: str | None = None, values: bool = False) -> Edges:
    """Return the graph whose edges are the entries of a `torch.sparse` matrix, row by row.

    Args:
        matrix: (N, M) in any sparse layout: COO, CSR, CSC, BSR or BSC.
        rows: see `from_scipy`.
        values: whether the entries become `edge_attr`, (E, 1), with their gradient.

    Raises:
        TypeError: `matrix` is no sparse tensor.
        ValueError: it has not two dimensions, or is not symmetric and `rows` is not given.

    >>> matrix = torch.tensor([[0.0, 2.0], [0.0, 0.0]]).to_sparse()
    >>> from_torch_sparse(matrix, rows="targets", values=True).edge_attr  # token 0 attends to 1
    tensor([[2.]])
    """
    if not isinstance(matrix, Tensor) or matrix.layout == torch.strided:
        got = matrix.layout if isinstance(matrix, Tensor) else type(matrix).__name__
        raise TypeError(f"matrix must be a sparse tensor, got {got}")
    if matrix.dim() != 2 or matrix.dense_dim():
        raise ValueError(f"matrix must have shape (N, M), got {tuple(matrix.shape)}")
    coo = matrix.to_sparse_coo().coalesce()
    return _graph(coo.indices(), coo.values() if values else None, tuple(matrix.shape), rows)


def to_torch_sparse(
    graph: TokenGraph,
    *,
    rows: str | None = None,
    values: Tensor | None = None,
    layout: torch.layout = torch.sparse_coo,
) -> Tensor:
    """Return a `torch.sparse` matrix with an entry for each edge; parallel edges are added.

    With `rows="targets"`, the product with z sums over neighbors.

    Args:
        graph: any token graph.
        rows: see `from_scipy`; only a symmetric result does without it.
        values: (E,), in the order of `graph.edge_index()`, such as attention weights of one head,
            with their gradient; by default 1 for each edge.
        layout: `torch.sparse_coo`, `torch.sparse_csr` or `torch.sparse_csc`.

    >>> from tokennet import Causal
    >>> (to_torch_sparse(Causal(3), rows="targets") @ torch.ones(3, 1)).flatten()
    tensor([1., 2., 3.])
    """
    index, data, shape = _matrix(graph, values, rows)
    matrix = torch.sparse_coo_tensor(index.to(data.device), data, shape, check_invariants=False)
    return matrix.coalesce().to_sparse(layout=layout)


def _graph(index: Tensor, values: Tensor | None, shape: tuple[int, ...], rows: str | None) -> Edges:
    """The graph with an edge for each (row, column) of `index`, which are all different."""
    if _rows_are_sources(index, values, shape, rows):
        return Edges(index, shape[1], shape[0], edge_attr=values)
    return Edges(index.flip(0), *shape, edge_attr=values)


def _matrix(
    graph: TokenGraph, values: Tensor | None, rows: str | None
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Row and column of each edge, its value, and the shape."""
    index = graph.edge_index()
    if values is None:
        values = torch.ones(graph.num_edges)
    check_type("values", values, Tensor, "a tensor")
    if values.shape != (graph.num_edges,):
        raise ValueError(f"values must be ({graph.num_edges},), got {tuple(values.shape)}")
    shape = graph.num_sources, graph.num_targets
    if _rows_are_sources(index, values, shape, rows):
        return index, values, shape
    return index.flip(0), values, shape[::-1]


def _rows_are_sources(
    index: Tensor, values: Tensor | None, shape: tuple[int, ...], rows: str | None
) -> bool:
    if rows is not None:
        return lookup("rows", rows, {"sources": True, "targets": False})
    entries = torch.ones(index.shape[1]) if values is None else values.detach()
    if shape[0] == shape[1]:
        one, other = (
            torch.sparse_coo_tensor(ends, entries.cpu(), shape, check_invariants=False).coalesce()
            for ends in (index.cpu(), index.flip(0).cpu())
        )
        if torch.equal(one.indices(), other.indices()) and torch.equal(
            one.values(), other.values()
        ):
            return True
    raise ValueError(
        'rows must be "sources", where entry (u, v) is the edge u -> v (networkx, PyG), or '
        '"targets", where entry (i, j) says that target i attends to source j (masks): the '
        "matrix is not symmetric, and no rows were given"
    )
