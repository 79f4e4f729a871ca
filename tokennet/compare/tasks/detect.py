"""Detection of digits as prediction of a set of boxes, with its metric, mean average precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, unfold

from tokennet.checks import require
from tokennet.compare.metric import Metric
from tokennet.compare.task import Batch, NetSpec, TrainConfig, new_figure
from tokennet.compare.tasks.digits import PatchTask
from tokennet.models import Objects, Prediction, set_prediction_loss
from tokennet.models.detection import corners
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens

SIDE, PATCH, SEEN, MOST, CLASSES = 28, 4, 12, 3, 10
NOTHING = CLASSES


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union |A n B| / |A u B| of boxes (..., 4), elementwise.

    Boxes are middle x, middle y, width and height.

    >>> iou(torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([2.0, 1.0, 2.0, 2.0]))
    tensor(0.3333)
    """
    (a_low, a_high), (b_low, b_high) = (corners(boxes).split(2, dim=-1) for boxes in (a, b))
    sides = torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)
    both = sides.clamp(min=0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - both
    return both / union.clamp(min=1e-9)


def average_precision(scores: Tensor, right: Tensor, objects: int) -> float:
    """Area under the precision that is reached at each recall or a higher one.

    Everingham et al., 2010 (the form of 2010 and later).

    Args:
        scores: (G,) confidence of the guesses.
        right: (G,) whether each guess is matched to an object that no other is matched to.
        objects: number of objects.

    >>> round(average_precision(torch.tensor([3.0, 2, 1]), torch.tensor([True, False, True]), 2), 4)
    0.8333
    """
    hits = right[scores.argsort(descending=True, stable=True)].double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1, device=hits.device)
    best = precision.flip(0).cummax(0).values.flip(0)  # at this recall or a higher one
    return float((best * hits).sum() / objects)


def match_guesses(answer: Tensor, target: Tensor) -> Tensor:
    """(n, Q x 3 + K): class, score and rightness of each guess; then the true classes.

    In the order of their scores, the guesses of an image are right if they overlap an object
    of their class, not found before, by half or more (IoU).
    """
    scores, classes = answer[..., : NOTHING + 1].softmax(-1)[..., :NOTHING].max(-1)  # (n, Q)
    labels, image = target[..., 0], torch.arange(len(target), device=target.device)
    shared = iou(answer[:, :, None, NOTHING + 1 :], target[:, None, :, 1:])  # (n, Q, K)
    fitting = (labels[:, None] == classes[..., None]) & (shared >= 0.5)
    free, right = labels >= 0, torch.zeros_like(scores)
    for guess in scores.argsort(-1, descending=True).T:  # (n,) by decreasing score
        candidates = fitting[image, guess] & free  # (n, K)
        found = candidates.any(-1)
        right[image, guess] = found.to(scores)
        taken = shared[image, guess].where(candidates, -1.0).argmax(-1)
        free[image[found], taken[found]] = False
    rows = torch.stack([classes.to(scores), scores, right], dim=-1).flatten(1)
    return torch.cat([rows, labels], dim=1)


def mean_average_precision(rows: Tensor) -> float:
    """The mean over classes of their average precision, from the rows of `match_guesses`."""
    guesses, objects = rows[:, :-MOST].reshape(-1, 3), rows[:, -MOST:]
    precisions = []
    for digit in range(CLASSES):
        of_digit = guesses[guesses[:, 0] == digit]
        count = int((objects == digit).sum())
        if count:
            precisions.append(average_precision(of_digit[:, 1], of_digit[:, 2] > 0, count))
    return sum(precisions) / len(precisions)


class Detect(PatchTask):
    """One to three handwritten digits of several sizes on a canvas; the target is their boxes.

    Patches of 12 x 12 pixels overlap, 4 apart. The answer is a set: each patch predicts a digit,
    or nothing, and a box about itself, and the predictions are matched to the objects at the
    least cost (the loss of Carion et al., 2020, arXiv 2005.12872, with patches in place of its
    queries). The metric is the mean over the ten digits of the average precision, where boxes
    overlap by half (mAP at 0.5), on handwritten digits that were not seen in training.
    """

    name = "detect"
    summary = "digits scattered on a canvas (scikit-learn), as a set of boxes"
    nets = ("attention@full", "mean@grid", "none@full")
    seeds = 1
    tiny: ClassVar = {"examples": 24}
    metrics = (Metric("mAP", match_guesses, unit="%", reduce=mean_average_precision),)
    config = TrainConfig(
        epochs=15, batch_size=32, lr=4e-3, depth=2, positions="pos", size=100_000, clip=1.0,
    )  # fmt: skip

    def __init__(self, examples: int = 6_000) -> None:
        total, self.train_size = examples + examples // 12, examples
        self.images = torch.zeros(total, 1, SIDE, SIDE)
        self.target = torch.full((total, MOST, 5), -1.0)  # class, or -1 for none, and box
        self.draw_all(self._make)
        count = SIDE // PATCH
        self.set_side(count)
        self.interface = IOSpec(
            SEEN**2, CLASSES + 5, "token", count**2, num_coordinates=2, position_base=30.0
        )

    def _make(self, number: int, pool: list[Tensor], generator: torch.Generator) -> None:
        """Put digits where there is room for them."""

        def below(of: int) -> int:
            return int(torch.randint(of, (), generator=generator))

        canvas = self.images[number, 0]
        for i in range(1 + below(MOST)):
            digit, size = below(10), 8 + 2 * below(3)
            image = pool[digit][below(len(pool[digit]))][None, None]
            image = interpolate(image, size=size, mode="bilinear")[0, 0]
            for _ in range(20):
                y, x = below(SIDE - size + 1), below(SIDE - size + 1)
                if not canvas[y : y + size, x : x + size].any():
                    canvas[y : y + size, x : x + size] = image
                    box = torch.tensor([x + size / 2, y + size / 2, size, size]) / SIDE
                    self.target[number, i] = torch.cat([torch.tensor([float(digit)]), box])
                    break

    def batch(self, index: Tensor, graph: str) -> Batch:
        # Each patch is in the middle of a cell; past the border there are zeros.
        z = unfold(self.images[index], SEEN, stride=PATCH, padding=(SEEN - PATCH) // 2)
        return Batch(Tokens(z.mT, self.on[graph], self.pos), self.target[index])

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
        """`set_prediction_loss` of each image."""
        guess = Prediction(*self.guesses(output).split([NOTHING + 1, 4], dim=-1))
        objects = Objects(target[..., 0].long(), target[..., 1:])
        return set_prediction_loss(guess, objects, reduction="none")

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """Fifty boxes with their digits, taken from training images."""
        splits = self.splits(seed)
        known = self.target[splits["train"]].flatten(0, 1)
        known = known[known[:, 0] >= 0][:50]
        guess = torch.zeros(len(known), CLASSES + 5)
        guess[torch.arange(len(known)), known[:, 0].long()] = 5.0
        guess[:, CLASSES + 1 :] = known[:, 1:]
        target = self.target[splits["test"]]
        rows = match_guesses(guess.expand(len(target), -1, -1), target)
        return {"same boxes": {"mAP": mean_average_precision(rows)}}

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Eight images with the digits and boxes by the net."""
        rectangle = require("matplotlib.patches", "compare").Rectangle
        index, batch = self.test_examples(model, net.graph)
        answers = self.guesses(batch.run(model)).cpu()
        figure = new_figure((12, 6.4))
        for panel, number, answer in zip(
            figure.subplots(2, 4).flat, index.tolist(), answers, strict=False
        ):
            panel.imshow(self.images[number, 0], cmap="gray")
            panel.set_axis_off()
            for guess in answer[answer[:, : NOTHING + 1].argmax(-1) != NOTHING]:
                score, digit = guess[: NOTHING + 1].softmax(-1)[:NOTHING].max(-1)
                x, y, w, h = (SIDE * guess[NOTHING + 1 :]).tolist()
                corner = x - w / 2 - 0.5, y - h / 2 - 0.5
                panel.add_patch(rectangle(corner, w, h, fill=False, color="C1"))
                panel.text(*corner, f"{int(digit)} {score:.0%}", color="C1", va="bottom")
        figure.suptitle(f"boxes by {net}")
        figure.savefig(folder / "boxes.png", dpi=120)
