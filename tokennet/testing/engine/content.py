"""Other content for tokens, of the same kind and scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokennet.testing.engine.intervention import Inputs
from tokennet.testing.example.values import features, with_features


def new_content(z: Tensor, seed: int, scale: float = 1.0) -> Tensor:
    """Normal numbers `scale` times as large as z; for ids of tokens, others of those present."""
    generator = torch.Generator().manual_seed(1000 + seed)
    if not z.is_floating_point():
        order = torch.randperm(z.numel(), generator=generator).to(z.device)
        shuffled = z.flatten()[order].view_as(z)
        return torch.where(shuffled == z, z.flatten().roll(1).view_as(z), shuffled)
    size = float(z.square().mean().sqrt()) if z.numel() else 1.0
    noise = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    return noise.to(z) * (size or 1.0) * scale


def replaced(inputs: Inputs, new: Tensor, dim: int, places: Sequence[int]) -> Inputs:
    """The inputs with the content `new` at some places of dimension `dim` of the first."""
    z = features(inputs[0]).clone()
    index = torch.tensor(places, device=z.device, dtype=torch.long)
    z.index_copy_(dim, index, new.index_select(dim, index))
    return (with_features(inputs[0], z), *inputs[1:])


def seeded_content(inputs: Inputs) -> Inputs | None:
    """The inputs with content that a script can make again from seed 0, if it may be other."""
    try:
        z = features(inputs[0])
    except TypeError:
        return None
    if not z.is_floating_point():
        return None
    new = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
    return (with_features(inputs[0], new.to(z.device)), *inputs[1:])
