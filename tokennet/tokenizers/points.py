"""Points in space: each listens to those near it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from tokennet.checks import check_size
from tokennet.graphs import Edges
from tokennet.tokenizers.base import Tokenizer, check_tensor
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class Points(Tokenizer):
    """Points (N, D), as they are: z and their first columns as pos, on a graph of the near ones.

    Each point listens to its `k` nearest others, or to all others at most `radius` away
    (Euclidean distance, in the units of the points; exact, by a k-d tree in float64). Moving
    all points rigidly does not change the graph. Points have different graphs, so that
    several clouds are a ragged batch; a tensor (B, N, D) is a batch too.

    Args:
        k: number of neighbors; all others where there are fewer. Of points at the same
            distance some are taken: where that happens, as on a lattice, prefer `radius`.
        radius: the largest distance of neighbors, included.
        num_coordinates: columns that say where the point is; the others, colors say, are
            features. By default all.
        loop: whether each point listens to itself too.

    Raises:
        ValueError: both of `k` and `radius` are given, or none; points are not finite.

    >>> points = torch.tensor([[0.0], [1.0], [3.0]])
    >>> Points(k=1)(points).graph.edge_index().tolist()
    [[1, 0, 1], [0, 1, 2]]
    >>> Points(radius=1.5)(points).graph.edge_index().tolist()
    [[1, 0], [0, 1]]
    """

    k: int | None = None
    radius: float | None = None
    num_coordinates: int | None = None  # type: ignore[misc]  # here the caller says
    loop: bool = False

    shares_graph: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if (self.k is None) == (self.radius is None):
            raise ValueError(
                f"either k or radius must be given, got k={self.k} and radius={self.radius}"
            )
        if self.k is not None:
            check_size("k", self.k)
        if self.radius is not None and not self.radius >= 0:
            raise ValueError(f"radius must be at least 0, got {self.radius}")
        if self.num_coordinates is not None:
            check_size("num_coordinates", self.num_coordinates, 1)

    def split(self, raw: Any) -> list[Any] | None:
        return list(raw) if isinstance(raw, Tensor) and raw.dim() == 3 else super().split(raw)

    def tokenize(self, points: Tensor) -> Tokens:
        check_tensor("points", points, "(N, D)")
        columns = points.shape[1] if self.num_coordinates is None else self.num_coordinates
        if columns > points.shape[1]:
            raise ValueError(
                f"points must have at least {columns} columns (num_coordinates), "
                f"got {points.shape[1]}"
            )
        pos = points[:, :columns]
        if not pos.isfinite().all():
            raise ValueError("points must be finite, got nan or infinity")
        return Tokens(points, Edges(self.near(pos), len(points)), pos)

    def restore(self, tokens: Tokens) -> Tensor:
        return tokens.z

    def near(self, pos: Tensor) -> Tensor:
        """Edges (2, E) from near points to each; the k nearest from near to far."""
        place = pos.detach().double().cpu().numpy()
        if self.k is not None:
            pairs = _nearest(place, min(self.k, max(len(place) - 1, 0)))
        else:
            pairs = _within(place, float(self.radius))  # type: ignore[arg-type]
        edges = torch.as_tensor(pairs, dtype=torch.long)
        if not self.loop:
            return edges
        own = torch.arange(len(place)).repeat(2, 1)
        edges = torch.cat([own, edges], dim=1)
        return edges[:, edges[1].argsort(stable=True)]


def _nearest(place: np.ndarray, k: int) -> np.ndarray:
    """(2, N k): for each target its k nearest others, near to far."""
    n = len(place)
    if n * k == 0:
        return np.zeros((2, 0), dtype=np.int64)
    _, found = KDTree(place).query(place, k=np.arange(1, k + 2))  # (N, k + 1)
    own = found == np.arange(n)[:, None]
    own[~own.any(1), -1] = True  # so many lie on this point that it is not among its nearest
    return np.stack([found[~own], np.arange(n).repeat(k)])


def _within(place: np.ndarray, radius: float) -> np.ndarray:
    """(2, E): all pairs at most `radius` apart, both ways, sorted by target, then source."""
    if len(place) == 0:
        return np.zeros((2, 0), dtype=np.int64)
    one_way = KDTree(place).query_pairs(radius, output_type="ndarray").T.astype(np.int64)
    pairs = np.concatenate([one_way, one_way[::-1]], axis=1)
    return pairs[:, np.lexsort(pairs)]
