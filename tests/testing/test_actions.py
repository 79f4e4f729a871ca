"""Actions on PyG `Data`: which keys hold node numbers, and which go with the edges."""

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import RandomLinkSplit, ToSparseTensor

import tokennet.testing
from tokennet import Edges, Tokens
from tokennet.testing import (
    Action,
    PermutePart,
    Relabel,
    ReorderEdges,
    Shuffle,
    assert_invariant,
    assert_relabeling_equivariant,
    check,
    check_equivariance,
    scripts,
)
from tokennet.testing.diagnose.script import TENSORS_OF, literal
from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.values import graphs_of

N = 6


def graph():
    edges = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 3, 5]])
    return Data(x=torch.randn(N, 3), edge_index=edges, edge_attr=torch.randn(8, 2))


def with_labels(data=None):
    """The training part of a link split; edges and labels differ in number."""
    return RandomLinkSplit(num_val=0.2, num_test=0.2)(data or graph())[0]


def mesh(faces=((0, 1, 2), (2, 3, 4), (4, 5, 0))):
    return Data(x=torch.randn(N, 3), face=torch.tensor(faces).T)


def batch_of(make):
    return Batch.from_data_list([make(), make()])


def random_move(action, data):
    perm = action.random(data, torch.Generator().manual_seed(0))
    assert not torch.equal(perm, torch.arange(len(perm)))
    return action.apply(data, perm)


def scores(data):
    """Of each labeled pair, in the order of the labels."""
    source, target = data.edge_label_index
    return (data.x[source] * data.x[target]).sum(-1) * data.edge_label


def corners(data):
    return data.x[data.face].prod(0)


NUMBERED = {"edge_label_index": (with_labels, scores), "face": (mesh, corners)}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("key", NUMBERED)
def test_relabeling_renames_all_node_numbers(key, batched):
    make, values = NUMBERED[key]
    data = batch_of(make) if batched else make()
    moved = random_move(Relabel(), data)
    assert not torch.equal(moved.x, data.x)
    assert torch.equal(values(moved), values(data))


def test_a_key_that_only_the_class_knows_is_renamed():
    class Tree(Data):
        def __inc__(self, key, value, *args, **kwargs):
            return self.num_nodes if key == "parent" else super().__inc__(key, value)

    tree = Tree(x=torch.randn(N, 3), parent=torch.tensor([0, 0, 0, 1, 1, 2]))
    for data in (tree, Batch.from_data_list([tree, tree])):
        moved = random_move(Relabel(), data)
        perm = Relabel().random(data, torch.Generator().manual_seed(0))
        assert torch.equal(moved.x[moved.parent], data.x[data.parent][perm])


def test_what_numbers_no_node_stays_beside_what_does():
    data = Batch.from_data_list([with_labels(), with_labels()], follow_batch=["edge_label_index"])
    data.index = torch.tensor([1234])  # of the graph, in its data set
    moved = random_move(Relabel(), data)
    for key in ("ptr", "batch", "edge_label_index_ptr", "edge_label_index_batch", "index"):
        assert torch.equal(moved[key], data[key]), key
    assert torch.equal(scores(moved), scores(data))


@pytest.mark.parametrize(
    "faces", [((0, 1, 2),) * N, ((0, 1, 2), (1, 2, 0), (2, 0, 1))], ids=["as_nodes", "square"]
)
def test_faces_are_no_rows_of_nodes(faces):
    data = mesh(faces)
    data.x = data.x[: 3 if len(faces) == 3 else N]
    moved = random_move(Relabel(), data)
    assert torch.equal(corners(moved), corners(data))


def test_labels_as_many_as_nodes_or_edges_stay_with_their_pairs():
    data = graph()
    data.edge_label_index, data.edge_label = data.edge_index[:, :N], torch.arange(1.0, N + 1)
    moved = random_move(Relabel(), data)
    assert torch.equal(scores(moved), scores(data))
    data.edge_label_index, data.edge_label = data.edge_index.clone(), torch.arange(1.0, 9)
    moved = random_move(ReorderEdges(), data)
    assert torch.equal(scores(moved), scores(data))


def test_edges_in_another_order_take_what_is_theirs_alone():
    data = with_labels()
    moved = random_move(ReorderEdges(), data)
    pairs = [torch.cat([d.edge_index.T, d.edge_attr], 1) for d in (data, moved)]
    assert not torch.equal(*pairs)
    assert sorted(pairs[0].tolist()) == sorted(pairs[1].tolist())
    two = Data(x=torch.randn(3, 2), edge_index=torch.tensor([[0, 1], [1, 2]]))
    two.edge_label_index = torch.tensor([[0, 2], [2, 1]])
    swapped = ReorderEdges().apply(two, torch.tensor([1, 0]))
    assert torch.equal(swapped.edge_label_index, two.edge_label_index)
    assert ReorderEdges().degree(Data(x=two.x, edge_label_index=two.edge_label_index)) == 0


def test_types_of_edges_move_with_them():
    graph = Edges([(0, 1), (1, 2), (2, 0)], 3, edge_type=[0, 1, 2], edge_attr=[0.0, 1.0, 2.0])
    moved = ReorderEdges().apply(Tokens(torch.zeros(3, 1), graph), torch.tensor([2, 0, 1])).graph
    assert moved.edge_index().T.tolist() == [[2, 0], [0, 1], [1, 2]]
    assert moved.edge_type.tolist() == moved.edge_attr.flatten().tolist() == [2, 0, 1]
    typed = Tokens(torch.zeros(3, 1), graph.with_edge_attr(None))
    assert eval(literal(typed, seeded=False)).graph == typed.graph
    with pytest.raises(NotImplementedError, match="is not cut into smaller graphs"):
        Relabel().restrict(typed, torch.arange(2))


def test_a_graph_that_numbers_nodes_elsewhere_is_not_cut():
    assert Relabel().restrict(graph(), torch.arange(4)).num_nodes == 4
    for data in (with_labels(), mesh(), batch_of(graph)):
        with pytest.raises(NotImplementedError, match="is not cut into smaller graphs"):
            Relabel().restrict(data, torch.arange(4))


def test_a_model_of_pairs_is_found_symmetric():
    assert_invariant(scores, with_labels())
    assert_relabeling_equivariant(lambda data: data.x * corners(data).sum(), mesh())


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("action", [Relabel(), Shuffle(), ReorderEdges()], ids=repr)
def test_a_sparse_adjacency_is_refused(action, keep):
    data = ToSparseTensor(remove_edge_index=not keep)(graph())
    with pytest.raises(ValueError, match="must have its edges in edge_index, and no adj_t"):
        action.degree(data)
    if not isinstance(action, Shuffle):
        with pytest.raises(ValueError, match="must have its edges in edge_index, and no adj_t"):
            action.apply(data, torch.arange(N))


def test_a_check_says_that_edge_index_is_needed():
    with pytest.raises(ValueError, match="Data must have .*edge_index"):
        check(lambda data: data.x, ToSparseTensor()(graph()))


def test_vectors_of_any_shape_are_shuffled_and_must_be_there():
    for shape in [(N,), (N, 2), (N, 2, 3)]:
        data = Data(x=torch.randn(shape), edge_index=graph().edge_index)
        moved = Shuffle().apply(data, torch.arange(N).flip(0))
        assert torch.equal(moved.x, data.x.flip(0))
        assert torch.equal(moved.edge_index, data.edge_index)
    with pytest.raises(TypeError, match="expected a tensor, Tokens or Data with x"):
        Shuffle().apply(mesh().update({"x": None, "pos": torch.randn(N, 3)}), torch.arange(N))


def kinds_of(base):
    found = [kind for own in base.__subclasses__() for kind in (own, *kinds_of(own))]
    return [kind for kind in found if kind.__module__.startswith("tokennet.")]


def test_what_scripts_import_is_public():
    """An action is imported from `tokennet.testing`, all else from its module for scripts."""
    for kind in kinds_of(Action):
        public = scripts if kind.__name__ == "MoveNoise" else tokennet.testing
        assert getattr(public, kind.__name__) is kind
        assert kind.__name__ in public.__all__
    assert len(kinds_of(Wrapped)) >= 8
    for kind in kinds_of(Wrapped):
        scope = {}
        exec(kind.imports, scope)
        assert scope[kind.__name__] is kind
        assert kind.imports.startswith(("from tokennet.testing.scripts ", "from tokennet.testing "))
        assert set(scope) - {"__builtins__"} <= {*scripts.__all__}
    assert "tokennet.testing.scripts" in TENSORS_OF


def test_a_part_that_an_output_does_not_have_is_refused():
    wanted = r"out_action .* needs an output with 5 entries to permute, got shape \(2, 3\)"
    with pytest.raises(ValueError, match=wanted):
        check_equivariance(
            lambda x: x[:, :3, 0], torch.randn(2, 5, 4), out_action=PermutePart(1, 5)
        )


def test_what_is_of_no_graph_goes_with_each():
    data = Batch.from_data_list([graph(), graph()])
    data.edge_index = data.edge_index[:, 1:]  # the notes on where graphs begin are old
    data.scale, data.title = torch.tensor(2.0), "two graphs"
    for one in graphs_of(data):
        assert (one.scale, one.title) == (2.0, "two graphs")
