"""Sets of boxes: how far they overlap, which belong together, how precise they are."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4) middle x, y, width, height to the low and the high corner, (..., 2) each."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return middle - half, middle + half


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""Intersection over union of boxes (..., 4), and the generalised one.

        IoU = |A n B| / |A u B|,   GIoU = IoU - (|C| - |A u B|) / |C|

    C is the smallest box around both: Rezatofighi et al., 2019 (arXiv 1902.09630).

    >>> box, right = torch.tensor([0.5, 0.5, 1.0, 1.0]), torch.tensor([2.5, 0.5, 1.0, 1.0])
    >>> [round(float(value), 4) for value in overlap(box, right)]
    [0.0, -0.3333]
    """
    (low_a, high_a), (low_b, high_b) = corners(a), corners(b)

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    both = area(torch.maximum(low_a, low_b), torch.minimum(high_a, high_b))
    union = area(low_a, high_a) + area(low_b, high_b) - both
    around = area(torch.minimum(low_a, low_b), torch.maximum(high_a, high_b))
    iou = both / union.clamp(min=1e-9)
    return iou, iou - (around - union) / around.clamp(min=1e-9)


@torch.no_grad()
def match(costs: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest pairs of guesses and objects: rows and columns of (Q, K) costs."""
    rows, columns = linear_sum_assignment(costs.cpu().nan_to_num(1e6).numpy())
    pair = torch.tensor(rows), torch.tensor(columns)
    return pair[0].to(costs.device), pair[1].to(costs.device)


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
