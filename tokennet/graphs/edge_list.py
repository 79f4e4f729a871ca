"""Plain edge lists (2, E), rows `[source, target]`: checked, sorted, repeated, walked along."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokennet.graphs.base import EdgePredicate


def check_edge_index(edge_index: Any, num_targets: int, num_sources: int) -> Tensor:
    """Return `edge_index` as int64 on the CPU if it names existing tokens, or raise."""
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"edge_index must be a tensor, got {type(edge_index).__name__}")
    if edge_index.is_floating_point() or edge_index.dtype in (torch.bool, torch.complex64):
        raise TypeError(f"edge_index must hold integers, got {edge_index.dtype}")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise ValueError(f"edge_index must have shape (2, E), got {tuple(edge_index.shape)}")
    for row, size, what in ((0, num_sources, "sources"), (1, num_targets, "targets")):
        if edge_index.shape[1] == 0:
            continue
        low, high = (int(end) for end in edge_index[row].aminmax())
        if low < 0 or high >= size:
            raise ValueError(
                f"edge_index[{row}] must name one of {size} {what}, 0 to {size - 1}; "
                f"got {low if low < 0 else high}"
            )
    with torch.inference_mode(False):
        # A copy: what the caller does to the tensor later must not reach the graph.
        return edge_index.detach().to("cpu", torch.long, copy=True)


def check_permutation(name: str, perm: Any, size: int) -> Tensor:
    """Return `perm` as an int64 tensor if it is a permutation of 0 .. size - 1, or raise."""
    perm = torch.as_tensor(perm, device="cpu")
    if perm.numel() == 0:
        perm = perm.long()
    integral = not perm.is_floating_point() and perm.dtype != torch.bool
    if (
        not integral
        or perm.shape != (size,)
        or not torch.equal(perm.sort().values, torch.arange(size))
    ):
        raise ValueError(f"{name} must be a permutation of 0 .. {size - 1}, got {perm.tolist()}")
    return perm.long()


def sort_by_target(edge_index: Tensor) -> Tensor:
    """Sort edges by target, then by source."""
    source, target = edge_index
    order = source.argsort(stable=True)
    return edge_index[:, order[target[order].argsort(stable=True)]]


def side_by_side(edge_index: Tensor, num_targets: int, num_sources: int, count: int) -> Tensor:
    """Return the edges of `count` copies with consecutive tokens, copy by copy."""
    sizes = torch.tensor([num_sources, num_targets])
    offset = torch.arange(count)[None, :, None] * sizes[:, None, None]  # (2, count, 1)
    return (edge_index[:, None, :] + offset).flatten(1)  # (2, count E)


def walks(edge_index: Tensor, n: int, k: int) -> Tensor:
    """Return the pairs joined by a walk of at most `k` edges, sorted by target."""
    source, target = edge_index.cpu()
    loops = torch.arange(n).expand(2, n)
    step = torch.cat([torch.stack([target, source]), loops], dim=1)
    step = _boolean(torch.sparse_coo_tensor(step, torch.ones(step.shape[1]), (n, n)))
    walk = _boolean(torch.sparse_coo_tensor(loops, torch.ones(n), (n, n)))
    for _ in range(k):
        longer = _boolean(torch.sparse.mm(step, walk))
        if longer._nnz() == walk._nnz():
            break
        walk = longer
    return walk.indices().flip(0)


def _boolean(matrix: Tensor) -> Tensor:
    matrix = matrix.coalesce()
    ones = torch.ones_like(matrix.values())
    return torch.sparse_coo_tensor(
        matrix.indices(), ones, matrix.shape, is_coalesced=True, check_invariants=False
    )


def sorted_keys(graph: EdgePredicate) -> Tensor:
    """Return target * M + source of every edge, in ascending order."""
    source, target = graph.edge_index().cpu()
    return (target * graph.num_sources + source).sort().values


def is_listed(keys: Tensor, graph: EdgePredicate, i: Tensor, j: Tensor) -> Tensor:
    """Whether (i, j) is among the `sorted_keys` of `graph`, by binary search."""
    key = i * graph.num_sources + j
    if keys.numel() == 0:
        return torch.zeros_like(key, dtype=torch.bool)
    place = torch.searchsorted(keys, key).clamp(max=keys.numel() - 1)
    return keys[place] == key
