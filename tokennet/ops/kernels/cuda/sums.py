r"""Rows that were summed in parts: y_i = \sum_s y_s over the slots of the row, in their order."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "slots", "hubs"])
def add_parts(
    out, part, hub, hub_indptr, rows, slots, hubs,
    WIDTH: tl.constexpr, BW: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """out[b, hub] (WIDTH,) = sum of part[b, slots of hub]; a program per BW of WIDTH columns."""
    program = tl.program_id(0)
    columns: tl.constexpr = (WIDTH + BW - 1) // BW
    column = program % columns * BW + tl.arange(0, BW)
    rest = program // columns
    b = (rest // hubs).to(tl.int64)
    row = tl.load(hub + rest % hubs)
    slot = tl.load(hub_indptr + rest % hubs) + tl.arange(0, BS)
    end = tl.load(hub_indptr + rest % hubs + 1)
    summed = tl.full([BW], 0.0, part.dtype.element_ty)
    steps = tl.cdiv(end - tl.min(slot), BS)
    for _ in range(steps):
        mask = (slot < end)[:, None] & (column < WIDTH)
        pointer = part + ((b * slots + slot) * WIDTH)[:, None] + column
        summed += tl.sum(tl.load(pointer, mask=mask, other=0.0), 0)
        slot += BS
    pointer = out + (b * rows + row) * WIDTH + column
    tl.store(pointer, summed.to(out.dtype.element_ty), mask=column < WIDTH)
