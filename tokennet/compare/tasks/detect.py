"""Detection as the prediction of a set: which digits are where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from tokennet.compare.boxes import average_precision, iou
from tokennet.compare.listening import encoder, listening_blocks
from tokennet.compare.metric import Metric
from tokennet.compare.net import Net, Width
from tokennet.compare.scenes import digit_images, patches, positions
from tokennet.compare.task import Batch, Recipe, Task
from tokennet.graphs import Full, Grid, TokenGraph
from tokennet.nets import Interface, Objects, Prediction, TokenNet, generalised_iou, match
from tokennet.tokens import Tokens

SIDE, PATCH, QUERIES, MOST, CLASSES = 28, 4, 6, 3, 10
NOTHING = CLASSES


class Asking(nn.Module):
    """Learned questions that listen to the patches; each answers with a class and a box.

    Carion et al., 2020 (arXiv 2005.12872), with any mixer among the patches. Gives
    (..., Q, 11 + 4): logits of the digits and of "nothing", and a box in 0 .. 1.
    """

    def __init__(self, encoder: TokenNet, decoder: TokenNet, dim: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.questions = nn.Parameter(torch.randn(QUERIES, dim))
        self.norm = nn.LayerNorm(dim)
        self.label = nn.Linear(dim, CLASSES + 1)
        self.box = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))

    def forward(self, tokens: Tokens) -> Tensor:
        z = self.norm(self.decoder(self._asked(tokens), self.encoder(tokens)).z)  # type: ignore[union-attr]
        return torch.cat([self.label(z), self.box(z).sigmoid()], dim=-1)

    def _asked(self, tokens: Tokens) -> Tokens:
        return Tokens(self.questions.expand(*tokens.z.shape[:-2], -1, -1))

    def flops(self, tokens: Tokens) -> int:
        heads = [part for part in self.modules() if isinstance(part, nn.Linear)]
        ends = [part for part in heads if part is self.label or part in self.box.modules()]
        rows = tokens.z.shape[:-2].numel() * QUERIES
        return (
            self.encoder.flops(tokens)
            + self.decoder.flops(self._asked(tokens), self.encoder(tokens))  # type: ignore[arg-type]
            + rows * sum(2 * end.in_features * end.out_features for end in ends)
        )


def judged(answer: Tensor, target: Tensor) -> Tensor:
    """(n, Q x 3 + K): of each guess its class, score and whether right; then the true classes.

    In the order of their scores, the guesses of an image are right if they overlap an object
    of their class, not found before, by half or more (IoU).
    """
    scores, classes = answer[..., : NOTHING + 1].softmax(-1)[..., :NOTHING].max(-1)  # (n, Q)
    right = torch.zeros_like(scores)
    for image, objects in enumerate(target):
        shared = iou(answer[image, :, None, NOTHING + 1 :], objects[:, 1:])  # (Q, K)
        free = objects[:, 0] >= 0
        for guess in scores[image].argsort(descending=True).tolist():
            fitting = free & (objects[:, 0] == classes[image, guess]) & (shared[guess] >= 0.5)
            if fitting.any():
                right[image, guess] = 1
                free[shared[guess].where(fitting, -1.0).argmax()] = False
    rows = torch.stack([classes.to(scores), scores, right], dim=-1).flatten(1)
    return torch.cat([rows, target[..., 0]], dim=1)


def mean_average_precision(rows: Tensor) -> float:
    """The mean over classes of their average precision, from the rows of `judged`."""
    guesses, objects = rows[:, : 3 * QUERIES].reshape(-1, 3), rows[:, 3 * QUERIES :]
    figures = []
    for digit in range(CLASSES):
        of_digit = guesses[guesses[:, 0] == digit]
        count = int((objects == digit).sum())
        if count:
            figures.append(average_precision(of_digit[:, 1], of_digit[:, 2] > 0, count))
    return sum(figures) / len(figures)


class Detect(Task):
    """One to three handwritten digits of several sizes on a canvas; each is asked with its box.

    The answer is a set of six guesses, matched to the digits that are there at the least cost
    (Carion et al., 2020, arXiv 2005.12872). Judged by the mean over the ten digits of the
    average precision, where boxes overlap by half (mAP at 0.5), on handwritten digits that
    were not seen in training.
    """

    name = "detect"
    summary = "digits scattered on a canvas (scikit-learn), as a set of boxes"
    graphs = ("full", "grid")
    nets = ("attention@full", "mean@grid")
    seeds = 1
    metrics = (Metric("mAP", judged, unit="%", reduce=mean_average_precision),)
    recipe = Recipe(
        epochs=20, batch_size=64, lr=2e-3, depth=2, positions="pos", size=100_000, clip=1.0,
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
        self.interface = Interface(
            PATCH**2, CLASSES + 5, num_tokens=count**2, num_coordinates=2, position_base=30.0
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
        tokens = Tokens(patches(self.images[index], PATCH), self._graphs[graph], self.pos)
        return Batch(tokens, self.objects[index])

    def build(self, net: Net, recipe: Recipe, width: Width) -> nn.Module:
        listening = TokenNet(listening_blocks(recipe, width))
        return Asking(encoder(net, self.interface, recipe, width), listening, width.dim)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of the classes, and of matched boxes distance and overlap.

        Guesses without an object are to say "nothing", which counts a tenth.
        """
        return torch.stack([_loss(*pair) for pair in zip(output, target, strict=True)])

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """Six boxes where objects of the training images are, with the classes they have."""
        splits = self.splits(seed)
        known = self.objects[splits["train"]].flatten(0, 1)
        known = known[known[:, 0] >= 0][:QUERIES]
        guess = torch.zeros(QUERIES, CLASSES + 5)
        guess[torch.arange(QUERIES), known[:, 0].long()] = 5.0
        guess[:, CLASSES + 1 :] = known[:, 1:]
        target = self.objects[splits["test"]]
        rows = judged(guess.expand(len(target), -1, -1), target)
        return {"same boxes": {"mAP": mean_average_precision(rows)}}

    def show(self, model: nn.Module, net: Net, folder: Path) -> None:
        """Eight images with the digits and boxes that the net sees."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        index = self.splits(0)["test"][:8]
        batch = self.batch(index, net.graph).to(next(model.parameters()).device)
        answers = batch.run(model).cpu()
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


def _loss(guesses: Tensor, objects: Tensor) -> Tensor:
    """Of one image: guesses (Q, 11 + 4), objects (K, 1 + 4)."""
    logits, boxes = guesses[:, : NOTHING + 1], guesses[:, NOTHING + 1 :]
    objects = objects[objects[:, 0] >= 0]
    there = Objects(objects[:, 0].long(), objects[:, 1:])
    ((guess, found),) = match(Prediction(logits[None], boxes[None]), [there])
    wanted = torch.full((len(guesses),), NOTHING, device=guesses.device)
    wanted[guess] = there.labels[found]
    weight = logits.new_ones(NOTHING + 1)
    weight[NOTHING] = 0.1
    guessed, right = boxes[guess], there.boxes[found]
    distance = 5 * (guessed - right).abs().sum(-1)
    apart = 2 * (1 - generalised_iou(guessed, right))
    return cross_entropy(logits, wanted, weight) + (distance + apart).sum() / max(len(found), 1)
