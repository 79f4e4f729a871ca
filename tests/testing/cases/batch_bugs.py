"""Graph and token nets that depend on other sets of the batch, or on the index of a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GCNConv, GraphNorm, SAGEConv, global_add_pool, global_mean_pool
from torch_geometric.utils import scatter, to_dense_batch

from tests.testing.cases.base import (
    DIM,
    NUM_HEADS,
    TIED,
    InjectedBug,
    batch,
    disjoint,
    mlp,
    ragged,
    seeded,
    tokens,
)
from tokennet import Tokens
from tokennet.nets import IOSpec, build_net


class Classifier(nn.Module):
    """A graph classifier: two convolutions; a subclass writes what follows them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = GCNConv(DIM, DIM), SAGEConv(DIM, DIM)
        self.head = nn.Linear(DIM, 3)

    def encode(self, data: Batch) -> Tensor:
        return self.conv2(self.conv1(data.x, data.edge_index).relu(), data.edge_index)


class MeanOfBatch(Classifier):
    def forward(self, data: Batch) -> Tensor:
        h = self.encode(data).relu()
        pooled = h.mean(dim=0).expand(data.num_graphs, -1)  # bug
        return self.head(pooled)


class NormOfBatch(Classifier):
    """Does not pass the norm which node belongs to which graph."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = GraphNorm(DIM)

    def forward(self, data: Batch) -> Tensor:
        h = self.encode(data)
        h = self.norm(h)  # bug
        return self.head(global_mean_pool(h.relu(), data.batch))


class SizeOfBatch(Classifier):
    """Divides by the number of nodes, of all graphs."""

    def forward(self, data: Batch) -> Tensor:
        h = self.encode(data).relu()
        pooled = global_add_pool(h, data.batch) / data.num_nodes  # bug
        return self.head(pooled)


class FirstNode(Classifier):
    def forward(self, data: Batch) -> Tensor:
        h = self.encode(data).relu()
        root = h[data.ptr[:-1]]  # bug
        return self.head(root)


class PaddedAttention(Classifier):
    """Attention within graphs, and with the padding that brings them to one size."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, NUM_HEADS, batch_first=True)

    def forward(self, data: Batch) -> Tensor:
        dense, real = to_dense_batch(self.encode(data), data.batch)
        received, _ = self.attention(dense, dense, dense, need_weights=False)  # bug
        return self.head(global_mean_pool((dense + received)[real], data.batch))


class SoftmaxOfAllSets(nn.Module):
    """Attention pooling with one softmax for all sets."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.score, self.head = mlp(), nn.Linear(DIM, 1), nn.Linear(DIM, 3)

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        h = self.embed(x)
        weights = self.score(h).softmax(dim=0)  # bug
        return self.head(scatter(weights * h, batch, reduce="sum"))


class MaskedByZeros(nn.Module):
    """Attention of all sets at once, with weights of 0 between them."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(DIM, DIM) for _ in range(3))

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).T
        weights = torch.where(batch[:, None] == batch, scores, -torch.inf).softmax(dim=-1)
        return x + weights @ self.value(x)  # bug


class NumberedTokens(nn.Module):
    """A token net behind a table of positions."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.table, self.net = nn.Parameter(torch.randn(32, DIM)), net

    def forward(self, tokens: Tokens) -> Any:
        z = tokens.z + self.table[: tokens.num_tokens]  # bug
        return self.net(tokens.replace(z=z))


class CenteredTokens(nn.Module):
    """Subtracts the mean of all tokens, whichever set they belong to."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.scale, self.net = nn.Parameter(torch.rand(DIM)), net

    def forward(self, tokens: Tokens) -> Any:
        z = tokens.z - self.scale * tokens.z.mean(dim=-2, keepdim=True)  # bug
        return self.net(tokens.replace(z=z))


def net(mixer: str, readout: str) -> nn.Module:
    return build_net(mixer, IOSpec(DIM, 5, readout), dim=DIM, num_heads=NUM_HEADS)


def _bug(
    name: str,
    model: Callable[[], nn.Module],
    law: str,
    also_broken: tuple[str, ...] = (),
    example: Callable[[], Any] = batch,
) -> InjectedBug:
    return InjectedBug(name, seeded(model, example), law, also_broken=also_broken)


READS_THE_BATCH = [
    _bug("mean_of_batch", MeanOfBatch, "batch_composition"),
    _bug("norm_of_batch", NormOfBatch, "batch_composition"),
    _bug("size_of_batch", SizeOfBatch, "batch_composition"),
    _bug("padded_attention", PaddedAttention, "batch_composition"),
    _bug("first_node", FirstNode, "node_permutation", TIED),
    _bug("softmax_of_all_sets", SoftmaxOfAllSets, "batch_composition", example=ragged),
    _bug("masked_by_zeros", MaskedByZeros, "nonfinite_isolation", example=ragged),
    _bug(
        "numbered_tokens",
        lambda: NumberedTokens(net("gat", "token")),
        "node_permutation",
        (*TIED, "batch_composition"),
        tokens,
    ),
    _bug(
        "centered_tokens",
        lambda: CenteredTokens(net("mean", "mean")),
        "batch_composition",
        example=disjoint,
    ),
]
