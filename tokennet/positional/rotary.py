"""Rotary positions: queries and keys are rotated by angles that grow with their positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokennet.checks import check_number, check_size, checked, lookup
from tokennet.positional._scaling import SCALINGS
from tokennet.positional.absolute import By, check_columns
from tokennet.positional.relative import RelativePosition


class Rotary(RelativePosition):
    r"""Each pair of channels is a point in the plane, rotated by the position of its token.

        (x_{2i}, x_{2i+1}) rotated by the angle pos base^{-2i / d},   i = 0 .. d / 2 - 1

    of queries and keys, so that q_i . k_j depends on pos_j - pos_i alone: the usual choice of
    language models. RoPE, Su et al., 2021 (arXiv 2104.09864). With P coordinates each gets
    d / P channels of its own, as in Heo et al., 2024 (arXiv 2403.13298).

    Args:
        by: "index", or "pos" with any numbers.
        num_coordinates: P, the number of columns of `tokens.pos`.
        channels: d, the channels of each head that are rotated, from the first; all by default.
        base: the longest wavelength is 2 pi base.
        interleaved: whether the pairs are neighbors, as in the paper and GPT-J; if not, of
            the first and the second half, as in GPT-NeoX and Llama.
        scaling: how to reach beyond the length that a model was trained on, by `factor` times:
            "linear" (Chen et al., 2023, arXiv 2306.15595), "ntk" (a larger base), "yarn" (Peng et
            al., 2023, arXiv 2309.00071) or "llama3"; None for not at all.
        factor: of the length, at least 1.
        original_length: the length trained on, which "yarn" and "llama3" read.

    Raises:
        ValueError: d is not an even number for each coordinate; an unknown scaling, or one that
            lacks `original_length`.

    >>> rotated = Rotary().rotate(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[math.pi / 2]]))
    >>> rotated.round().int().tolist()
    [[[0, 1]]]
    """

    rotates = True

    @checked()
    def __init__(
        self,
        by: By = "index",
        *,
        num_coordinates: int = 1,
        channels: int | None = None,
        base: float = 10_000.0,
        interleaved: bool = True,
        scaling: str | None = None,
        factor: float = 1.0,
        original_length: int | None = None,
    ) -> None:
        super().__init__(by)
        if num_coordinates < 1 or (by == "index" and num_coordinates > 1):
            raise ValueError(
                f"num_coordinates must be at least 1, and 1 where by='index', got {num_coordinates}"
            )
        self.num_coordinates = num_coordinates
        self.channels = None if channels is None else check_size("channels", channels, 1)
        self.base, self.interleaved = base, interleaved
        self.scaling, self.original_length = scaling, original_length
        self.factor = check_number("factor", factor, 1.0)
        if scaling is not None:
            lookup("scaling", scaling, SCALINGS)
            if scaling in ("yarn", "llama3") and original_length is None:
                raise ValueError(f"original_length must be given for scaling={scaling!r}")
        elif factor != 1:
            raise ValueError(f"factor must be 1 without scaling, got {factor}")

    def check(self, pos: Tensor) -> None:
        check_columns(pos, self.num_coordinates, "num_coordinates")

    def check_channels(self, channels: int) -> None:
        """Raise ValueError unless heads of this number of channels can be rotated."""
        rotated = channels if self.channels is None else self.channels
        if rotated > channels or rotated % (2 * self.num_coordinates):
            raise ValueError(
                f"channels must be a multiple of 2 x num_coordinates = {2 * self.num_coordinates} "
                f"and at most the {channels} of each head, got {rotated}"
            )

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        size = x.shape[-1] if self.channels is None else self.channels
        each = size // self.num_coordinates
        step = torch.arange(0, each, 2, device=x.device, dtype=torch.float64)
        if self.scaling is None:
            frequency, gain = torch.exp(step * (-math.log(self.base) / each)), 1.0
        else:
            scaled, length = SCALINGS[self.scaling], self.original_length or 1
            frequency, gain = scaled(step / each, self.base, self.factor, length)
        angle = positions[..., None].double() * frequency
        angle = angle[..., None, :, :]  # (..., N, 1, P, d / 2P)
        cos, sin = (gain * angle.cos()).to(x.dtype), (gain * angle.sin()).to(x.dtype)
        rest = x[..., size:]
        pairs = x[..., :size].unflatten(-1, (self.num_coordinates, each))  # (..., N, H, P, d / P)
        if self.interleaved:
            a, b = pairs[..., 0::2], pairs[..., 1::2]
        else:
            a, b = pairs.chunk(2, dim=-1)
        a, b = a * cos - b * sin, b * cos + a * sin  # (..., N, H, P, d / 2P)
        pairs = torch.stack([a, b], dim=-1) if self.interleaved else torch.stack([a, b], dim=-2)
        rotated = pairs.flatten(-3)  # (..., N, H, d)
        return rotated if rest.shape[-1] == 0 else torch.cat([rotated, rest], dim=-1)
