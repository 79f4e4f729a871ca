"""Memory: symbols that are to be said again after a long silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tokennet.compare.metric import accuracy, classes, exact_match
from tokennet.compare.net import NetSpec
from tokennet.compare.sequence import SequenceTask
from tokennet.compare.task import Batch, TrainConfig
from tokennet.graphs import Causal, TokenGraph, Window
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens

SYMBOLS, LENGTH, STEPS = 8, 10, 200
BLANK, GO = SYMBOLS, SYMBOLS + 1


class Copy(SequenceTask):
    """Ten symbols out of eight, 200 steps of nothing, then the ten are to be repeated.

    The last of the 200 steps says that it is time. The copying problem of Hochreiter and
    Schmidhuber, 1997, in the form of Arjovsky, Shah, Bengio, 2016 (arXiv 1511.06464).
    """

    name = "copy"
    summary = "ten symbols (generated), to be repeated after 200 steps; causal"
    graphs = ("causal", "window")
    nets = ("attention@causal", "attention@window", "tcn@causal", "gru@causal")
    seeds = 1
    metrics = (accuracy, exact_match)
    recipe = TrainConfig(epochs=4, batch_size=32, lr=5e-3, positions="pos", size=25_000, clip=1.0)

    def __init__(self, steps: int = STEPS, examples: int = 2_000) -> None:
        generator = torch.Generator().manual_seed(0)
        self.steps, self.examples = steps, examples
        total = examples + examples // 8
        self.symbols = torch.randint(SYMBOLS, (total, LENGTH), generator=generator)
        blank = torch.full((total, steps + LENGTH), BLANK)
        blank[:, steps - 1] = GO
        self.ids = torch.cat([self.symbols, blank], dim=1)[..., None]  # (examples, N, 1)
        n = LENGTH + steps + LENGTH
        self._graphs: dict[str, TokenGraph] = {
            "causal": Causal(n), "window": Causal(n) & Window(n, min(64, steps)),
        }  # fmt: skip
        self.pos = torch.arange(float(n))[:, None]
        self.interface = IOSpec(
            SYMBOLS + 2, SYMBOLS, "token", n, num_coordinates=1, position_base=1_000.0, ids=True
        )

    def splits(self, seed: int) -> Mapping[str, Tensor]:
        numbers = torch.arange(len(self.ids))
        return {"train": numbers[: self.examples], "test": numbers[self.examples :]}

    def batch(self, index: Tensor, graph: str) -> Batch:
        return Batch(Tokens(self.ids[index], self._graphs[graph], self.pos), self.symbols[index])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return classes(output[:, -LENGTH:], target)

    def predict(self, model: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        return model(batch)[:, -LENGTH:]

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """Without memory any symbol is as good as another."""
        return {"guess": {"accuracy": 1 / SYMBOLS, "exact match": SYMBOLS**-LENGTH}}

    def show(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """The symbols of eight examples, and what the net says."""
        device = next(model.parameters()).device
        batch = self.batch(self.splits(0)["test"][:8], net.graph).to(device)
        said = batch.run(model)[:, -LENGTH:].argmax(-1)
        rows = [f"{'given':<{2 * LENGTH}} said by {net}"]
        for given, answer in zip(batch.target.tolist(), said.tolist(), strict=True):
            rows.append(" ".join(map(str, given)) + "  " + " ".join(map(str, answer)))
        (folder / "sample.txt").write_text("\n".join(rows) + "\n")
