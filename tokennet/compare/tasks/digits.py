"""Handwritten digits: images of one size, whose patches are tokens on a grid."""

from __future__ import annotations

import torch

from tokennet.checks import require
from tokennet.compare.metric import Splits
from tokennet.compare.task import TrainConfig
from tokennet.compare.tasks._digit_images import PatchTask
from tokennet.nets import IOSpec
from tokennet.tokenizers import Patches


class Digits(PatchTask):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, as 16 patches of 2 x 2."""

    name = "digits"
    summary = "8 x 8 images of digits (scikit-learn); 16 patches as tokens on a 4 x 4 grid"
    nets = ("attention@full", "attention@grid", "gat@grid", "mlp@full", "mean@grid")
    config = TrainConfig(
        epochs=50, batch_size=128, lr=5e-3, weight_decay=1e-4, dropout=0.05, positions="pos",
        size=30_000,
    )  # fmt: skip
    interface = IOSpec(4, 10, "mean", num_tokens=16, num_coordinates=2, position_base=10.0)

    def __init__(self) -> None:
        images, labels = require("sklearn.datasets", "compare").load_digits(return_X_y=True)
        images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        self.z = Patches(2)(images).z  # (image, patch, pixel)
        self.target = torch.tensor(labels)
        self.set_side(4)

    def splits(self, seed: int) -> Splits:
        """A quarter for the test, the same for every seed and with every digit in proportion."""
        train, test = require("sklearn.model_selection", "compare").train_test_split(
            range(len(self.target)), test_size=0.25, random_state=0, stratify=self.target
        )
        return {"train": torch.tensor(train), "test": torch.tensor(test)}
