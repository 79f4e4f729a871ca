"""How a permutation acts on what a model takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from tokennet.graphs import Disjoint, Edges, Full, TokenGraph
from tokennet.symmetry.measure import random_permutation
from tokennet.symmetry.values import describe
from tokennet.tokens import Tokens


class Action(ABC):
    """An action of permutations P on values: (P x)_i = x[perm[i]]."""

    @abstractmethod
    def degree(self, value: Any) -> int | None:
        """How many things are permuted in `value`; None where any number is fine.

        Raises:
            TypeError, ValueError: the action cannot act on the value.
        """

    @abstractmethod
    def apply(self, value: Any, perm: Tensor) -> Any:
        """P value."""

    def random(self, value: Any, generator: torch.Generator) -> Tensor:
        """A uniform permutation among those that may act on `value`."""
        return torch.randperm(self.degree(value) or 0, generator=generator)

    def restrict(self, value: Any, index: Tensor) -> Any:
        """The value of the things `index` alone, for smaller counterexamples.

        Raises:
            NotImplementedError: there is no such smaller value.
        """
        raise NotImplementedError(f"{self} has no smaller values")


@dataclass(frozen=True)
class Permute(Action):
    """Moves the entries of a tensor along one dimension.

    >>> Permute(dim=0).apply(torch.tensor([10, 20, 30]), torch.tensor([2, 0, 1])).tolist()
    [30, 10, 20]
    """

    dim: int = -2

    def degree(self, value: Any) -> int:
        _check_dims(value, self.dim)
        return value.shape[self.dim]

    def apply(self, value: Tensor, perm: Tensor) -> Tensor:
        return value.index_select(self.dim, perm.to(value.device))

    def restrict(self, value: Tensor, index: Tensor) -> Tensor:
        return self.apply(value, index)


@dataclass(frozen=True)
class PermuteWithin(Permute):
    """Moves entries within their set of a ragged batch: `membership` (N,) is its number."""

    dim: int = 0
    membership: Tensor | None = field(default=None, repr=False)

    def random(self, value: Any, generator: torch.Generator) -> Tensor:
        if self.membership is None:
            return super().random(value, generator)
        return _within(self.membership, generator)

    def restrict(self, value: Any, index: Tensor) -> Any:
        raise NotImplementedError("a ragged batch is not cut into smaller ones")


@dataclass(frozen=True)
class Conjugate(Action):
    """A -> P A P^T: rows and columns of an N x N tensor, as a dense adjacency or a mask."""

    dims: tuple[int, int] = (-2, -1)

    def degree(self, value: Any) -> int:
        _check_dims(value, *self.dims)
        rows, columns = (value.shape[dim] for dim in self.dims)
        if rows != columns:
            raise ValueError(
                f"dims {self.dims} must have the same size to be conjugated, got {describe(value)}"
            )
        return rows

    def apply(self, value: Tensor, perm: Tensor) -> Tensor:
        perm = perm.to(value.device)
        return value.index_select(self.dims[0], perm).index_select(self.dims[1], perm)

    def restrict(self, value: Tensor, index: Tensor) -> Tensor:
        return self.apply(value, index)


@dataclass(frozen=True)
class Invariant(Action):
    """Leaves values as they are."""

    def degree(self, value: Any) -> None:
        return None

    def apply(self, value: Any, perm: Tensor) -> Any:
        return value

    def restrict(self, value: Any, index: Tensor) -> Any:
        return value


@dataclass(frozen=True)
class RelabelEdges(Action):
    """Renames the nodes in an `edge_index` (2, E): new node i is old node perm[i].

    Args:
        num_nodes: if not given, any; nodes are then counted by the other inputs.
    """

    num_nodes: int | None = None

    def degree(self, value: Any) -> int | None:
        _check_edge_index(value)
        return self.num_nodes

    def apply(self, value: Tensor, perm: Tensor) -> Tensor:
        return torch.argsort(perm).to(value.device)[value]


@dataclass(frozen=True)
class Relabel(Action):
    """Moves nodes together with everything about them: `Tokens` (z, graph, pos) or PyG `Data`.

    In a ragged batch (`Disjoint`, `Batch`) tokens stay within their graph.
    """

    def degree(self, value: Any) -> int:
        return _num_tokens(self, value)

    def random(self, value: Any, generator: torch.Generator) -> Tensor:
        if isinstance(value, Tokens):
            return random_permutation(value.graph, generator)
        batch = value.batch if isinstance(value.batch, Tensor) else None
        if batch is None:
            return super().random(value, generator)
        return _within(batch, generator)

    def apply(self, value: Any, perm: Tensor) -> Any:
        if isinstance(value, Tokens):
            return value.permute(perm)
        moved, n = value.clone(), value.num_nodes
        for key, item in value:
            if key == "edge_index":
                moved[key] = RelabelEdges().apply(item, perm)
            elif key != "ptr" and _is_per_node(value, key, item, n):
                moved[key] = item[perm.to(item.device)]
        return moved

    def restrict(self, value: Any, index: Tensor) -> Any:
        if isinstance(value, Tokens):
            pos = None if value.pos is None else value.pos.index_select(-2, index)
            graph = _induced(value.graph, index)
            return Tokens(value.z.index_select(-2, index), graph, pos)
        if isinstance(value.batch, Tensor):
            raise NotImplementedError("a Batch is not cut into smaller ones")
        return value.subgraph(index)


@dataclass(frozen=True)
class Shuffle(Action):
    """Moves the vectors alone, z of `Tokens` or x of `Data`, with graph and pos held."""

    def degree(self, value: Any) -> int:
        return _num_tokens(self, value)

    def random(self, value: Any, generator: torch.Generator) -> Tensor:
        return Relabel().random(value, generator)

    def apply(self, value: Any, perm: Tensor) -> Any:
        if isinstance(value, Tokens):
            return value.replace(z=value.z.index_select(-2, perm.to(value.z.device)))
        moved = value.clone()
        moved.x = value.x[perm.to(value.x.device)]
        return moved


@dataclass(frozen=True)
class ReorderEdges(Action):
    """Lists the edges in another order: `Tokens` on `Edges`, `Data`, or an edge_index (2, E)."""

    def degree(self, value: Any) -> int:
        if isinstance(value, Tokens):
            return value.graph.num_edges
        if isinstance(value, Data):
            return value.num_edges
        _check_edge_index(value)
        return value.shape[1]

    def random(self, value: Any, generator: torch.Generator) -> Tensor:
        return torch.randperm(self.degree(value), generator=generator)

    def apply(self, value: Any, perm: Tensor) -> Any:
        if isinstance(value, Tokens):
            return value.replace(graph=_reordered(value.graph, perm))
        if not isinstance(value, Data):
            return value[:, perm.to(value.device)]
        moved, count = value.clone(), value.num_edges
        for key, item in value:
            if key == "edge_index":
                moved[key] = item[:, perm.to(item.device)]
            elif isinstance(item, Tensor) and value.is_edge_attr(key) and len(item) == count:
                moved[key] = item[perm.to(item.device)]
        return moved


def _within(membership: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform permutation that keeps each entry in its set."""
    number = membership.cpu()
    # Sorting by (set, random number) shuffles within each set.
    order = torch.argsort(
        number + torch.rand(len(number), generator=generator, dtype=torch.float64)
    )
    return order[torch.argsort(torch.argsort(number, stable=True))]


def _reordered(graph: TokenGraph, perm: Tensor) -> Edges:
    edges = graph.edge_index()[:, perm]
    attr = getattr(graph, "edge_attr", None)
    attr = None if attr is None else attr[perm.to(attr.device)]
    return Edges(edges, graph.num_targets, edge_attr=attr)


def _induced(graph: TokenGraph, index: Tensor) -> TokenGraph:
    """The graph on some of its tokens."""
    if isinstance(graph, Full):
        return Full(len(index))
    if isinstance(graph, Disjoint) or getattr(graph, "edge_attr", None) is not None:
        raise NotImplementedError(f"{graph!r} is not cut into smaller graphs")
    place = torch.full((graph.num_targets,), -1)
    place[index] = torch.arange(len(index))
    edges = place[graph.edge_index()]
    return Edges(edges[:, (edges >= 0).all(0)], len(index))


def _num_tokens(action: Action, value: Any) -> int:
    if isinstance(value, Tokens):
        return value.num_tokens
    if isinstance(value, Data):
        return int(value.num_nodes)
    raise TypeError(f"{action} acts on Tokens and Data, got {describe(value)}")


def _check_dims(value: Any, *dims: int) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"a dimension can be permuted in a tensor, got {describe(value)}")
    for dim in dims:
        if not -value.dim() <= dim < value.dim():
            raise ValueError(f"dim {dim} is not in a {describe(value)}")


def _check_edge_index(value: Any) -> None:
    if not isinstance(value, Tensor) or value.dim() != 2 or value.shape[0] != 2:
        raise ValueError(f"edge_index must have shape (2, E), got {describe(value)}")


def _is_per_node(data: Data, key: str, item: Any, num_nodes: int) -> bool:
    return isinstance(item, Tensor) and data.is_node_attr(key) and item.shape[:1] == (num_nodes,)
