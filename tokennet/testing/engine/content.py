"""Other content for tokens: what laws put in the place of what an example holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.example.values import features, with_features

Inputs = tuple[Any, ...]
_OF_EXAMPLE: ContextVar[bool | None] = ContextVar("content_of_example", default=None)


@contextmanager
def content_of_example(wanted: bool) -> Iterator[None]:
    """Within the context new content is z's own tokens, whatever the scale."""
    token = _OF_EXAMPLE.set(wanted)
    try:
        yield
    finally:
        _OF_EXAMPLE.reset(token)


def is_of_example() -> bool | None:
    """Whether new content is made of the example's own tokens; None where nobody has said."""
    return _OF_EXAMPLE.get()


def new_content(z: Tensor, seed: int, scale: float = 1.0) -> Tensor:
    """Normal numbers of `scale` times the size of z; for ids of tokens, others of those present.

    >>> z = torch.arange(6.0).view(3, 2)
    >>> with content_of_example(True):
    ...     new = new_content(z, seed=0)
    >>> all(row in z.tolist() for row in new.tolist()), torch.equal(new, z)
    (True, False)
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    if is_of_example() and z.dim() > 1 and z.shape[:-1].numel() > 1 and z.is_floating_point():
        rows = z.flatten(0, -2)
        away = torch.randint(1, len(rows), (len(rows),), generator=generator)
        index = (torch.arange(len(rows)) + away) % len(rows)  # of another token
        return rows[index.to(z.device)].view_as(z)
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
