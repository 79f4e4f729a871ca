"""What a model's own mask says, as a token graph: a formula where one fits, else its edges."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tokennet.graphs import Causal, Full, TokenGraph, Window, from_mask

_ROWS = 2**22
"""Pairs that are compared at once."""


class Own(NamedTuple):
    """What a model attends to by itself."""

    graph: TokenGraph
    """Pairs that are visible in some entry of the batch, in some head."""
    bias: Tensor | None
    """(..., H or 1, N, M) where entries or heads differ, or numbers are added to scores; -inf where
    a pair is not visible. None where the graph says all."""


def own_graph(mask: Tensor | None, is_causal: bool, num_targets: int, num_sources: int) -> Own:
    """The graph and the bias of the arguments of `scaled_dot_product_attention`.

    Args:
        mask: None, boolean (True where visible), or numbers that are added to the scores, of which
            those near the smallest of their type stand for -inf; (..., N, M or more).
        is_causal: where there is no mask.
        num_targets: N
        num_sources: M

    Raises:
        ValueError: a causal model without a mask has other numbers of targets and sources.

    >>> own_graph(torch.ones(4, 4).tril().bool(), False, 4, 4).graph
    Causal(4): 4 tokens, 10 edges, density 0.625
    """
    if mask is None:
        if not is_causal or num_targets == 1:
            return Own(full(num_targets, num_sources), None)
        if num_targets != num_sources:
            raise ValueError(
                f"attention_mask must be given where a causal layer has {num_targets} queries and "
                f"{num_sources} keys: they could be aligned at either end"
            )
        return Own(band(num_targets, num_targets, num_targets - 1, 0), None)
    mask = mask[..., :num_sources]
    numbers = None
    visible = mask
    if mask.dtype != torch.bool:
        visible = mask > torch.finfo(mask.dtype).min / 2
        added = mask.detach().masked_fill(~visible, 0.0)
        numbers = mask if mask.requires_grad or bool(added.count_nonzero()) else None
    visible = visible.expand(*visible.shape[:-2], num_targets, num_sources)
    some = visible.flatten(0, -3).any(0) if visible.dim() > 2 else visible
    graph = recognized(some)
    if numbers is None and torch.equal(visible, some.expand_as(visible)):
        return Own(graph, None)
    zero = torch.zeros((), device=mask.device)
    bias = torch.where(visible, zero if numbers is None else numbers, -math.inf)
    return Own(graph, bias.unsqueeze(0) if bias.dim() == 2 else bias)


def recognized(visible: Tensor) -> TokenGraph:
    """The graph of a mask (N, M), by a formula where one fits: complete, causal, a window.

    Of fewer targets than sources, the targets are taken as the last tokens of a sequence.
    """
    n, m = visible.shape
    if bool(visible.all()):
        return full(n, m)
    if 0 < n <= m and bool(visible.any(1).all()):
        i = torch.arange(m - n, m, device=visible.device)
        first = visible.int().argmax(1)
        last = m - 1 - visible.flip(1).int().argmax(1)
        below, above = int((i - first).max()), int((last - i).max())
        if below >= 0 and above in (0, below) and _is_band(visible, i, below, above):
            return band(n, m, min(below, m - 1), above)
    return from_mask(visible)


def _is_band(visible: Tensor, i: Tensor, below: int, above: int) -> bool:
    j = torch.arange(visible.shape[1], device=visible.device)
    step = max(1, _ROWS // visible.shape[1])
    for rows, some in zip(visible.split(step), i.split(step), strict=True):
        ahead = j - some[:, None]
        if not torch.equal(rows, (ahead >= -below) & (ahead <= above)):
            return False
    return True


@lru_cache(64)
def full(n: int, m: int) -> TokenGraph:
    return Full(n, m)


@lru_cache(64)
def band(n: int, m: int, below: int, above: int) -> TokenGraph:
    """The last n tokens of m, each attending to those `below` before to `above` after it."""
    if above:
        return Window(m, below).last(n)
    graph = Causal(m) if below >= m - 1 else Causal(m) & Window(m, below)
    return graph.last(n)
