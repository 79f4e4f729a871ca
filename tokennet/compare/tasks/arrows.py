"""Arrows among handwritten digits: which digit does each arrow point at? The first task to try."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from tokennet.checks import require
from tokennet.compare.metric import Metric, Splits, classes
from tokennet.compare.task import Batch, Model, NetSpec, TrainConfig, new_figure
from tokennet.compare.tasks.digits import PatchTask, digit_images
from tokennet.graphs import Causal, Self
from tokennet.nets import IOSpec
from tokennet.tokenizers import Patches
from tokennet.tokens import Tokens

SIDE, CELL, ARROWS, DIGITS = 6, 8, 5, 8
CELLS, FARTHEST = SIDE**2, SIDE - 1
DIRECTIONS = torch.tensor([[-1, 0], [0, 1], [1, 0], [0, -1]])
"""(row, column) of a step up, right, down, left."""
SHAPE = "...##... ..####.. .######. ##.##.## ...##... ...##... ...##... ...##..."
ARROW = torch.tensor([[float(pixel == "#") for pixel in row] for row in SHAPE.split()])
"""(8, 8) an arrow that points up."""
BLANK, AN_ARROW = -1, 10
"""What a cell holds besides the digits 0 to 9."""
DIGIT, DISTANCE, INDEX = 0, 1, 2
"""Columns of the target of an arrow: its digit, the steps to it, the index of its own cell."""


def judge(answer: Tensor, target: Tensor) -> Tensor:
    """(n, ARROWS, 2): whether the answer to each arrow is right, and how far its digit is."""
    right = answer.argmax(-1) == target[..., DIGIT]
    return torch.stack([right.double(), target[..., DISTANCE].double()], dim=-1)


def share_right(rows: Tensor, steps: int | None = None) -> float:
    """The share of right answers: to all arrows, or to those whose digit is `steps` cells away."""
    right, distance = rows.flatten(0, 1).T
    return float((right if steps is None else right[distance == steps]).mean())


def of_arrows(output: Tensor, target: Tensor) -> Tensor:
    """(n, ARROWS, 10): the outputs of the tokens that are arrows, from (n, N, 10)."""
    return output.gather(1, target[..., INDEX, None].expand(-1, -1, output.shape[-1]))


class Arrows(PatchTask):
    """Each of five arrows on a board answers with the first handwritten digit in its way.

    A board of 6 x 6 cells of 8 x 8 pixels, each cell a token: five arrows, eight digits of
    scikit-learn, 23 blanks. An arrow cannot tell its digit by itself: without mixing, one answer
    in ten is right. Far digits are as frequent as near ones can make them, and a net sees as far
    as its depth times the radius of its graph. Handwriting of the test was not seen in training.
    """

    name = "arrows"
    summary = "which digit (scikit-learn) does each arrow point at? 36 cells on a 6 x 6 grid"
    graphs = ("full", "grid", "causal", "self")
    nets = (
        "attention@full", "conv2d@grid", "attention@grid", "gat@grid", "mlp@full", "mean@grid",
        "none@full",
    )  # fmt: skip
    seeds = 2
    tiny: ClassVar = {"examples": 64}
    metrics = (
        Metric("accuracy", judge, unit="%", reduce=share_right),
        *(
            Metric(f"{steps} away", judge, unit="%", reduce=partial(share_right, steps=steps))
            for steps in range(1, SIDE)
        ),
    )
    config = TrainConfig(
        epochs=4, batch_size=64, lr=5e-3, positions="pos", size=30_000, clip=1.0, warmup=0.1
    )
    interface = IOSpec(CELL**2, 10, "token", CELLS, num_coordinates=2, position_base=10.0)

    def __init__(self, examples: int = 12_000) -> None:
        self.train_size, tests = examples, max(examples // 12, 16)
        generator, pools = torch.Generator().manual_seed(0), digit_images()
        images = pools["train"] + pools["test"]
        # (4 + digits, 8, 8): the arrow in four directions, then the images digit by digit.
        self.pictures = torch.cat([torch.stack([ARROW.rot90(-turn) for turn in range(4)]), *images])
        sizes = torch.tensor([len(of_digit) for of_digit in images])
        firsts = len(DIRECTIONS) + sizes.cumsum(0) - sizes
        boards = [
            _boards(examples, firsts[:10], sizes[:10], generator),
            _boards(tests, firsts[10:], sizes[10:], generator),
        ]
        # Of each board: the cells that are not blank, their pictures, the target of each arrow.
        self.cells, self.shown, self.target = (
            torch.cat(parts) for parts in zip(*boards, strict=True)
        )
        self.tokenizer = Patches(CELL)
        self.set_side(SIDE)
        self.on = {**self.on, "causal": Causal(CELLS), "self": Self(CELLS)}

    def batch(self, index: Tensor, graph: str) -> Batch:
        return Batch(Tokens(self.pixels(index), self.on[graph], self.pos), self.target[index])

    def pixels(self, index: Tensor) -> Tensor:
        """(n, 36, 64) of each cell."""
        pictures = self.pictures[self.shown[index]].flatten(2)  # (n, ARROWS + DIGITS, 64)
        z = torch.zeros(len(index), CELLS, CELL**2)
        return z.scatter_(1, self.cells[index][..., None].expand_as(pictures), pictures)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return classes(of_arrows(output, target), target[..., DIGIT])

    def predict(self, model: Model, batch: Batch) -> Tensor:
        return of_arrows(model(batch), batch.target)

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """The most frequent digit; and the answer of the most similar board, arrow by arrow."""
        splits = self.splits(seed)
        target = self.target[splits["test"]]
        most = int(torch.bincount(self.target[splits["train"]][..., DIGIT].flatten()).argmax())
        constant = torch.full(target.shape[:2], most)
        answers = {"most frequent": constant, "nearest neighbor": self._nearest(splits)}
        return {
            name: {
                m.name: m.reduce(m.values(one_hot(answer, 10), target)) for m in self.metrics
            }
            for name, answer in answers.items()
        }  # fmt: skip

    def _nearest(self, splits: Splits) -> Tensor:
        """(n, ARROWS) the digit of the arrow of the training whose surroundings are most alike."""
        seen, known = self._surroundings(splits["train"][:1_000])
        asked, _ = self._surroundings(splits["test"])
        nearest = torch.cat([torch.cdist(part, seen).argmin(1) for part in asked.split(500)])
        return known[nearest].view(-1, ARROWS)

    def _surroundings(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(n ARROWS, pixels) the row and column of each arrow, itself in the middle; its digit."""
        board = self.pixels(index).view(-1, SIDE, SIDE, CELL**2)
        wide = nn.functional.pad(board, (0, 0, *4 * [FARTHEST]))  # (n, 16, 16, 64)
        target = self.target[index]
        cell = target[..., INDEX]
        reach = torch.arange(2 * FARTHEST + 1)
        rows = (cell // SIDE)[..., None, None] + reach[:, None]  # (n, ARROWS, 11, 1)
        columns = (cell % SIDE)[..., None, None] + reach  # (n, ARROWS, 1, 11)
        number = torch.arange(len(index))[:, None, None, None]
        # The cross that an arrow can see: its row and its column.
        crosses = torch.cat([
            wide[number, rows[:, :, :, :1], columns[:, :, :, FARTHEST : FARTHEST + 1]].flatten(2),
            wide[number, rows[:, :, FARTHEST : FARTHEST + 1], columns].flatten(2),
        ], dim=-1)  # fmt: skip
        return crosses.flatten(0, 1), target[..., DIGIT].flatten()

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Eight boards of the test; on each arrow its answer, green where it is right."""
        index, batch = self.test_examples(model, net.graph)
        answers = of_arrows(batch.run(model), batch.target).argmax(-1).cpu()
        figure = new_figure((12, 6.8))
        for panel, number, answer in zip(
            figure.subplots(2, 4).flat, index.tolist(), answers.tolist(), strict=False
        ):
            self._draw(panel, number, answer)
        figure.suptitle(f"{net}: on each arrow its answer, green where it is right")
        figure.savefig(folder / "arrows.png", dpi=120)

    def _draw(self, panel: Any, number: int, answers: list[int]) -> None:
        cells = self.pixels(torch.tensor([number])).view(SIDE, SIDE, CELL, CELL)
        size = SIDE * CELL
        extent = (0, SIDE, SIDE, 0)
        panel.imshow(cells.transpose(1, 2).reshape(size, size), cmap="gray", extent=extent)
        for line in range(1, SIDE):
            panel.axhline(line, color="0.25", linewidth=0.5)
            panel.axvline(line, color="0.25", linewidth=0.5)
        outline = require("matplotlib.patheffects", "compare").withStroke
        directions = self.shown[number, :ARROWS].tolist()
        for (digit, _, cell), turn, answer in zip(
            self.target[number].tolist(), directions, answers, strict=True
        ):
            row, column = divmod(cell, SIDE)
            right = answer == digit
            # Green and red of the same brightness look alike to some: the wrong answer is crossed.
            color = (0.0, 0.62, 0.45) if right else (0.9, 0.35, 0.0)
            rgba = torch.zeros(CELL, CELL, 4)
            rgba[..., :3], rgba[..., 3] = torch.tensor(color), ARROW.rot90(-turn)
            panel.imshow(rgba, extent=(column, column + 1, row + 1, row))
            panel.text(
                column + 0.5, row + 0.5, f"{answer}" if right else f"{answer}!", color="white",
                ha="center", va="center", fontsize=12, fontweight="bold",
                path_effects=[outline(linewidth=3, foreground="black")],
            )  # fmt: skip
        panel.set_xlim(0, SIDE)
        panel.set_ylim(SIDE, 0)
        panel.set_axis_off()


def _boards(
    count: int, firsts: Tensor, sizes: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Random boards: cells (count, 13), pictures (count, 13), target (count, ARROWS, 3).

    Args:
        firsts: (10,) index of the first picture of each digit.
        sizes: (10,) number of pictures of each digit.
    """
    found: list[tuple[Tensor, ...]] = []
    while sum(len(cells) for cells, *_ in found) < count:
        found.append(_some_boards(2 * count, firsts, sizes, generator))
    return tuple(torch.cat(parts)[:count] for parts in zip(*found, strict=True))


def _some_boards(
    n: int, firsts: Tensor, sizes: Tensor, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """At most n boards; those with an arrow that could see no digit are left out."""
    cells = torch.rand(n, CELLS, generator=generator).argsort(1)[:, : ARROWS + DIGITS]
    digits = torch.randint(10, (n, DIGITS), generator=generator)
    board = torch.full((n, CELLS), BLANK)
    board.scatter_(1, cells[:, ARROWS:], digits).scatter_(1, cells[:, :ARROWS], AN_ARROW)
    seen, distance = _in_the_way(board, cells[:, :ARROWS])  # (n, ARROWS, 4)
    # Far digits are seen rarely: the direction is drawn with the cube of the distance.
    weight = distance.where((seen != BLANK) & (seen != AN_ARROW), 0) ** 3.0
    kept = (weight > 0).any(-1).all(-1)
    turn = torch.multinomial(weight[kept].flatten(0, 1), 1, generator=generator)
    turn = turn.view(-1, ARROWS, 1)
    digit, steps = (x[kept].gather(2, turn)[..., 0] for x in (seen, distance))
    chance = torch.rand(len(turn), DIGITS, generator=generator)
    pictures = firsts[digits[kept]] + (chance * sizes[digits[kept]]).long()
    target = torch.stack([digit, steps, cells[kept, :ARROWS]], dim=-1)
    return cells[kept], torch.cat([turn[..., 0], pictures], dim=1), target


def _in_the_way(board: Tensor, arrows: Tensor) -> tuple[Tensor, Tensor]:
    """(n, ARROWS, 4) the first thing in each direction, BLANK if none, and the steps to it."""
    seen = torch.full((*arrows.shape, 4), BLANK)
    distance = torch.zeros_like(seen)
    start = torch.stack([arrows // SIDE, arrows % SIDE], dim=-1)[:, :, None]
    for steps in range(1, SIDE):
        row, column = (start + steps * DIRECTIONS).unbind(-1)  # (n, ARROWS, 4)
        inside = (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
        index = (row * SIDE + column).where(inside, 0)
        thing = board.gather(1, index.flatten(1)).view_as(index)
        first = inside & (thing != BLANK) & (seen == BLANK)
        seen, distance = thing.where(first, seen), distance.where(~first, steps)
    return seen, distance
