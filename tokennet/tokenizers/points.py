"""`Points`: points in space, each of which attends to its neighbors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokennet.checks import check_size
from tokennet.graphs import Edges
from tokennet.tokenizers.base import Tokenizer, check_tensor
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class Points(Tokenizer):
    """Points (N, D) as z, and their first columns as pos, on the graph of their neighbors.

    Use it for point clouds. Each point attends to its `k` nearest others, or to all others at
    most `radius` away (Euclidean distance, in the units of the points; exact, by a k-d tree in
    float64). The graph is invariant under rigid motions. Clouds have different graphs, so that
    several clouds are a ragged batch; a tensor (B, N, D) is a batch too.

    Args:
        k: number of neighbors; all others where there are fewer. The choice among points at the
            same distance is arbitrary: where there are such points, as on a lattice, use `radius`.
        radius: the largest distance of neighbors, included.
        num_coordinates: columns that are coordinates; the others, such as colors, are features.
            By default all.
        loop: whether each point attends to itself too.

    Raises:
        ValueError: both of `k` and `radius` are given, or neither; points are not finite.

    >>> points = torch.tensor([[0.0], [1.0], [3.0]])
    >>> Points(k=1)(points).graph.edge_index().tolist()
    [[1, 0, 1], [0, 1, 2]]
    >>> Points(radius=1.5)(points).graph.edge_index().tolist()
    [[1, 0], [0, 1]]
    """

    k: int | None = None
    radius: float | None = None
    num_coordinates: int | None = None  # type: ignore[misc]  # of an instance here
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
        return Tokens(points, Edges(self.neighbors(pos), len(points)), pos)

    def restore(self, tokens: Tokens) -> Tensor:
        return tokens.z

    def neighbors(self, pos: Tensor) -> Tensor:
        """Edges (2, E) to each point; those from the k nearest are sorted by distance."""
        from scipy.spatial import KDTree  # 0.3 s

        n, points = len(pos), pos.detach().double().cpu().numpy()
        own = torch.arange(n)
        if self.k is not None:
            k = max(0, min(self.k, n - 1))
            _, nearest = KDTree(points).query(points, k=range(1, k + 2))
            nearest = torch.as_tensor(nearest)  # (N, k + 1), the point itself among them
            is_own = nearest == own[:, None]
            is_own[~is_own.any(1), -1] = True  # more than k others lie on this point
            edges = torch.stack([nearest[~is_own], own.repeat_interleave(k)])
        else:
            pairs = KDTree(points).query_pairs(self.radius, output_type="ndarray")
            one_way = torch.as_tensor(pairs, dtype=torch.long).T
            edges = torch.cat([one_way, one_way.flip(0)], dim=1)
            edges = edges[:, (edges[1] * n + edges[0]).argsort()]
        if not self.loop:
            return edges
        edges = torch.cat([own.repeat(2, 1), edges], dim=1)
        return edges[:, edges[1].argsort(stable=True)]
