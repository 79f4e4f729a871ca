"""`Points`: points in space, each of which attends to its neighbors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from tokennet.checks import checked
from tokennet.graphs import from_knn, from_radius
from tokennet.tokenizers.base import Tokenizer, check_tensor
from tokennet.tokens import Tokens


@checked(k=0, radius=0)
@dataclass(frozen=True)
class Points(Tokenizer):
    """Points (N, D) as z, and their first columns as pos, on the graph of their neighbors.

    Use it for point clouds. Each point attends to its `k` nearest others, or to all others at
    most `radius` away, as in `from_knn` and `from_radius`: Euclidean distance, in the units of the
    points, exact. The graph is invariant under rigid motions. Clouds have different graphs, so that
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

    >>> import torch
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
        super().__post_init__()
        if (self.k is None) == (self.radius is None):
            raise ValueError(
                f"either k or radius must be given, got k={self.k} and radius={self.radius}"
            )

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
        if self.radius is not None:
            return Tokens(points, from_radius(pos, self.radius, loop=self.loop), pos)
        assert self.k is not None  # one of the two is given
        return Tokens(points, from_knn(pos, self.k, loop=self.loop), pos)

    def restore(self, tokens: Tokens) -> Tensor:
        return tokens.z
