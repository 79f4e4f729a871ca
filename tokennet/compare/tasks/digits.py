"""Many images of one size: patches as tokens on a grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tokennet.compare.baseline import majority
from tokennet.compare.task import Batch, Task, TrainConfig
from tokennet.graphs import Full, Grid, TokenGraph
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens


class Digits(Task):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, as 16 patches of 2 x 2."""

    name = "digits"
    summary = "8 x 8 images of digits (scikit-learn); 16 patches as tokens on a 4 x 4 grid"
    graphs = ("full", "grid")
    nets = ("attention@full", "attention@grid", "gat@grid", "mlp@full", "mean@grid")
    recipe = TrainConfig(
        epochs=50,
        batch_size=128,
        lr=5e-3,
        weight_decay=1e-4,
        dropout=0.05,
        positions="pos",
        size=30_000,
    )
    interface = IOSpec(
        in_features=4,
        out_features=10,
        readout="mean",
        num_tokens=16,
        num_coordinates=2,
        position_base=10.0,
    )

    def __init__(self) -> None:
        from sklearn.datasets import load_digits  # heavy, and only this task needs it

        images, labels = load_digits(return_X_y=True)
        images = torch.tensor(images, dtype=torch.float32).view(-1, 4, 2, 4, 2) / 16
        self.patches = images.transpose(2, 3).reshape(-1, 16, 4)  # (image, patch, pixel)
        self.labels = torch.tensor(labels)
        self._graphs: dict[str, TokenGraph] = {"full": Full(16), "grid": Grid(4, 4)}
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        self.pos = torch.stack([rows.flatten(), columns.flatten()], dim=1)  # (16, 2)

    def splits(self, seed: int) -> Mapping[str, Tensor]:
        """A quarter for the test, the same for every seed and with every digit in proportion."""
        from sklearn.model_selection import train_test_split

        train, test = train_test_split(
            range(len(self.labels)), test_size=0.25, random_state=0, stratify=self.labels
        )
        return {"train": torch.tensor(train), "test": torch.tensor(test)}

    def batch(self, index: Tensor, graph: str) -> Batch:
        tokens = Tokens(self.patches[index], self._graphs[graph], self.pos)
        return Batch(tokens, self.labels[index])

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        splits = self.splits(seed)
        return majority(self.labels[splits["train"]], self.labels[splits["test"]])
