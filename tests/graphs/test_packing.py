"""A ragged batch is pickled as a few tensors, whatever its graphs are."""

import copy
import pickle
import resource

import pytest
import torch
from torch.utils.data import DataLoader

from tests.families import RAGGED, SQUARE, by_default
from tokennet import Causal, Disjoint, Edges, Tokens
from tokennet.graphs.packing import Columns, pack, unpack


def listed(n):
    edges, attr = torch.randint(0, max(n, 1), (2, n)), torch.randn(n, 2)
    return Edges(edges, n, edge_attr=attr, names=[f"atom {i}" for i in range(n)])


@pytest.mark.parametrize("family", by_default([*SQUARE, *RAGGED]))
def test_graphs_come_back_as_they_were(family):
    graph = Disjoint([{**SQUARE, **RAGGED}[family](), Causal(3)])
    for again in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph), copy.copy(graph)):
        assert repr(again) == repr(graph)
        assert [type(part) for part in again.graphs] == [type(part) for part in graph.graphs]
        assert torch.equal(again.edge_index(), graph.edge_index())


def test_features_and_names_come_back():
    graph = Disjoint([listed(4), listed(2), listed(0)])
    again = pickle.loads(pickle.dumps(graph))
    assert torch.equal(again.edge_attr, graph.edge_attr)
    for part, before in zip(again.graphs, graph.graphs, strict=True):
        assert torch.equal(part.edge_attr, before.edge_attr)
        assert torch.equal(part.edge_index(), before.edge_index())
        assert part.names == before.names


def of_fields(edge_attr, edge_type):
    return Edges([(0, 1), (1, 2)], 3, edge_attr=edge_attr, edge_type=edge_type)


ATTR, KIND = torch.randn(2, 3), [1, 0]
ALIKE = [
    [of_fields(None, None), Edges([], 0), Edges([(2, 0)], 1, 3)],
    [of_fields(ATTR, None), of_fields(-ATTR, None)],
    [of_fields(ATTR.double(), KIND), of_fields(-ATTR.double(), [2, 2])],
    [of_fields(torch.tensor(KIND), KIND).relabel([2, 0, 1])],
]
UNLIKE = [
    [of_fields(ATTR, None), of_fields(None, None)],
    [of_fields(ATTR, None), of_fields(ATTR.double(), None)],
    [of_fields(ATTR, None), of_fields(ATTR[:, :2], None)],
    [of_fields(ATTR, None), of_fields(ATTR.clone().requires_grad_(), None)],
    [of_fields(None, KIND), Causal(3)],
    [],
]


@pytest.mark.parametrize("graphs", [*ALIKE, *UNLIKE], ids=str)
def test_lists_of_edges_with_fields_of_one_kind_are_packed_at_once(graphs):
    bare, joined = pickle.loads(pickle.dumps(pack(graphs)))
    assert isinstance(bare, Columns) == (graphs in ALIKE)
    for again, graph in zip(unpack(bare, joined), graphs, strict=True):
        assert type(again) is type(graph)
        assert again == graph
        for name, rows in graph.fields().items():
            found = again.fields()[name]
            assert rows is found is None or torch.equal(rows, found)
            assert rows is None or (rows.dtype, rows.requires_grad) == (
                found.dtype,
                found.requires_grad,
            )


def test_features_that_are_trained_stay_parameters():
    graph = Disjoint(
        [Edges(torch.tensor([[0], [1]]), 2, edge_attr=torch.ones(1, 2).requires_grad_())]
    )
    again = pickle.loads(pickle.dumps(graph))
    assert again.graphs[0].edge_attr.requires_grad
    assert again.graphs[0].edge_attr.is_leaf  # other processes are sent no other kind


def test_however_many_graphs_they_hold_one_tensor_of_each_dtype():
    graphs = [*(listed(5) for _ in range(50)), Causal(3).relabel([2, 0, 1])]
    _, joined = pack(Disjoint(graph.with_edge_attr(None) for graph in graphs[:50]).graphs)
    assert joined.keys() == {torch.int64}
    _, joined = pack(graphs)
    assert joined.keys() == {torch.int64, torch.float32}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_send_more_graphs_than_files_may_be_open(workers):
    data = [Tokens(torch.randn(5, 4), listed(5)) for _ in range(512)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        loader = DataLoader(data, 256, num_workers=workers, collate_fn=Tokens.batch, timeout=60)
        batches = list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [batch.num_tokens for batch in batches] == [1280, 1280]
    for number, batch in enumerate(batches):
        wanted = Tokens.batch(data[256 * number : 256 * (number + 1)])
        assert torch.equal(batch.z, wanted.z)
        assert torch.equal(batch.graph.edge_index(), wanted.graph.edge_index())
        assert torch.equal(batch.graph.edge_attr, wanted.graph.edge_attr)
