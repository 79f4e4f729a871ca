"""Graph networks that read the list of edges, read names of nodes, or divide by 0."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, SAGEConv

from tests.testing.planted.base import DIM, TIED, Planted, graph, made, mlp

UNION = ("batch_composition",)
"""Breaks too where two graphs are put side by side."""


class Layer(nn.Module):
    """Each node, and what it hears from its neighbors."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(DIM, DIM, bias=False), mlp(2 * DIM, DIM)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        heard = self.hear(self.message(x), *edge_index)
        return self.update(torch.cat([x, heard], dim=-1))

    def hear(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return torch.zeros_like(h).index_add(0, target, h[source])


class Net(nn.Module):
    """A sound layer, the layer in question, and a sound one."""

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

    def hear(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        heard = []
        for node in range(len(h)):
            messages = h[source[target == node]]
            if len(messages) == 0:
                heard.append(h.new_zeros(DIM))
                continue
            _, (state, _) = self.lstm(messages)  # bug
            heard.append(state[0])
        return torch.stack(heard)


class WeightsByPlace(Layer):
    """An edge's weight belongs to its place in the list."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(64, 1))

    def hear(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        messages = h[source] * self.weight[: len(source)]  # bug
        return torch.zeros_like(h).index_add(0, target, messages)


class LastWriter(Layer):
    """Copies where it should add: the last edge of the list wins."""

    def hear(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        messages = h[source]
        return torch.zeros_like(h).index_copy(0, target, messages)  # bug


class FirstNeighbors(Layer):
    """Listens to the first neighbor of the list alone, to be fast on hubs."""

    def hear(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        mine = F.one_hot(target, len(h)).to(h.dtype)  # (E, N)
        queue = mine.cumsum(dim=0)  # bug
        kept = (mine * (queue <= 1)).sum(1, keepdim=True)
        return torch.zeros_like(h).index_add(0, target, kept * h[source])


class SortedByFaith(Layer):
    """Takes it for granted that edges come sorted by target."""

    def hear(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        degree = torch.bincount(target, minlength=len(h))
        return torch.segment_reduce(h[source], "sum", lengths=degree)  # bug


class NodeNames(Layer):
    """An embedding of the number of each node."""

    def __init__(self) -> None:
        super().__init__()
        self.names = nn.Embedding(64, DIM)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        names = self.names(torch.arange(len(x), device=x.device))
        h = x + names  # bug
        return super().forward(h, edge_index)


class EigenvectorCode(Layer):
    """Eigenvectors of the Laplacian, whose signs are nobody's choice."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Linear(3, DIM)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        n = len(x)
        adjacency = x.new_zeros(n, n)
        adjacency[edge_index[0], edge_index[1]] = 1.0
        adjacency = torch.maximum(adjacency, adjacency.T)
        laplacian = adjacency.sum(1).diag() - adjacency
        code = torch.linalg.eigh(laplacian).eigenvectors[:, 1:4]  # bug
        return super().forward(x + self.code(code), edge_index)


class MeanOfNone(Layer):
    """0 / 0 where there are no neighbors."""

    def hear(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        total = super().hear(h, source, target)
        degree = torch.bincount(target, minlength=len(h)).to(h.dtype)
        return total / degree.unsqueeze(-1)  # bug


class SymmetricNorm(Layer):
    """D^(-1/2) A D^(-1/2) without care for D = 0."""

    def hear(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        degree = torch.bincount(target, minlength=len(h)).to(h.dtype).unsqueeze(-1)
        norm = degree.pow(-0.5)  # bug
        return norm * super().hear(norm * h, source, target)


class LogScaler(Layer):
    """The attenuation of PNA (Corso et al., 2020, arXiv 2004.05718): 1 / log 1."""

    def hear(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        degree = torch.bincount(target, minlength=len(h)).to(h.dtype).unsqueeze(-1)
        attenuation = 1.0 / (degree + 1).log()  # bug
        return attenuation * super().hear(h, source, target)


class UnitLength(Layer):
    """Finite for a vector of zeros, but its derivative is not."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM, bias=False)

    def hear(self, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
        heard = self.gate(h).sigmoid() * self.out(super().hear(h, source, target))
        length = heard.square().sum(-1, keepdim=True).sqrt()  # bug
        return heard / (length + 1e-6)


def _planted(name: str, layer: Callable[[], Layer], law: str, also=()) -> Planted:
    return Planted(name, made(lambda: Net(layer()), graph), law, also=also)


EDGES = [
    _planted("recurrent_neighbors", RecurrentNeighbors, "edge_permutation"),
    _planted("weights_by_place", WeightsByPlace, "edge_permutation", UNION),
    _planted("last_writer", LastWriter, "edge_permutation"),
    _planted("first_neighbors", FirstNeighbors, "edge_permutation"),
    _planted("sorted_by_faith", SortedByFaith, "edge_permutation", ("node_permutation", *TIED)),
]

NODES = [
    _planted("node_names", NodeNames, "node_permutation", TIED + UNION),
    _planted("eigenvector_code", EigenvectorCode, "node_permutation", TIED + UNION),
    _planted("mean_of_none", MeanOfNone, "empty_neighborhood"),
    _planted("symmetric_norm", SymmetricNorm, "empty_neighborhood"),
    _planted("log_scaler", LogScaler, "empty_neighborhood"),
    _planted("unit_length", UnitLength, "empty_neighborhood"),
]
