"""The standard form of an example: a flat tuple of tensors with sets first, then tokens.

A model may be given dicts of node types, packed or nested tensors, lists of sets, sequences
with their tokens first. Laws act on the standard form; `Form` calls the model with its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from tokennet.testing.engine.wrapped import Wrapped
from tokennet.testing.example.values import is_hetero_data

Path = tuple[Any, ...]
SETS = "sets"
"""Starts the path of the set of each token, which the model is not given."""


class Leaf(NamedTuple):
    """A part of an example: its name, where it is in the call, and its value.

    `ragged` says which kind of container holds sets of several sizes: the value then lists
    the tokens of all sets, and the next leaf has the set of each.
    """

    name: str
    path: Path
    value: Any
    ragged: str = ""


class Slot(NamedTuple):
    """Where an input in standard form goes in the call, and how it becomes the model's own.

    Args:
        path: index or name of the argument, then keys in it.
        order: dimensions of the standard form in the order of the model.
        tokens: sizes that the tokens' dimension is split into.
        features: sizes that the last dimension is split into.
        ones: dimensions of size 1 of the model's own form.
        merged: the first two dimensions are one for the model.
        ragged: the container of the sets.
        bounds: the model is given sets of a list by 'lengths', 'ptr' or 'starts', and not by the
            set of each token.
        at: its number in the example; keys of dicts stay in order.
    """

    path: Path
    order: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    features: tuple[int, ...] = ()
    ones: tuple[int, ...] = ()
    merged: bool = False
    ragged: str = ""
    bounds: str = ""
    at: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether the model is given the value itself as an argument."""
        return self == Slot(self.path, at=self.at) and len(self.path) == 1

    def own(self, value: Any) -> Any:
        """The model's own form of a value."""
        if not isinstance(value, Tensor):
            return value
        if self.bounds:
            return bounds_of(value, self.bounds)
        if len(self.features) > 1:
            value = value.unflatten(-1, self.features)
        if len(self.tokens) > 1:
            value = value.unflatten(-1 - len(self.features), self.tokens)
        if self.order:
            value = value.permute(self.order)
        for dim in self.ones:
            value = value.unsqueeze(dim)
        return value.flatten(0, 1) if self.merged else value

    def standard(self, value: Tensor, num_heads: int = 1, num_tokens: int = 0) -> Tensor:
        """The standard form of the model's own value, the inverse of `own`."""
        if self.bounds:
            return members_of(value, self.bounds, num_tokens)
        for dim in reversed(self.ones):
            value = value.squeeze(dim)
        if self.merged:
            value = value.unflatten(0, (-1, num_heads))
        if self.order:
            value = value.permute(tuple(torch.tensor(self.order).argsort().tolist()))
        if len(self.tokens) > 1:
            at = value.dim() - len(self.features) - len(self.tokens)
            value = value.flatten(at, at + len(self.tokens) - 1)
        return value.flatten(-len(self.features)) if len(self.features) > 1 else value


@dataclass(frozen=True)
class Form(Wrapped):
    """Calls a model with its own form of inputs that are in standard form.

    Args:
        slots: of each input.
        hetero: the first argument is a `HeteroData`.
    """

    slots: tuple[Slot, ...]
    hetero: bool = False

    imports = "from tokennet.testing.scripts import Form, Slot"

    def __call__(self, *inputs: Any) -> Any:
        own: dict[Path, Any] = {}
        sizes: list[int] = []
        sets = {
            slot.path[1:]: value
            for slot, value in zip(self.slots, inputs, strict=True)
            if slot.path[0] == SETS
        }
        pairs = zip(self.slots, inputs, strict=True)
        for slot, value in sorted(pairs, key=lambda pair: pair[0].at):
            if slot.ragged:
                sizes = sets[slot.path].bincount().tolist()
                own[slot.path] = contained(slot.ragged, list(value.split(sizes)))
            elif slot.path[0] != SETS:
                own[slot.path] = slot.own(value)
        arguments = _nested(own)
        if self.hetero:
            arguments[0] = _hetero_data(arguments[0])
        by_name = {key: value for key, value in arguments.items() if isinstance(key, str)}
        listed = [arguments[key] for key in sorted(k for k in arguments if isinstance(k, int))]
        output = self.function(*listed, **by_name)
        return flat_sets(output, sizes) if sizes else output


def bounds_of(members: Tensor, kind: str) -> Tensor:
    """Lengths of the sets of a list of tokens, or where they begin, and end for 'ptr'.

    >>> bounds_of(torch.tensor([0, 0, 2]), "ptr").tolist()
    [0, 2, 2, 3]
    """
    lengths = members.bincount().to(members.dtype)
    if kind == "lengths":
        return lengths
    ptr = F.pad(lengths.cumsum(0), (1, 0)).to(members.dtype)
    return ptr if kind == "ptr" else ptr[:-1]


def members_of(bounds: Tensor, kind: str, num_tokens: int) -> Tensor:
    """The set of each token, the inverse of `bounds_of`."""
    end = F.pad(bounds, (0, int(kind == "starts")), value=num_tokens)
    lengths = bounds if kind == "lengths" else end.diff()
    numbers = torch.arange(len(lengths), dtype=bounds.dtype, device=bounds.device)
    return numbers.repeat_interleave(lengths)


def bounds_in(value: Any, num_tokens: int) -> str:
    """How integers say where the sets of a list of tokens are: 'ptr', 'starts', 'lengths' or ''."""
    if not isinstance(value, Tensor) or value.dtype not in (torch.int32, torch.int64):
        return ""
    if value.dim() != 1 or not len(value):
        return ""
    first, last = int(value[0]), int(value[-1])
    if first == 0 and bool((value.diff() >= 0).all()):
        if last == num_tokens and len(value) > 1:
            return "ptr"
        if last < num_tokens:
            return "starts"
    return "lengths" if int(value.min()) >= 0 and int(value.sum()) == num_tokens else ""


def contained(kind: str, sets: list[Tensor]) -> Any:
    """Sets of several sizes in a container of a kind."""
    if kind == "packed":
        return pack_sequence(sets, enforce_sorted=False)
    if kind in ("strided", "jagged"):
        return torch.nested.as_nested_tensor(sets, layout=getattr(torch, kind))
    return tuple(sets) if kind == "tuple" else sets


def flat_sets(output: Any, sizes: Sequence[int]) -> Any:
    """An output with the tokens of all sets one after another where it has one tensor a set.

    Pairs of the tokens of each set become blocks on the diagonal.

    Raises:
        ValueError: it has one tensor a set, of other sizes that follow those of the sets.
    """
    if isinstance(output, Tensor):
        return torch.cat(list(output.unbind())) if output.is_nested else output
    if isinstance(output, PackedSequence):
        padded, lengths = pad_packed_sequence(output, batch_first=True)
        return torch.cat([row[:n] for row, n in zip(padded, lengths.tolist(), strict=True)])
    if isinstance(output, Mapping):
        return {key: flat_sets(value, sizes) for key, value in output.items()}
    if not isinstance(output, tuple | list):
        return output
    if len(output) == len(sizes):
        by_name = _by_name(output)
        if by_name is not None:  # several outputs a set
            return {key: flat_sets(value, sizes) for key, value in by_name.items()}
        if all(isinstance(part, Tensor) for part in output):
            found = _joined(list(output), sizes, isinstance(output, list))
            if found is not None:
                return found
    return tuple(flat_sets(part, sizes) for part in output)


def _by_name(output: Sequence[Any]) -> dict[Any, list[Any]] | None:
    """A list of dicts, or of tuples, as a dict of lists; None where it is no such list."""
    parts: list[Any] = list(output)
    if isinstance(output, list) and all(isinstance(part, tuple) for part in parts):
        parts = [dict(enumerate(part)) for part in parts]
    if not all(isinstance(part, Mapping) for part in parts):
        return None
    keys = list(parts[0])
    return (
        {key: [part[key] for part in parts] for key in keys}
        if all(list(part) == keys for part in parts)
        else None
    )


def _joined(parts: list[Tensor], sizes: Sequence[int], is_list: bool) -> Tensor | None:
    """One tensor of the tensors of sets; None where they are other outputs."""
    shapes = [tuple(part.shape) for part in parts]
    firsts = [shape[:1] for shape in shapes]
    if firsts == [(size,) for size in sizes]:
        if len({shape[1:] for shape in shapes}) == 1:
            return torch.cat(parts)
        if [shape[:2] for shape in shapes] == [(size, size) for size in sizes]:
            return _blocks(parts, sizes)
    if not is_list:
        return None
    if len(set(shapes)) == 1:
        return torch.stack(parts)
    kinds = len(set(sizes))
    if kinds > 1 and len(set(firsts)) == kinds == len(set(zip(firsts, sizes, strict=True))):
        raise ValueError(
            f"the output has one tensor a set, of shapes {shapes}, which follow the sets of "
            f"{list(sizes)} tokens in no way that is known"
        )
    return None


def _blocks(parts: list[Tensor], sizes: Sequence[int]) -> Tensor:
    """Pairs of the tokens of each set among those of all."""
    found = parts[0].new_zeros(sum(sizes), sum(sizes), *parts[0].shape[2:])
    for part, size, end in zip(parts, sizes, itertools.accumulate(sizes), strict=True):
        found[end - size : end, end - size : end] = part
    return found


def leaves_of(example: Any, names: Sequence[str], takes_any_number: bool = False) -> list[Leaf]:
    """The parts of an example, with the names of the arguments that they are in.

    Args:
        names: of the model's arguments.
        takes_any_number: it has `*args`, so that a list holds its arguments.
    """
    if is_hetero_data(example):
        stores = [(store._key, store) for store in example.stores if store._key is not None]
        return [
            Leaf(f"{_named(key)}.{attr}", (0, key, attr), value)
            for key, store in stores
            for attr, value in store.items()
        ]
    if isinstance(example, Mapping):
        given = [(name, name, value) for name, value in example.items() if value is not None]
    else:
        packed = isinstance(example, PackedSequence)  # which is a tuple
        listed = isinstance(example, tuple | list) and not packed
        parts = list(example) if listed else [example]
        too_many = not takes_any_number and len(parts) > max(len(names), 1)
        if isinstance(example, list) and too_many and _are_sets(parts):
            parts = [parts]
        given = [
            (names[n] if n < len(names) else str(n), n, value) for n, value in enumerate(parts)
        ]
    graph = any(_lists_edges(value) for _, _, value in given)
    return [leaf for name, key, value in given for leaf in _leaves(name, (key,), value, graph)]


def _lists_edges(value: Any) -> bool:
    return (
        isinstance(value, Tensor) and not value.is_nested and value.dim() == 2
        and value.shape[0] == 2 and value.dtype == torch.long
    )  # fmt: skip


def _leaves(name: str, path: Path, value: Any, graph: bool = False) -> list[Leaf]:
    """The parts of a value; in a graph a tuple is of sources and targets, not of sets."""
    kind, sets = ("", []) if graph and isinstance(value, tuple) else _sets_in(value)
    if kind:
        sizes = torch.tensor([len(part) for part in sets])
        index = torch.arange(len(sets)).repeat_interleave(sizes)
        return [
            Leaf(name, path, torch.cat(sets), kind),
            Leaf(f"sets of {name}", (SETS, *path), index),
        ]
    children: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        children = list(value.items())
    elif isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value):
        children = list(enumerate(value))
    if not children:
        return [Leaf(name, path, value)]
    parts = [_leaves(f"{name}.{_named(key)}", (*path, key), item) for key, item in children]
    return [leaf for part in parts for leaf in part]


def _sets_in(value: Any) -> tuple[str, list[Tensor]]:
    """The kind of container and the sets in it; '' where it holds none."""
    if isinstance(value, PackedSequence):
        padded, lengths = pad_packed_sequence(value, batch_first=True)
        return "packed", [row[:n] for row, n in zip(padded, lengths.tolist(), strict=True)]
    if isinstance(value, Tensor) and value.is_nested:
        return str(value.layout).removeprefix("torch."), list(value.unbind())
    if isinstance(value, tuple | list) and len(value) > 1 and _are_sets(value):
        same = len({len(part) for part in value}) == 1
        if isinstance(value, list) or not same:
            return type(value).__name__, list(value)
    return "", []


def _are_sets(parts: Sequence[Any]) -> bool:
    """Whether these are sets (n, D), or of ids (n,), of one width."""
    if not all(isinstance(part, Tensor) for part in parts):
        return False
    dims = 2 if parts[0].is_floating_point() else 1
    return all(p.dim() == dims and p.dtype == parts[0].dtype for p in parts) and (
        len({p.shape[1:] for p in parts}) == 1
    )


def _named(key: Any) -> str:
    return ",".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _nested(own: dict[Path, Any]) -> dict[Any, Any]:
    """Arguments by index or name, from values by path; keys 0, 1, ... make a tuple."""
    arguments: dict[Any, Any] = {}
    for key in dict.fromkeys(path[0] for path in own):
        inner = {path[1:]: value for path, value in own.items() if path[0] == key}
        if list(inner) == [()]:
            arguments[key] = inner[()]
            continue
        parts = _nested(inner)
        indexed = all(isinstance(part, int) for part in parts)
        arguments[key] = tuple(parts[n] for n in sorted(parts)) if indexed else parts
    return arguments


def _hetero_data(stores: dict[Any, dict[str, Any]]) -> Any:
    from torch_geometric.data import HeteroData

    data = HeteroData()
    for key, attributes in stores.items():
        for name, value in attributes.items():
            data[key][name] = value
    return data
