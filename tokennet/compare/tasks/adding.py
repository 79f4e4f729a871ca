"""The adding problem: a test of memory over a long sequence of numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokennet.compare.builders import SequenceTask
from tokennet.compare.metric import error, squares
from tokennet.compare.task import Batch, NetSpec, TrainConfig
from tokennet.nets import IOSpec


class Adding(SequenceTask):
    """200 numbers between 0 and 1; the target of the last token is the sum of the two marked.

    One mark is in the first half, one in the second. Hochreiter and Schmidhuber, 1997, in the
    form of Le, Jaitly, Hinton, 2015 (arXiv 1504.00941). The constant answer 1 has a mean
    absolute error of 1/3.
    """

    name = "adding"
    summary = "200 numbers (generated), the sum of the two that are marked; causal"
    metrics = (error,)
    tiny: ClassVar = {"steps": 12, "examples": 32}
    config = TrainConfig(epochs=6, batch_size=32, lr=5e-3, positions="pos", size=25_000, clip=1.0)

    def __init__(self, steps: int = 200, examples: int = 2_000) -> None:
        generator = torch.Generator().manual_seed(0)
        total, half, self.train_size = examples + examples // 8, steps // 2, examples
        values = torch.rand(total, steps, generator=generator)
        first = torch.randint(half, (total, 1), generator=generator)
        second = torch.randint(half, steps, (total, 1), generator=generator)
        marked = torch.cat([first, second], dim=1)  # (examples, 2)
        marks = torch.zeros(total, steps).scatter_(1, marked, 1.0)
        self.z = torch.stack([values, marks], dim=-1)  # (examples, steps, 2)
        self.target = values.gather(1, marked).sum(1)
        self.set_length(steps, min(64, steps - 1))
        self.interface = IOSpec(2, 1, "token", steps, num_coordinates=1, position_base=1_000.0)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return squares(output[:, -1], target)

    def predict(self, model: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        return model(batch)[:, -1]

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """The marked numbers of eight examples, their sum, and the answer of the net."""
        _, batch = self.test_examples(model, net.graph)
        answers = batch.run(model)[:, -1, 0].tolist()
        rows = [f"a + b = sum, and the answer of {net}"]
        for z, total, answer in zip(batch.tokens.z, batch.target.tolist(), answers, strict=True):
            a, b = z[z[:, 1] == 1, 0].tolist()
            rows.append(f"{a:.3f} + {b:.3f} = {total:.3f}  {answer:.3f}")
        (folder / "sample.txt").write_text("\n".join(rows) + "\n")
