"""A set of objects as the answer, matched to the objects that are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from tokennet.layer import linear_flops
from tokennet.nets.generation import evaluating
from tokennet.nets.net import TokenNet
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class Objects(NamedTuple):
    """What is in one image, or in B images at once.

    >>> Objects(torch.tensor([3]), torch.tensor([[0.5, 0.5, 0.2, 0.1]])).boxes.shape
    torch.Size([1, 4])
    """

    labels: Tensor
    """(K,) int64; or (B, K), with -1 where there is none."""
    boxes: Tensor
    """(K, 4) middle x, middle y, width and height, as parts of the image; or (B, K, 4)."""


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
    """Learned queries to an image, each answered by a class and a box.

    Carion et al., 2020 (arXiv 2005.12872). The queries are a set, and so are the answers.

    Args:
        encoder: from patches to tokens of `dim` channels.
        decoder: from the queries to tokens; it listens to the encoder's.
        dim: channels.
        queries: their number Q; at least as many as there are objects in an image.
        classes: number of kinds of objects.

    >>> from tokennet.models import detr
    >>> net = detr(in_features=3, classes=5, queries=4, dim=8, depth=1, num_heads=2, hidden=8)
    >>> patches = Tokens(torch.zeros(2, 9, 3), pos=torch.zeros(9, 2))
    >>> [tuple(part.shape) for part in net(patches)]
    [(2, 4, 6), (2, 4, 4)]
    """

    def __init__(
        self, encoder: TokenNet, decoder: TokenNet, dim: int, queries: int, classes: int
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.classes = nn.Linear(dim, classes + 1)
        self.box = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4)
        )

    @property
    def symmetry(self) -> Symmetry:
        """As a function of the patches, which the answers do not number."""
        return self.encoder.symmetry & self.decoder.source_symmetry

    def forward(self, patches: Tokens | Tensor) -> Prediction:
        source = self._encoded(patches)
        z = self.decoder(self._asked(source), source).z  # (..., Q, D)
        if source.graph.is_ragged:  # (images x Q, D) of a ragged batch
            z = z.unflatten(-2, (source.graph.num_graphs, len(self.queries)))
        return Prediction(self.classes(z), self.box(z).sigmoid())

    def flops(self, patches: Tokens | Tensor) -> int:
        """Floating-point operations of one forward pass."""
        with evaluating(self):
            source = self._encoded(patches)
        asked = self._asked(source)
        num_heads = [part for part in (self.classes, *self.box) if isinstance(part, nn.Linear)]
        own = sum(linear_flops(linear, asked.z) for linear in num_heads)
        return self.encoder.flops(patches) + self.decoder.flops(asked, source) + own

    def _encoded(self, patches: Tokens | Tensor) -> Tokens:
        source: Any = self.encoder(patches)
        return Tokens(source) if isinstance(source, Tensor) else source

    def _asked(self, source: Tokens) -> Tokens:
        """The queries to each image."""
        queries = self.queries.to(source.z.dtype).expand(*source.z.shape[:-2], -1, -1)
        sets = [Tokens(queries) for _ in source.graph.parts]
        return Tokens.batch(sets) if source.graph.is_ragged else sets[0]


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) middle and size to (..., 4) left, top, right, bottom."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    r"""Overlap of boxes (..., 4), given by middle and size, elementwise with broadcasting.

        |A n B| / |A u B| - (|C| - |A u B|) / |C|,   C the smallest box around both

    Rezatofighi et al., 2019 (arXiv 1902.09630). A quotient of areas of 0 counts as 0.

    >>> box = torch.tensor([0.5, 0.5, 1.0, 1.0])
    >>> generalized_iou(box, box)
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
def assign(costs: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cheapest pairs of guesses and objects in each image, each object in one pair.

    The assignment is scipy's, exact. A cost that is no finite number counts as the largest.

    Args:
        costs: (B, Q, K) of each pair.
        there: (B, K) which objects there are.

    Returns:
        Image, guess and object of each pair, (P,) each; by image, then by guess.

    >>> costs = torch.tensor([[[1.0, 0.0], [5.0, 3.0], [2.0, 9.0]]])
    >>> [part.tolist() for part in assign(costs, torch.tensor([[True, True]]))]
    [[0, 0], [0, 2], [1, 0]]
    """
    from scipy.optimize import linear_sum_assignment

    device, worst = costs.device, torch.finfo(costs.dtype).max
    costs, there = costs.nan_to_num(worst, worst, worst).cpu().double(), there.cpu()
    pairs = [torch.zeros(3, 0, dtype=torch.long)]
    for image, (cost, real) in enumerate(zip(costs, there, strict=True)):
        rows, columns = map(torch.as_tensor, linear_sum_assignment(cost[:, real]))
        found = real.nonzero().flatten()[columns]
        pairs.append(torch.stack([torch.full_like(rows, image), rows, found]))
    image, guess, found = torch.cat(pairs, dim=1).to(device)
    return image, guess, found


def match(
    prediction: Prediction, objects: Sequence[Objects] | Objects, weights: Weights = DEFAULT
) -> list[tuple[Tensor, Tensor]]:
    """The cheapest pairs of guesses and objects of each image, each object in one pair.

    The cost of a pair is minus the probability of its class, the distance of the boxes (L1)
    and minus their overlap, weighed; see `assign`.

    Args:
        objects: of each image, or `Objects` of all of them.

    Returns:
        For each image the numbers of the guesses, ascending, and of their objects.

    Raises:
        ValueError: there are not as many images in both, or a label is not one of the classes.

    >>> sure = Prediction(torch.tensor([[[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]]]), torch.ones(1, 2, 4))
    >>> match(sure, [Objects(torch.tensor([0]), torch.ones(1, 4))])
    [(tensor([1]), tensor([0]))]
    """
    there = _together(prediction, objects)
    image, guess, found = assign(_costs(prediction, there, weights)[0], there.labels >= 0)
    images = range(len(prediction.logits))
    return [(guess[image == number], found[image == number]) for number in images]


def set_prediction_loss(
    prediction: Prediction,
    objects: Sequence[Objects] | Objects,
    weights: Weights = DEFAULT,
    *,
    reduction: Literal["batch", "none"] = "batch",
) -> Tensor:
    """Cross entropy of the classes, and distance and overlap of the boxes, of matched pairs.

    Guesses without an object are to say "nothing".

    Args:
        objects: of each image, or `Objects` of all of them.
        reduction: "batch" weighs guesses and boxes alike, whatever image they are in; "none"
            gives the loss of each image alone, (B,).

    Raises:
        ValueError: there are not as many images in both, or a label is not one of the classes.

    >>> guess = Prediction(torch.zeros(1, 2, 4), torch.full((1, 2, 4), 0.5))
    >>> set_prediction_loss(guess, [Objects(torch.tensor([2]), torch.full((1, 4), 0.5))])
    tensor(1.3863)
    """
    logits, there = prediction.logits, _together(prediction, objects)
    costs, misplaced = _costs(prediction, there, weights)
    image, guess, found = assign(costs, there.labels >= 0)
    nothing = logits.shape[-1] - 1
    target = torch.full_like(logits[..., 0], nothing, dtype=torch.long)  # (B, Q)
    target[image, guess] = there.labels[image, found]
    weight = logits.new_ones(nothing + 1)
    weight[nothing] = weights.nothing
    label = cross_entropy(logits.transpose(1, 2), target, weight, reduction="none").sum(1)
    box = torch.zeros_like(label).index_add(0, image, misplaced[image, guess, found])
    shares, count = weight[target].sum(1), (there.labels >= 0).sum(1)
    if reduction == "batch":
        label, box, shares, count = (part.sum() for part in (label, box, shares, count))
    return weights.label * (label / shares) + box / count.clamp(min=1)


def _costs(prediction: Prediction, there: Objects, weights: Weights) -> tuple[Tensor, Tensor]:
    """(B, Q, K) of each pair: the cost, and the part of it that is due to the boxes."""
    logits, boxes = prediction
    distance = (boxes[:, :, None] - there.boxes[:, None]).abs().sum(-1)
    apart = 1 - generalized_iou(boxes[:, :, None], there.boxes[:, None])
    misplaced = weights.box * distance + weights.overlap * apart
    labels = there.labels.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1)
    chance = logits.softmax(-1).gather(-1, labels)  # of the class of each object
    return misplaced - weights.label * chance, misplaced


def _together(prediction: Prediction, objects: Sequence[Objects] | Objects) -> Objects:
    """The objects of all images, those of each followed by none; checked."""
    logits = prediction.logits
    count = len(objects.labels if isinstance(objects, Objects) else objects)
    if logits.dim() != 3 or len(logits) != count:
        raise ValueError(
            f"prediction must have logits (B, Q, classes + 1) for B = {count} images, "
            f"got {tuple(logits.shape)}"
        )
    if isinstance(objects, Objects):
        _check_labels(objects.labels, -1, logits.shape[-1] - 1)
        return objects
    for there in objects:
        _check_labels(there.labels, 0, logits.shape[-1] - 1)
    if not objects:
        return Objects(logits.new_zeros(0, 0, dtype=torch.long), logits.new_zeros(0, 0, 4))
    return Objects(
        pad_sequence([there.labels for there in objects], True, -1),
        pad_sequence([there.boxes for there in objects], True),
    )


def _check_labels(labels: Tensor, least: int, classes: int) -> None:
    if not labels.numel():
        return
    low, high = (int(end) for end in labels.aminmax())
    if low < least or high >= classes:
        raise ValueError(
            f"labels must be 0 .. {classes - 1} for {classes} classes, "
            f"got {low if low < least else high}"
        )
