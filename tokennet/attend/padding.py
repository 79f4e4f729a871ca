"""Sets filled up to a few sizes, for devices on which a call costs more than masked pairs do."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.attend.reorder import reorder
from tokennet.graphs import Causal, TokenGraph

_ROUND = 8
"""Sources are filled up to a multiple of it, or kernels copy the mask to one that is."""


class Bin(NamedTuple):
    """Sets that are filled up to one shape."""

    num_sets: int
    num_targets: int
    num_sources: int
    is_causal: bool

    @property
    def mask_shape(self) -> tuple[int, int, int, int]:
        rows = self.num_targets if self.is_causal else 1
        return self.num_sets, 1, rows, self.num_sources


class PaddedSets(NamedTuple):
    """The sets of a batch bin by bin, and the way back. No set is empty."""

    targets: Tensor
    """(P,) token of each place, any one where there is none."""
    sources: Tensor
    targets_back: Tensor
    """(N,) place of each token"""
    sources_back: Tensor
    masks: Tensor
    """Which sources each target listens to, the masks of all bins one after the other."""
    bins: list[Bin]


def padded_sets(graph: TokenGraph, device: torch.device | None = None) -> PaddedSets | None:
    """Those of a batch of `Full` and `Causal`; None where a set is empty.

    A bin has sets that are at most twice as long as others in it.
    """
    if graph.derive("has empty sets", None, _has_empty_sets):
        return None
    return graph.derive("padded sets", device, _build)


def _has_empty_sets(graph: TokenGraph) -> bool:
    return any(0 in (part.num_targets, part.num_sources) for part in graph.parts)


def filled_up(
    z: Tensor, order: Tensor, back: Tensor, shapes: list[tuple[int, int]]
) -> list[Tensor]:
    """Tokens (B, N, H, C) to (B, S, n, H, C) for each bin of S sets of n."""
    parts = reorder(z, order, back, 1).split([count * size for count, size in shapes], 1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


def masks_of(sets: PaddedSets) -> list[Tensor]:
    """(S, 1, n or 1, m) for each bin, True for an edge."""
    shapes = [torch.Size(alike.mask_shape) for alike in sets.bins]
    parts = sets.masks.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _build(graph: TokenGraph) -> PaddedSets:
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for number, part in enumerate(graph.parts):
        n, m = part.num_targets, part.num_sources
        kind = n.bit_length(), m.bit_length(), isinstance(part, Causal)
        groups.setdefault(kind, []).append(number)
    sizes = torch.tensor([[part.num_targets, part.num_sources] for part in graph.parts])
    ends = sizes.cumsum(0) - sizes
    bins, places, masks = [], ([], []), []  # type: ignore[var-annotated]
    for (*_, is_causal), numbers in groups.items():
        longest = sizes[numbers].amax(0)
        n, m = int(longest[0]), -(-int(longest[1]) // _ROUND) * _ROUND
        bins.append(Bin(len(numbers), n, m, is_causal))
        for side, length in enumerate((n, m)):
            at = torch.arange(length).clamp(max=sizes[numbers, side, None] - 1)  # (S, length)
            places[side].append((ends[numbers, side, None] + at).flatten())
        there = torch.arange(m) < sizes[numbers, 1, None]  # (S, m)
        seen = torch.ones(n, m, dtype=torch.bool).tril() if is_causal else torch.ones(1, m).bool()
        masks.append((there[:, None] & seen).flatten())
    targets, sources = (torch.cat(found) for found in places)
    back = _first_place(targets), _first_place(sources)
    return PaddedSets(targets, sources, *back, torch.cat(masks), bins)


def _first_place(tokens: Tensor) -> Tensor:
    """(N,) where each token stands first: what fills up stands behind."""
    order = tokens.argsort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = tokens[order].diff() > 0
    return order[first]
