"""Questions about images: the tokens are words, which attend to the patches of an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokennet.compare.builders import cross_attention, encoder_decoder
from tokennet.compare.task import Batch, NetSpec, TrainConfig, Width, new_figure
from tokennet.compare.tasks.digits import PatchTask
from tokennet.nets import Embedding, IOSpec
from tokennet.positional import LearnedEncoding
from tokennet.tokenizers import Patches
from tokennet.tokens import Tokens

COLORS = {
    "red": (1.0, 0.1, 0.1), "green": (0.1, 1.0, 0.1), "blue": (0.2, 0.3, 1.0),
    "yellow": (1.0, 1.0, 0.1),
}  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (
    "which", "digit", "is", "color", "has", "how", "many", "are", "there", *COLORS, *NUMBERS
)  # fmt: skip
ANSWERS = (*NUMBERS, *COLORS)
CELL, SIDE = 8, 3


class Questions(PatchTask):
    """Two to four handwritten digits in colors, and a question of four words about them.

    "which digit is red", "which color has seven", "how many are there". Images of the test
    are made of handwritten digits that were not seen in training. The mixer and graph are
    those of the patches; the words attend to each other and to the patches.
    """

    name = "questions"
    summary = "questions about colored digits (scikit-learn); words attend to patches"
    nets = ("attention@full", "attention@grid", "mean@grid", "none@full")
    seeds = 1
    tiny: ClassVar = {"examples": 32}
    config = TrainConfig(
        epochs=9, batch_size=64, lr=3e-3, weight_decay=1e-5, dropout=0.1, positions="pos",
        size=80_000, clip=1.0,
    )  # fmt: skip

    def __init__(self, examples: int = 20_000, patch: int = 8) -> None:
        self.patch, self.train_size = patch, examples
        total = examples + examples // 16
        self.images = torch.zeros(total, 3, SIDE * CELL, SIDE * CELL)
        self.words = torch.zeros(total, 4, dtype=torch.long)
        self.target = torch.zeros(total, dtype=torch.long)
        self.draw_all(self._make)
        count = SIDE * CELL // patch
        self.set_side(count)
        self.interface = IOSpec(
            3 * patch**2, len(ANSWERS), num_tokens=count**2, num_coordinates=2, position_base=30.0
        )

    def _make(self, number: int, pool: list[Tensor], generator: torch.Generator) -> None:
        """Draw an image, and ask a question that has one answer."""

        def some(count: int, of: int) -> list[int]:
            return torch.randperm(of, generator=generator)[:count].tolist()

        count = 2 + some(1, 3)[0]
        cells, digits, colors = some(count, SIDE**2), some(count, 10), some(count, len(COLORS))
        for cell, digit, color in zip(cells, digits, colors, strict=True):
            image = pool[digit][some(1, len(pool[digit]))[0]]
            rgb = torch.tensor(list(COLORS.values())[color])[:, None, None]
            y, x = CELL * (cell // SIDE), CELL * (cell % SIDE)
            self.images[number, :, y : y + CELL, x : x + CELL] = rgb * image
        which = some(1, count)[0]
        name, shade = NUMBERS[digits[which]], list(COLORS)[colors[which]]
        question, answer = (
            (f"which digit is {shade}", name),
            (f"which color has {name}", shade),
            ("how many are there", NUMBERS[count]),
        )[min(some(1, 5)[0] // 2, 2)]
        self.words[number] = torch.tensor([WORDS.index(word) for word in question.split()])
        self.target[number] = ANSWERS.index(answer)

    def batch(self, index: Tensor, graph: str) -> Batch:
        patches = Patches(self.patch)(self.images[index])
        source = patches.replace(graph=self.on[graph], pos=self.pos)
        return Batch(Tokens(self.words[index][..., None]), self.target[index], source=source)

    def build(self, net: NetSpec, config: TrainConfig, width: Width) -> nn.Module:
        before = (
            Embedding(len(WORDS), width.dim, scale=width.dim**0.5),
            LearnedEncoding(width.dim, 4, "index"),
        )
        return encoder_decoder(net, self.interface, config, width, before)

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """The most frequent answer to the same question, without the image."""
        splits, words = self.splits(seed), self.words
        right = 0
        for question in words[splits["test"]].unique(dim=0):
            same = (words == question).all(1)
            train, test = (self.target[i[same[i]]] for i in (splits["train"], splits["test"]))
            right += int((test == train.mode().values).sum()) if len(train) else 0
        return {"without image": {"accuracy": right / len(splits["test"])}}

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Five images with question and answer, and the attention of the last word to them."""
        index, batch = self.test_examples(model, net.graph, 5)
        answers = batch.run(model).argmax(-1).tolist()
        weights = cross_attention(lambda: batch.run(model), model)[:, -1].cpu()  # last word
        count = SIDE * CELL // self.patch
        figure = new_figure((12, 5.2))
        panels = figure.subplots(2, len(index))
        for column, number in enumerate(index.tolist()):
            image = self.images[number].permute(1, 2, 0).clamp(0, 1)
            question = " ".join(WORDS[word] for word in self.words[number].tolist())
            panels[0, column].imshow(image)
            panels[0, column].set_title(f"{question}?\n{ANSWERS[answers[column]]}", fontsize=9)
            panels[1, column].imshow(image.mean(-1), cmap="gray")
            weight = weights[column].view(count, count)
            extent = (-0.5, SIDE * CELL - 0.5, SIDE * CELL - 0.5, -0.5)
            panels[1, column].imshow(weight, cmap="magma", alpha=0.7, extent=extent)
        for panel in panels.flat:
            panel.set_axis_off()
        figure.suptitle(f"{net}: below, the attention of the last word")
        figure.savefig(folder / "attention.png", dpi=120)
