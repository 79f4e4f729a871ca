"""The simplest codes: the coordinate itself, as it is or scaled to the unit interval."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter

from tokennet.graphs import TokenGraph
from tokennet.layer import IncrementalDecodingError
from tokennet.positional.absolute import By, PositionalEncoding, check_columns
from tokennet.tokens import Tokens


class IntegerEncoding(PositionalEncoding):
    r"""The position as a number, along a learned direction of each coordinate.

        code = W pos,   W in R^{D x P}

    By the index, positions are 0, 1, 2, ...; by `tokens.pos` they may be any numbers, such as
    the coordinates of points. A code grows with the position without bound.

    Args:
        dim: channels D.
        by: "index" or "pos".
        num_coordinates: P, the number of columns of `tokens.pos`.

    >>> layer = IntegerEncoding(4)
    >>> z = layer(torch.zeros(3, 4))
    >>> torch.allclose(z[2], 2 * z[1])
    True
    """

    def __init__(self, dim: int, by: By = "index", *, num_coordinates: int = 1) -> None:
        super().__init__(dim, by)
        if by == "index" and num_coordinates != 1:
            raise ValueError(f"num_coordinates must be 1 where by='index', got {num_coordinates}")
        self.num_coordinates = num_coordinates
        self.linear = nn.Linear(num_coordinates, dim, bias=False)

    def encode(self, positions: Tensor) -> Tensor:
        check_columns(positions, self.num_coordinates, "num_coordinates")
        return self.linear(positions.to(self.linear.weight.dtype))


class UnitIntervalEncoding(IntegerEncoding):
    r"""The share of the way from the first position of the set to the last, in [0, 1].

        code = W (pos - low) / (high - low),   low, high: the least and largest of the set

    By the index, i / (N - 1). Codes are bounded, but a step is worth less in a longer set, and
    each further token changes the codes of all: no sequence can be made step by step with it.
    A coordinate that is the same for all tokens of a set has the code 0.

    Args:
        dim: channels D.
        by: "index" or "pos".
        num_coordinates: P, the number of columns of `tokens.pos`.

    >>> layer = UnitIntervalEncoding(4)
    >>> short, long = layer(torch.zeros(3, 4)), layer(torch.zeros(101, 4))
    >>> torch.allclose(short[-1], long[-1]), torch.allclose(short[1], long[1])
    (True, False)
    """

    def positions(self, tokens: Tokens, index: Tensor) -> Tensor:
        positions = super().positions(tokens, index).double()  # (..., N, P)
        graph = tokens.graph
        owner, count = torch.zeros_like(index), 1
        if graph.is_ragged:
            owner, count = graph.batch(index.device), graph.num_graphs
        low = scatter(positions, owner, -2, count, "min")[..., owner, :]
        width = scatter(positions - low, owner, -2, count, "max")[..., owner, :]
        return (positions - low) / width.where(width > 0, 1.0)

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        raise IncrementalDecodingError(self, "each new token changes all encodings")
