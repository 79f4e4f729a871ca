"""The simplest positional encodings: the coordinate, or its share of the extent of the set."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.graphs import TokenGraph
from tokennet.layer import IncrementalDecodingError, weight_of
from tokennet.positional.absolute import By, PositionalEncoding, check_columns
from tokennet.tokens import Tokens, over_sets


class IntegerEncoding(PositionalEncoding):
    r"""The position as a number, along a learned direction of each coordinate.

        e = W pos,   W in R^{D x P}

    By the index, positions are 0, 1, 2, ...; by `tokens.pos` they may be any numbers. Use it
    for the coordinates of points; it grows with the position without bound.

    Args:
        dim: channels D.
        by: "index" or "pos".
        num_coordinates: P, the number of columns of `tokens.pos`.

    >>> import torch
    >>> layer = IntegerEncoding(4)
    >>> z = layer(torch.zeros(3, 4))
    >>> torch.allclose(z[2], 2 * z[1])
    True
    """

    @checked()
    def __init__(self, dim: int, by: By = "index", *, num_coordinates: int = 1) -> None:
        super().__init__(dim, by)
        if by == "index" and num_coordinates != 1:
            raise ValueError(f"num_coordinates must be 1 where by='index', got {num_coordinates}")
        self.num_coordinates = num_coordinates
        self.linear = nn.Linear(num_coordinates, dim, bias=False)

    def encode(self, positions: Tensor) -> Tensor:
        check_columns(positions, self.num_coordinates, "num_coordinates")
        return self.linear(positions.to(weight_of(self.linear).dtype))


class UnitIntervalEncoding(IntegerEncoding):
    r"""The share of the way from the first position of the set to the last, in [0, 1].

        e = W (pos - low) / (high - low),   low, high: the least and largest of the set

    By the index, i / (N - 1). Use it where only the relative place in a set counts. It is
    bounded, but offsets are worth less in a longer set, and each further token changes the
    encodings of all: it does not support incremental decoding. A coordinate that is the same
    for all tokens of a set is encoded as 0.

    Args:
        dim: channels D.
        by: "index" or "pos".
        num_coordinates: P, the number of columns of `tokens.pos`.

    >>> import torch
    >>> layer = UnitIntervalEncoding(4)
    >>> short, long = layer(torch.zeros(3, 4)), layer(torch.zeros(101, 4))
    >>> torch.allclose(short[-1], long[-1]), torch.allclose(short[1], long[1])
    (True, False)
    """

    def positions(self, tokens: Tokens, index: Tensor) -> Tensor:
        positions = super().positions(tokens, index).double()  # (..., N, P)
        graph, owner = tokens.graph, tokens.graph.batch(index.device)
        positions = positions - over_sets(positions, graph, "amin")[..., owner, :]
        width = over_sets(positions, graph, "amax")[..., owner, :]
        return positions / width.where(width > 0, 1.0)

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        raise IncrementalDecodingError(self, "each new token changes all encodings")
