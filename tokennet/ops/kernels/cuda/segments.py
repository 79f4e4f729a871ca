"""The edges of a plan cut into segments, which programs of a GPU take one or several at a time.

A segment is a run of edges of one row (a target, or a source): a whole row, or an equal part
of a row that is too long for one program. Parts leave what they have found in numbered slots,
and the slots of a row are then added up in their order: the same result on every run.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from tokennet.ops.edge_plans import EdgePlan

STEPS = 16
"""Steps of `at_once` edges after which a row counts as too long for one program."""
_INT32 = 2**31 - 2**16
"""Room is left below 2**31 for what a program counts past the last edge."""


class Segments(NamedTuple):
    """Segments of all rows, longest first, so that a program's segments are of one length.

    Every row has a segment, those without edges an empty one, at the end.
    """

    row: Tensor
    """(S,)"""
    begin: Tensor
    """(S,) first edge"""
    end: Tensor
    """(S,) one past the last edge"""
    slot: Tensor
    """(S,) slot of a part of a row, -1 for a whole row"""
    hub: Tensor
    """(U,) rows in parts"""
    hub_indptr: Tensor
    """(U + 1,) slots of each: hub_indptr[u] .. hub_indptr[u + 1]"""
    slots: int
    at_once: int
    """Edges of a row to take in one step: 4, 8 or 16."""

    @property
    def num_segments(self) -> int:
        return self.row.shape[0]


class Tables(NamedTuple):
    """What the kernels read besides a plan."""

    by_target: Segments
    by_source: Segments
    listed: Tensor
    """(E,) index in `edge_index` of each edge by source"""


def tables(plan: EdgePlan) -> Tables:
    """Return the tables of a plan, built at first use and freed with the plan."""
    known = _known.get(plan.indptr)
    if known is None:
        known = _known[plan.indptr] = build_tables(plan)
    return known


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def build_tables(plan: EdgePlan) -> Tables:
    """Make the tables, on the plan's device: some sorts, and a few numbers sent to the host."""
    listed = plan.t_order
    if len(plan.edge_id):
        listed = plan.edge_id.index_select(0, plan.t_order)
    return Tables(cut(plan.indptr), cut(plan.t_indptr), listed)


def cut(indptr: Tensor) -> Segments:
    """Cut the edges of each row into as few parts of `STEPS * at_once` as will do, equal ones."""
    length = indptr.diff().long()
    at_once = _edges_at_once(length)
    longest = STEPS * at_once
    parts = (length + longest - 1).div(longest, rounding_mode="floor").clamp(min=1)
    row = torch.arange(len(length), device=indptr.device).repeat_interleave(parts)
    part = torch.arange(len(row), device=indptr.device) - (parts.cumsum(0) - parts)[row]
    begin, end = (
        indptr[row] + (length[row] * number).div(parts[row], rounding_mode="floor")
        for number in (part, part + 1)
    )
    in_parts = parts[row] > 1
    slot = torch.where(in_parts, in_parts.cumsum(0) - 1, -1)
    steps = (end - begin + at_once - 1).div(at_once, rounding_mode="floor")
    order = steps.argsort(descending=True, stable=True)
    hub = (parts > 1).nonzero()[:, 0]
    hub_indptr = torch.cat([parts.new_zeros(1), parts[hub].cumsum(0)])
    slots, edges = int(hub_indptr[-1]), int(length.sum())
    index = torch.int32 if max(len(row), edges) < _INT32 else torch.int64
    row, begin, end, slot = (x.index_select(0, order).to(index) for x in (row, begin, end, slot))
    return Segments(row, begin, end, slot, hub.to(index), hub_indptr.to(index), slots, at_once)


def _edges_at_once(length: Tensor) -> int:
    """The most of 16, 8 and 4 that leaves hardly more lanes idle than 4 would.

    More at once means fewer steps, each of which waits for memory; fewer, that less is left
    over where lengths are no multiple, and that more rows share a program.
    """
    sizes = (16, 8, 4)
    steps = [(length + size - 1).div(size, rounding_mode="floor").sum() for size in sizes]
    lanes = [size * int(count) for size, count in zip(sizes, steps, strict=True)]
    return next(size for size, count in zip(sizes, lanes, strict=True) if 8 * count <= 9 * lanes[2])
