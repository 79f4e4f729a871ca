"""Long memory: symbols to be repeated after a pause, and marked numbers to be added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokennet.compare.builders import SequenceTask
from tokennet.compare.metric import accuracy, classes, error, exact_match, squares
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
    full_epochs = 50

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
    full_epochs = 50

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
