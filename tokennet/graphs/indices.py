"""Indices of tokens and lists of edges as tensors: checked, numbered, sorted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import shown


def check_permutation(name: str, perm: Any, size: int) -> Tensor:
    """Return `perm` as an int64 tensor if it is a permutation of 0 .. size - 1, or raise."""
    perm = _as_integers(name, perm, "a permutation, as integers")
    if perm.numel() == 0:
        perm = perm.long()
    integral = not (perm.is_floating_point() or perm.is_complex() or perm.dtype == torch.bool)
    if (
        not integral
        or perm.shape != (size,)
        or not torch.equal(perm.sort().values, torch.arange(size))
    ):
        raise ValueError(f"{name} must be a permutation of 0 .. {size - 1}, got {perm.tolist()}")
    return perm.long()


def check_subset(name: str, index: Any, size: int) -> Tensor:
    """Return different indices of 0 .. size - 1 as int64; those of the True of a mask.

    >>> check_subset("index", torch.tensor([True, False, True]), 3)
    tensor([0, 2])
    """
    given = _as_integers(name, index, "indices of tokens, or a mask")
    if given.dtype == torch.bool:
        if given.shape != (size,):
            raise ValueError(f"{name} must be a mask of {size} tokens, got {tuple(given.shape)}")
        return given.nonzero().flatten()
    if given.numel() == 0:
        given = given.long()
    if given.dim() != 1 or given.is_floating_point() or given.is_complex():
        raise ValueError(f"{name} must hold the indices of tokens, got {given.tolist()}")
    if given.numel() and (int(given.min()) < 0 or int(given.max()) >= size):
        raise ValueError(f"{name} must name some of {size} tokens, got {given.tolist()}")
    if len(given.unique()) < len(given):
        raise ValueError(f"{name} must name each token once, got {given.tolist()}")
    return given.long()


def _as_integers(name: str, given: Any, described: str) -> Tensor:
    try:
        return torch.as_tensor(given, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be {described}, got {shown(given)}") from None


def set_of_each(sizes: Sequence[int]) -> Tensor:
    """(sum of sizes,) the number of the set that each token belongs to.

    >>> set_of_each([2, 1])
    tensor([0, 0, 1])
    """
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))


def set_of_each_target(graph: Any) -> Tensor:
    """Of the token graph `graph`."""
    return set_of_each(graph.sizes)


def index_of_each_target(graph: Any) -> Tensor:
    """Of the token graph `graph`, within its own set."""
    return torch.cat([torch.arange(0), *(torch.arange(size) for size in graph.sizes)])


def sort_by_target(edge_index: Tensor) -> Tensor:
    """Sort edges by target, then by source."""
    source, target = edge_index
    order = source.argsort(stable=True)
    return edge_index[:, order[target[order].argsort(stable=True)]]


def as_boolean(matrix: Tensor) -> Tensor:
    """The sparse matrix with 1 for each of its entries."""
    matrix = matrix.coalesce()
    ones = torch.ones_like(matrix.values())
    return torch.sparse_coo_tensor(
        matrix.indices(), ones, matrix.shape, is_coalesced=True, check_invariants=False
    )
