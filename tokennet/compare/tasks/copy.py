"""The copying problem: symbols that are to be repeated after a long pause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokennet.compare.builders import SequenceTask
from tokennet.compare.metric import accuracy, classes, exact_match
from tokennet.compare.task import Batch, NetSpec, TrainConfig
from tokennet.nets import IOSpec

SYMBOLS, LENGTH, STEPS = 8, 10, 200
BLANK, GO = SYMBOLS, SYMBOLS + 1


class Copy(SequenceTask):
    """Ten symbols of an alphabet of eight, 200 blank steps, then the ten are to be repeated.

    The last of the 200 steps holds a signal to begin. The copying problem of Hochreiter and
    Schmidhuber, 1997, in the form of Arjovsky, Shah, Bengio, 2016 (arXiv 1511.06464).
    """

    name = "copy"
    summary = "ten symbols (generated), to be repeated after 200 steps; causal"
    metrics = (accuracy, exact_match)
    tiny: ClassVar = {"steps": 12, "examples": 32}
    config = TrainConfig(epochs=4, batch_size=32, lr=5e-3, positions="pos", size=25_000, clip=1.0)

    def __init__(self, steps: int = STEPS, examples: int = 2_000) -> None:
        generator = torch.Generator().manual_seed(0)
        total, self.train_size = examples + examples // 8, examples
        self.target = torch.randint(SYMBOLS, (total, LENGTH), generator=generator)
        blank = torch.full((total, steps + LENGTH), BLANK)
        blank[:, steps - 1] = GO
        self.z = torch.cat([self.target, blank], dim=1)[..., None]  # (examples, N, 1)
        n = LENGTH + steps + LENGTH
        self.set_length(n, min(64, steps))
        self.interface = IOSpec(
            SYMBOLS + 2, SYMBOLS, "token", n, num_coordinates=1, position_base=1_000.0, ids=True
        )

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return classes(output[:, -LENGTH:], target)

    def predict(self, model: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        return model(batch)[:, -LENGTH:]

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """Without memory all symbols are equally probable."""
        return {"guess": {"accuracy": 1 / SYMBOLS, "exact match": SYMBOLS**-LENGTH}}

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """The symbols of eight examples, and the answers of the net."""
        _, batch = self.test_examples(model, net.graph)
        answers = batch.run(model)[:, -LENGTH:].argmax(-1)
        rows = [f"{'given':<{2 * LENGTH}} answer of {net}"]
        for given, answer in zip(batch.target.tolist(), answers.tolist(), strict=True):
            rows.append(" ".join(map(str, given)) + "  " + " ".join(map(str, answer)))
        (folder / "sample.txt").write_text("\n".join(rows) + "\n")
