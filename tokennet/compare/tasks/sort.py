"""Sequence to sequence: digits in, the same digits in order out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from tokennet.compare.encoder_decoder import encoder_decoder
from tokennet.compare.metric import accuracy, exact_match
from tokennet.compare.net import NetSpec, Width
from tokennet.compare.task import Batch, Model, Task, TrainConfig
from tokennet.graphs import Causal, Full, TokenGraph
from tokennet.nets import Decoder, Embedding, IOSpec, shift_right
from tokennet.positional import SinusoidalEncoding
from tokennet.tokens import Tokens

DIGITS, START = 10, 10


class Sort(Task):
    """Ten digits are to be put in order by an encoder and a decoder.

    The mixer and graph are those of the encoder, which reads the digits; the decoder attends
    to itself, causally, and to the encoder. It is trained on the right answer so far and tested
    on its own: the likeliest digit is taken, one after the other.
    """

    name = "sort"
    summary = "ten digits (generated) in order, by encoder and decoder"
    graphs = ("full", "causal")
    nets = ("attention@full", "mean@full", "attention@causal", "mlp@full")
    seeds = 1
    metrics = (exact_match, accuracy)
    recipe = TrainConfig(
        epochs=5, batch_size=64, lr=3e-3, depth=2, positions="pos", size=60_000, clip=1.0
    )

    def __init__(self, length: int = 10, examples: int = 6_000) -> None:
        generator = torch.Generator().manual_seed(0)
        total = examples + examples // 12
        digits = torch.randint(DIGITS, (total, length), generator=generator)
        self.digits, self.sorted = digits, digits.sort(dim=1).values
        self.examples = examples
        self._graphs: dict[str, TokenGraph] = {"full": Full(length), "causal": Causal(length)}
        self.pos = torch.arange(float(length))[:, None]
        self.interface = IOSpec(
            DIGITS, DIGITS, "token", length, num_coordinates=1, position_base=100.0, ids=True
        )

    def splits(self, seed: int) -> Mapping[str, Tensor]:
        numbers = torch.arange(len(self.digits))
        return {"train": numbers[: self.examples], "test": numbers[self.examples :]}

    def batch(self, index: Tensor, graph: str) -> Batch:
        target = self.sorted[index]
        said = shift_right(target, START)[..., None]
        tokens = Tokens(said, self._graphs["causal"], self.pos)
        source = Tokens(self.digits[index][..., None], self._graphs[graph], self.pos)
        return Batch(tokens, target, source=source)

    def build(self, net: NetSpec, recipe: TrainConfig, width: Width) -> nn.Module:
        before = (
            Embedding(DIGITS + 1, width.dim, scale=width.dim**0.5),
            SinusoidalEncoding(width.dim, "index", base=self.interface.position_base),
        )
        return encoder_decoder(net, self.interface, recipe, width, before, Decoder)

    def predict(self, model: Model, batch: Batch) -> Tensor:
        """One-hot digits (n, N, 10), each said after those before it."""
        said = model.net.generate(batch.source, START, batch.tokens.num_tokens)  # type: ignore[operator]
        return one_hot(said[:, 1:], DIGITS).float()

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """At each place the digit that is commonest there; and the digits as they came."""
        splits = self.splits(seed)
        target, figures = self.sorted[splits["test"]], {}
        commonest = self.sorted[splits["train"]].mode(0).values.expand_as(target)
        for name, guess in (("commonest", commonest), ("as given", self.digits[splits["test"]])):
            answer = one_hot(guess, DIGITS).float()
            figures[name] = {m.name: m.reduce(m.values(answer, target)) for m in self.metrics}
        return figures

    def show(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Eight examples as given and as said."""
        device = next(model.parameters()).device
        index = self.splits(0)["test"][:8]
        batch = self.batch(index, net.graph).to(device)
        said = self.predict(Model(model), batch).argmax(-1)
        rows = [f"given, said by {net}"]
        digits = self.digits[index].tolist()
        for given, answer, right in zip(digits, said.tolist(), batch.target.tolist(), strict=True):
            mark = "" if answer == right else "  wrong"
            rows.append(f"{' '.join(map(str, given))}  {' '.join(map(str, answer))}{mark}")
        (folder / "sample.txt").write_text("\n".join(rows) + "\n")
