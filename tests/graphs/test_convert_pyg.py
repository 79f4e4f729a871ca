"""Round trips to PyG: a batch is read as it is, and its other fields come back."""

import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.transforms import AddSelfLoops, Distance, ToUndirected

from tokennet import Causal, Disjoint, Edges, Self, Tokens, from_pyg


def data(n, edges):
    index = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).t()
    attr = torch.arange(float(len(edges)))[:, None]
    return Data(x=torch.randn(n, 3), edge_index=index, edge_attr=attr, pos=torch.randn(n, 2))


def test_pyg_round_trip_in_the_caller_order():
    single = data(3, [(2, 0), (0, 1), (2, 0)])
    tokens = Tokens.from_pyg(single)
    assert torch.equal(tokens.graph.edge_index(), single.edge_index)
    back = tokens.to_pyg()
    for name in ("x", "edge_index", "edge_attr", "pos"):
        assert torch.equal(back[name], single[name])


def test_pyg_batch_is_a_disjoint_graph_and_back():
    batch = Batch.from_data_list([data(2, [(0, 1)]), data(3, [(2, 0), (1, 1)])])
    tokens = Tokens.from_pyg(batch)
    assert isinstance(tokens.graph, Disjoint)
    assert torch.equal(tokens.graph.edge_index(), batch.edge_index)
    assert torch.equal(tokens.graph.batch(), batch.batch)
    assert torch.equal(tokens.graph.edge_attr, batch.edge_attr)
    back = tokens.to_pyg()
    assert torch.equal(back.batch, batch.batch)
    assert torch.equal(back.x, batch.x)


def test_pyg_data_without_what_is_needed_is_refused():
    with pytest.raises(ValueError, match="data must have an edge_index"):
        from_pyg(Data(x=torch.zeros(2, 1)))
    with pytest.raises(TypeError, match="data must be a PyG Data or Batch, got dict"):
        from_pyg({})
    with pytest.raises(ValueError, match=r"data must have node features x.*use Tokens\(z, from_"):
        Tokens.from_pyg(Data(edge_index=torch.zeros(2, 0, dtype=torch.long), num_nodes=2))
    with pytest.raises(ValueError, match=r"z must have shape \(N, D\) for PyG, got \(1, 2, 3\)"):
        Tokens(torch.zeros(1, 2, 3), Causal(2)).to_pyg()


def test_the_number_of_nodes_is_not_guessed():
    with pytest.raises(ValueError, match="data must have x, pos or num_nodes"):
        from_pyg(Data(edge_index=torch.tensor([[0], [1]])))


def test_edge_weight_is_a_column_of_features():
    weighted = Data(
        x=torch.zeros(2, 1), edge_index=torch.tensor([[0], [1]]), edge_weight=torch.ones(1)
    )
    assert from_pyg(weighted).edge_attr.tolist() == [[1.0]]


def batch():
    line = torch.tensor([[0, 1, 2], [1, 2, 3]])
    return Batch.from_data_list([
        Data(x=torch.randn(3, 8), pos=torch.randn(3, 2), edge_index=line[:, :2]),
        Data(x=torch.randn(4, 8), pos=torch.randn(4, 2), edge_index=line),
    ])  # fmt: skip


def without_an_edge(changed):
    changed.edge_index = changed.edge_index[:, 1:]
    return changed


def with_edges_of_the_batch(changed):
    changed.edge_index = torch.tensor([[3, 0, 6, 2], [4, 1, 3, 0]])
    changed.edge_attr = torch.arange(4.0)
    return changed


def without_a_node(changed):
    return changed.subgraph(torch.tensor([0, 1, 3, 4, 5, 6]))


def without_a_graph(changed):
    return changed.subgraph(torch.tensor([3, 4, 5, 6]))  # its ptr is old, its first graph empty


def without_the_last_graph(changed):
    return changed.subgraph(torch.tensor([0, 1, 2]))


CHANGES = [
    AddSelfLoops(), Distance(), ToUndirected(), without_an_edge, with_edges_of_the_batch,
    without_a_node, without_a_graph, without_the_last_graph,
]  # fmt: skip


@pytest.mark.parametrize(
    "change", CHANGES, ids=lambda change: getattr(change, "__name__", str(change))
)
def test_a_batch_is_read_as_it_is_now(change):
    """Its slices are those of the batching (PyG#8439)."""
    changed = change(batch())
    tokens = Tokens.from_pyg(changed)
    assert torch.equal(tokens.graph.batch(), changed.batch)
    assert tokens.graph.num_graphs == 2
    assert torch.equal(tokens.z, changed.x)
    attr = changed.edge_attr
    wanted = {
        (*edge, None if attr is None else tuple(attr[k].flatten().tolist()))
        for k, edge in enumerate(changed.edge_index.T.tolist())
    }
    attr = tokens.graph.edge_attr
    found = {
        (*edge, None if attr is None else tuple(attr[k].tolist()))
        for k, edge in enumerate(tokens.graph.edge_index().T.tolist())
    }
    assert found == wanted
    assert tokens.graph.num_edges == changed.num_edges
    sizes = changed.batch.bincount(minlength=2).tolist()
    for part, size in zip(tokens.unbatch(), sizes, strict=True):
        assert part.num_tokens == size


def test_edges_made_on_the_batch():
    clouds = Batch.from_data_list(
        [Data(pos=torch.randn(n, 3), x=torch.randn(n, 3)) for n in (4, 5)]
    )
    clouds.edge_index = torch.tensor([[0, 4], [1, 5]])
    assert Tokens.from_pyg(clouds).graph.sizes == [4, 5]
    assert [part.num_edges for part in Tokens.from_pyg(clouds).graph.parts] == [1, 1]


@pytest.mark.parametrize("kind", [Data, Batch])
def test_a_batch_vector_makes_a_ragged_batch(kind):
    edges = torch.tensor([[0, 3], [1, 4]])
    several = kind(x=torch.randn(5, 8), edge_index=edges, batch=torch.tensor([0, 0, 0, 2, 2]))
    assert Tokens.from_pyg(several).graph.sizes == [3, 0, 2]
    assert from_pyg(kind(edge_index=edges, ptr=torch.tensor([0, 3, 5, 5]))).sizes == [3, 2, 0]
    assert from_pyg(kind(edge_index=edges, batch=torch.zeros(5, dtype=torch.long))).sizes == [5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": [0, 0, 1]}, r"no edges between its graphs, got 1 -> 2 from graph 0 to graph 1"),
        ({"batch": [0, 1, 0]}, r"data.batch must ascend from 0: sort .* got \[0, 1, 0\]"),
        ({"batch": [-1, 0, 0]}, "data.batch must ascend from 0"),
        ({"batch": [0, 0]}, "data.batch must have the graph of each of 3 nodes"),
        ({"ptr": [0, 2]}, r"data.ptr must ascend from 0 to the 3 nodes, got \[0, 2\]"),
        ({"ptr": [0, 4, 3]}, "data.ptr must ascend"),
        ({"ptr": [1, 3]}, "data.ptr must ascend"),
    ],
)
def test_batches_that_are_none_are_refused(fields, message):
    edges = torch.tensor([[0, 1], [1, 2]])
    fields = {name: torch.tensor(value) for name, value in fields.items()}
    with pytest.raises(ValueError, match=message):
        from_pyg(Data(x=torch.zeros(3, 1), edge_index=edges, **fields))


def full_of_fields():
    both = with_edges_of_the_batch(batch())  # not in the order of the graphs
    both.y, both.train_mask = torch.tensor([1, 0]), torch.rand(7) > 0.5
    both.node_type, both.edge_type = torch.arange(7), torch.arange(4)
    both.smiles = ["CC", "CO"]
    return both


def test_fields_come_back_onto_the_data():
    original = full_of_fields()
    tokens = Tokens.from_pyg(original)
    back = tokens.replace(z=tokens.z * 2, pos=tokens.pos + 1).to_pyg(like=original)
    assert type(back) is type(original)
    assert torch.equal(back.x, original.x * 2)
    assert torch.equal(back.pos, original.pos + 1)
    for name in set(original.keys()) - {"x", "pos", "smiles"}:
        assert torch.equal(back[name], original[name]), name
    assert back.smiles == original.smiles
    assert back.num_graphs == 2
    assert original.x.shape == back.x.shape
    assert not torch.equal(original.x, back.x)

    features = tokens.graph.with_edge_attr(tokens.graph.edge_attr + 10)
    back = tokens.replace(graph=features).to_pyg(like=original)
    assert back.edge_attr.flatten().tolist() == [10.0, 11.0, 12.0, 13.0]
    assert original.edge_attr.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert "pos" in tokens.replace(pos=None).to_pyg(like=original)


def test_types_of_heterogeneous_data_come_back():
    several = HeteroData()
    several["atom"].x, several["bond"].x = torch.randn(2, 4), torch.randn(3, 4)
    several["atom", "in", "bond"].edge_index = torch.tensor([[0, 1], [2, 0]])
    with pytest.raises(TypeError, match="data must be a PyG Data or Batch, got HeteroData"):
        from_pyg(several)
    one = several.to_homogeneous()
    tokens = Tokens.from_pyg(one)
    back = tokens.replace(z=-tokens.z).to_pyg(like=one).to_heterogeneous()
    assert torch.equal(back["bond"].x, -several["bond"].x)
    assert torch.equal(
        back["atom", "in", "bond"].edge_index, several["atom", "in", "bond"].edge_index
    )


def test_fields_of_another_graph_are_refused():
    original = full_of_fields()
    tokens = Tokens.from_pyg(original)
    moved = tokens.permute([1, 0, 2, 3, 4, 5, 6])
    bare = tokens.graph.with_edge_attr(None).with_edge_type(None)
    for other in (moved, tokens.replace(graph=bare | Self(7))):
        with pytest.raises(ValueError, match="like must be on the graph of the tokens"):
            other.to_pyg(like=original)
    with pytest.raises(ValueError, match="like must be on the graph of the tokens"):
        Tokens(tokens.z, Causal(7)).to_pyg(like=original)
    one = Edges(tokens.graph.edge_index(), 7)  # the same edges, in a single set
    with pytest.raises(ValueError, match="like must be on the graph of the tokens"):
        Tokens(tokens.z, one).to_pyg(like=original)


def test_edge_index_of_pyg_is_a_plain_tensor():
    edges = EdgeIndex([[0, 1], [1, 2]], sparse_size=(3, 3), sort_order="row")
    found = from_pyg(Data(x=torch.zeros(3, 1), edge_index=edges)).edge_index()
    assert type(found) is torch.Tensor
    assert found.tolist() == [[0, 1], [1, 2]]


def test_types_of_edges_come_and_go():
    data = Data(
        x=torch.randn(3, 2),
        edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]),
        edge_type=torch.tensor([2, 0, 1]),
    )
    tokens = Tokens.from_pyg(data)
    assert tokens.graph.edge_type.tolist() == [2, 0, 1]
    assert tokens.to_pyg().edge_type.tolist() == [2, 0, 1]
    assert "edge_attr" not in tokens.to_pyg()
    batch = Batch.from_data_list([data, data])
    order = torch.tensor([3, 0, 4, 1, 5, 2])  # the edges of both graphs, mixed
    batch.edge_index, batch.edge_type = batch.edge_index[:, order], batch.edge_type[order]
    ragged = Tokens.from_pyg(batch)
    assert ragged.graph.edge_type.tolist() == 2 * [2, 0, 1]
    assert ragged.to_pyg().edge_type.tolist() == 2 * [2, 0, 1]
    other = ragged.graph.with_edge_type(torch.arange(6))
    assert ragged.replace(graph=other).to_pyg(like=batch).edge_type.tolist() == order.tolist()
    hetero = HeteroData()
    hetero["a"].x, hetero["b"].x = torch.randn(2, 3), torch.randn(2, 3)
    hetero["a", "to", "b"].edge_index = torch.tensor([[0, 1], [1, 0]])
    hetero["b", "back", "a"].edge_index = torch.tensor([[0], [1]])
    assert Tokens.from_pyg(hetero.to_homogeneous()).graph.edge_type.tolist() == [0, 0, 1]
