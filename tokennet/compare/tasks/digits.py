"""Handwritten digits: images of one size, whose patches are tokens on a grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tokennet.checks import require
from tokennet.compare.metric import Splits, majority
from tokennet.compare.task import Batch, Task, TrainConfig
from tokennet.compare.tasks._digit_images import patches, positions
from tokennet.graphs import Full, Grid, TokenGraph
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens


class Digits(Task):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, as 16 patches of 2 x 2."""

    name = "digits"
    summary = "8 x 8 images of digits (scikit-learn); 16 patches as tokens on a 4 x 4 grid"
    graphs = ("full", "grid")
    nets = ("attention@full", "attention@grid", "gat@grid", "mlp@full", "mean@grid")
    config = TrainConfig(
        epochs=50, batch_size=128, lr=5e-3, weight_decay=1e-4, dropout=0.05, positions="pos",
        size=30_000,
    )  # fmt: skip
    interface = IOSpec(4, 10, "mean", num_tokens=16, num_coordinates=2, position_base=10.0)

    def __init__(self) -> None:
        images, labels = require("sklearn.datasets", "compare").load_digits(return_X_y=True)
        images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        self.patches = patches(images, 2)  # (image, patch, pixel)
        self.labels = torch.tensor(labels)
        self._graphs: dict[str, TokenGraph] = {"full": Full(16), "grid": Grid(4, 4)}
        self.pos = positions(4)  # (16, 2)

    def splits(self, seed: int) -> Splits:
        """A quarter for the test, the same for every seed and with every digit in proportion."""
        train, test = require("sklearn.model_selection", "compare").train_test_split(
            range(len(self.labels)), test_size=0.25, random_state=0, stratify=self.labels
        )
        return {"train": torch.tensor(train), "test": torch.tensor(test)}

    def batch(self, index: Tensor, graph: str) -> Batch:
        tokens = Tokens(self.patches[index], self._graphs[graph], self.pos)
        return Batch(tokens, self.labels[index])

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        return majority(self.labels, self.splits(seed))
