"""What a law changes in the input, and what should become of the output.

A new law is a new intervention: needed to add one, or to read why a report says BROKEN.
"""

from __future__ import annotations

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokennet.testing.engine.actions import Action
from tokennet.testing.engine.differences import difference

Inputs = tuple[Any, ...]
Outputs = list[Tensor]


class Code(NamedTuple):
    """An intervention as code on the inputs `x`, `x1`, ...

    `lines` make what `arguments` name; `before` of the output y and `after` of the output
    `moved` must be the same.
    """

    imports: list[str]
    lines: list[str]
    arguments: list[str]
    before: str
    after: str


class Intervention(ABC):
    """One run of a law: compared(f(apply(x))) must equal expected(f(x))."""

    @property
    def words(self) -> str:
        """What it does, for reports of counterexamples."""
        return ""

    @abstractmethod
    def apply(self, inputs: Inputs) -> Inputs:
        """The changed input."""

    def expected(self, outputs: Outputs) -> Outputs:
        """What f(x) says that f(apply(x)) must be."""
        return outputs

    def compared(self, outputs: Outputs) -> Outputs:
        """The part of f(apply(x)) that the law speaks of."""
        return outputs

    def sizes(self, sizes: Outputs) -> Outputs:
        """How large entries of `expected` can be, given sizes of the entries of f(x)."""
        return self.expected(sizes)

    def simpler(self) -> Iterator[Intervention]:
        """Interventions of the same law that are easier to read, the simplest first."""
        return iter(())

    def code(self, names: list[str], inputs: Inputs, outputs: Outputs, worst: int) -> Code | None:
        """The intervention in a script, None where it has no code of its own.

        Args:
            names: of the inputs.
            worst: the number of the output that the script compares.
        """
        return None

    @property
    def can_be_followed(self) -> bool:
        """Whether `discrepancy` knows what becomes of intermediate tensors."""
        return True

    def discrepancy(self, before: Tensor, after: Tensor, enough: float = 0.0) -> float:
        """How far an intermediate tensor is from having changed as the law allows.

        0 if there is a way in which `before`, of the run on x, becomes `after`, of the
        run on apply(x); relative to the largest value. To localize breaks.

        Args:
            enough: no better way is looked for once an error is at most this.
        """
        least = float("inf")
        if before.dim() == after.dim():
            for a, b in self.alignments(before, after):
                least = min(least, difference([a], [b]))
                if least <= enough:
                    break
        return least

    @abstractmethod
    def alignments(self, before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The ways in which the two may correspond, each as a pair that should be equal."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of tokens, of which the model may make longer lists."""
        return ()

    def among(self, lists: Sequence[Among]) -> Intervention:
        """The same where tokens also stand among others, as beside a class token."""
        return self


@dataclass(frozen=True)
class Among:
    """`count` tokens in a list of `size` entries, the first of them at `start`; the rest stays."""

    count: int
    size: int
    start: int

    def perm(self, perm: Tensor) -> Tensor:
        """A permutation of the tokens as one of the list."""
        whole = torch.arange(self.size)
        whole[self.start : self.start + self.count] = self.start + perm
        return whole

    def index(self, index: Tensor, count: int) -> Tensor:
        """Indices of tokens as those of the list, with all other entries, where it has `count`."""
        rest = torch.arange(self.size - self.count)
        rest = torch.where(rest < self.start, rest, rest + count)
        return torch.cat([self.start + index, rest])


@dataclass(frozen=True)
class PermutationIntervention(Intervention):
    """f(P x) = P f(x): each input and output permuted by its own action of the same P."""

    perm: Tensor
    in_actions: tuple[Action, ...]
    out_actions: tuple[Action, ...]
    ordered: tuple[int, ...] | None = None
    """Sizes of dimensions that stay in place; others may be lists of edges, in any order.

    None: nothing is listed in another order."""
    membership: Tensor | None = None
    """(N,) the set of each token of a ragged batch, which the model may pad to one size."""
    lists: tuple[Among, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        return (len(self.perm),)

    def among(self, lists: Sequence[Among]) -> Intervention:
        return dataclasses.replace(self, lists=tuple(lists))

    def apply(self, inputs: Inputs) -> Inputs:
        moved = zip(self.in_actions, inputs, strict=True)
        return tuple(action.apply(value, self.perm) for action, value in moved)

    def expected(self, outputs: Outputs) -> Outputs:
        pairs = zip(self._actions_on(outputs), outputs, strict=True)
        return [action.compared(self._permuted(action, y)) for action, y in pairs]

    def compared(self, outputs: Outputs) -> Outputs:
        pairs = zip(self._actions_on(outputs), outputs, strict=True)
        return [action.compared(y) for action, y in pairs]

    def _actions_on(self, outputs: Outputs) -> tuple[Action, ...]:
        actions = self.out_actions
        if len(actions) == 1:
            actions *= len(outputs)
        if len(actions) != len(outputs):
            raise ValueError(
                f"out_action must be one action or one for each of the {len(outputs)} outputs, "
                f"got {len(actions)}"
            )
        return actions

    def _permuted(self, action: Action, output: Tensor) -> Tensor:
        try:
            degree = action.degree(output)
        except ValueError:
            degree = 0
        if degree not in (None, len(self.perm)):
            raise ValueError(
                f"out_action {action} needs an output with {len(self.perm)} entries to permute, "
                f"got shape {tuple(output.shape)}; for a pooled output it is Invariant()"
            )
        return action.apply(output, self.perm)

    def with_perm(self, perm: Tensor) -> PermutationIntervention:
        return dataclasses.replace(self, perm=perm)

    def alignments(self, before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        if before.shape != after.shape:
            return
        perms = [self.perm, *(longer.perm(self.perm) for longer in self.lists)]
        indices = [_permutations(size, perms) for size in before.shape]
        for chosen in itertools.product(*indices):
            moved = _take(before, chosen)
            yield moved, after
            integers = before.numel() and before.dtype in (torch.int64, torch.int32)
            if integers and bool((before.min() >= 0) & (before.max() < len(self.perm))):
                yield torch.argsort(self.perm).to(moved)[moved], after
        yield from self._padded(before, after)
        yield from self._in_two(before, after)
        for dim, size in enumerate(before.shape):
            may_be_edges = size > 1 and size % len(self.perm) != 0
            if self.ordered is not None and may_be_edges and size not in self.ordered:
                yield _sorted_along(before, dim), _sorted_along(after, dim)

    def _in_two(self, before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens that two dimensions count, as pixels; the tokens of one set of a ragged batch."""
        perm, n = self.perm, len(self.perm)
        for dim, (size, inner) in enumerate(itertools.pairwise(before.shape)):
            if 1 < size < n and size * inner == n:
                flat = before.flatten(dim, dim + 1).index_select(dim, perm.to(before.device))
                yield flat.view(before.shape), after
        sizes = [] if self.membership is None else self.membership.bincount().tolist()
        for start, size in zip(itertools.accumulate([0, *sizes]), sizes, strict=False):
            own = (perm[start : start + size] - start).to(before.device)
            for dim in range(before.dim()):
                if size > 1 and before.shape[dim] == size:
                    yield before.index_select(dim, own), after

    def _padded(self, before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Sets padded to one size, as PyG's to_dense_batch returns them."""
        membership = self.membership
        if membership is None or not len(membership):
            return
        sizes = membership.bincount()
        count, longest = len(sizes), int(sizes.max())
        own = torch.arange(len(membership)) - (sizes.cumsum(0) - sizes)[membership]

        def moved(tensor: Tensor, dim: int, length: int) -> Tensor:
            """P on sets that are each padded to `length` tokens."""
            slots, perm = membership * length + own, torch.arange(count * length)
            perm[slots] = slots[self.perm]
            return tensor.index_select(dim, perm.to(tensor.device))

        for dim, size in enumerate(before.shape):
            if size and size % count == 0 and size // count >= longest:
                yield moved(before, dim, size // count), after
            if size == count and dim + 1 < before.dim() and before.shape[dim + 1] >= longest:
                flat = moved(before.flatten(dim, dim + 1), dim, before.shape[dim + 1])
                yield flat.view(before.shape), after


@dataclass(frozen=True)
class Unaffected:
    """In dimensions of a size, the entries that must not change; sizes may differ in the runs."""

    size: int
    index: Tensor
    new_size: int
    new_index: Tensor

    def among(self, longer: Among) -> Unaffected:
        """The same in a longer list."""
        new_size = self.new_size + longer.size - longer.count
        new_index = longer.index(self.new_index, self.new_size)
        return Unaffected(longer.size, longer.index(self.index, self.size), new_size, new_index)

    @staticmethod
    def at(size: int, index: Tensor) -> Unaffected:
        """The same entries in both runs."""
        return Unaffected(size, index, size, index)


@dataclass(frozen=True)
class ContentIntervention(Intervention):
    """Other content for some tokens, sets or graphs, or fewer of them; the rest must not change.

    Args:
        change: makes the changed input.
        kept: where the rest is, in intermediate tensors.
        select: the part of f(apply(x)) that belongs to the rest.
        wanted: the part of f(x), where it is not selected in the same way.
    """

    change: Callable[[Inputs], Inputs]
    kept: Sequence[Unaffected] = ()
    select: Callable[[Outputs], Outputs] = field(default=list)
    wanted: Callable[[Outputs], Outputs] | None = None

    def apply(self, inputs: Inputs) -> Inputs:
        return self.change(inputs)

    def expected(self, outputs: Outputs) -> Outputs:
        return (self.wanted or self.select)(outputs)

    def compared(self, outputs: Outputs) -> Outputs:
        return self.select(outputs)

    @property
    def can_be_followed(self) -> bool:
        return bool(self.kept)

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple({kept.size for kept in self.kept})

    def among(self, lists: Sequence[Among]) -> Intervention:
        found = [k.among(at) for at in lists for k in self.kept if k.size == at.count]
        return dataclasses.replace(self, kept=[*self.kept, *found])

    def alignments(self, before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        sizes = zip(before.shape, after.shape, strict=True)
        for chosen in itertools.product(*(list(self._indices(a, b)) for a, b in sizes)):
            yield (
                _take(before, [old for old, _ in chosen]),
                _take(after, [new for _, new in chosen]),
            )

    def _indices(self, size: int, new_size: int) -> Iterator[tuple[Tensor | None, Tensor | None]]:
        found = False
        for kept in self.kept:
            count = size // kept.size
            if size and (count * kept.size, count * kept.new_size) == (size, new_size):
                found = True
                yield from zip(
                    _blocks(count, kept.size, kept.index),
                    _blocks(count, kept.new_size, kept.new_index),
                    strict=True,
                )
        if not found and size == new_size:
            yield None, None


def _permutations(size: int, perms: Sequence[Tensor]) -> list[Tensor | None]:
    """The ways a dimension can be moved: not, or by a permutation in blocks inside or outside."""
    found: list[Tensor | None] = [None]
    for perm in perms:
        if len(perm) > 1 and size and size % len(perm) == 0:
            found += _blocks(size // len(perm), len(perm), perm)
    return found


def _blocks(count: int, size: int, index: Tensor) -> Iterator[Tensor]:
    """`index` within each of `count` blocks of `size`; and with blocks the inner dimension."""
    blocks = torch.arange(count)
    yield (blocks[:, None] * size + index).flatten()
    if count > 1:
        yield (index[:, None] * count + blocks).flatten()


def _take(tensor: Tensor, chosen: Sequence[Tensor | None]) -> Tensor:
    for dim, index in enumerate(chosen):
        if index is not None:
            tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def _sorted_along(tensor: Tensor, dim: int) -> Tensor:
    """The slices along `dim` in an order that their values alone decide."""
    rows = tensor.transpose(0, dim).flatten(1) if tensor.dim() > 1 else tensor[:, None]
    rows = rows.double().nan_to_num()
    weight = torch.linspace(1.0, 2.0, rows.shape[1], dtype=torch.float64, device=rows.device)
    return tensor.index_select(dim, torch.argsort(rows @ weight.sin()))
