"""Handwritten digits by class, from which tasks compose images; and patches of images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import unfold

from tokennet.checks import require


def digit_images() -> dict[str, list[Tensor]]:
    """The digits of scikit-learn, (count, 8, 8) in 0 .. 1 for each of 0 .. 9.

    "train" and "test" have no image in common; a random quarter is for the test (the images come
    writer by writer).
    """
    images, labels = require("sklearn.datasets", "compare").load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).view(-1, 8, 8) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], torch.tensor(labels)[order]
    of_digit = [images[labels == digit] for digit in range(10)]
    cuts = [len(each) * 3 // 4 for each in of_digit]
    return {
        "train": [each[:cut] for each, cut in zip(of_digit, cuts, strict=True)],
        "test": [each[cut:] for each, cut in zip(of_digit, cuts, strict=True)],
    }


def patches(images: Tensor, size: int) -> Tensor:
    """(n, channels, S, S) to (n, N, channels x size x size), N = (S / size)^2, row by row.

    >>> patches(torch.arange(16.0).view(1, 1, 4, 4), 2)[0, 1].tolist()
    [2.0, 3.0, 6.0, 7.0]
    """
    n, channels, side, _ = images.shape
    count = side // size
    cut = images.view(n, channels, count, size, count, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(n, count**2, channels * size**2)


def overlapping_patches(images: Tensor, size: int, stride: int) -> Tensor:
    """(n, channels, S, S) to (n, N, channels x size x size), N = (S / stride)^2, row by row.

    Each patch is in the middle of a cell of `stride` pixels, past the border there are zeros.

    >>> overlapping_patches(torch.ones(1, 1, 4, 4), 4, 2)[0].sum(-1).tolist()
    [9.0, 9.0, 9.0, 9.0]
    """
    return unfold(images, size, stride=stride, padding=(size - stride) // 2).transpose(1, 2)


def positions(count: int) -> Tensor:
    """(count^2, 2) row and column of each patch."""
    row, column = torch.meshgrid(*[torch.arange(float(count))] * 2, indexing="ij")
    return torch.stack([row.flatten(), column.flatten()], dim=1)
