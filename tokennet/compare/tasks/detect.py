"""Detection as the prediction of a set: which digits are where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tokennet.compare.boxes import average_precision, iou
from tokennet.compare.metric import Metric
from tokennet.compare.net import NetSpec
from tokennet.compare.scenes import digit_images, overlapping_patches, positions
from tokennet.compare.task import Batch, Task, TrainConfig
from tokennet.graphs import Full, Grid, TokenGraph
from tokennet.models import Objects, Prediction, set_prediction_loss
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens

SIDE, PATCH, SEEN, MOST, CLASSES = 28, 4, 12, 3, 10
NOTHING = CLASSES


def judged(answer: Tensor, target: Tensor) -> Tensor:
    """(n, Q x 3 + K): of each guess its class, score and whether right; then the true classes.

    In the order of their scores, the guesses of an image are right if they overlap an object
    of their class, not found before, by half or more (IoU).
    """
    scores, classes = answer[..., : NOTHING + 1].softmax(-1)[..., :NOTHING].max(-1)  # (n, Q)
    labels, image = target[..., 0], torch.arange(len(target), device=target.device)
    shared = iou(answer[:, :, None, NOTHING + 1 :], target[:, None, :, 1:])  # (n, Q, K)
    fitting = (labels[:, None] == classes[..., None]) & (shared >= 0.5)
    free, right = labels >= 0, torch.zeros_like(scores)
    for guess in scores.argsort(-1, descending=True).T:  # (n,) the surest of each image first
        candidates = fitting[image, guess] & free  # (n, K)
        found = candidates.any(-1)
        right[image, guess] = found.to(scores)
        taken = shared[image, guess].where(candidates, -1.0).argmax(-1)
        free[image[found], taken[found]] = False
    rows = torch.stack([classes.to(scores), scores, right], dim=-1).flatten(1)
    return torch.cat([rows, labels], dim=1)


def mean_average_precision(rows: Tensor) -> float:
    """The mean over classes of their average precision, from the rows of `judged`."""
    guesses, objects = rows[:, :-MOST].reshape(-1, 3), rows[:, -MOST:]
    figures = []
    for digit in range(CLASSES):
        of_digit = guesses[guesses[:, 0] == digit]
        count = int((objects == digit).sum())
        if count:
            figures.append(average_precision(of_digit[:, 1], of_digit[:, 2] > 0, count))
    return sum(figures) / len(figures)


class Detect(Task):
    """One to three handwritten digits of several sizes on a canvas; each is asked with its box.

    Patches of 12 x 12 pixels overlap, 4 apart. The answer is a set: each patch guesses a digit, or
    nothing, and a box about itself, and the guesses are matched to the digits that are there at
    the least cost (the loss of Carion et al., 2020, arXiv 2005.12872, with patches in the place of
    its queries). Judged by the mean over the ten digits of the
    average precision, where boxes overlap by half (mAP at 0.5), on handwritten digits that
    were not seen in training.
    """

    name = "detect"
    summary = "digits scattered on a canvas (scikit-learn), as a set of boxes"
    graphs = ("full", "grid")
    nets = ("attention@full", "mean@grid")
    seeds = 1
    metrics = (Metric("mAP", judged, unit="%", reduce=mean_average_precision),)
    recipe = TrainConfig(
        epochs=15, batch_size=32, lr=4e-3, depth=2, positions="pos", size=100_000, clip=1.0,
        smooth=True,
    )  # fmt: skip

    def __init__(self, examples: int = 6_000) -> None:
        self.examples = examples
        total = examples + examples // 12
        self.images = torch.zeros(total, 1, SIDE, SIDE)
        self.objects = torch.full((total, MOST, 5), -1.0)  # class, or -1 for none, and box
        generator, pools = torch.Generator().manual_seed(0), digit_images()
        for number in range(total):
            pool = pools["train" if number < examples else "test"]
            self._make(number, pool, generator)
        count = SIDE // PATCH
        self._graphs: dict[str, TokenGraph] = {
            "full": Full(count**2), "grid": Grid(count, count),
        }  # fmt: skip
        self.pos = positions(count)
        self.interface = IOSpec(
            SEEN**2,
            CLASSES + 5,
            "token",
            num_tokens=count**2,
            num_coordinates=2,
            position_base=30.0,
        )

    def _make(self, number: int, pool: list[Tensor], generator: torch.Generator) -> None:
        """Put digits where there is room for them."""

        def one(of: int) -> int:
            return int(torch.randint(of, (), generator=generator))

        canvas = self.images[number, 0]
        for place in range(1 + one(MOST)):
            digit, size = one(10), 8 + 2 * one(3)
            image = pool[digit][one(len(pool[digit]))][None, None]
            image = interpolate(image, size=size, mode="bilinear")[0, 0]
            for _ in range(20):
                y, x = one(SIDE - size + 1), one(SIDE - size + 1)
                if not canvas[y : y + size, x : x + size].any():
                    canvas[y : y + size, x : x + size] = image
                    box = torch.tensor([x + size / 2, y + size / 2, size, size]) / SIDE
                    self.objects[number, place] = torch.cat([torch.tensor([float(digit)]), box])
                    break

    def splits(self, seed: int) -> Mapping[str, Tensor]:
        numbers = torch.arange(len(self.images))
        return {"train": numbers[: self.examples], "test": numbers[self.examples :]}

    def batch(self, index: Tensor, graph: str) -> Batch:
        tokens = Tokens(
            overlapping_patches(self.images[index], SEEN, PATCH), self._graphs[graph], self.pos
        )
        return Batch(tokens, self.objects[index])

    def predict(self, model: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        return self.guesses(model(batch))

    def guesses(self, output: Tensor) -> Tensor:
        """(n, N, 11 + 4) output to logits and boxes, in parts of the image's side.

        The middle of a box is at most 4 pixels, in x and in y, from that of its patch, so
        that few patches can have the same object.
        """
        logits, moved, size = output.split([NOTHING + 1, 2, 2], dim=-1)
        center = (self.pos.flip(-1).to(output) + 0.5) * (PATCH / SIDE)  # (N, 2) x, y
        middle = center + PATCH / SIDE * moved.tanh()
        return torch.cat([logits, middle, size.sigmoid()], dim=-1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """That of the library, `set_prediction_loss`, for each image alone."""
        guess = Prediction(*self.guesses(output).split([NOTHING + 1, 4], dim=-1))
        there = Objects(target[..., 0].long(), target[..., 1:])
        return set_prediction_loss(guess, there, reduction="none")

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """Fifty boxes with their digits, taken from training images."""
        splits = self.splits(seed)
        known = self.objects[splits["train"]].flatten(0, 1)
        known = known[known[:, 0] >= 0][:50]
        guess = torch.zeros(len(known), CLASSES + 5)
        guess[torch.arange(len(known)), known[:, 0].long()] = 5.0
        guess[:, CLASSES + 1 :] = known[:, 1:]
        target = self.objects[splits["test"]]
        rows = judged(guess.expand(len(target), -1, -1), target)
        return {"same boxes": {"mAP": mean_average_precision(rows)}}

    def show(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Eight images with the digits and boxes that the net sees."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        index = self.splits(0)["test"][:8]
        batch = self.batch(index, net.graph).to(next(model.parameters()).device)
        answers = self.guesses(batch.run(model)).cpu()
        figure = Figure(figsize=(12, 6.4), layout="constrained")
        for panel, number, answer in zip(
            figure.subplots(2, 4).flat, index.tolist(), answers, strict=False
        ):
            panel.imshow(self.images[number, 0], cmap="gray")
            panel.set_axis_off()
            for guess in answer[answer[:, : NOTHING + 1].argmax(-1) != NOTHING]:
                score, digit = guess[: NOTHING + 1].softmax(-1)[:NOTHING].max(-1)
                x, y, w, h = (SIDE * guess[NOTHING + 1 :]).tolist()
                corner = x - w / 2 - 0.5, y - h / 2 - 0.5
                panel.add_patch(Rectangle(corner, w, h, fill=False, color="C1"))
                panel.text(*corner, f"{int(digit)} {score:.0%}", color="C1", va="bottom")
        figure.suptitle(f"seen by {net}")
        figure.savefig(folder / "boxes.png", dpi=120)
