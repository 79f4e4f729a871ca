"""How a permutation acts on `Tokens` and on PyG's `Data`, of their tokens or of their edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokennet.graphs import Edges, Full, TokenGraph
from tokennet.testing.engine.actions import Action, RelabelEdges, check_edge_index, within
from tokennet.testing.example.values import describe, features, is_pyg_data, with_features
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class Relabel(Action):
    """Moves nodes together with everything about them: `Tokens` (z, graph, pos) or PyG `Data`.

    In a ragged batch (`Disjoint`, `Batch`) tokens stay within their graph. Node numbers in
    `Data` (`edge_index`, `edge_label_index`, `face`, ...) are known by `Data.__inc__`.

    >>> from torch_geometric.data import Data
    >>> data = Data(x=torch.eye(3), face=torch.tensor([[0], [1], [2]]))
    >>> Relabel().apply(data, torch.tensor([2, 0, 1])).face.flatten().tolist()
    [1, 2, 0]
    """

    def degree(self, value: Any) -> int:
        return _num_tokens(self, value)

    def random(self, value: Any, generator: torch.Generator) -> Tensor:
        if isinstance(value, Tokens):
            return random_permutation(value.graph, generator)
        if isinstance(value.batch, Tensor):
            return within(value.batch, generator)
        return super().random(value, generator)

    def apply(self, value: Any, perm: Tensor) -> Any:
        if isinstance(value, Tokens):
            return value.permute(perm)
        moved, n = value.clone(), _num_tokens(self, value)
        for key, item in value:
            if _holds_node_numbers(value, key, item):
                moved[key] = RelabelEdges().apply(item, perm)
            if value.is_node_attr(key) and _has_row_for_each(value, key, n):
                moved[key] = moved[key][perm.to(item.device)]
        return moved

    def restrict(self, value: Any, index: Tensor) -> Any:
        if isinstance(value, Tokens):
            pos = None if value.pos is None else value.pos.index_select(-2, index)
            graph = _induced(value.graph, index)
            return Tokens(value.z.index_select(-2, index), graph, pos)
        numbered = [key for key, item in value if _holds_node_numbers(value, key, item)]
        if isinstance(value.batch, Tensor) or not {"edge_index"}.issuperset(numbered):
            raise NotImplementedError(f"{value} is not cut into smaller graphs")
        return value.subgraph(index)


@dataclass(frozen=True)
class Shuffle(Action):
    """Moves the vectors alone, z of `Tokens` or x of `Data`, with graph and pos held.

    >>> from tokennet import Causal
    >>> moved = Shuffle().apply(Tokens(torch.eye(2), Causal(2)), torch.tensor([1, 0]))
    >>> moved.z.tolist(), moved.graph
    ([[0.0, 1.0], [1.0, 0.0]], Causal(2): 2 tokens, 3 edges, density 0.75)
    """

    def degree(self, value: Any) -> int:
        return _num_tokens(self, value)

    def random(self, value: Any, generator: torch.Generator) -> Tensor:
        return Relabel().random(value, generator)

    def apply(self, value: Any, perm: Tensor) -> Any:
        vectors = features(value)
        dim = -2 if isinstance(value, Tokens) else 0
        return with_features(value, vectors.index_select(dim, perm.to(vectors.device)))


@dataclass(frozen=True)
class ReorderEdges(Action):
    """Lists edges in another order: `Tokens` on `Edges`, `Data` (its edge_index), or (2, E).

    >>> ReorderEdges().apply(torch.tensor([[0, 1], [1, 2]]), torch.tensor([1, 0])).tolist()
    [[1, 0], [2, 1]]
    """

    def degree(self, value: Any) -> int:
        if isinstance(value, Tokens):
            return value.graph.num_edges
        if is_pyg_data(value):
            _check_edges(value)
            return value.edge_index.shape[1] if "edge_index" in value else 0
        check_edge_index(value)
        return value.shape[1]

    def apply(self, value: Any, perm: Tensor) -> Any:
        if isinstance(value, Tokens):
            graph = value.graph
            edges = graph.edge_index()[:, perm]
            return value.replace(graph=Edges(edges, graph.num_targets, **graph.fields(perm.cpu())))
        if not is_pyg_data(value):
            return value[:, perm.to(value.device)]
        moved, count = value.clone(), self.degree(value)
        for key, item in value:
            if key == "edge_index":
                moved[key] = item[:, perm.to(item.device)]
            elif value.is_edge_attr(key) and _has_row_for_each(value, key, count):
                moved[key] = item[perm.to(item.device)]
        return moved


def random_permutation(graph: TokenGraph, generator: torch.Generator) -> Tensor:
    """A uniform permutation of the tokens that keeps each graph of a `Disjoint` together.

    >>> from tokennet import Disjoint, Full
    >>> perm = random_permutation(Disjoint([Full(2), Full(3)]), torch.Generator().manual_seed(0))
    >>> sorted(perm[:2].tolist()), sorted(perm[2:].tolist())
    ([0, 1], [2, 3, 4])
    """
    if graph.is_ragged:
        return within(graph.batch(), generator)
    return torch.randperm(graph.num_targets, generator=generator)


def _induced(graph: TokenGraph, index: Tensor) -> TokenGraph:
    """The graph on some of its tokens."""
    if graph.is_full:
        return Full(len(index))
    if graph.is_ragged or any(rows is not None for rows in graph.fields().values()):
        raise NotImplementedError(f"{graph!r} is not cut into smaller graphs")
    new_index = torch.full((graph.num_targets,), -1)
    new_index[index] = torch.arange(len(index))
    edges = new_index[graph.edge_index()]
    return Edges(edges[:, (edges >= 0).all(0)], len(index))


def _num_tokens(action: Action, value: Any) -> int:
    if isinstance(value, Tokens):
        return value.num_tokens
    if is_pyg_data(value):
        _check_edges(value)
        return int(value.num_nodes)
    raise TypeError(f"{action} acts on Tokens and Data, got {describe(value)}")


def _check_edges(data: Any) -> None:
    if "adj_t" in data:
        raise ValueError(f"Data must have its edges in edge_index, and no adj_t, got {data}")


def _holds_node_numbers(data: Any, key: str, item: Any) -> bool:
    integers = isinstance(item, Tensor) and item.dtype in (torch.int64, torch.int32)
    if not integers or "batch" in key or key.endswith("ptr"):  # of graphs, indices in a list
        return False
    counted = torch.as_tensor(data.__inc__(key, item)).eq(data.num_nodes).all()
    return bool(counted) and bool((item < data.num_nodes).all())


def _has_row_for_each(data: Any, key: str, count: int) -> bool:
    """Whether dimension 0 counts the nodes or edges, not others, as `edge_label` may."""
    item = data[key]
    if not isinstance(item, Tensor) or key.endswith("ptr") or f"{key}_index" in data:
        return False
    return item.shape[:1] == (count,) and data.__cat_dim__(key, item) in (0, -item.dim())
