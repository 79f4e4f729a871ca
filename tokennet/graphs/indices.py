"""Indices of tokens that a caller gives, checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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


def check_subset(name: str, index: Any, size: int) -> Tensor:
    """Return different indices of 0 .. size - 1 as int64; those of the True of a mask.

    >>> check_subset("index", torch.tensor([True, False, True]), 3)
    tensor([0, 2])
    """
    given = torch.as_tensor(index, device="cpu")
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
