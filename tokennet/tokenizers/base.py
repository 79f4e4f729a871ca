"""`Tokenizer`: the base class of all tokenizers, from raw data to `Tokens` and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokennet.checks import check_type, shown
from tokennet.graphs import TokenGraph
from tokennet.tokens import Tokens

GraphFactory = Callable[[int], TokenGraph]


@dataclass(frozen=True, kw_only=True)
class Tokenizer(ABC):
    """Cuts raw data into tokens, on a graph of neighbors, with positions.

    Called with one raw datum it returns its `Tokens`. A list is a batch: a leading dimension
    where all have the same size and share a graph, else a ragged `Tokens.batch`. `inverse` joins
    tokens again. It uses `tokens.pos`, so that tokens may have been relabeled, and `tokens.z`, so
    that it shows the output of a net.

    Subclass it for another kind of data: define `tokenize`, and `restore` if there is an inverse.

    Args:
        graph: from the number of tokens to their graph, in place of the natural one: `graph=Full`.

    Raises:
        ValueError: the list of raw data is empty.

    >>> from tokennet import Cycle
    >>> class Beads(Tokenizer):
    ...     def tokenize(self, raw):
    ...         return Tokens(torch.tensor([[float(bead)] for bead in raw]), Cycle(len(raw)))
    >>> Beads()("1021").graph
    Cycle(4, radius=1): 4 tokens, 12 edges, density 0.75
    """

    graph: GraphFactory | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.graph is not None and not callable(self.graph):
            raise TypeError(
                "graph must be a function from a number of tokens to their graph, such as Full; "
                f"got {shown(self.graph)}"
            )

    shares_graph: ClassVar[bool] = True
    """Whether graph and positions depend on the size of the raw datum alone."""
    num_coordinates: ClassVar[int | None] = 1
    """Columns of `tokens.pos`; None where the raw datum decides."""

    def __call__(self, raw: Any) -> Tokens:
        items = self.split(raw)
        if items is not None:
            return self._batch([self(item) for item in items])
        tokens = self.tokenize(raw)
        if self.graph is None:
            return tokens
        return tokens.replace(graph=self.graph(tokens.num_tokens))

    def inverse(self, tokens: Tokens) -> Any:
        """Return the raw datum of these tokens; of a ragged batch, a list.

        Raises:
            TypeError: there is no inverse.
            ValueError: the tokens do not have the form that this tokenizer returns.
        """
        check_type("tokens", tokens, Tokens, "Tokens")
        if tokens.graph.is_ragged:
            return [self.restore(part) for part in tokens.unbatch()]
        return self.restore(tokens)

    @abstractmethod
    def tokenize(self, raw: Any) -> Tokens:
        """The tokens of one raw datum, or of a tensor with leading dimensions."""

    def restore(self, tokens: Tokens) -> Any:
        """The raw datum of the tokens of one set."""
        raise TypeError(
            f"{type(self).__name__} has no inverse: its tokens do not hold all information"
        )

    def split(self, raw: Any) -> list[Any] | None:
        """Return the data of a batch, or None if this is a single datum."""
        return list(raw) if isinstance(raw, list | tuple) else None

    def _batch(self, sets: list[Tokens]) -> Tokens:
        if not sets:
            raise ValueError("raw must hold at least one datum, got an empty list")
        if self.shares_graph and all(_match(tokens, sets[0]) for tokens in sets[1:]):
            return sets[0].replace(z=torch.stack([tokens.z for tokens in sets]))
        return Tokens.batch(sets)


def _match(a: Tokens, b: Tokens) -> bool:
    """Whether both have the same shape, positions and graph."""
    if a.z.shape != b.z.shape or (a.pos is None) != (b.pos is None):
        return False
    if a.pos is not None and not torch.equal(a.pos, b.pos):  # type: ignore[arg-type]
        return False
    return a.graph == b.graph


def check_tensor(name: str, value: Any, shape: str, *, floating: bool = False) -> Tensor:
    """Return `value` if it is a tensor with at least the dimensions of `shape`, or raise.

    >>> check_tensor("sound", torch.zeros(3), "(..., T, C)")
    Traceback (most recent call last):
    ValueError: sound must have shape (..., T, C), got (3,)
    """
    check_type(name, value, Tensor, f"a tensor {shape}")
    leading = "..." in shape
    dims = shape.count(",") + (0 if leading else 1)
    if value.dim() < dims or (value.dim() > dims and not leading):
        raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    if floating and not value.is_floating_point():
        raise TypeError(f"{name} must be of floating point, got {value.dtype}")
    return value


def indices_of(tokens: Tokens, columns: int) -> Tensor:
    """Return `tokens.pos` as (N, columns) non-negative integers, or raise."""
    pos = tokens.pos
    if pos is None or pos.shape != (tokens.num_tokens, columns):
        got = None if pos is None else tuple(pos.shape)
        raise ValueError(
            f"tokens.pos must have shape (N, {columns}), the indices of the tokens, got {got}"
        )
    indices = pos.round().long() if pos.is_floating_point() else pos
    if (indices != pos).any() or (indices < 0).any():
        raise ValueError("tokens.pos must hold whole numbers from 0 on: the indices of the tokens")
    return indices
