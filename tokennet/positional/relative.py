"""Relative positions, which enter the scores of attention: `Attention(position=...)`.

`by="index"` reads the index in the array (within each set of a ragged batch), `by="pos"` reads
`tokens.pos`, content that moves with its token.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, check_sizes, checked
from tokennet.ops.call import Bias
from tokennet.positional.absolute import By, are_whole, check_by, check_columns, read_positions
from tokennet.symmetry import Symmetry


class RelativePosition(nn.Module):
    """Base of what rotates queries and keys, or adds a bias to scores, by relative position.

    Subclass it for one of your own: define `bias`, or `rotate` and `rotates = True`.

    >>> from tokennet import Attention
    >>> class Distance(RelativePosition):
    ...     def bias(self, targets, sources):
    ...         return lambda h, i, j: -(sources[j] - targets[i]).abs().squeeze(-1).float()
    >>> Attention(8, 2, position=Distance("index"))(torch.zeros(5, 8)).shape
    torch.Size([5, 8])
    """

    rotates = False
    """Whether queries and keys are changed, which needs scores that are dot products."""
    num_heads: int | None = None
    """The number of heads that it is for; None for any."""

    def __init__(self, by: By) -> None:
        super().__init__()
        self.by = check_by(by)

    @property
    def symmetry(self) -> Symmetry:
        return Symmetry({self.by})

    def read(self, pos: Tensor | None, index: Tensor) -> Tensor:
        """(..., N, P): the tokens' own positions, or (N, 1) their index in the array.

        Raises:
            ValueError: there are no positions, or not as this needs them.
        """
        positions = read_positions(self.by, pos, index)
        if self.by == "pos":
            self.check(positions)
        return positions

    def check(self, pos: Tensor) -> None:
        """Raise ValueError unless positions (..., N, P) are as this needs them."""

    def check_channels(self, channels: int) -> None:
        """Raise ValueError unless it is for heads of this number of channels."""

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Queries or keys (..., N, H, C) at positions (..., N, P)."""
        return x

    def bias(self, targets: Tensor, sources: Tensor) -> Bias | None:
        """What is added to the scores, for `attend`; positions (..., N, P) and (..., M, P)."""
        return None


class OffsetBias(RelativePosition):
    """A bias that depends on the offset of the source from the target; subclasses say how.

    Backends of `attend` ask for it pair by pair or edge by edge, as they need it; only where
    positions differ within a batch it is a matrix (..., H, N, M).
    """

    @checked()
    def __init__(self, num_heads: int, by: By) -> None:
        super().__init__(by)
        self.num_heads: int = check_size("num_heads", num_heads, 1)

    @abstractmethod
    def of_offset(self, h: Tensor, offset: Tensor) -> Tensor:
        """Bias of head h (...) at source - target (..., P), elementwise."""

    def bias(self, targets: Tensor, sources: Tensor) -> Bias:
        if targets.dim() == 2 and sources.dim() == 2:

            def of_pair(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
                return self.of_offset(h, sources[j] - targets[i])

            return of_pair
        offset = sources[..., None, None, :, :] - targets[..., None, :, None, :]
        h = torch.arange(self.num_heads, device=offset.device)[:, None, None]
        return self.of_offset(h, offset)  # (..., H, N, M)


def _look_up(table: Tensor, h: Tensor, column: Tensor) -> Tensor:
    """table[h, column], by an operator whose derivative is quick."""
    index = h * table.shape[1] + column
    return table.flatten().index_select(0, index.flatten()).view(index.shape)


class ALiBi(OffsetBias):
    r"""Sources further away score less: -m_h |offset|; for sequences longer than in training.

        m_h = 2^{-8 h / H},  h = 1 .. H

    Attention with linear biases, Press, Smith, Lewis, 2021 (arXiv 2108.12409); where H is no
    power of two, the slopes of the next smaller one and every other of the next larger one.
    Nothing is learned. With several coordinates the distance is Euclidean.

    Args:
        num_heads: H, as those of the attention.
        by: "index" or "pos".

    >>> ALiBi(2).slopes.tolist()
    [0.0625, 0.00390625]
    """

    slopes: Tensor

    @checked()
    def __init__(self, num_heads: int, by: By = "index") -> None:
        super().__init__(num_heads, by)
        power = 2 ** int(math.log2(num_heads))
        slopes = [2.0 ** (-8 * h / power) for h in range(1, power + 1)]
        finer = [2.0 ** (-4 * h / power) for h in range(1, 2 * power, 2)]
        self.register_buffer("slopes", torch.tensor((slopes + finer)[:num_heads]), persistent=False)

    def of_offset(self, h: Tensor, offset: Tensor) -> Tensor:
        if offset.shape[-1] == 1:
            return -self.slopes[h] * offset[..., 0].abs()
        return -self.slopes[h] * torch.linalg.vector_norm(offset, dim=-1)


class T5Bias(OffsetBias):
    r"""A learned number for each head and each bucket of offsets, finer for near sources.

    Raffel et al., 2020 (arXiv 1910.10683): half of the buckets hold one offset each, the
    others grow in geometric progression up to `max_distance`; all beyond share the last one.
    Use it where sequences may be longer than in training and the bias is to be learned. T5 uses
    it with `score="dot_product"`, and one instance for all layers.

    Args:
        num_heads: H, as those of the attention.
        by: "index", or "pos" with whole numbers in one column.
        num_buckets: their number, for both directions together.
        max_distance: from which on there is one bucket.
        bidirectional: whether sources may come after the target; if not, they have the offset
            0, and all buckets are for those before.

    >>> T5Bias(4, bidirectional=False).bucket(torch.tensor([0, -1, -15, -40, -1000])).tolist()
    [0, 1, 15, 23, 31]
    """

    @checked()
    def __init__(
        self,
        num_heads: int,
        by: By = "index",
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
    ) -> None:
        super().__init__(num_heads, by)
        smallest = 4 if bidirectional else 2
        if num_buckets < smallest or num_buckets % smallest:
            raise ValueError(f"num_buckets must be a multiple of {smallest}, got {num_buckets}")
        if max_distance <= num_buckets // smallest:
            raise ValueError(
                f"max_distance must be more than {num_buckets // smallest} (the buckets of one "
                f"offset), got {max_distance}"
            )
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.bidirectional = bidirectional
        self.table = nn.Parameter(torch.randn(num_buckets, num_heads) * 0.02)

    def check(self, pos: Tensor) -> None:
        _check_whole(pos, 1)

    def of_offset(self, h: Tensor, offset: Tensor) -> Tensor:
        return _look_up(self.table.t(), h, self.bucket(offset[..., 0]))

    def bucket(self, offset: Tensor) -> Tensor:
        """Number of the bucket of source - target."""
        offset = offset.long()
        count = self.num_buckets // 2 if self.bidirectional else self.num_buckets
        first = (offset > 0) * count if self.bidirectional else torch.zeros_like(offset)
        distance = offset.abs() if self.bidirectional else (-offset).clamp(min=0)
        single = count // 2
        # In float32, as the published weights were trained: a rounding moves a bucket's edge.
        ratio = torch.log(distance.clamp(min=single).float() / single)
        grown = single + (ratio / math.log(self.max_distance / single) * (count - single)).long()
        return first + torch.where(distance < single, distance, grown.clamp(max=count - 1))


class LearnedOffset(OffsetBias):
    """A learned number for each head and each offset, up to a distance; beyond it, the last.

    Use it for windows and grids, as in Swin (Liu et al., 2021, arXiv 2103.14030): with P
    coordinates there is one for each combination of offsets, (2 R_1 + 1) x .. x (2 R_P + 1).

    Args:
        num_heads: H, as those of the attention.
        max_distance: R, or one number for each coordinate.
        by: "index", or "pos" with whole numbers in the same number of columns.

    >>> LearnedOffset(4, (2, 3), "pos").table.shape
    torch.Size([35, 4])
    """

    @checked()
    def __init__(
        self, num_heads: int, max_distance: int | tuple[int, ...], by: By = "index"
    ) -> None:
        super().__init__(num_heads, by)
        given = check_sizes("max_distance", max_distance)
        if by == "index" and len(given) > 1:
            raise ValueError(f"max_distance must be one number where by='index', got {given}")
        self.max_distance = given
        self.table = nn.Parameter(
            torch.randn(math.prod(2 * r + 1 for r in given), num_heads) * 0.02
        )

    def check(self, pos: Tensor) -> None:
        _check_whole(pos, len(self.max_distance))

    def of_offset(self, h: Tensor, offset: Tensor) -> Tensor:
        row = torch.zeros_like(offset[..., 0], dtype=torch.long)
        for column, r in enumerate(self.max_distance):
            row = row * (2 * r + 1) + offset[..., column].long().clamp(-r, r) + r
        return _look_up(self.table.t(), h, row)


def _check_whole(pos: Tensor, columns: int) -> None:
    check_columns(pos, columns, "one for each coordinate")
    if not torch.compiler.is_compiling() and not are_whole(pos):
        raise ValueError("pos must hold whole numbers where the bias is one of a table")
