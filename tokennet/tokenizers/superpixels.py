"""`Superpixels`: regions of similar color in an image, on the graph of adjacent regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokennet.checks import checked, require
from tokennet.graphs import Edges
from tokennet.tokenizers.base import Tokenizer, check_tensor
from tokennet.tokens import Tokens


@checked(sigma=0)
@dataclass(frozen=True)
class Superpixels(Tokenizer):
    """Regions of similar color by SLIC (Achanta et al., 2012): (C, H, W) to z (N, C), mean colors.

    Use it for graph nets on images. Needs scikit-image. Graph: regions that share a border, as
    `Edges` in both directions, without self-loops. pos (N, 2) is the center of mass, (row,
    column) in pixels. Images have different graphs, so that several images are a ragged batch;
    a tensor (B, C, H, W) is a batch too.

    There is no inverse, since tokens do not hold their pixels; `paint` draws tokens on the
    regions of `segments(image)`.

    Args:
        num_segments: approximate number of regions.
        compactness: weight of distance relative to difference of color; high makes squares.
        sigma: width in pixels of the Gaussian blur before segmentation, 0 for none.

    Raises:
        ImportError: scikit-image is not installed.

    >>> image = torch.zeros(3, 4, 8)
    >>> image[0, :, 4:] = 1
    >>> tokens = Superpixels(2)(image)
    >>> tokens.z.tolist(), tokens.pos.tolist()
    ([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [[1.5, 1.5], [1.5, 5.5]])
    """

    num_segments: int = 100
    compactness: float = 10.0
    sigma: float = 0.0

    shares_graph: ClassVar[bool] = False
    num_coordinates: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compactness <= 0:
            raise ValueError(f"compactness must be positive, got {self.compactness}")

    def split(self, raw: Any) -> list[Any] | None:
        return list(raw) if isinstance(raw, Tensor) and raw.dim() == 4 else super().split(raw)

    def segments(self, image: Tensor) -> Tensor:
        """The number of the region of each pixel, (H, W) int64, numbered from 0 without gaps."""
        segmentation = require("skimage.segmentation", "superpixels")
        check_tensor("image", image, "(C, H, W)", floating=True)
        if not image.isfinite().all():
            raise ValueError("image must be finite, got nan or infinity")
        found = segmentation.slic(
            image.detach().movedim(0, -1).double().cpu().numpy(), n_segments=self.num_segments,
            compactness=self.compactness, sigma=self.sigma, start_label=0, channel_axis=-1,
        )  # fmt: skip
        return torch.as_tensor(found).unique(return_inverse=True)[1].to(image.device)

    def tokenize(self, image: Tensor) -> Tokens:
        segments = self.segments(image)
        own, n = segments.flatten(), int(segments.max()) + 1
        size = torch.bincount(own)[:, None]  # pixels of each region
        colors = image.flatten(1).T.double()  # (H W, C)
        z = colors.new_zeros(n, len(image)).index_add(0, own, colors) / size
        rows_columns = torch.cartesian_prod(*(torch.arange(float(side)) for side in segments.shape))
        pos = torch.zeros(n, 2, device=own.device).index_add(0, own, rows_columns.to(own.device))
        return Tokens(z.to(image.dtype), Edges(adjacent(segments), n), pos / size)

    def paint(self, tokens: Tokens, segments: Tensor) -> Tensor:
        """The image (C, H, W) in which every region has the color of its token."""
        return tokens.z[segments].movedim(-1, 0)


def adjacent(segments: Tensor) -> Tensor:
    """Pairs of regions (2, E) that share the side of a pixel, sorted by target.

    >>> adjacent(torch.tensor([[0, 0, 1], [2, 2, 1]])).tolist()
    [[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]]
    """
    across = torch.stack([segments[:, :-1].flatten(), segments[:, 1:].flatten()])
    down = torch.stack([segments[:-1].flatten(), segments[1:].flatten()])
    pairs = torch.cat([across, down], dim=1)
    pairs = torch.cat([pairs, pairs.flip(0)], dim=1)  # (target, source)
    return pairs[:, pairs[0] != pairs[1]].unique(dim=1).flip(0)
