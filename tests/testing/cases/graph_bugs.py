"""Graph networks that read the order of edges or the index of nodes, or divide by 0."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, SAGEConv

from tests.testing.cases.base import DIM, TIED, InjectedBug, graph, mlp, seeded

BATCH = ("batch_composition",)
"""Also broken, as a second graph in the batch changes the indices of edges and nodes."""


class Layer(nn.Module):
    """An update from each node and the sum over its neighbors."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(DIM, DIM, bias=False), mlp(2 * DIM, DIM)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        received = self.aggregate(self.message(x), *edge_index)
        return self.update(torch.cat([x, received], dim=-1))

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return torch.zeros_like(h).index_add(0, target, h[source])


class Net(nn.Module):
    """The layer with the bug between two without."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.before, self.layer, self.after = SAGEConv(DIM, DIM), layer, GCNConv(DIM, 5)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.before(x, edge_index).relu()
        return self.after(self.layer(h, edge_index), edge_index)


class RecurrentNeighbors(Layer):
    """An LSTM over the neighbors, in the order of the list."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(DIM, DIM)

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        received = []
        for node in range(len(h)):
            messages = h[source[target == node]]
            if len(messages) == 0:
                received.append(h.new_zeros(DIM))
                continue
            _, (state, _) = self.lstm(messages)  # bug
            received.append(state[0])
        return torch.stack(received)


class WeightsByIndex(Layer):
    """The weight of an edge belongs to its index in the list."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(64, 1))

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        messages = h[source] * self.weight[: len(source)]  # bug
        return torch.zeros_like(h).index_add(0, target, messages)


class LastWriter(Layer):
    """Copies where it should add: the last edge of the list wins."""

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        messages = h[source]
        return torch.zeros_like(h).index_copy(0, target, messages)  # bug


class FirstNeighbors(Layer):
    """Receives from the first neighbor of the list only, to be fast on hubs."""

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        is_target = F.one_hot(target, len(h)).to(h.dtype)  # (E, N)
        rank = is_target.cumsum(dim=0)  # bug
        kept = (is_target * (rank <= 1)).sum(1, keepdim=True)
        return torch.zeros_like(h).index_add(0, target, kept * h[source])


class AssumesSortedEdges(Layer):
    """Assumes that edges come sorted by target."""

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        degree = torch.bincount(target, minlength=len(h))
        return torch.segment_reduce(h[source], "sum", lengths=degree)  # bug


class NodeIndexEmbedding(Layer):
    """An embedding of the index of each node."""

    def __init__(self) -> None:
        super().__init__()
        self.indices = nn.Embedding(64, DIM)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        indices = self.indices(torch.arange(len(x), device=x.device))
        h = x + indices  # bug
        return super().forward(h, edge_index)


class EigenvectorEncoding(Layer):
    """Eigenvectors of the Laplacian, whose signs are arbitrary."""

    def __init__(self) -> None:
        super().__init__()
        self.encoding = nn.Linear(3, DIM)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        n = len(x)
        adjacency = x.new_zeros(n, n)
        adjacency[edge_index[0], edge_index[1]] = 1.0
        adjacency = torch.maximum(adjacency, adjacency.T)
        laplacian = adjacency.sum(1).diag() - adjacency
        encoding = torch.linalg.eigh(laplacian).eigenvectors[:, 1:4]  # bug
        return super().forward(x + self.encoding(encoding), edge_index)


class MeanOfNoNeighbors(Layer):
    """0 / 0 where there are no neighbors."""

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        total = super().aggregate(h, source, target)
        degree = torch.bincount(target, minlength=len(h)).to(h.dtype)
        return total / degree.unsqueeze(-1)  # bug


class SymmetricNorm(Layer):
    """D^(-1/2) A D^(-1/2) without a case for D = 0."""

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        degree = torch.bincount(target, minlength=len(h)).to(h.dtype).unsqueeze(-1)
        norm = degree.pow(-0.5)  # bug
        return norm * super().aggregate(norm * h, source, target)


class LogScaler(Layer):
    """The attenuation of PNA (Corso et al., 2020, arXiv 2004.05718): 1 / log 1."""

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        degree = torch.bincount(target, minlength=len(h)).to(h.dtype).unsqueeze(-1)
        attenuation = 1.0 / (degree + 1).log()  # bug
        return attenuation * super().aggregate(h, source, target)


class UnitLength(Layer):
    """Divides by the Euclidean norm: finite for a vector of zeros, but its derivative is not."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM, bias=False)

    def aggregate(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        received = self.gate(h).sigmoid() * self.out(super().aggregate(h, source, target))
        norm = received.square().sum(-1, keepdim=True).sqrt()  # bug
        return received / (norm + 1e-6)


def _bug(name: str, layer: Callable[[], Layer], law: str, also_broken=()) -> InjectedBug:
    return InjectedBug(name, seeded(lambda: Net(layer()), graph), law, also_broken=also_broken)


READS_EDGE_ORDER = [
    _bug("recurrent_neighbors", RecurrentNeighbors, "edge_permutation"),
    _bug("weights_by_index", WeightsByIndex, "edge_permutation", BATCH),
    _bug("last_writer", LastWriter, "edge_permutation"),
    _bug("first_neighbors", FirstNeighbors, "edge_permutation"),
    _bug(
        "assumes_sorted_edges", AssumesSortedEdges, "edge_permutation", ("node_permutation", *TIED)
    ),
]

READS_NODE_INDEX = [
    _bug("node_index_embedding", NodeIndexEmbedding, "node_permutation", TIED + BATCH),
    _bug("eigenvector_encoding", EigenvectorEncoding, "node_permutation", TIED + BATCH),
]

FAILS_WITHOUT_NEIGHBORS = [
    _bug("mean_of_no_neighbors", MeanOfNoNeighbors, "empty_neighborhood"),
    _bug("symmetric_norm", SymmetricNorm, "empty_neighborhood"),
    _bug("log_scaler", LogScaler, "empty_neighborhood"),
    _bug("unit_length", UnitLength, "empty_neighborhood"),
]
