"""Sorting: a sequence-to-sequence task for an encoder with a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from tokennet.compare.builders import encoder_decoder
from tokennet.compare.metric import accuracy, exact_match
from tokennet.compare.task import Batch, Model, NetSpec, StoredTask, TrainConfig, Width
from tokennet.graphs import Causal, Full
from tokennet.nets import Decoder, Embedding, IOSpec, shift_right
from tokennet.positional import SinusoidalEncoding
from tokennet.tokens import Tokens

DIGITS, START = 10, 10


class Sort(StoredTask):
    """Ten digits are to be put in order by an encoder and a decoder.

    The mixer and graph are those of the encoder, which reads the digits; the decoder attends
    to itself, causally, and to the encoder. It is trained on the right answer so far and tested
    by greedy decoding: the most probable digit is appended, one after the other.
    """

    name = "sort"
    summary = "ten digits (generated) in order, by encoder and decoder"
    graphs = ("full", "causal")
    nets = ("attention@full", "mean@full", "attention@causal", "mlp@full", "none@full")
    seeds = 1
    metrics = (exact_match, accuracy)
    tiny: ClassVar = {"length": 4, "examples": 48}
    config = TrainConfig(
        epochs=5, batch_size=64, lr=3e-3, depth=2, positions="pos", size=60_000, clip=1.0
    )

    def __init__(self, length: int = 10, examples: int = 6_000) -> None:
        generator = torch.Generator().manual_seed(0)
        total, self.train_size = examples + examples // 12, examples
        self.digits = torch.randint(DIGITS, (total, length), generator=generator)
        self.target = self.digits.sort(dim=1).values
        self.on = {"full": Full(length), "causal": Causal(length)}
        self.pos = torch.arange(float(length))[:, None]
        self.interface = IOSpec(
            DIGITS, DIGITS, "token", length, num_coordinates=1, position_base=100.0, ids=True
        )

    def batch(self, index: Tensor, graph: str) -> Batch:
        target = self.target[index]
        before = shift_right(target, START)[..., None]
        tokens = Tokens(before, self.on["causal"], self.pos)
        source = Tokens(self.digits[index][..., None], self.on[graph], self.pos)
        return Batch(tokens, target, source=source)

    def build(self, net: NetSpec, config: TrainConfig, width: Width) -> nn.Module:
        before = (
            Embedding(DIGITS + 1, width.dim, scale=width.dim**0.5),
            SinusoidalEncoding(width.dim, "index", base=self.interface.position_base),
        )
        return encoder_decoder(net, self.interface, config, width, before, Decoder)

    def predict(self, model: Model, batch: Batch) -> Tensor:
        """One-hot digits (n, N, 10), each generated after those before it."""
        digits = model.net.generate(batch.source, START, batch.tokens.num_tokens)  # type: ignore[operator]
        return one_hot(digits[:, 1:], DIGITS).float()

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """At each index the most frequent digit; and the digits as given."""
        splits = self.splits(seed)
        target, scores = self.target[splits["test"]], {}
        most_frequent = self.target[splits["train"]].mode(0).values.expand_as(target)
        given = self.digits[splits["test"]]
        for name, guess in (("most frequent", most_frequent), ("as given", given)):
            answer = one_hot(guess, DIGITS).float()
            scores[name] = {m.name: m.reduce(m.values(answer, target)) for m in self.metrics}
        return scores

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Eight examples as given, and as the net sorts them."""
        index, batch = self.test_examples(model, net.graph)
        answers = self.predict(Model(model), batch).argmax(-1).tolist()
        rows = [f"given, answer of {net}"]
        digits = self.digits[index].tolist()
        for given, answer, right in zip(digits, answers, batch.target.tolist(), strict=True):
            mark = "" if answer == right else "  wrong"
            rows.append(f"{' '.join(map(str, given))}  {' '.join(map(str, answer))}{mark}")
        (folder / "sample.txt").write_text("\n".join(rows) + "\n")
