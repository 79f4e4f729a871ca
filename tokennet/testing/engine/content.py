"""Other content for tokens: what laws put in the place of what an example holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.example.values import features, with_features

Inputs = tuple[Any, ...]


def new_content(z: Tensor, seed: int, scale: float = 1.0) -> Tensor:
    """Normal numbers of `scale` times the size of z; for ids of tokens, others of those present."""
    generator = torch.Generator().manual_seed(1000 + seed)
    if not z.is_floating_point():
        order = torch.randperm(z.numel(), generator=generator).to(z.device)
        shuffled = z.flatten()[order].view_as(z)
        return torch.where(shuffled == z, z.flatten().roll(1).view_as(z), shuffled)
    size = float(z.square().mean().sqrt()) if z.numel() else 1.0
    noise = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    return noise.to(z) * (size or 1.0) * scale


def replaced(
    inputs: Inputs, dim: int, index: Sequence[int], seed: int, scale: float = 1.0
) -> Inputs:
    """The inputs with new content for some indices in dimension `dim` of the first."""
    z = features(inputs[0])
    chosen = torch.tensor(index, device=z.device, dtype=torch.long)
    new = new_content(z, seed, scale).index_select(dim, chosen)
    return (with_features(inputs[0], z.index_copy(dim, chosen, new)), *inputs[1:])


def seeded_content(inputs: Inputs, index: Any = ..., scale: float = 1.0) -> Inputs | None:
    """The inputs with normal numbers that a script can draw again; None for ids of tokens.

    Args:
        index: of the tokens that get them, all by default.
    """
    try:
        z = features(inputs[0])
    except TypeError:
        return None
    if not z.is_floating_point():
        return None
    z, generator = z.clone(), torch.Generator().manual_seed(0)
    new = torch.randn(z[index].shape, generator=generator, dtype=z.dtype)
    z[index] = scale * new.to(z.device)
    return (with_features(inputs[0], z), *inputs[1:])
