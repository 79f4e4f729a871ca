"""`Embedding`, from ids to vectors, and `Unembedding`, from vectors to logits of ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tokennet.checks import check_sizes, checked
from tokennet.layer import TokenLayer
from tokennet.nets.readout import TokenReadout
from tokennet.positional.absolute import Tables
from tokennet.tokens import Tokens


class Embedding(TokenLayer):
    r"""A learned vector for each id; with several ids per token, the sum of their vectors.

    Use it as the first layer of a net whose tokens are ids: words, bytes, kinds of atoms.

        out_i = scale \sum_c E_c[z_ic]

    z holds integers (..., N, P), such as words, or words and types (BERT). Missing columns count
    as 0, as token types do in BERT.

    Args:
        size: number of ids, or a number for each column.
        dim: channels D.
        scale: factor on the vectors; sqrt(dim) in Vaswani et al., 2017 (arXiv 1706.03762).

    Raises:
        ValueError: more columns than tables, ids that are not integers, or outside the table.

    >>> Embedding(100, 16)(torch.tensor([[3], [14], [15]])).shape
    torch.Size([3, 16])
    """

    is_tokenwise = True

    @checked()
    def __init__(self, size: int | tuple[int, ...], dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.sizes = check_sizes("size", size, 1)
        self.dim, self.scale = dim, scale
        self.tables = Tables(self.sizes, dim, std=0.02 if scale == 1.0 else dim**-0.5)

    def transform(self, tokens: Tokens) -> Tokens:
        ids = tokens.z
        if ids.is_floating_point() or ids.shape[-1] > len(self.sizes):
            raise ValueError(
                f"z must hold integers (..., N, P) with P at most {len(self.sizes)}, "
                f"got {ids.dtype} of shape {tuple(ids.shape)}"
            )
        ids = pad(ids, (0, len(self.sizes) - ids.shape[-1]))  # missing columns are 0
        return tokens.replace(z=self.scale * self.tables("ids", ids))


class Unembedding(TokenReadout):
    """Logits of the ids for each token: the product with the transposed table of an embedding.

    Use it as the readout of a language model with tied embeddings: the table is that of
    `embedding`, not a copy (Press, Wolf, 2017, arXiv 1608.05859).

    Args:
        embedding: its first table is used.
        bias: whether each id has a bias.
        scale: factor on the vectors after the norm; 1 / sqrt(dim) in T5.

    >>> embedding = Embedding(100, 16)
    >>> Unembedding(embedding)(Tokens(torch.randn(3, 16))).shape
    torch.Size([3, 100])
    """

    @checked()
    def __init__(self, embedding: Embedding, bias: bool = False, scale: float = 1.0) -> None:
        super().__init__(embedding.dim, embedding.sizes[0])
        self.scale = scale
        self.head = nn.Linear(embedding.dim, embedding.sizes[0], bias)
        self.head.weight = embedding.tables[0].weight  # type: ignore[assignment]

    def pool(self, tokens: Tokens) -> Tensor:
        return tokens.z if self.scale == 1 else self.scale * tokens.z


def one_column(ids: Tensor) -> Tensor:
    """Ids (..., N) as z (..., N, 1).

    Raises:
        ValueError: they are not integers.
    """
    return check_ids("ids", ids)[..., None]


def check_ids(name: str, ids: Tensor) -> Tensor:
    """Ids (..., N) as int64, or ValueError if they are no integers or a single number."""
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    if not ids.dim():
        raise ValueError(f"{name} must have shape (..., N), got a single number, {int(ids)}")
    return ids.long()


def rows_of(name: str, ids: Any, device: torch.device) -> Tensor | list[Tensor]:
    """Ids as a tensor (..., N); sequences of any lengths as a list of tensors (N,).

    Args:
        name: of the argument, for the message.
        ids: tensor or numpy array, a sequence of numbers, or a sequence of sequences.
        device: where they should be.

    Raises:
        TypeError: they are text, or no sequence.
        ValueError: they are no integers.
    """
    if isinstance(ids, Tensor) or hasattr(ids, "__array__"):
        return check_ids(name, torch.as_tensor(ids)).to(device)
    if isinstance(ids, str):
        raise TypeError(
            f"{name} must be ids, got a string; a tokenizer such as Characters makes ids of it"
        )
    if not isinstance(ids, Sequence):
        raise TypeError(
            f"{name} must be ids: a tensor or array (..., N), or a list of numbers or of "
            f"sequences, got {type(ids).__name__}"
        )
    if len(ids) and (not hasattr(ids[0], "__len__") or getattr(ids[0], "ndim", 1) == 0):
        try:
            return check_ids(name, torch.tensor(ids, device=device))
        except TypeError as error:
            raise TypeError(f"{name} must hold integers, got {ids!r}") from error
    return [_row(f"{name}[{number}]", row, device) for number, row in enumerate(ids)]


def _row(name: str, ids: Any, device: torch.device) -> Tensor:
    row = rows_of(name, ids, device)
    if isinstance(row, list):
        if row:
            raise ValueError(f"{name} must be a sequence of ids, got one of sequences")
        return torch.empty(0, dtype=torch.long, device=device)
    if row.dim() != 1:
        raise ValueError(f"{name} must have shape (N,), got {tuple(row.shape)}")
    return row
