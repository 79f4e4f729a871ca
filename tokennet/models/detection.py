"""Prediction of a set of objects (DETR), the matching of predictions to objects, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from tokennet.checks import checked
from tokennet.layer import map_flops
from tokennet.mixers.latents import latents_on
from tokennet.nets.evaluating import evaluating
from tokennet.nets.net import TokenNet
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class Objects(NamedTuple):
    """The objects in one image, or in B images: the targets of `set_prediction_loss`.

    >>> Objects(torch.tensor([3]), torch.tensor([[0.5, 0.5, 0.2, 0.1]])).boxes.shape
    torch.Size([1, 4])
    """

    labels: Tensor
    """(K,) int64; or (B, K), padded with -1."""
    boxes: Tensor
    """(K, 4) center x, center y, width and height, relative to the image; or (B, K, 4)."""


class Prediction(NamedTuple):
    """A fixed number Q of predicted objects for each image: the output of `SetPrediction`.

    >>> Prediction(torch.zeros(2, 5, 4), torch.rand(2, 5, 4)).logits.softmax(-1)[0, 0]
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    logits: Tensor
    """(..., Q, classes + 1); the last class is "nothing"."""
    boxes: Tensor
    """(..., Q, 4) as in `Objects`."""


class SetPrediction(nn.Module):
    """Learned queries attend to an image; each predicts a class and a box.

    Use it, or `detr`, to detect objects: Carion et al., 2020 (arXiv 2005.12872). The queries are
    a set, and so are the predictions.

    Args:
        encoder: from patches to tokens of `dim` channels.
        decoder: from the queries to tokens; it attends to those of the encoder.
        dim: channels.
        queries: their number Q; at least the number of objects in an image.
        classes: number of kinds of objects.

    >>> from tokennet.models import detr
    >>> net = detr(in_features=3, classes=5, queries=4, dim=8, depth=1, num_heads=2, hidden=8)
    >>> patches = Tokens(torch.zeros(2, 9, 3), pos=torch.zeros(9, 2))
    >>> [tuple(part.shape) for part in net(patches)]
    [(2, 4, 6), (2, 4, 4)]
    """

    @checked()
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
        """As a function of the patches: predictions do not depend on their order."""
        return self.encoder.symmetry & self.decoder.source_symmetry

    def forward(self, patches: Tokens | Tensor) -> Prediction:
        source = self._encode(patches)
        z = self.decoder(self._queries_to(source), source).z  # (..., Q, D)
        if source.graph.is_ragged:  # (images x Q, D) of a ragged batch
            z = z.unflatten(-2, (source.graph.num_graphs, len(self.queries)))
        return Prediction(self.classes(z), self.box(z).sigmoid())

    def flops(self, patches: Tokens | Tensor) -> int:
        """Floating-point operations of one forward pass."""
        with evaluating(self):
            source = self._encode(patches)
        queries = self._queries_to(source)
        own = map_flops(queries.z, self.classes, self.box)
        return self.encoder.flops(patches) + self.decoder.flops(queries, source) + own

    def _encode(self, patches: Tokens | Tensor) -> Tokens:
        source: Any = self.encoder(patches)
        return Tokens(source) if isinstance(source, Tensor) else source

    def _queries_to(self, source: Tokens) -> Tokens:
        """The queries, once for each image."""
        queries, graphs = latents_on(source.graph, self.queries, source.z)
        return Tokens(queries, graphs.within)


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) center and size to (..., 4) left, top, right, bottom."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    r"""Overlap of boxes (..., 4), given by center and size, elementwise with broadcasting.

        |A n B| / |A u B| - (|C| - |A u B|) / |C|,   C the smallest box around both

    Rezatofighi et al., 2019 (arXiv 1902.09630). A quotient of areas of 0 counts as 0.

    >>> box = torch.tensor([0.5, 0.5, 1.0, 1.0])
    >>> generalized_iou(box, box)
    tensor(1.)
    """
    a, b = corners(a), corners(b)

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    overlap = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - overlap
    hull = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return overlap / union.where(union > 0, 1.0) - (hull - union) / hull.where(hull > 0, 1.0)


class Weights(NamedTuple):
    """Factors of the terms of the matching cost and of the loss."""

    label: float = 1.0
    box: float = 5.0
    overlap: float = 2.0
    nothing: float = 0.1
    """Of the class "nothing" in the cross entropy, to which most predictions belong."""


DEFAULT = Weights()


@torch.no_grad()
def assign(costs: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of predictions and objects in each image with the least cost, one for each object.

    The assignment is scipy's, exact. Costs that are not finite count as the largest.

    Args:
        costs: (B, Q, K) of each pair.
        valid: (B, K) which objects are not padding.

    Returns:
        Image, prediction and object of each pair, (P,) each; by image, then by prediction.

    >>> costs = torch.tensor([[[1.0, 0.0], [5.0, 3.0], [2.0, 9.0]]])
    >>> [part.tolist() for part in assign(costs, torch.tensor([[True, True]]))]
    [[0, 0], [0, 2], [1, 0]]
    """
    from scipy.optimize import linear_sum_assignment

    device, worst = costs.device, torch.finfo(costs.dtype).max
    costs, valid = costs.nan_to_num(worst, worst, worst).cpu().double(), valid.cpu()
    pairs = [torch.zeros(3, 0, dtype=torch.long)]
    for image, (cost, is_object) in enumerate(zip(costs, valid, strict=True)):
        rows, columns = map(torch.as_tensor, linear_sum_assignment(cost[:, is_object]))
        objects = is_object.nonzero().flatten()[columns]
        pairs.append(torch.stack([torch.full_like(rows, image), rows, objects]))
    image, query, objects = torch.cat(pairs, dim=1).to(device)
    return image, query, objects


def match(
    prediction: Prediction, objects: Sequence[Objects] | Objects, weights: Weights = DEFAULT
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of predictions and objects of each image with the least cost, one for each object.

    The cost of a pair is a weighted sum of minus the probability of its class, the distance of
    the boxes (L1), and minus their overlap; see `assign`.

    Args:
        objects: of each image, or `Objects` of all of them.

    Returns:
        For each image the indices of the predictions, ascending, and of their objects.

    Raises:
        ValueError: another number of images in both, or a label is not one of the classes.

    >>> sure = Prediction(torch.tensor([[[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]]]), torch.ones(1, 2, 4))
    >>> match(sure, [Objects(torch.tensor([0]), torch.ones(1, 4))])
    [(tensor([1]), tensor([0]))]
    """
    batch = _batch(prediction, objects)
    image, query, found = assign(_costs(prediction, batch, weights)[0], batch.labels >= 0)
    images = range(len(prediction.logits))
    return [(query[image == number], found[image == number]) for number in images]


def set_prediction_loss(
    prediction: Prediction,
    objects: Sequence[Objects] | Objects,
    weights: Weights = DEFAULT,
    *,
    reduction: Literal["batch", "none"] = "batch",
) -> Tensor:
    """Cross entropy of the classes, and distance and overlap of the boxes, of matched pairs.

    The target of predictions without an object is "nothing".

    Args:
        objects: of each image, or `Objects` of all of them.
        reduction: "batch" is the mean over all predictions and boxes of the batch; "none"
            returns the loss of each image, (B,).

    Raises:
        ValueError: another number of images in both, or a label is not one of the classes.

    >>> guess = Prediction(torch.zeros(1, 2, 4), torch.full((1, 2, 4), 0.5))
    >>> set_prediction_loss(guess, [Objects(torch.tensor([2]), torch.full((1, 4), 0.5))])
    tensor(1.3863)
    """
    logits, batch = prediction.logits, _batch(prediction, objects)
    costs, box_costs = _costs(prediction, batch, weights)
    image, query, found = assign(costs, batch.labels >= 0)
    nothing = logits.shape[-1] - 1
    target = torch.full_like(logits[..., 0], nothing, dtype=torch.long)  # (B, Q)
    target[image, query] = batch.labels[image, found]
    weight = logits.new_ones(nothing + 1)
    weight[nothing] = weights.nothing
    label = cross_entropy(logits.transpose(1, 2), target, weight, reduction="none").sum(1)
    box = torch.zeros_like(label).index_add(0, image, box_costs[image, query, found])
    total, count = weight[target].sum(1), (batch.labels >= 0).sum(1)
    if reduction == "batch":
        label, box, total, count = (part.sum() for part in (label, box, total, count))
    return weights.label * (label / total) + box / count.clamp(min=1)


def _costs(prediction: Prediction, objects: Objects, weights: Weights) -> tuple[Tensor, Tensor]:
    """(B, Q, K) of each pair: the cost, and the part of it that is due to the boxes."""
    logits, boxes = prediction
    distance = (boxes[:, :, None] - objects.boxes[:, None]).abs().sum(-1)
    overlap = generalized_iou(boxes[:, :, None], objects.boxes[:, None])
    box_costs = weights.box * distance + weights.overlap * (1 - overlap)
    labels = objects.labels.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1)
    probability = logits.softmax(-1).gather(-1, labels)  # of the class of each object
    return box_costs - weights.label * probability, box_costs


def _batch(prediction: Prediction, objects: Sequence[Objects] | Objects) -> Objects:
    """The objects of all images, padded, and checked."""
    logits = prediction.logits
    images = [objects] if isinstance(objects, Objects) else objects
    count = len(objects.labels if isinstance(objects, Objects) else objects)
    if logits.dim() != 3 or len(logits) != count:
        raise ValueError(
            f"prediction must have logits (B, Q, classes + 1) for B = {count} images, "
            f"got {tuple(logits.shape)}"
        )
    classes, least = logits.shape[-1] - 1, -1 if images is not objects else 0
    for labels in [image.labels for image in images if image.labels.numel()]:
        low, high = (int(end) for end in labels.aminmax())
        if low < least or high >= classes:
            raise ValueError(
                f"labels must be 0 .. {classes - 1} for {classes} classes, "
                f"got {low if low < least else high}"
            )
    if isinstance(objects, Objects):
        return objects
    if not objects:
        return Objects(logits.new_zeros(0, 0, dtype=torch.long), logits.new_zeros(0, 0, 4))
    return Objects(
        pad_sequence([image.labels for image in objects], True, -1),
        pad_sequence([image.boxes for image in objects], True),
    )
