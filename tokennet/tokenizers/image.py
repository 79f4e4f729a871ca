"""Tokenizers of images: `Patches`, with overlap and anti-aliasing, and `Pixels`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tokennet.checks import check_size, checked, lookup
from tokennet.graphs import Grid
from tokennet.tokenizers.base import Tokenizer, check_tensor, indices_of
from tokennet.tokenizers.overlap import check_stride, join, pieces_of
from tokennet.tokens import Tokens

Size = int | tuple[int, int]


@checked()
@dataclass(frozen=True)
class Patches(Tokenizer):
    r"""Rectangles of an image, row by row: (..., C, H, W) to z (..., N, C height width).

    Use it for vision transformers and MLP-Mixers. A patch is flattened channel by channel, as
    the weights of a convolution are: with `stride = size` a linear map of the patches is the
    patch embedding of ViT (Dosovitskiy et al., 2020, arXiv 2010.11929),
    `Conv2d(C, dim, size, stride)`, with the weight `conv.weight.flatten(1)`. The graph is a
    `Grid` of radius 1; pos (N, 2) is (row, column), counted in strides.

    Sampling every `stride` pixels aliases high frequencies. `blur` removes them first, by a
    binomial filter of this number of taps, [1, 2, 1] / 4 or [1, 4, 6, 4, 1] / 16.
    Since filters commute, a linear map of blurred patches is a dense convolution, blurred and
    then subsampled: the order of Zhang, 2019 (arXiv 1904.11486).

    The inverse joins patches and averages where they overlap. With `blur` it is the blurred
    image: the removed frequencies are lost.

    Args:
        size: side of a patch in pixels, or (height, width).
        stride: step from patch to patch, at most `size`; by default `size`, no overlap.
        blur: taps of the filter, an odd number; 1 for none.
        border: how the image continues for the filter: mirrored, or periodically.
        pad: whether zeros are added below and on the right where patches do not fit.

    Raises:
        ValueError: `stride` leaves gaps; patches do not fit and `pad` is not set.

    >>> Patches(4)(torch.zeros(3, 8, 8))
    Tokens(z=(4, 48), graph=Grid(2, 2, radius=1): 4 tokens, 16 edges, density 1, pos=(4, 2))
    >>> Patches(4, stride=2)(torch.zeros(10, 3, 8, 8)).z.shape
    torch.Size([10, 9, 48])
    """

    size: Size = 4
    stride: Size | None = None
    blur: int = 1
    border: Literal["reflect", "circular"] = "reflect"
    pad: bool = False
    sizes: tuple[int, int] = field(init=False, repr=False)
    strides: tuple[int, int] = field(init=False, repr=False)

    num_coordinates: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = _pair("size", self.size)
        strides = sizes if self.stride is None else _pair("stride", self.stride)
        for size, stride in zip(sizes, strides, strict=True):
            check_stride(size, stride)
        if check_size("blur", self.blur, 1) % 2 == 0:
            raise ValueError(f"blur must be an odd number of taps, got {self.blur}")
        lookup("border", self.border, dict.fromkeys(("reflect", "circular")))
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "strides", strides)

    def tokenize(self, image: Tensor) -> Tokens:
        image = blurred(check_tensor("image", image, "(..., C, H, W)"), self.blur, self.border)
        pieces = pieces_of("image", image, self.sizes, self.strides, self.pad)
        rows, columns = pieces.shape[-4:-2]
        z = pieces.movedim(-5, -3).flatten(-3).flatten(-3, -2)  # (..., N, C height width)
        pos = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(-1, 2)
        return Tokens(z, Grid(rows, columns), pos.to(z.device))

    def restore(self, tokens: Tokens) -> Tensor:
        height, width = self.sizes
        if tokens.dim % (height * width):
            raise ValueError(
                f"tokens must have C x {height} x {width} channels, whole patches, got {tokens.dim}"
            )
        pieces = tokens.z.unflatten(-1, (-1, height, width))  # (..., N, C, height, width)
        return join(pieces.movedim(-3, -4), indices_of(tokens, 2), self.strides)


@checked()
@dataclass(frozen=True)
class Pixels(Patches):
    """Every pixel is a token: (..., C, H, W) to z (..., H W, C), on its grid.

    Use it for small images.

    >>> tokens = Pixels()(torch.arange(4.0).view(1, 2, 2))
    >>> tokens.z.flatten().tolist(), tokens.pos.tolist()
    ([0.0, 1.0, 2.0, 3.0], [[0, 0], [0, 1], [1, 0], [1, 1]])
    """

    size: Size = field(default=1, init=False, repr=False)
    stride: Size | None = field(default=None, init=False, repr=False)


def blurred(image: Tensor, taps: int, border: str = "reflect") -> Tensor:
    """The image (..., C, H, W) filtered by a binomial of `taps` in both directions.

    Raises:
        TypeError: the image holds integers.
        ValueError: it is not larger than half the filter.

    >>> image = torch.tensor([[[0.0, 0, 0], [0, 16, 0], [0, 0, 0]]])
    >>> blurred(image, 3, "circular")[0].tolist()
    [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]
    """
    if taps == 1:
        return image
    if not image.is_floating_point():
        raise TypeError(f"image must be of floating point to be blurred, got {image.dtype}")
    reach, (height, width) = taps // 2, image.shape[-2:]
    if min(height, width) <= reach:
        raise ValueError(f"image must have sides over {reach} for blur={taps}, got {height, width}")
    binomial = [math.comb(taps - 1, k) / 2 ** (taps - 1) for k in range(taps)]
    kernel = torch.tensor(binomial, dtype=image.dtype, device=image.device)
    planes = image.reshape(-1, 1, height, width)
    planes = F.pad(planes, 4 * [reach], mode=border)
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return planes.view(image.shape)


def _pair(name: str, value: Size) -> tuple[int, int]:
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be an int or (height, width), got {value!r}")
    return check_size(name, pair[0], 1), check_size(name, pair[1], 1)
