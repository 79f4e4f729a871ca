"""Token graphs of points in space: each attends to its neighbors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokennet.checks import check_size, check_type
from tokennet.graphs.edges import Edges


def from_knn(pos: Tensor | np.ndarray, k: int, *, loop: bool = False) -> Edges:
    """Return the graph on which each point attends to its `k` nearest others.

    Distances are Euclidean and exact, by a k-d tree in float64. The edges to each point are sorted
    by distance; those of a point to itself come first.

    Args:
        pos: (N, P) coordinates, or (N,) on a line.
        k: number of neighbors; all others where there are fewer. The choice among points at the
            same distance is arbitrary: where there are such points, as on a lattice, use
            `from_radius`.
        loop: whether each point attends to itself too.

    Raises:
        ValueError: positions are not finite, or have another shape.

    >>> from_knn(torch.tensor([0.0, 1.0, 3.0]), k=1).edge_index().tolist()
    [[1, 0, 1], [0, 1, 2]]
    """
    from scipy.spatial import KDTree  # 0.3 s

    check_size("k", k)
    points = _points(pos)
    n, own = len(points), torch.arange(len(points))
    k = max(0, min(k, n - 1))
    _, nearest = KDTree(points).query(points, k=range(1, k + 2))
    nearest = torch.as_tensor(nearest)  # (N, k + 1), the point itself among them
    is_own = nearest == own[:, None]
    is_own[~is_own.any(1), -1] = True  # more than k others lie on this point
    return _listed(torch.stack([nearest[~is_own], own.repeat_interleave(k)]), n, loop)


def from_radius(pos: Tensor | np.ndarray, radius: float, *, loop: bool = False) -> Edges:
    """Return the graph on which each point attends to all others at most `radius` away.

    Use it rather than `from_knn` where the density of the points means something, and on lattices.

    Args:
        pos: (N, P) coordinates, or (N,) on a line.
        radius: the largest distance of neighbors, included.
        loop: whether each point attends to itself too.

    Raises:
        ValueError: positions are not finite, or have another shape; `radius` is negative.

    >>> from_radius(torch.tensor([0.0, 1.0, 3.0]), 1.5).edge_index().tolist()
    [[1, 0], [0, 1]]
    """
    from scipy.spatial import KDTree

    if not radius >= 0:
        raise ValueError(f"radius must be at least 0, got {radius}")
    points = _points(pos)
    n = len(points)
    pairs = KDTree(points).query_pairs(radius, output_type="ndarray")
    one_way = torch.as_tensor(pairs, dtype=torch.long).T
    edges = torch.cat([one_way, one_way.flip(0)], dim=1)
    return _listed(edges[:, (edges[1] * n + edges[0]).argsort()], n, loop)


def _points(pos: Tensor | np.ndarray) -> np.ndarray:
    """(N, P) in float64."""
    check_type("pos", pos, Tensor | np.ndarray, "a tensor or an array")
    points = torch.as_tensor(pos).detach().double().cpu().numpy()
    if points.ndim not in (1, 2):
        raise ValueError(f"pos must have shape (N, P) or (N,), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("pos must be finite, got nan or infinity")
    return points[:, None] if points.ndim == 1 else points


def _listed(edges: Tensor, n: int, loop: bool) -> Edges:
    if loop:
        edges = torch.cat([torch.arange(n).repeat(2, 1), edges], dim=1)
        edges = edges[:, edges[1].argsort(stable=True)]
    return Edges(edges, n)
