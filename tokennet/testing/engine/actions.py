"""How a permutation acts on inputs and outputs: of tensors, by dimension.

Needed to say what a law of your own permutes; `graph_actions` has those on `Tokens` and `Data`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.example.values import describe


class Action(ABC):
    """An action of permutations P on values: (P x)_i = x[perm[i]].

    >>> class Reverse(Action):
    ...     def degree(self, value):
    ...         return len(value)
    ...
    ...     def apply(self, value, perm):
    ...         return [value[index] for index in perm.tolist()]
    >>> Reverse().apply(["a", "b", "c"], torch.tensor([2, 1, 0]))
    ['c', 'b', 'a']
    """

    @abstractmethod
    def degree(self, value: Any) -> int | None:
        """How many things are permuted in `value`; None where any number is fine.

        Raises:
            TypeError, ValueError: the action cannot act on the value.
        """

    @abstractmethod
    def apply(self, value: Any, perm: Tensor) -> Any:
        """P value."""

    def compared(self, value: Any) -> Any:
        """What of an output is compared: all of it, unless the order of its rows means nothing."""
        return value

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
class PermutePart(Action):
    """Moves `count` entries along one dimension, those before and after stay.

    As in the output of an encoder with class tokens, or of one that lays the vectors of
    all tokens one after the other (`width` numbers each).

    >>> PermutePart(dim=0, count=2, start=1).apply(torch.arange(4), torch.tensor([1, 0])).tolist()
    [0, 2, 1, 3]
    """

    dim: int
    count: int
    start: int = 0
    width: int = 1

    def degree(self, value: Any) -> int:
        _check_dims(value, self.dim)
        return self.count if value.shape[self.dim] >= self.start + self.count * self.width else 0

    def apply(self, value: Tensor, perm: Tensor) -> Tensor:
        moved = (perm[:, None] * self.width + torch.arange(self.width)).flatten()
        index = torch.arange(value.shape[self.dim])
        index[self.start : self.start + len(moved)] = self.start + moved
        return value.index_select(self.dim, index.to(value.device))


@dataclass(frozen=True)
class PermuteWithin(Permute):
    """Moves entries within their set of a ragged batch: `membership` (N,) is its number.

    >>> within_sets = PermuteWithin(membership=torch.tensor([0, 0, 1, 1, 1]))
    >>> perm = within_sets.random(torch.zeros(5), torch.Generator().manual_seed(0))
    >>> sorted(perm[:2].tolist()), sorted(perm[2:].tolist())
    ([0, 1], [2, 3, 4])
    """

    dim: int = 0
    membership: Tensor | None = field(default=None, repr=False)

    def random(self, value: Any, generator: torch.Generator) -> Tensor:
        if self.membership is None:
            return super().random(value, generator)
        return within(self.membership, generator)

    def restrict(self, value: Any, index: Tensor) -> Any:
        raise NotImplementedError("a ragged batch is not cut into smaller batches")


@dataclass(frozen=True)
class Conjugate(Action):
    """A -> P A P^T: rows and columns of an N x N tensor, as a dense adjacency or a mask.

    >>> adjacency = torch.tensor([[0, 1], [0, 0]])
    >>> Conjugate().apply(adjacency, torch.tensor([1, 0])).tolist()
    [[0, 0], [1, 0]]
    """

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
    """Leaves values as they are.

    >>> Invariant().apply(torch.tensor([1, 2]), torch.tensor([1, 0])).tolist()
    [1, 2]
    """

    def degree(self, value: Any) -> None:
        return None

    def apply(self, value: Any, perm: Tensor) -> Any:
        return value

    def restrict(self, value: Any, index: Tensor) -> Any:
        return value


@dataclass(frozen=True)
class AsSet(Invariant):
    """Leaves values as they are, and compares outputs as sets of rows, in whatever order.

    As for the tokens that a top-k pooling keeps.

    >>> rows = AsSet().compared(torch.tensor([[3.0, 1.0], [2.0, 5.0]]))
    >>> torch.equal(rows, AsSet().compared(torch.tensor([[2.0, 5.0], [3.0, 1.0]])))
    True
    """

    dim: int = -2

    def compared(self, value: Tensor) -> Tensor:
        rows = value.movedim(self.dim, -2)  # (..., rows, entries)
        weight = torch.linspace(1.0, 2.0, rows.shape[-1], dtype=torch.float64).sin().to(rows.device)
        order = (rows.double().nan_to_num() @ weight).argsort(-1)
        return rows.take_along_dim(order[..., None], -2).movedim(-2, self.dim)


@dataclass(frozen=True)
class RelabelEdges(Action):
    """Renames the nodes in an `edge_index` (2, E): new node i is old node perm[i].

    Args:
        num_nodes: if not given, any; nodes are then counted by the other inputs.
        row: of the edge_index to be renamed, where sources and targets are different nodes.

    >>> RelabelEdges().apply(torch.tensor([[0, 1], [1, 2]]), torch.tensor([2, 1, 0])).tolist()
    [[2, 1], [1, 0]]
    """

    num_nodes: int | None = None
    row: int | None = None

    def degree(self, value: Any) -> int | None:
        check_edge_index(value)
        return self.num_nodes

    def apply(self, value: Tensor, perm: Tensor) -> Tensor:
        new = torch.argsort(perm).to(value.device)
        if self.row is None:
            return new[value]
        return torch.stack([new[row] if n == self.row else row for n, row in enumerate(value)])


def within(membership: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform permutation that keeps each entry in its set."""
    number = membership.cpu()
    # Sorting by (set, random number) shuffles within each set.
    noise = torch.rand(len(number), generator=generator, dtype=torch.float64)
    order = torch.argsort(number + noise)
    return order[torch.argsort(torch.argsort(number, stable=True))]


def _check_dims(value: Any, *dims: int) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"a dimension can be permuted in a tensor, got {describe(value)}")
    for dim in dims:
        if not -value.dim() <= dim < value.dim():
            raise ValueError(f"dim {dim} is not in a {describe(value)}")


def check_edge_index(value: Any) -> None:
    """Raise ValueError where a value is no edge_index (2, E)."""
    if not isinstance(value, Tensor) or value.dim() != 2 or value.shape[0] != 2:
        raise ValueError(f"edge_index must have shape (2, E), got {describe(value)}")
