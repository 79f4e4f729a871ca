"""Small sets filled up to a few sizes, where a call costs more than the pairs that are masked.

Of a causal set the real tokens see none of those that fill it up, which stand behind: it needs
no mask.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.attend.reorder import reorder
from tokennet.graphs import Causal, TokenGraph

_ROUND = 8
"""Sources are filled up to a multiple of it, or kernels copy the mask to one that is."""
_LONGEST = 512
"""Tokens; of longer sets a call takes as long as the pairs that it would spare."""


class Bin(NamedTuple):
    """Sets that are filled up to one shape."""

    num_sets: int
    num_targets: int
    num_sources: int
    is_causal: bool


class PaddedSets(NamedTuple):
    """The sets of a batch bin by bin, and the way back. No set is empty."""

    targets: Tensor
    """(P,) token of each place, any one where there is none."""
    sources: Tensor
    targets_back: Tensor
    """(N,) place of each token"""
    sources_back: Tensor
    there: Tensor
    """(Q,) which places of sources hold one"""
    bins: list[Bin]


def padded_sets(graph: TokenGraph, device: torch.device | None = None) -> PaddedSets | None:
    """Those of a batch of `Full` and `Causal`; None where a set is empty, or too long.

    A bin has sets that are at most twice as long as others in it.
    """
    if not graph.derive("are small sets", None, _are_small):
        return None
    return graph.derive("padded sets", device, _build)


def _are_small(graph: TokenGraph) -> bool:
    sizes = [size for part in graph.parts for size in (part.num_targets, part.num_sources)]
    return min(sizes) > 0 and max(sizes) <= _LONGEST


def filled_up(
    z: Tensor, order: Tensor, back: Tensor, shapes: list[tuple[int, int]]
) -> list[Tensor]:
    """Tokens (B, N, H, C) to (B, S, n, H, C) for each bin of S sets of n."""
    parts = reorder(z, order, back, 1).split([count * size for count, size in shapes], 1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


def masks_of(sets: PaddedSets, batch: int) -> list[Tensor | None]:
    """(B S, 1, 1, m) for each bin, True for a source that there is; None for causal bins."""
    parts = sets.there.split([alike.num_sets * alike.num_sources for alike in sets.bins])
    return [
        None if alike.is_causal else part.view(-1, 1, 1, alike.num_sources).repeat(batch, 1, 1, 1)
        for alike, part in zip(sets.bins, parts, strict=True)
    ]


def _build(graph: TokenGraph) -> PaddedSets:
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for number, part in enumerate(graph.parts):
        n, m = part.num_targets, part.num_sources
        kind = n.bit_length(), m.bit_length(), isinstance(part, Causal)
        groups.setdefault(kind, []).append(number)
    sizes = torch.tensor([[part.num_targets, part.num_sources] for part in graph.parts])
    ends = sizes.cumsum(0) - sizes
    bins, places, there = [], ([], []), []  # type: ignore[var-annotated]
    for (*_, is_causal), numbers in groups.items():
        longest = sizes[numbers].amax(0)
        n, m = int(longest[0]), -(-int(longest[1]) // _ROUND) * _ROUND
        bins.append(Bin(len(numbers), n, n if is_causal else m, is_causal))
        for side, length in enumerate(bins[-1][1:3]):
            at = torch.arange(length).clamp(max=sizes[numbers, side, None] - 1)  # (S, length)
            places[side].append((ends[numbers, side, None] + at).flatten())
        there.append((torch.arange(bins[-1].num_sources) < sizes[numbers, 1, None]).flatten())
    targets, sources = (torch.cat(found) for found in places)
    back = _first_place(targets), _first_place(sources)
    return PaddedSets(targets, sources, *back, torch.cat(there), bins)


def _first_place(tokens: Tensor) -> Tensor:
    """(N,) where each token stands first: what fills up stands behind."""
    order = tokens.argsort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = tokens[order].diff() > 0
    return order[first]
