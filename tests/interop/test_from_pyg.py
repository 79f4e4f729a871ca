"""Layers of PyG as layers of tokens: values, gradients, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch_geometric.nn import (
    GATv2Conv,
    GCNConv,
    GINConv,
    GINEConv,
    GPSConv,
    TransformerConv,
)

from tokennet import Disjoint, Edges, Tokens, Window
from tokennet.interop import from_pyg_conv

D = 8


def fn():
    return nn.Sequential(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, D))


CONVOLUTIONS = {
    "transformer": lambda: TransformerConv(D, 4, heads=2),
    "transformer_other_width": lambda: TransformerConv((D, D), 5, heads=2),
    "transformer_edges": lambda: TransformerConv(D, 4, heads=2, edge_dim=3),
    "transformer_alone": lambda: TransformerConv(D, 4, heads=2, root_weight=False, bias=False),
    "gat": lambda: GATv2Conv(D, 4, heads=2),
    "gat_edges": lambda: GATv2Conv(D, 4, heads=2, add_self_loops=False, edge_dim=3),
    "gat_shared": lambda: GATv2Conv(
        D, 4, heads=2, share_weights=True, residual=True, bias=False, negative_slope=0.1
    ),
    "gin": lambda: GINConv(fn(), eps=0.3),
    "gin_learned": lambda: GINConv(fn(), eps=0.3, train_eps=True),
    "gin_edges": lambda: GINEConv(fn(), edge_dim=3),
    "gps": lambda: GPSConv(D, GINConv(fn()), heads=2),
    "gps_edges": lambda: GPSConv(D, GINEConv(fn(), edge_dim=3), heads=2, norm=None, dropout=0.1),
    "gps_gat": lambda: GPSConv(D, GATv2Conv(D, 4, heads=2), heads=2, act="gelu"),
    "gps_gcn": lambda: GPSConv(D, GCNConv(D, D), heads=2),
    "gps_attention": lambda: GPSConv(D, None, heads=2),
}


def made(name):
    torch.manual_seed(0)
    module = CONVOLUTIONS[name]().double()
    with torch.no_grad():
        for parameter in module.parameters():  # PyG starts biases at 0
            parameter.add_(0.1 * torch.randn_like(parameter))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
    return module.eval()


def graph_of(n, has_features):
    edges = torch.stack([torch.randint(n, (3 * n,)), torch.randint(n - 1, (3 * n,))]).unique(dim=1)
    attr = torch.randn(edges.shape[1], 3, dtype=torch.float64) if has_features else None
    return Edges(edges, n, edge_attr=attr)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_values_and_a_step_of_training_are_those_of_the_module(name):
    module = made(name)
    net = from_pyg_conv(module)
    assert net.conversion.error < 1e-12
    assert not net.training
    graphs = [graph_of(n, "edges" in name) for n in (5, 4)]
    batch = Disjoint(graphs)
    x = torch.randn(9, D, dtype=torch.float64)
    given = {"edge_attr": batch.edge_attr} if "edges" in name else {}
    if name.startswith("gps"):
        given["batch"] = torch.tensor([0] * 5 + [1] * 4)

    def theirs(module):
        return module(x, batch.edge_index(), **given)

    def ours(net):
        return net(Tokens(x, batch)).z

    def trained(model, run):
        model = copy.deepcopy(model)
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learned, lr=0.1)
        run(model).square().sum().backward()
        optimizer.step()
        return run(model)

    torch.testing.assert_close(ours(net), theirs(module), rtol=1e-10, atol=1e-10)
    after = trained(net, ours)
    torch.testing.assert_close(after, trained(module, theirs), rtol=1e-8, atol=1e-8)
    assert (after - theirs(module)).abs().max() > 1e-3


def test_it_runs_on_any_graph():
    module = made("transformer")
    net = from_pyg_conv(module)
    window, x = Window(9, 2), torch.randn(9, D, dtype=torch.float64)
    expected = module(x, window.edge_index())
    torch.testing.assert_close(net(Tokens(x, window)).z, expected)


def test_self_loops_are_added_in_place_of_those_that_are_listed():
    """However often; other edges that are listed twice stay."""
    module, x = made("gat"), torch.randn(4, D, dtype=torch.float64)
    net = from_pyg_conv(module)
    for edges in ([[0, 1, 1, 2], [1, 1, 1, 3]], [[0, 0, 1, 2], [1, 1, 2, 3]]):
        edge_index = torch.tensor(edges)
        ours = net(Tokens(x, Edges(edge_index, 4))).z
        torch.testing.assert_close(ours, module(x, edge_index))
    assert net.symmetry.reads == {"graph"}


def test_the_module_stays_as_it_is_and_shares_nothing():
    module = made("gps")
    before = copy.deepcopy(module.state_dict())
    net = from_pyg_conv(module)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.zero_()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_dropout_of_weights_is_kept():
    net = from_pyg_conv(TransformerConv(D, 4, heads=2, dropout=0.5, root_weight=False))
    assert net.dropout == 0.5
    block = from_pyg_conv(GPSConv(D, None, heads=2, dropout=0.3, attn_kwargs={"dropout": 0.2}))
    branch = block.layers[0].layers[0]
    assert (branch.dropout.p, branch.layer.layer.dropout) == (0.3, 0.2)
    x = Tokens(torch.ones(5, D))
    assert not torch.equal(branch.layer(x).z, branch.layer(x).z)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (TransformerConv(D, 4, heads=2, concat=False), "TransformerConv.concat must be True"),
        (TransformerConv(D, 4, heads=2, beta=True), "TransformerConv.beta must be False"),
        (TransformerConv((D, 6), 4), r"in_channels must be one number, got \(8, 6\)"),
        (TransformerConv(D, 4, aggr="max"), "TransformerConv.aggr must be 'add', got 'max'"),
        (TransformerConv(D, 4, flow="target_to_source"), "flow must be 'source_to_target'"),
        (GATv2Conv(D, 4, heads=2, edge_dim=3), "add_self_loops must be False where edges have"),
        (GATv2Conv(6, 4, heads=2), r"in_channels must be heads \* out_channels = 8, got 6"),
        (GATv2Conv(D, 4, heads=2, dropout=0.1), "GATv2Conv.dropout must be 0.0, got 0.1"),
        (GATv2Conv(D, D, concat=False), "GATv2Conv.concat must be True"),
        (GINConv(nn.ReLU(), train_eps=True), "GINConv.nn must begin with a linear layer"),
        (GINEConv(fn()), "GINEConv.edge_dim must be given"),
        (GPSConv(D, GATv2Conv(D, D, dropout=0.1)), "GATv2Conv.dropout must be 0.0, got 0.1"),
        (GPSConv(D, None, attn_type="performer"), "attn_type must be 'multihead', got 'performer'"),
        (GPSConv(D, None, norm="layer_norm"), "must be 'batch_norm' or None, got LayerNorm"),
    ],
)
def test_what_the_layers_do_not_have_is_refused(module, message):
    with pytest.raises(ValueError, match=message):
        from_pyg_conv(module)


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="module must be one of TransformerConv, GATv2Conv, .* got"):
        from_pyg_conv(GCNConv(D, D))
