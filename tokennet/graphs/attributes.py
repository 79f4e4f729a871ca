"""Attributes of nodes and edges, as dictionaries hold them, to columns of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tokennet.checks import check_type

Categories: TypeAlias = "Sequence[Any] | Mapping[Any, float] | None"
Attributes: TypeAlias = "str | Sequence[str] | Mapping[str, Categories]"
"""Names of attributes; or from each name to its categories, None where it holds numbers."""


def attribute_matrix(
    argument: str,
    attrs: Attributes,
    rows: Sequence[Mapping[str, Any]],
    holder: Callable[[int], str],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """(number of rows, F): the attributes of every row, side by side.

    Args:
        argument: of the caller, for messages.
        attrs: names of attributes, or their categories; see `from_networkx`.
        rows: attributes by name.
        holder: what row k belongs to, for messages: `edge 'ann' -> 'bob'`.
        dtype: by default torch's default type.

    >>> rows = [{"w": 2, "kind": "friend"}, {"w": 3.5, "kind": "foe"}]
    >>> attribute_matrix("attrs", {"w": None, "kind": ["friend", "foe"]}, rows, str)
    tensor([[2.0000, 1.0000, 0.0000],
            [3.5000, 0.0000, 1.0000]])
    """
    check_type(argument, attrs, str | Sequence | Mapping, "a name, names, or categories by name")
    dtype = torch.get_default_dtype() if dtype is None else dtype
    check_type("dtype", dtype, torch.dtype, "a torch.dtype")
    names = [attrs] if isinstance(attrs, str) else attrs
    by_name = names if isinstance(names, Mapping) else dict.fromkeys(names)
    columns = [torch.zeros(len(rows), 0, dtype=dtype)]
    for name, categories in by_name.items():
        missing = next((k for k, row in enumerate(rows) if name not in row), None)
        if missing is not None:
            raise ValueError(f"{argument}: {holder(missing)} has no attribute {name!r}")
        attribute = _Attribute(argument, name, [row[name] for row in rows], holder)
        numbers = attribute.numbers() if categories is None else attribute.codes(categories)
        columns.append(attribute.rounded(numbers, dtype))
    return torch.cat(columns, 1)


@dataclass
class _Attribute:
    """The values of one attribute, and how to speak of them."""

    argument: str
    name: str
    values: list[Any]
    holder: Callable[[int], str]

    def error(self, k: int, expected: str, hint: str = "") -> ValueError:
        return ValueError(
            f"{self.argument}: {self.name!r} of {self.holder(k)} must be {expected}, "
            f"got {self.values[k]!r}{hint}"
        )

    def numbers(self) -> Tensor:
        """(E, F) in int64 or float64, or as the tensors among the values are."""
        if any(isinstance(value, Tensor) for value in self.values):
            tensors = [torch.as_tensor(value, device="cpu") for value in self.values]
            self._check_sizes({tuple(tensor.shape) for tensor in tensors})
            return torch.stack(tensors).reshape(len(tensors), -1)
        try:
            array = np.asarray(self.values)
        except ValueError:  # they have different lengths, or some are no numbers
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            self._complain()
        if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
            raise self.error(int(array.argmax()), "a number of at most 64 bits")
        kind = np.float64 if array.dtype.kind == "f" else np.int64
        width = int(np.prod(array.shape[1:]))
        return torch.from_numpy(array.astype(kind)).reshape(len(self.values), width)

    def codes(self, categories: Sequence[Any] | Mapping[Any, float]) -> Tensor:
        """(E, number of categories) of 0 and 1; or (E, 1), the numbers of the categories."""
        expected = Sequence | Mapping
        check_type(f"{self.argument}[{self.name!r}]", categories, expected, "a list or a dict")
        one_hot = not isinstance(categories, Mapping)
        known = {key: k for k, key in enumerate(categories)} if one_hot else categories
        for k, value in enumerate(self.values):
            try:
                found = value in known
            except TypeError:  # not hashable
                found = False
            if not found:
                raise self.error(k, f"one of {', '.join(map(repr, known))}")
        numbers = torch.tensor([known[value] for value in self.values])  # type: ignore[index]
        if one_hot:
            return torch.eye(len(known), dtype=torch.long)[numbers.long()]
        return numbers[:, None]

    def rounded(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        """The numbers in `dtype`, where no whole number may change: it may be an id or a time."""
        result = numbers.to(dtype)
        fits = result.to(numbers.dtype) == numbers
        if dtype.is_floating_point and numbers.is_floating_point():
            fits |= (numbers != numbers.round()) | (numbers.abs() > 2**53)
        if not fits.all():
            k = int((~fits).any(1).nonzero()[0])
            raise self.error(k, f"exact in {dtype}", "; pass another dtype, such as torch.float64")
        return result

    def _complain(self) -> None:
        """Say which value is no number, or that they have different lengths."""
        for k, value in enumerate(self.values):
            if np.asarray(value).dtype.kind not in "biuf":
                hint = ""
                if isinstance(value, str):
                    found = sorted({value for value in self.values if isinstance(value, str)})
                    some = ", ".join(map(repr, found[:5])) + (", ..." if len(found) > 5 else "")
                    hint = f"; of text give the categories: {{{self.name!r}: [{some}]}}"
                raise self.error(k, "numeric", hint)
        self._check_sizes({np.asarray(value).shape for value in self.values})

    def _check_sizes(self, shapes: set[tuple[int, ...]]) -> None:
        if len(shapes) > 1:
            raise ValueError(
                f"{self.argument}: {self.name!r} must have the same shape everywhere, "
                f"got {', '.join(map(str, sorted(shapes)))}"
            )
