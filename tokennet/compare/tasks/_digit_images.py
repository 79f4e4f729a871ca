"""Handwritten digits by class, from which tasks compose images; and tasks on a grid of patches."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.checks import require
from tokennet.compare.task import StoredTask
from tokennet.graphs import Full, Grid


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


class PatchTask(StoredTask):
    """Images of one size, whose patches are tokens at (row, column) of a square."""

    graphs = ("full", "grid")

    def set_side(self, count: int) -> None:
        """All images have `count` x `count` patches."""
        self.on = {"full": Full(count**2), "grid": Grid(count, count)}
        self.pos = torch.cartesian_prod(*2 * [torch.arange(float(count))])
