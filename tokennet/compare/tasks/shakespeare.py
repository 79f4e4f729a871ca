"""Language: the next character of a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tokennet.compare.data import text_file
from tokennet.compare.metric import Metric
from tokennet.compare.net import NetSpec
from tokennet.compare.ngram import NGram
from tokennet.compare.sequence import SequenceTask
from tokennet.compare.task import Batch, TrainConfig
from tokennet.graphs import Causal, TokenGraph, Window
from tokennet.nets import Decoder, IOSpec, TokenNet
from tokennet.tokens import Tokens

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


def _bits(answer: Tensor, target: Tensor) -> Tensor:
    losses = cross_entropy(answer.flatten(0, 1).float(), target.flatten(), reduction="none")
    return losses.view(target.shape) / math.log(2)


class Shakespeare(SequenceTask):
    """Characters of Shakespeare's plays, 128 at a time, each to be told from those before.

    The last tenth of the text is the test, in windows side by side; the first character of a
    window is given. `TOKENNET_DATA` may name any other text file.
    """

    name = "shakespeare"
    summary = "the next character of Shakespeare's plays, or of any text; causal"
    graphs = ("causal", "window")
    nets = ("attention@causal", "attention@window", "tcn@causal", "gru@causal")
    seeds = 1
    metrics = (Metric("bits per character", _bits, higher_is_better=False),)
    recipe = TrainConfig(
        epochs=3, batch_size=32, lr=4e-3, positions="pos", size=100_000, clip=1.0,
        smooth=True,
    )  # fmt: skip

    def __init__(self, path: str | Path | None = None, window: int = 128, radius: int = 16) -> None:
        text = Path(path or text_file("tinyshakespeare", URL)).read_text(encoding="utf-8")
        if len(text) < 20 * (window + 1):
            raise ValueError(
                f"the text must have at least {20 * (window + 1)} characters, got {len(text)}"
            )
        self.characters = sorted(set(text))
        number = {character: place for place, character in enumerate(self.characters)}
        self.ids = torch.tensor([number[character] for character in text])
        self.window, self.begin_of_test = window, len(text) * 9 // 10
        self._graph_on: dict[str, Callable[[int], TokenGraph]] = {
            "causal": Causal, "window": lambda n: Causal(n) & Window(n, radius),
        }  # fmt: skip
        self._graphs = {name: graph(window) for name, graph in self._graph_on.items()}
        self.pos = torch.arange(float(window))[:, None]
        size = len(self.characters)
        self.interface = IOSpec(
            size, size, "token", window, num_coordinates=1, position_base=1_000.0, ids=True
        )

    def splits(self, seed: int) -> Mapping[str, Tensor]:
        """Numbers of first characters: of windows side by side, from another start each seed."""
        n, cut, generator = self.window, self.begin_of_test, torch.Generator().manual_seed(seed)
        start = int(torch.randint(n, (), generator=generator))
        train = torch.arange(start, cut - n - 1, n)
        return {"train": train, "test": torch.arange(cut, len(self.ids) - n, n)}

    def batch(self, index: Tensor, graph: str) -> Batch:
        places = index[:, None] + torch.arange(self.window + 1)
        text = self.ids[places]  # (n, N + 1)
        tokens = Tokens(text[:, :-1, None], self._graphs[graph], self.pos)
        return Batch(tokens, text[:, 1:])

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """A trigram model of the training text, and how often each character comes.

        Like the nets it knows of a window what is in it, and nothing before.
        """
        train = self.ids[: self.begin_of_test].numpy()
        test = self.splits(seed)["test"]
        windows = self.ids[test[:, None] + torch.arange(self.window + 1)].numpy()
        figures = {}
        for name, order in (("trigram", 3), ("unigram", 1)):
            model = NGram(train, len(self.characters), order)
            bits = np.mean([model.bits(window)[1:] for window in windows])
            figures[name] = {"bits per character": float(bits)}
        return figures

    def show(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """200 characters by the net, after a piece of the test text."""
        assert isinstance(model, TokenNet)
        generator = torch.Generator(next(model.parameters()).device).manual_seed(0)
        decoder = Decoder(
            list(model.layers),  # type: ignore[arg-type]
            model.readout,
            self._graph_on[net.graph],
            pos=lambda n: self.pos[:n],
        )
        prompt = self.ids[self.begin_of_test :][: self.window]
        ids = decoder.generate(
            prompt, 200, temperature=0.8, context=self.window, generator=generator
        )
        text = "".join(self.characters[number] for number in ids.tolist())
        given, said = text[: self.window], text[self.window :]
        (folder / "sample.txt").write_text(f"{given}[{net} goes on:]{said}\n")
