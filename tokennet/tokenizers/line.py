"""`LineTokenizer`, the base class of tokenizers of sequences: pieces of the same size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokennet.checks import check_size, checked
from tokennet.graphs import TokenGraph
from tokennet.tokenizers.base import Tokenizer
from tokennet.tokenizers.overlap import check_stride, pieces_of
from tokennet.tokens import Tokens


@checked()
@dataclass(frozen=True)
class LineTokenizer(Tokenizer):
    """Pieces of `size` every `stride` along the last dimension; pos (N, 1) counts strides.

    Args:
        size: length of a piece.
        stride: step from piece to piece, at most `size`; by default `size`, no overlap.
        pad: whether zeros are added at the end where pieces do not fit.

    Raises:
        ValueError: `stride` leaves gaps.
    """

    size: int = 8
    stride: int | None = None
    pad: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("size", self.size, 1)
        check_stride(self.size, check_size("stride", self.step, 1))

    @property
    def step(self) -> int:
        """The stride, or its default, `size`."""
        return self.size if self.stride is None else self.stride

    def pieces(self, name: str, signal: Tensor) -> Tensor:
        """(..., T) to (..., N, size), or ValueError if pieces do not fit."""
        return pieces_of(name, signal, [self.size], [self.step], self.pad)


def tokens_in_line(z: Tensor, graph: Callable[[int], TokenGraph]) -> Tokens:
    """Tokens (..., N, D) with their index as position; z does not share memory with pieces."""
    n = z.shape[-2]
    return Tokens(z.contiguous(), graph(n), torch.arange(n, device=z.device)[:, None])
