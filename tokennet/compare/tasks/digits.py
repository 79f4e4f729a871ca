"""Handwritten digits: the task, and what tasks of images composed of digits share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from tokennet.checks import require
from tokennet.compare.metric import Splits, mean
from tokennet.compare.task import StoredTask, TrainConfig
from tokennet.graphs import Full, Grid
from tokennet.nets import IOSpec
from tokennet.tokenizers import Patches
from tokennet.tokens import Tokens


def _images() -> tuple[Tensor, Tensor]:
    """(n, 1, 8, 8) in 0 .. 1, and the digits (n,)."""
    images, labels = require("sklearn.datasets", "compare").load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    return images, torch.tensor(labels)


def digit_images() -> dict[str, list[Tensor]]:
    """The digits of scikit-learn, (count, 8, 8) in 0 .. 1 for each of 0 .. 9.

    "train" and "test" have no image in common; a random quarter is for the test (the images come
    writer by writer).
    """
    images, labels = _images()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order, 0], labels[order]
    of_digit = [images[labels == digit] for digit in range(10)]
    cuts = [len(each) * 3 // 4 for each in of_digit]
    return {
        "train": [each[:cut] for each, cut in zip(of_digit, cuts, strict=True)],
        "test": [each[cut:] for each, cut in zip(of_digit, cuts, strict=True)],
    }


class PatchTask(StoredTask):
    """Images of one size, whose patches are tokens at (row, column) of a square."""

    graphs: ClassVar[tuple[str, ...]] = ("full", "grid")
    tokenizer: Patches
    """It cut the images."""

    def to_images(self, tokens: Tokens) -> Tensor:
        return self.tokenizer.restore(tokens)

    def set_side(self, count: int) -> None:
        """All images have `count` x `count` patches."""
        self.on = {"full": Full(count**2), "grid": Grid(count, count)}
        self.pos = torch.cartesian_prod(*2 * [torch.arange(float(count))])

    def draw_all(self, draw: Callable[[int, list[Tensor], torch.Generator], None]) -> None:
        """Call `draw(number, images of each digit, generator)` for every example."""
        pools, generator = digit_images(), torch.Generator().manual_seed(0)
        for number in range(len(self.target)):
            draw(number, pools["train" if number < self.train_size else "test"], generator)


class Digits(PatchTask):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, as 16 patches of 2 x 2.

    Quick, and no test of mixing: an image that is one token (`patch=8`), on which no net can mix,
    is read as well as by attention, 97 %, and so it is by its three nearest neighbors. Use
    `arrows` to tell nets apart.

    Args:
        patch: side of a patch in pixels.
        stride: step from patch to patch; by default `patch`, no overlap.
        blur: taps of a filter before patches are cut, see `tokennet.tokenizers.Patches`.
    """

    name = "digits"
    summary = "8 x 8 images of digits (scikit-learn); patches as tokens on a grid"
    nets = (
        "attention@full", "attention@grid", "gat@grid", "mlp@full", "mean@grid", "none@full",
    )  # fmt: skip
    config = TrainConfig(
        epochs=50, batch_size=128, lr=5e-3, weight_decay=1e-4, dropout=0.05, positions="pos",
        size=30_000,
    )  # fmt: skip

    def __init__(self, patch: int = 2, stride: int | None = None, blur: int = 1) -> None:
        images, self.target = _images()
        self.tokenizer = Patches(patch, stride, blur)
        self.z = self.tokenizer(images).z  # (image, patch, pixel)
        n = self.z.shape[1]
        self.set_side(math.isqrt(n))
        self.interface = IOSpec(patch**2, 10, "mean", n, num_coordinates=2, position_base=10.0)

    def splits(self, seed: int) -> Splits:
        """A quarter for the test, a tenth of the rest for validation, the same for every seed.

        All have the digits in proportion.
        """
        split = require("sklearn.model_selection", "compare").train_test_split
        index = range(len(self.target))
        train, test = split(index, test_size=0.25, random_state=0, stratify=self.target)
        train, val = split(train, test_size=0.1, random_state=0, stratify=self.target[train])
        return {"train": torch.tensor(train), "val": torch.tensor(val), "test": torch.tensor(test)}

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """The most frequent digit, and the digit of most of the three nearest images."""
        splits = self.splits(seed)
        known, asked = (self.z[splits[name]].flatten(1) for name in ("train", "test"))
        nearest = torch.cdist(asked, known).topk(3, largest=False).indices  # (n, 3)
        answer = self.target[splits["train"]][nearest].mode(1).values
        right = mean(answer == self.target[splits["test"]])
        return {**super().baselines(seed), "3 nearest neighbors": {"accuracy": right}}
