"""Language modeling: the next character of a text, beside an n-gram model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tokennet.compare.builders import SequenceTask
from tokennet.compare.data import text_file
from tokennet.compare.metric import Metric, Splits
from tokennet.compare.task import Batch, NetSpec, TrainConfig
from tokennet.nets import Decoder, IOSpec, TokenNet
from tokennet.tokenizers import Characters
from tokennet.tokens import Tokens

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


def _bits(answer: Tensor, target: Tensor) -> Tensor:
    losses = cross_entropy(answer.flatten(0, 1).float(), target.flatten(), reduction="none")
    return losses.view(target.shape) / math.log(2)


class NGram:
    r"""Interpolated n-grams, smoothed by Witten and Bell (1991).

        p(c | h) = (n(h c) + d(h) p(c | h')) / (n(h) + d(h))

    n counts, d(h) is the number of different characters that follow the context h, h' is h
    without its first character; at the end of the recursion all characters are equally probable.

    Args:
        ids: (N,) the training text, integers below `size`.
        size: number of characters.
        order: 3 for trigrams.

    >>> model = NGram(np.array([0, 1, 0, 1, 0]), size=2, order=2)
    >>> model.probabilities(np.array([0, 1])).round(3).tolist()  # after nothing; after 0
    [0.571, 0.81]
    """

    def __init__(self, ids: NDArray[np.int64], size: int, order: int = 3) -> None:
        self.size, self.order = size, order
        self.counts = [
            np.bincount(_numbers(ids, size, length), minlength=size**length).reshape(-1, size)
            for length in range(1, order + 1)
        ]

    def probabilities(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,) of each character, given the `order - 1` before it, fewer at the start."""
        result = np.full(len(ids), 1 / self.size)
        for length, counts in enumerate(self.counts, start=1):
            if len(ids) < length:
                break
            number = _numbers(ids, self.size, length)
            context, last = number // self.size, number % self.size
            rows = counts[context]
            different = (rows > 0).sum(1)
            seen = rows.sum(1) + different
            lower = result[length - 1 :]
            mixed = (rows[np.arange(len(rows)), last] + different * lower) / np.maximum(seen, 1)
            result[length - 1 :] = np.where(seen > 0, mixed, lower)
        return result

    def bits(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N,) -log2 of each probability."""
        return -np.log2(self.probabilities(ids))


def _numbers(ids: NDArray[np.int64], size: int, length: int) -> NDArray[np.int64]:
    """One integer for each run of `length` characters."""
    runs = np.lib.stride_tricks.sliding_window_view(ids, length)
    return runs @ (size ** np.arange(length - 1, -1, -1))


class Shakespeare(SequenceTask):
    """Characters of Shakespeare's plays, 128 at a time, each to be predicted from those before.

    The last tenth of the text is the test, in windows side by side; the first character of a
    window is given. `TOKENNET_DATA` may name any other text file.
    """

    name = "shakespeare"
    summary = "the next character of Shakespeare's plays, or of any text; causal"
    metrics = (Metric("bits per character", _bits, higher_is_better=False),)
    tiny: ClassVar = {"window": 16, "radius": 4}
    config = TrainConfig(epochs=3, batch_size=32, lr=4e-3, positions="pos", size=100_000, clip=1.0)

    def __init__(self, path: str | Path | None = None, window: int = 128, radius: int = 16) -> None:
        text = Path(path or text_file("tinyshakespeare", URL)).read_text(encoding="utf-8")
        if len(text) < 20 * (window + 1):
            raise ValueError(
                f"the text must have at least {20 * (window + 1)} characters, got {len(text)}"
            )
        self.characters = Characters.from_text(text)
        self.ids = self.characters.encode(text)
        self.window, self.begin_of_test = window, len(text) * 9 // 10
        self.set_length(window, radius)
        size = self.characters.vocab_size
        self.interface = IOSpec(
            size, size, "token", window, num_coordinates=1, position_base=1_000.0, ids=True
        )

    def splits(self, seed: int) -> Splits:
        """The index of the first character of adjacent windows; each seed has its own start."""
        n, cut, generator = self.window, self.begin_of_test, torch.Generator().manual_seed(seed)
        start = int(torch.randint(n, (), generator=generator))
        train = torch.arange(start, cut - n - 1, n)
        return {"train": train, "test": torch.arange(cut, len(self.ids) - n, n)}

    def batch(self, index: Tensor, graph: str) -> Batch:
        text = self.ids[index[:, None] + torch.arange(self.window + 1)]  # (n, N + 1)
        tokens = Tokens(text[:, :-1, None], self.on[graph], self.pos)
        return Batch(tokens, text[:, 1:])

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """A trigram model of the training text, and the frequency of each character.

        Like the nets it is given the characters of a window, and none before it.
        """
        train = self.ids[: self.begin_of_test].numpy()
        test = self.splits(seed)["test"]
        windows = self.ids[test[:, None] + torch.arange(self.window + 1)].numpy()
        scores = {}
        for name, order in (("trigram", 3), ("unigram", 1)):
            model = NGram(train, self.characters.vocab_size, order)
            bits = np.mean([model.bits(window)[1:] for window in windows])
            scores[name] = {"bits per character": float(bits)}
        return scores

    def complete(
        self, model: nn.Module, net: NetSpec, prompt: str, length: int, sampling: Mapping[str, Any]
    ) -> str:
        """Each character from the last `window` characters before it."""
        if not isinstance(model, TokenNet):
            raise ValueError(f"net must be a TokenNet to continue a text, got {net}")
        decoder = Decoder(
            list(model.layers),  # type: ignore[arg-type]
            model.readout,
            partial(self.graph_of, net.graph),
            pos=lambda n: self.pos[:n],
        )
        ids = decoder.generate(
            self.characters.encode(prompt), length, context=self.window, **sampling
        )
        return self.characters.decode(ids)

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """200 characters by the net, after a window of the test text."""
        generator = torch.Generator(next(model.parameters()).device).manual_seed(0)
        prompt = self.characters.decode(self.ids[self.begin_of_test :][: self.window])
        sampling = {"temperature": 0.8, "generator": generator}
        text = self.complete(model, net, prompt, 200, sampling)
        given, generated = text[: self.window], text[self.window :]
        (folder / "sample.txt").write_text(f"{given}[{net} goes on:]{generated}\n")
