"""Small sets filled up to a few sizes, where a call costs more than the pairs that are masked.

Of a causal set the real tokens see none of those that fill it up, which stand behind: it needs
no mask.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.attend.ragged import Alike, SortedSets
from tokennet.graphs import Causal, TokenGraph

_ROUND = 8
"""Sources are filled up to a multiple of it, or kernels copy the mask to one that is."""
_LONGEST = 512
"""Tokens; of longer sets a call takes as long as the pairs that it would spare."""


class PaddedSets(NamedTuple):
    """The sets of a batch bin by bin, each bin filled up to one shape. No set is empty."""

    sets: SortedSets
    """Places that are filled up have the last token of their set again; the way back leads to
    the places where tokens stand first."""
    there: Tensor
    """(Q,) which places of sources hold one"""


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


def masks_of(padded: PaddedSets, batch: int) -> list[Tensor | None]:
    """(B S, 1, 1, m) for each bin, True for a source that there is; None for causal bins."""
    bins = padded.sets.shapes
    parts = padded.there.split([alike.num_sets * alike.num_sources for alike in bins])
    return [
        None if alike.is_causal else part.view(-1, 1, 1, alike.num_sources).repeat(batch, 1, 1, 1)
        for alike, part in zip(bins, parts, strict=True)
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
        m = n if is_causal else m
        bins.append(Alike(len(numbers), n, m, is_causal, first=numbers[0]))
        for side, length in enumerate((n, m)):
            at = torch.arange(length).clamp(max=sizes[numbers, side, None] - 1)  # (S, length)
            places[side].append((ends[numbers, side, None] + at).flatten())
        there.append((torch.arange(m) < sizes[numbers, 1, None]).flatten())
    targets, sources = (torch.cat(found) for found in places)
    back = _first_place(targets), _first_place(sources)
    return PaddedSets(SortedSets(targets, sources, *back, bins), torch.cat(there))


def _first_place(tokens: Tensor) -> Tensor:
    """(N,) where each token stands first: what fills up stands behind."""
    order = tokens.argsort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = tokens[order].diff() > 0
    return order[first]
