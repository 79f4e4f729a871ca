"""Positional encodings that are added to z: sinusoidal, learned, and the base of all.

`by="pos"` reads `tokens.pos`: content that moves with its token, so the encoding commutes with
every relabeling. `by="index"` reads the index in the array (within each set of a ragged
batch): it commutes with no permutation.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tokennet.checks import check_sizes, checked, lookup
from tokennet.graphs import TokenGraph
from tokennet.layer import TokenLayer, check_channels, check_step
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens

By = Literal["pos", "index"]


def check_columns(positions: Tensor, num_coordinates: int, argument: str) -> None:
    """Raise ValueError unless there is a column for each coordinate."""
    if positions.shape[-1] != num_coordinates:
        raise ValueError(
            f"pos must have {num_coordinates} columns ({argument}), got {positions.shape[-1]}"
        )


def check_by(by: Any) -> By:
    """Return `by`, or raise ValueError."""
    lookup("by", by, dict.fromkeys(get_args(By)))
    return by


def read_positions(by: By, pos: Tensor | None, index: Tensor) -> Tensor:
    """`pos` (..., N, P), or `index` (N,) as a column; ValueError where there is no `pos`."""
    if by == "index":
        return index[:, None]  # (N, 1)
    if pos is None:
        raise ValueError(
            "tokens.pos must hold positions where by='pos', got None: give "
            "Tokens(z, graph, pos), or tokens from a tokenizer such as Patches"
        )
    return pos


class PositionalEncoding(TokenLayer):
    """Base of layers that add `encode(positions)` to z; subclass it for one of your own.

    >>> class Parity(PositionalEncoding):
    ...     def encode(self, positions):
    ...         return (positions % 2).expand(-1, self.dim)
    >>> Parity(2, "index")(torch.zeros(3, 2)).tolist()
    [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """

    @checked()
    def __init__(self, dim: int, by: By) -> None:
        super().__init__()
        self.dim, self.by = dim, check_by(by)

    @property
    def symmetry(self) -> Symmetry:  # type: ignore[override]
        return Symmetry({self.by})

    @abstractmethod
    def encode(self, positions: Tensor) -> Tensor:
        """(..., N, P) positions to (..., N, D)."""

    def positions(self, tokens: Tokens, index: Tensor) -> Tensor:
        """What is encoded, (..., N, P): `tokens.pos`, or `index` (N,) as a column."""
        return read_positions(self.by, tokens.pos, index)

    def transform(self, tokens: Tokens) -> Tokens:
        return self._add(tokens, tokens.graph.local_index(tokens.z.device))

    def step(
        self, tokens: Tokens, graph: TokenGraph, state: Any = None, source: Any = None
    ) -> tuple[Tokens, Any]:
        check_step(tokens, graph, self.dim)
        index = graph.num_sources - graph.num_targets + torch.arange(graph.num_targets)
        return self._add(tokens, index.to(tokens.z.device)), None

    def _add(self, tokens: Tokens, index: Tensor) -> Tokens:
        check_channels(tokens.z, self.dim)
        encoding = self.encode(self.positions(tokens, index))  # (..., N, D)
        return tokens.replace(z=tokens.z + encoding.to(tokens.z.dtype))


class SinusoidalEncoding(PositionalEncoding):
    r"""Sines and cosines of geometrically spaced wavelengths.

        e_{2i} = sin(pos / base^{2i / d}),   e_{2i+1} = cos(pos / base^{2i / d})

    Vaswani et al., 2017 (arXiv 1706.03762). With P coordinates, each gets `d = dim / P`
    channels. Use it where nothing should be learned, and any position may occur.

    Args:
        dim: channels D; an even number for each coordinate.
        by: "pos" or "index".
        num_coordinates: P, the number of columns of `tokens.pos`.
        base: the longest wavelength is 2 pi base.

    >>> tokens = Tokens(torch.zeros(3, 4), pos=torch.tensor([[0.0], [1.0], [2.0]]))
    >>> SinusoidalEncoding(4)(tokens).z[0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """

    @checked()
    def __init__(
        self, dim: int, by: By = "pos", *, num_coordinates: int = 1, base: float = 10_000.0
    ) -> None:
        super().__init__(dim, by)
        if num_coordinates < 1 or dim % (2 * num_coordinates):
            raise ValueError(
                f"dim must be a multiple of 2 x num_coordinates = {2 * num_coordinates}, got {dim}"
            )
        self.num_coordinates, self.base = num_coordinates, base

    def encode(self, positions: Tensor) -> Tensor:
        check_columns(positions, self.num_coordinates, "num_coordinates")
        channels = self.dim // self.num_coordinates
        step = torch.arange(0, channels, 2, device=positions.device, dtype=torch.float64)
        frequency = torch.exp(step * (-math.log(self.base) / channels))
        angle = positions[..., None].double() * frequency  # (..., N, P, d / 2)
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)  # (..., N, D)


def are_whole(values: Tensor) -> bool:
    """Whether all are whole numbers, of whatever dtype."""
    return not (values.is_floating_point() and (values != values.round()).any())


class Tables(nn.ModuleList):
    """A table of vectors for each column of integers; the vectors of a row are summed.

    Args:
        sizes: number of vectors of each table.
        dim: channels D.
        std: of the initial values.
    """

    def __init__(self, sizes: Iterable[int], dim: int, std: float) -> None:
        super().__init__(nn.Embedding(size, dim) for size in sizes)
        for table in self:
            nn.init.normal_(table.weight, std=std)  # type: ignore[arg-type]

    def forward(self, name: str, values: Tensor) -> Tensor:
        """(..., N, P) to (..., N, D).

        Raises:
            ValueError: `name`, the values, are no numbers of vectors.
        """
        vectors = []
        for number, (table, column) in enumerate(zip(self, values.unbind(-1), strict=True)):
            if column.numel() and not torch.compiler.is_compiling():
                size = len(table.weight)  # type: ignore[arg-type]
                low, high = torch.stack(column.aminmax()).tolist()
                if low < 0 or high >= size or not are_whole(column):
                    raise ValueError(
                        f"{name} in column {number} must be integers 0 .. {size - 1}, "
                        f"got values from {low} to {high}"
                    )
            vectors.append(table(column.long()))
        return torch.stack(vectors).sum(0)


class LearnedEncoding(PositionalEncoding):
    """A learned vector for each position, as in BERT and ViT, for a fixed range of positions.

    With P coordinates it is the sum of P vectors, one of each table.

    Args:
        dim: channels D.
        size: number of positions, or one number for each coordinate. Positions are
            integers 0 .. size - 1.
        by: "index" or "pos".
        grid: sides of the grid, (rows, columns), that a table by index is for: on another one a
            token would get the vector of another one. None for tokens in a row, or on any grid.

    Raises:
        ValueError: a negative size, a position outside the table or not an integer, or tokens on
            another grid.

    >>> LearnedEncoding(8, 16)(torch.zeros(2, 10, 8)).shape
    torch.Size([2, 10, 8])
    """

    @checked()
    def __init__(
        self,
        dim: int,
        size: int | tuple[int, ...],
        by: By = "index",
        *,
        grid: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(dim, by)
        self.sizes = check_sizes("size", size)
        self.grid = None if grid is None else check_sizes("grid", grid, 1)
        self.tables = Tables(self.sizes, dim, 0.02)

    def transform(self, tokens: Tokens) -> Tokens:
        if self.grid is not None:
            for part in tokens.graph.parts:
                shape = part.grid_shape
                if shape not in (None, self.grid) and len(shape) > 1:  # type: ignore[arg-type]
                    wanted, got = (" x ".join(map(str, sides)) for sides in (self.grid, shape))  # type: ignore[union-attr]
                    raise ValueError(
                        f"tokens must be on a grid of {wanted}, which the table of positions is "
                        f"for, got {got}; make it with grid={shape}"
                    )
        return super().transform(tokens)

    def encode(self, positions: Tensor) -> Tensor:
        check_columns(positions, len(self.sizes), "as size has")
        return self.tables("positions", positions)
