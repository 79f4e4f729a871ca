"""Mixers as convolutions of PyG: the mixer on the same graph, batches, and explanations."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import GCNConv, Sequential, TransformerConv
from torch_geometric.nn.attention import PerformerAttention

from tokennet import Disjoint, Edges, Tokens
from tokennet.interop import to_pyg_conv
from tokennet.interop._messages import EXPLAINED, messages_of
from tokennet.mixers import (
    MIXERS,
    SCORES,
    Aggregate,
    Attention,
    CrossAttention,
    GraphAttention,
    GraphIsomorphism,
    LinearAttention,
    PyGMixer,
    RelationalAggregate,
)
from tokennet.positional import ALiBi, Rotary

EDGES = torch.tensor([[4, 1, 2, 3, 4, 5, 0, 5, 2, 4], [3, 0, 1, 4, 3, 4, 5, 0, 2, 0]])
"""Two targets have no sources, one pair has two edges, and targets do not ascend."""
N, D = 7, 8
ATTR = torch.randn(EDGES.shape[1], 3, generator=torch.Generator().manual_seed(0))
TYPE = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1, 0, 0])
EXPLAINABLE = {
    "attention": lambda: Attention(D, 2),
    "attention with features": lambda: Attention(D, 2, edge_dim=3),
    "attention with types": lambda: Attention(D, 2, num_edge_types=2),
    "attention of today": lambda: Attention(
        D, 4, num_kv_heads=2, sinks=True, softcap=5.0, qk_norm=True, head_dim=3
    ),
    "attention with a gate": lambda: Attention(D, 2, gate=True, head_dim=3),
    "attention with rotary": lambda: Attention(D, 2, position=Rotary("index")),
    "attention with alibi": lambda: Attention(D, 2, position=ALiBi(2)),
    "gat": lambda: GraphAttention(D, 2),
    "gat with features": lambda: GraphAttention(D, 2, edge_dim=3),
    "mean": lambda: Aggregate(D, "mean"),
    "max": lambda: Aggregate(D, "max"),
    "several": lambda: Aggregate(D, ["sum", "std"]),
    "gin": lambda: GraphIsomorphism(D),
    "gin with features": lambda: GraphIsomorphism(D, edge_dim=3),
    "types, mean": lambda: RelationalAggregate(D, 2),
    "types, sum of bases": lambda: RelationalAggregate(D, 2, "sum", num_bases=2),
    "pyg": lambda: PyGMixer(TransformerConv(D, D)),
}
EXPLAINABLE |= {f"score {name}": lambda name=name: Attention(D, 2, score=name) for name in SCORES}


def fields(mixer):
    """What of the edges the mixer reads."""
    given = {}
    if getattr(mixer, "edge", None) is not None:
        given["edge_attr"] = ATTR.to(torch.float64)
    if mixer.num_edge_types is not None:
        given["edge_type"] = TYPE
    return given


def made(name):
    torch.manual_seed(1)
    mixer = EXPLAINABLE[name]().double().eval()
    return mixer, torch.randn(N, D, dtype=torch.float64), fields(mixer)


@pytest.mark.parametrize("name", EXPLAINABLE)
def test_it_is_the_mixer_on_the_edges_of_the_call(name):
    mixer, x, given = made(name)
    expected = mixer(Tokens(x, Edges(EDGES, N, **given))).z
    torch.testing.assert_close(to_pyg_conv(mixer)(x, EDGES, **given), expected)
    assert expected.std(0).min() > 0


@pytest.mark.parametrize("name", EXPLAINABLE)
def test_a_mask_of_ones_changes_nothing_and_gradients_pass(name):
    mixer, x, given = made(name)
    conv = to_pyg_conv(mixer)
    expected = conv(x, EDGES, **given)
    mask = torch.ones(EDGES.shape[1], dtype=torch.float64, requires_grad=True)
    set_masks(conv, mask, EDGES, apply_sigmoid=False)
    found = conv(x, EDGES, **given)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.pow(2).sum(), mask)
    of_edge = gradient.abs() > 1e-12
    assert of_edge.sum() >= 5  # of a maximum, only one edge of a target has one in each channel
    clear_masks(conv)
    torch.testing.assert_close(conv(x, EDGES, **given), expected)


@pytest.mark.parametrize("name", ["attention", "attention with features", "gat", "pyg"])
def test_masks_multiply_messages_as_in_the_convolution_of_pyg(name):
    """Attention to edges of mask 0 is lost, and not given to others."""
    mixer, x, given = made(name)
    conv = to_pyg_conv(mixer)
    mask = torch.rand(EDGES.shape[1], dtype=torch.float64)
    set_masks(conv, mask, EDGES, apply_sigmoid=False)
    found = conv(x, EDGES, **given)
    if isinstance(mixer, PyGMixer):
        set_masks(mixer.conv, mask, EDGES, apply_sigmoid=False)
        expected = mixer.conv(x, EDGES)
    else:
        tokens = Tokens(x, Edges(EDGES, N, **given))
        expected = x.new_zeros(N, D)
        weights = mixer.attention_weights(tokens)
        for e, (j, i) in enumerate(EDGES.T.tolist()):
            value = (mixer.value if isinstance(mixer, Attention) else mixer.source)(x[j])
            if given and isinstance(mixer, Attention):
                value = value + mixer.edge(given["edge_attr"][e])
            weight = weights[e].repeat_interleave(D // 2)
            expected[i] += mask[e] * weight * value
        last = mixer.out if isinstance(mixer, Attention) else (lambda sums: sums + mixer.bias)
        expected = last(expected)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", MIXERS)
def test_a_batch_equals_its_graphs_one_by_one_or_is_refused(name):
    """Sets of a batch of PyG do not reach each other."""
    torch.manual_seed(2)
    sizes = (5, 5)
    conv = to_pyg_conv(MIXERS[name](D, 2, 5).double().eval())
    graphs = []
    for size in sizes:
        pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size)).T.flip(0)
        graphs.append(Data(x=torch.randn(size, D, dtype=torch.float64), edge_index=pairs))
    batch = Batch.from_data_list(graphs)
    shuffled = batch.edge_index[:, torch.randperm(batch.num_edges)]
    try:
        expected = torch.cat([conv(graph.x, graph.edge_index) for graph in graphs])
    except ValueError as error:
        assert "graph" in str(error)
        with pytest.raises(ValueError, match="graph"):
            conv(batch.x, shuffled, batch=batch.batch)
        return
    torch.testing.assert_close(conv(batch.x, shuffled, batch=batch.batch), expected)


def test_masks_of_a_batch_go_with_their_edges():
    mixer, x, _ = made("attention with features")
    conv, order = to_pyg_conv(mixer), torch.randperm(2 * EDGES.shape[1])
    edges = torch.cat([EDGES, EDGES + N], 1)[:, order]
    attr, mask = torch.cat([ATTR, -ATTR]).double()[order], torch.rand(len(order)).double()
    both, batch = torch.cat([x, -x]), torch.arange(2).repeat_interleave(N)
    set_masks(conv, mask, edges, apply_sigmoid=False)
    expected = conv(both, edges, attr)
    torch.testing.assert_close(conv(both, edges, attr, batch=batch), expected)


def test_two_sets_of_nodes():
    mixer = CrossAttention(D, 2, source_dim=3)
    conv, x = to_pyg_conv(mixer), (torch.randn(4, 3), torch.randn(2, D))
    edges = torch.tensor([[0, 3, 1], [1, 0, 1]])
    expected = mixer(Tokens(x[1]), Tokens(x[0]), Edges(edges, 2, 4)).z
    torch.testing.assert_close(conv(x, edges), expected)
    assert conv.in_channels == (3, D)
    set_masks(conv, torch.ones(3), edges, apply_sigmoid=False)
    torch.testing.assert_close(conv(x, edges), expected)
    with pytest.raises(ValueError, match="batch and pos must be None"):
        conv(x, edges, batch=torch.zeros(2, dtype=torch.long))


class Copies(nn.Module):
    """Node 0 is classified by the sign of what edge 2 -> 0 brings: the others bring nothing."""

    def __init__(self, mixer):
        super().__init__()
        self.conv = to_pyg_conv(mixer)

    def forward(self, x, edge_index):
        return self.conv(x, edge_index)


def copying(name):
    """A mixer that returns a multiple of the first channel of the sources."""
    conv = GCNConv(2, 2, add_self_loops=False, normalize=False)
    mixer = {"attention": Attention(2, 1), "mean": Aggregate(2, "mean"), "pyg": PyGMixer(conv)}[
        name
    ]
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.zero_()
        for part in mixer.modules():
            if part in (getattr(mixer, "value", None), getattr(mixer, "out", None)):
                part.weight.copy_(4 * torch.eye(2))
            if name != "attention" and hasattr(part, "weight"):
                part.weight.copy_((16 if name == "mean" else 4) * torch.eye(2))
    return mixer.eval()


@pytest.mark.parametrize("name", ["attention", "mean", "pyg"])
def test_gnn_explainer_finds_the_edge_that_decides(name):
    torch.manual_seed(0)
    x = torch.zeros(5, 2)
    x[2, 0] = 1.0
    edges = torch.tensor([[1, 2, 3, 4, 0, 3], [0, 0, 0, 0, 1, 4]])
    explainer = Explainer(
        Copies(copying(name)),
        GNNExplainer(epochs=100, lr=0.1),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "multiclass_classification", "task_level": "node",
                      "return_type": "raw"},
    )  # fmt: skip
    mask = explainer(x, edges, index=0).edge_mask
    assert int(mask.argmax()) == 1
    assert mask[1] > 0.6 > 2 * mask[[0, 2, 3, 4, 5]].max()


def test_a_mixer_without_messages_is_refused_where_it_is_to_be_explained():
    conv, pairs = to_pyg_conv(LinearAttention(D, 2)), torch.cartesian_prod(*[torch.arange(3)] * 2).T
    x = torch.randn(3, D)
    expected = conv(x, pairs)
    set_masks(conv, torch.zeros(9), pairs)
    with pytest.raises(ValueError, match="LinearAttention does not. With conv.explain = False"):
        conv(x, pairs)
    clear_masks(conv)
    conv.explain = False
    set_masks(conv, torch.zeros(9), pairs)
    torch.testing.assert_close(conv(x, pairs), expected)


def test_a_subclass_with_a_mix_of_its_own_is_not_explained_as_its_base():
    class Twice(Attention):
        def mix(self, tokens, source, graph):
            return 2 * super().mix(tokens, source, graph)

    conv = to_pyg_conv(Twice(D, 2))
    set_masks(conv, torch.zeros(EDGES.shape[1]), EDGES)
    with pytest.raises(ValueError, match="Twice does not"):
        conv(torch.randn(N, D), EDGES)


def test_it_drops_into_a_model_of_pyg_which_trains_is_copied_and_pickled():
    torch.manual_seed(0)
    convs = [to_pyg_conv(Attention(D, 2)), to_pyg_conv(GraphAttention(D, 2))]
    layers = [(convs[0], "x, edge_index -> x"), nn.ReLU(), (convs[1], "x, edge_index -> x")]
    model = Sequential("x, edge_index", layers)
    x = torch.randn(N, D)
    model(x, EDGES).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(convs[0]))):
        first = model if isinstance(other, Sequential) else convs[0]
        torch.testing.assert_close(other(x, EDGES), first(x, EDGES))
    before = convs[0].mixer.query.weight.clone()
    convs[0].reset_parameters()
    assert not torch.equal(before, convs[0].mixer.query.weight)


def test_gradients_reach_features_of_edges():
    mixer, x, given = made("attention with features")
    attr = given["edge_attr"].requires_grad_()
    to_pyg_conv(mixer)(x, EDGES, attr).pow(2).sum().backward()
    assert (attr.grad.abs().sum(1) > 0).sum() >= 6


def test_what_does_not_fit_is_refused():
    conv, x = to_pyg_conv(Attention(D, 2)), torch.randn(N, D)
    with pytest.raises(TypeError, match="mixer must be a mixer, got Linear"):
        to_pyg_conv(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="mixer must hold a MessagePassing"):
        to_pyg_conv(PyGMixer(Walks(D), D))
    with pytest.raises(TypeError, match="edge_index must be a tensor"):
        conv(x, torch.sparse_coo_tensor(EDGES, torch.ones(EDGES.shape[1]), (N, N)))
    with pytest.raises(ValueError, match=r"x must have shape \(N, D\)"):
        conv(x[None], EDGES)
    with pytest.raises(ValueError, match="edges between its graphs"):
        conv(x, EDGES, batch=torch.tensor([0, 0, 0, 0, 1, 1, 1]))
    with pytest.raises(ValueError, match="channels"):
        conv(x[:, :3], EDGES)


class Walks(nn.Module):
    """It has the signature of a convolution, and passes no messages."""

    def __init__(self, dim):
        super().__init__()
        self.attention = PerformerAttention(dim, 1)

    def forward(self, x, edge_index):
        return x


def test_the_mixers_named_in_the_refusal_are_those_that_are_explained():
    kinds = {type(make()).__name__ for make in EXPLAINABLE.values()} | {"CrossAttention"}
    assert kinds == set(EXPLAINED)


def test_messages_of_a_ragged_batch():
    mixer, x, given = made("gat with features")
    graph = Disjoint([Edges(EDGES, N, **given), Edges(EDGES, N, **given)])
    tokens = Tokens(torch.cat([x, -x]), graph)
    sent, collect = messages_of(mixer, *mixer.inputs(tokens))
    torch.testing.assert_close(collect(sent), mixer(tokens).z)
