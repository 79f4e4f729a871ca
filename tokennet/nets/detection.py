"""A set of objects as the answer, matched to the objects that are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss

from tokennet.nets.net import TokenNet
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class Objects(NamedTuple):
    """What is in one image.

    >>> Objects(torch.tensor([3]), torch.tensor([[0.5, 0.5, 0.2, 0.1]])).boxes.shape
    torch.Size([1, 4])
    """

    labels: Tensor
    """(K,) int64."""
    boxes: Tensor
    """(K, 4) middle x, middle y, width and height, as parts of the image."""


class Prediction(NamedTuple):
    """A fixed number Q of guesses for each image.

    >>> Prediction(torch.zeros(2, 5, 4), torch.rand(2, 5, 4)).logits.softmax(-1)[0, 0]
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    logits: Tensor
    """(..., Q, classes + 1); the last class is "nothing"."""
    boxes: Tensor
    """(..., Q, 4) as in `Objects`."""


class SetPrediction(nn.Module):
    """Learned questions asked of an image, each answered by a class and a box.

    Carion et al., 2020 (arXiv 2005.12872). The questions are a set, and so are the answers.

    Args:
        encoder: from patches to tokens of `dim` channels.
        decoder: from the questions to tokens; it listens to the encoder's.
        dim: channels.
        queries: number Q of questions; at least as many as there are objects in an image.
        classes: number of kinds of objects.

    >>> from tokennet.nets import detr
    >>> net = detr(in_features=6, classes=3, queries=5, dim=8, depth=1, heads=2)
    >>> places = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0))
    >>> net(Tokens(torch.zeros(4, 6), pos=places)).logits.shape
    torch.Size([5, 4])
    """

    def __init__(
        self, encoder: TokenNet, decoder: TokenNet, dim: int, queries: int, classes: int
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.questions = nn.Parameter(torch.randn(queries, dim))
        self.classes = nn.Linear(dim, classes + 1)
        self.box = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4)
        )

    @property
    def symmetry(self) -> Symmetry:
        """As a function of the patches, which the answers do not number."""
        return self.encoder.symmetry

    def forward(self, patches: Tokens | Tensor) -> Prediction:
        source: Any = self.encoder(patches)
        if isinstance(source, Tensor):
            source = Tokens(source)
        sets, batch = source.unbatch(), source.z.shape[:-2]
        questions = self.questions.to(source.z.dtype).expand(*batch, -1, -1)
        asked = [Tokens(questions) for _ in sets]
        together = asked[0] if len(sets) == 1 and sets[0] is source else Tokens.batch(asked)
        z = self.decoder(together, source).z  # type: ignore[union-attr]
        if together is not asked[0]:  # (images x Q, D) of a ragged batch
            z = z.unflatten(-2, (len(sets), len(self.questions)))
        return Prediction(self.classes(z), self.box(z).sigmoid())


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) middle and size to (..., 4) left, top, right, bottom."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    r"""Overlap of boxes (..., 4), given by middle and size, elementwise with broadcasting.

        |A n B| / |A u B| - (|C| - |A u B|) / |C|,   C the smallest box around both

    Rezatofighi et al., 2019 (arXiv 1902.09630). A quotient of areas of 0 counts as 0.

    >>> box = torch.tensor([0.5, 0.5, 1.0, 1.0])
    >>> generalised_iou(box, box)
    tensor(1.)
    """
    a, b = corners(a), corners(b)

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    both = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - both
    around = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    hull = around.where(around > 0, 1.0)
    return both / union.where(union > 0, 1.0) - (around - union) / hull


class Weights(NamedTuple):
    """What counts how much, in the matching and in the loss."""

    label: float = 1.0
    box: float = 5.0
    overlap: float = 2.0
    nothing: float = 0.1
    """Of the class "nothing" in the cross entropy: it is what most guesses are."""


DEFAULT = Weights()


@torch.no_grad()
def match(
    prediction: Prediction, objects: Sequence[Objects], weights: Weights = DEFAULT
) -> list[tuple[Tensor, Tensor]]:
    """The cheapest pairs of guesses and objects of each image, each object in one pair.

    The cost of a pair is minus the probability of its class, the distance of the boxes (L1)
    and minus their overlap, weighed; the assignment is scipy's, exact.

    Returns:
        For each image the numbers of the guesses, ascending, and of their objects.

    Raises:
        ValueError: there are not as many images in both, or a label is not one of the classes.

    >>> boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.7, 0.7, 0.1, 0.1]])
    >>> guesses = Prediction(torch.zeros(1, 2, 3), boxes[None])
    >>> match(guesses, [Objects(torch.tensor([0, 1]), boxes.flip(0))])
    [(tensor([0, 1]), tensor([1, 0]))]
    """
    from scipy.optimize import linear_sum_assignment

    if prediction.logits.dim() != 3 or len(prediction.logits) != len(objects):
        raise ValueError(
            f"prediction must have logits (B, Q, classes + 1) for B = {len(objects)} images, "
            f"got {tuple(prediction.logits.shape)}"
        )
    pairs = []
    for logits, boxes, there in zip(*prediction, objects, strict=True):
        _check_labels(there.labels, logits.shape[-1] - 1)
        label = -logits.softmax(-1)[:, there.labels]  # (Q, K)
        box = torch.cdist(boxes, there.boxes, p=1)
        overlap = -generalised_iou(boxes[:, None], there.boxes)
        cost = weights.label * label + weights.box * box + weights.overlap * overlap
        worst = torch.finfo(cost.dtype).max  # a guess that is no number is matched last
        rows, columns = linear_sum_assignment(cost.nan_to_num(worst, worst, worst).cpu())
        device = logits.device
        pairs.append(
            (torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device))
        )
    return pairs


def _check_labels(labels: Tensor, classes: int) -> None:
    if not len(labels):
        return
    low, high = (int(end) for end in labels.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must be 0 .. {classes - 1} for {classes} classes, "
            f"got {low if low < 0 else high}"
        )


def set_prediction_loss(
    prediction: Prediction, objects: Sequence[Objects], weights: Weights = DEFAULT
) -> Tensor:
    """Cross entropy of the classes, and distance and overlap of the boxes, of matched pairs.

    Guesses without an object are to say "nothing". Boxes count per object of the batch.

    Raises:
        ValueError: there are not as many images in both, or a label is not one of the classes.

    >>> boxes = torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.7, 0.7, 0.1, 0.1]]])
    >>> sure = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]])
    >>> there = [Objects(torch.tensor([1, 0]), boxes[0].flip(0))]
    >>> round(float(set_prediction_loss(Prediction(sure, boxes), there)), 3)
    0.0
    """
    pairs = match(prediction, objects, weights)
    nothing = prediction.logits.shape[-1] - 1
    target = prediction.logits.new_full(prediction.logits.shape[:2], nothing, dtype=torch.long)
    image = torch.cat([torch.full_like(rows, number) for number, (rows, _) in enumerate(pairs)])
    guess = torch.cat([rows for rows, _ in pairs])
    matched = list(zip(objects, pairs, strict=True))
    target[image, guess] = torch.cat([there.labels[columns] for there, (_, columns) in matched])
    boxes = torch.cat([there.boxes[columns] for there, (_, columns) in matched])
    guessed = prediction.boxes[image, guess]
    weight = torch.ones(nothing + 1).to(prediction.logits)
    weight[nothing] = weights.nothing
    label = cross_entropy(prediction.logits.transpose(1, 2), target, weight)
    count = max(sum(len(there.labels) for there in objects), 1)
    box = l1_loss(guessed, boxes, reduction="sum") / count
    overlap = (1 - generalised_iou(guessed, boxes)).sum() / count
    return weights.label * label + weights.box * box + weights.overlap * overlap
