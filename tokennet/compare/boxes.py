"""Boxes: how far they overlap, and how precise a set of guesses is."""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.models.detection import corners


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
        scores: (G,) how sure the guesses are.
        right: (G,) whether each has found an object of its own.
        objects: how many there are to be found.

    >>> round(average_precision(torch.tensor([3.0, 2, 1]), torch.tensor([True, False, True]), 2), 4)
    0.8333
    """
    hits = right[scores.argsort(descending=True, stable=True)].double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1, device=hits.device)
    best = precision.flip(0).cummax(0).values.flip(0)  # at this recall or a higher one
    return float((best * hits).sum() / objects)
