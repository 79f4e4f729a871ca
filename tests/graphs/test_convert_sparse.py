"""Sparse matrices of scipy and torch: rows are said, never guessed."""

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
import torch

from tests.families import BIPARTITE, LISTED
from tokennet import Causal, Cycle, Edges, from_mask, from_networkx
from tokennet.graphs import from_scipy, from_torch_sparse, to_scipy, to_torch_sparse

MATRIX = torch.tensor([[0.0, 2.0, 3.0], [0.0, 0.0, 0.0], [0.0, 4.0, 5.0]])


def as_scipy(layout):
    return getattr(scipy.sparse, layout)(MATRIX.numpy())


SPARSE = {
    **{f"{kind}_{of}": (from_scipy, as_scipy(f"{kind}_{of}"))
       for kind in ("coo", "csr", "csc", "lil", "dok", "bsr") for of in ("array", "matrix")},
    **{str(layout): (from_torch_sparse, MATRIX.to_sparse(layout=layout))
       for layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)},
    "bsr": (from_torch_sparse, torch.zeros(4, 4).to_sparse_bsr((2, 2))),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SPARSE if name != "bsr"])
def test_entries_are_edges_row_by_row(name):
    convert, matrix = SPARSE[name]
    targets = convert(matrix, rows="targets", values=True)
    assert targets.edge_index().tolist() == [[1, 2, 1, 2], [0, 0, 2, 2]]
    assert targets.edge_attr.flatten().tolist() == [2.0, 3.0, 4.0, 5.0]
    assert targets.with_edge_attr(None) == from_mask(MATRIX > 0)
    sources = convert(matrix, rows="sources", values=True)
    assert sources.edge_index().tolist() == [[0, 0, 2, 2], [1, 2, 1, 2]]
    assert torch.equal(sources.edge_attr, targets.edge_attr)
    assert convert(matrix, rows="sources").edge_attr is None
    with pytest.raises(ValueError, match="the matrix is not symmetric, and no rows were given"):
        convert(matrix)
    with pytest.raises(ValueError, match="rows must be one of sources, targets; got 'target'"):
        convert(matrix, rows="target")


def test_blocks_of_zeros_are_no_special_case():
    convert, matrix = SPARSE["bsr"]
    assert convert(matrix).num_edges == matrix.to_sparse_coo()._nnz()


def test_an_adjacency_matrix_of_networkx_has_sources_as_rows():
    directed = nx.gnp_random_graph(7, 0.3, seed=1, directed=True)
    adjacency = nx.to_scipy_sparse_array(directed)
    assert from_scipy(adjacency, rows="sources").coalesce() == Edges(
        from_networkx(directed).edge_index(), 7
    ).coalesce()  # fmt: skip
    karate = nx.karate_club_graph()
    adjacency = nx.to_scipy_sparse_array(karate)
    graph = from_scipy(adjacency, values=True)  # symmetric: needs no rows
    assert torch.equal(graph.edge_attr[:, 0], torch.as_tensor(adjacency.data))
    assert torch.equal(graph.dense(), torch.as_tensor(adjacency.toarray() != 0))


def test_a_symmetric_pattern_of_different_values_is_not_symmetric():
    matrix = scipy.sparse.coo_array(np.array([[0, 1], [2, 0]]))
    assert from_scipy(matrix).num_edges == 2  # without values it is
    with pytest.raises(ValueError, match="not symmetric"):
        from_scipy(matrix, values=True)


def test_entries_that_are_stored_twice_are_added_and_stored_zeros_are_edges():
    index = ([0, 0, 1], [1, 1, 1])
    theirs = scipy.sparse.coo_array(([1.0, 2.0, 0.0], index), shape=(2, 2))
    ours = torch.sparse_coo_tensor(torch.tensor(index), torch.tensor([1.0, 2.0, 0.0]), (2, 2))
    for graph in (
        from_scipy(theirs, rows="targets", values=True),
        from_torch_sparse(ours, rows="targets", values=True),
    ):
        assert graph.edge_index().tolist() == [[1, 1], [0, 1]]
        assert graph.edge_attr.flatten().tolist() == [3.0, 0.0]
    assert theirs.nnz == 3  # as it was given


@pytest.mark.parametrize("rows", ["targets", "sources"])
@pytest.mark.parametrize("make", [*LISTED.values(), *BIPARTITE.values(), lambda: Causal(4)])
def test_graphs_go_out_and_come_back(make, rows):
    graph = make()
    dense = graph.dense() if rows == "targets" else graph.dense().T
    assert np.array_equal(to_scipy(graph, rows=rows).toarray() > 0, dense.numpy())
    back = from_scipy(to_scipy(graph, rows=rows), rows=rows)
    assert torch.equal(back.dense(), graph.dense())
    for layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc):
        matrix = to_torch_sparse(graph, rows=rows, layout=layout)
        assert matrix.layout == layout
        assert torch.equal(matrix.to_dense() > 0, dense)
        assert torch.equal(from_torch_sparse(matrix, rows=rows).dense(), graph.dense())


def test_weights_of_edges_go_out_with_their_gradient():
    graph = Edges([(0, 1), (2, 1), (0, 1)], 3)
    weights = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    matrix = to_torch_sparse(graph, rows="targets", values=weights)
    assert matrix.to_dense().tolist() == [[0, 0, 0], [5, 0, 2], [0, 0, 0]]
    (matrix.to_dense()[1, 2] * 3).backward()
    assert weights.grad.tolist() == [0.0, 3.0, 0.0]
    assert to_scipy(graph, rows="sources", values=weights).toarray()[0, 1] == 5
    assert to_scipy(Cycle(4)).nnz == 12
    for call in (to_scipy, to_torch_sparse):
        with pytest.raises(ValueError, match="not symmetric"):
            call(graph)
        with pytest.raises(ValueError, match=r"values must be \(3,\), got \(3, 1\)"):
            call(graph, rows="targets", values=weights[:, None])
        with pytest.raises(TypeError, match="values must be a tensor, got list"):
            call(graph, rows="targets", values=[1.0, 2.0, 4.0])


def test_values_of_a_sparse_tensor_keep_their_gradient():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    matrix = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 1]]), values, (2, 2))
    from_torch_sparse(matrix, rows="targets", values=True).edge_attr[1].sum().backward()
    assert values.grad.tolist() == [0.0, 1.0]


def test_what_is_no_sparse_matrix_is_refused():
    with pytest.raises(TypeError, match="matrix must be a scipy sparse matrix, got Tensor"):
        from_scipy(torch.eye(2))
    with pytest.raises(TypeError, match="matrix must be a sparse tensor, got torch.strided"):
        from_torch_sparse(torch.eye(2))
    with pytest.raises(TypeError, match="matrix must be a sparse tensor, got csr_array"):
        from_torch_sparse(scipy.sparse.csr_array(np.eye(2)))
    with pytest.raises(ValueError, match=r"matrix must have shape \(N, M\), got \(2, 2, 2\)"):
        from_torch_sparse(torch.ones(2, 2, 2).to_sparse())
    with pytest.raises(ValueError, match=r"matrix must have shape \(N, M\)"):
        from_torch_sparse(torch.ones(2, 2).to_sparse(1))
