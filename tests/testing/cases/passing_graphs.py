"""Passing models of padded sets, of graphs (PyG), and token nets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.data import Batch
from torch_geometric.utils import sort_edge_index, to_dense_batch

from tests.testing.cases.base import (
    DIM,
    NUM_HEADS,
    NUM_TOKENS,
    Block,
    Masked,
    PassingModel,
    batch,
    disjoint,
    graph,
    masked,
    mlp,
    padded,
    ragged,
    seeded,
    tensor,
    tokens,
)
from tests.testing.cases.batch_bugs import net
from tests.testing.cases.graph_bugs import Layer
from tests.testing.cases.mask_bugs import Pooled
from tokennet import Cycle, Tokens


class Infinite(Block):
    """-inf for padding; a set of padding only attends to all of it and returns 0."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        not_empty = mask.any(dim=1)[:, None, None, None]
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask[:, None, None, :] & not_empty, float("-inf"))
        return scores.softmax(dim=-1) @ v * not_empty


class Lowest(Block):
    """The lowest finite number for padding."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device)
        bias = bias.masked_fill(~mask, torch.finfo(q.dtype).min)[:, None, None, :]
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + bias).softmax(dim=-1) @ v


class KeyPadding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, NUM_HEADS, batch_first=True)
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor, key_padding_mask: Tensor) -> Tensor:
        ignored = key_padding_mask & ~key_padding_mask.all(dim=1, keepdim=True)
        received, _ = self.attention(x, x, x, key_padding_mask=ignored)
        return self.norm(x + received)


class MaskedMean(Pooled):
    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        h = self.norm(self.block(x, attention_mask))
        total = (h * attention_mask.unsqueeze(-1)).sum(dim=1)
        return self.head(total / attention_mask.sum(dim=1, keepdim=True).clamp(min=1))


class MaskedMax(Pooled):
    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        h = self.norm(self.block(x, ~padding_mask))
        pooled = h.masked_fill(padding_mask.unsqueeze(-1), float("-inf")).amax(dim=1)
        return self.head(pooled.masked_fill(padding_mask.all(dim=1, keepdim=True), 0.0))


class Convolutions(nn.Module):
    """Two PyG layers on (x, edge_index)."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)


class SortsEdges(Layer):
    """Sorts the edges before it relies on their order."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(x, sort_edge_index(edge_index, sort_by_row=False))

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        degree = torch.bincount(target, minlength=len(h))
        return torch.segment_reduce(h[source], "sum", lengths=degree)


class GraphClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = pyg.GCNConv(DIM, DIM), pyg.GATConv(DIM, DIM)
        self.norm, self.head = pyg.GraphNorm(DIM), nn.Linear(DIM, 3)

    def forward(self, data: Batch) -> Tensor:
        h = self.conv1(data.x, data.edge_index)
        h = self.norm(h, data.batch).relu()
        h = self.conv2(h, data.edge_index)
        return self.head(pyg.global_mean_pool(h, data.batch))


class DenseAttention(nn.Module):
    """Attention within graphs, padded to one size, with the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.block = pyg.SAGEConv(DIM, DIM), Block()

    def forward(self, data: Batch) -> Tensor:
        h = self.conv(data.x, data.edge_index)
        dense, real = to_dense_batch(h, data.batch)
        return self.block(dense, real)[real]


class SetMeans(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phi, self.aggregate, self.rho = mlp(), pyg.MeanAggregation(), mlp(DIM, 3)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.rho(self.aggregate(self.phi(x), index))


class SetSoftmax(nn.Module):
    """Attention pooling with a softmax for each set."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pyg.AttentionalAggregation(nn.Linear(DIM, 1), mlp())
        self.head = nn.Linear(DIM, 3)

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        return self.head(self.pool(x, batch))


class Wrapped(nn.Module):
    """A token net behind an interface of plain tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net("attention", "token")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(Tokens(x))


def _gin() -> nn.Module:
    return Convolutions(pyg.GINConv(mlp(), train_eps=True), pyg.GINConv(mlp()))


def _full() -> Tokens:
    return Tokens(torch.randn(NUM_TOKENS, DIM))


def _ring() -> Tokens:
    return Tokens(torch.randn(2, NUM_TOKENS, DIM), Cycle(NUM_TOKENS))


def _passing(name, model, example, **fields) -> PassingModel:
    return PassingModel(name, seeded(model, example), **fields)


PASSING_MASKS = [
    _passing("masked_blocks", lambda: Masked(Block(), Block()), masked),
    _passing("minus_infinity_for_padding", lambda: Masked(Infinite(), Infinite()), masked),
    _passing("lowest_number_for_padding", lambda: Masked(Lowest(), Lowest()), masked),
    _passing("key_padding", KeyPadding, padded),
    _passing("masked_mean", MaskedMean, masked),
    _passing("masked_max", MaskedMax, padded, selects=True),
]

PASSING_GRAPHS = [
    _passing("gcn", lambda: Convolutions(pyg.GCNConv(DIM, DIM), pyg.GCNConv(DIM, 5)), graph),
    _passing(
        "gat", lambda: Convolutions(pyg.GATConv(DIM, 4, heads=2), pyg.GATv2Conv(DIM, 5)), graph
    ),
    _passing("gin", _gin, graph),
    _passing(
        "transformer_conv",
        lambda: Convolutions(pyg.TransformerConv(DIM, 4, heads=2), pyg.TransformerConv(DIM, 5)),
        graph,
    ),
    _passing("sum_of_neighbors", Layer, graph),
    _passing("sorts_edges", SortsEdges, graph),
    _passing("graph_classifier", GraphClassifier, batch),
    _passing("dense_attention", DenseAttention, batch),
    _passing("set_means", SetMeans, ragged),
    _passing("set_softmax", SetSoftmax, ragged),
]

PASSING_TOKENS = [
    _passing("attention_on_tensor", Wrapped, tensor, slow=True),
    _passing("attention_on_full", lambda: net("attention", "token"), _full, slow=True),
    _passing("attention_on_edges", lambda: net("attention", "token"), tokens, slow=True),
    _passing("attention_on_ring", lambda: net("attention", "mean"), _ring),
    _passing("gat_on_edges", lambda: net("gat", "attention"), tokens, slow=True),
    _passing("mean_on_edges", lambda: net("mean", "token"), tokens, slow=True),
    _passing("attention_on_sets", lambda: net("attention", "mean"), disjoint, slow=True),
    _passing("gat_on_sets", lambda: net("gat", "token"), disjoint, slow=True),
    _passing("max_on_sets", lambda: net("max", "attention"), disjoint, selects=True, slow=True),
]
