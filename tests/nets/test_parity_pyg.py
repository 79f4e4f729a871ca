"""Graph nets and those made of PyG's layers: the same weights, values and gradients."""

import copy

import pytest
import torch
from torch import nn
from torch_geometric.nn import (
    BatchNorm,
    GATv2Conv,
    GINConv,
    GINEConv,
    GPSConv,
    global_add_pool,
    global_mean_pool,
)

from tests.peers import parity, randomized
from tokennet import Edges, Tokens
from tokennet.interop.copy import Copier
from tokennet.models import create_model

DIM, HEADS, IN, OUT, DEPTH, F = 16, 4, 5, 3, 2, 3
TIGHT = 1e-11
SIZES = (6, 9)


def batch(edge_dim=None):
    """Two graphs, and the same as PyG has them."""
    sets = []
    for n in SIZES:
        edges = torch.randint(0, n, (2, 3 * n))
        edges = edges[:, edges[0] != edges[1]].unique(dim=1)
        attr = None
        if edge_dim:
            attr = torch.randn(edges.shape[1], edge_dim, dtype=torch.float64)
        graph = Edges(edges, n, edge_attr=attr)
        sets.append(Tokens(torch.randn(n, IN, dtype=torch.float64), graph))
    return Tokens.batch(sets)


class Peer(nn.Module):
    """Linear, convolutions with what follows each of them, pooling, norm, linear."""

    def __init__(self, convs, pool):
        super().__init__()
        self.embed, self.convs = nn.Linear(IN, DIM), nn.ModuleList(convs)
        self.norm, self.head, self.pool = nn.LayerNorm(DIM), nn.Linear(DIM, OUT), pool

    def forward(self, x, edge_index, batch, edge_attr=None, after=None):
        x = self.embed(x)
        for conv in self.convs:
            if isinstance(conv, GPSConv):
                x = conv(x, edge_index, batch)
            elif edge_attr is not None:
                x = conv(x, edge_index, edge_attr)
            else:
                x = conv(x, edge_index)
            x = x if after is None else after(x)
        return self.head(self.pool(self.norm(x), batch))


copy_weight = Copier().weight


def copy_ends(ours, theirs):
    copy_weight(ours.layers[0].fn, theirs.embed.weight, theirs.embed.bias)
    copy_weight(ours.readout.norm, theirs.norm.weight, theirs.norm.bias)
    copy_weight(ours.readout.head, theirs.head.weight, theirs.head.bias)
    return ours.train(theirs.training)


def copy_batch_norm(to, norm):
    copy_weight(to, norm.weight, norm.bias)
    to.running_mean, to.running_var = norm.running_mean.clone(), norm.running_var.clone()


def compare(hold, net, convert, theirs, tokens, **given):
    graph = tokens.graph
    arguments = (tokens.z, graph.edge_index(), graph.batch(), graph.edge_attr)
    found = parity(convert, theirs, lambda net: net(tokens), lambda net: net(*arguments, **given))
    hold(net, f"PyG {type(theirs.convs[0]).__name__}", found, TIGHT, of="layers")


def test_gat(hold):
    convs = [GATv2Conv(DIM, DIM // HEADS, HEADS) for _ in range(DEPTH)]  # adds self-loops

    def convert(theirs):
        ours = create_model(
            "gat", in_features=IN, out_features=OUT, dim=DIM, depth=DEPTH, readout="mean"
        ).double()
        for layer, conv in zip(ours.layers[1::2], theirs.convs, strict=True):
            copy_weight(layer.layer.source, conv.lin_l.weight, conv.lin_l.bias)
            copy_weight(layer.layer.target, conv.lin_r.weight, conv.lin_r.bias)
            layer.layer.attention.data = conv.att.detach()[0].clone()
            layer.layer.bias.data = conv.bias.detach().clone()
        return copy_ends(ours, theirs)

    theirs = randomized(Peer(convs, global_mean_pool))
    compare(hold, "gat", convert, theirs, batch(), after=nn.functional.elu)


def gin_mlp():
    return nn.Sequential(
        nn.Linear(DIM, DIM), nn.BatchNorm1d(DIM), nn.ReLU(), nn.Linear(DIM, DIM), nn.ReLU()
    )


def copy_gin(layer, conv):
    copy_weight(layer.fn[0], conv.nn[0].weight, conv.nn[0].bias)
    copy_weight(layer.fn[-2], conv.nn[-2].weight, conv.nn[-2].bias)
    layer.eps.data = conv.eps.detach().clone().squeeze()
    if layer.edge is not None:
        copy_weight(layer.edge, conv.lin.weight, conv.lin.bias)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("edge_dim", [None, F], ids=["plain", "edges"])
def test_gin(edge_dim, training, hold):
    """In training mode too: the statistics of a ragged batch are those of PyG's."""

    def convert(theirs):
        ours = create_model(
            "gin", in_features=IN, out_features=OUT, dim=DIM, depth=DEPTH, edge_dim=edge_dim
        ).double()
        for layer, conv in zip(ours.layers[1:], theirs.convs, strict=True):
            copy_gin(layer, conv)
            copy_batch_norm(layer.fn[1], conv.nn[1])
        return copy_ends(ours, theirs)

    def conv():
        if edge_dim:
            return GINEConv(gin_mlp(), train_eps=True, edge_dim=edge_dim)
        return GINConv(gin_mlp(), train_eps=True)

    theirs = randomized(Peer([conv() for _ in range(DEPTH)], global_add_pool)).train(training)
    compare(hold, "gin", convert, theirs, batch(edge_dim))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gps(training, hold):
    def conv():
        fn = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM))
        return GPSConv(DIM, GINConv(fn, train_eps=True), heads=HEADS, norm="batch_norm")

    def convert(theirs):
        ours = create_model(
            "gps", in_features=IN, out_features=OUT, dim=DIM, depth=DEPTH, num_heads=HEADS
        ).double()
        for number, conv in enumerate(theirs.convs):
            (near, far), after = (
                ours.layers[1 + 2 * number].layers,
                ours.layers[2 + 2 * number],
            )
            near.layer.eps.data = conv.conv.eps.detach().clone().squeeze()
            for place in (0, 2):
                copy_weight(
                    near.layer.fn[place], conv.conv.nn[place].weight, conv.conv.nn[place].bias
                )
            attention, theirs_attention = far.layer.layer, conv.attn
            for linear, weight, bias in zip(
                (attention.query, attention.key, attention.value),
                theirs_attention.in_proj_weight.chunk(3),
                theirs_attention.in_proj_bias.chunk(3),
                strict=True,
            ):
                copy_weight(linear, weight, bias)
            out = theirs_attention.out_proj
            copy_weight(attention.out, out.weight, out.bias)
            linears = [part for part in conv.mlp if isinstance(part, nn.Linear)]
            copy_weight(after.layer.fn[0], linears[0].weight, linears[0].bias)
            copy_weight(after.layer.fn[-1], linears[1].weight, linears[1].bias)
            for norm, other in zip(
                (near.norm, far.norm, after.norm), (conv.norm1, conv.norm2, conv.norm3), strict=True
            ):
                copy_batch_norm(norm, other.module if isinstance(other, BatchNorm) else other)
        return copy_ends(ours, theirs)

    theirs = randomized(Peer([conv() for _ in range(DEPTH)], global_add_pool)).train(training)
    for module in theirs.modules():
        if isinstance(module, nn.Dropout | nn.MultiheadAttention):
            module.eval()
    compare(hold, "gps", convert, theirs, batch())


def test_another_order_of_weights_is_seen():
    """The comparison can fail: one weight of the peer changed alone."""
    theirs = randomized(nn.TransformerEncoderLayer(8, 2, batch_first=True))
    changed = copy.deepcopy(theirs)
    with torch.no_grad():
        changed.linear1.weight[0, 0] += 1e-6
    z = torch.randn(2, 5, 8, dtype=torch.float64)
    found = parity(lambda _: changed, theirs, lambda net: net(z), lambda net: net(z))
    assert found.value > TIGHT
