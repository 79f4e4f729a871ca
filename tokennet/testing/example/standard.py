"""An input in standard form: sets, then tokens, then features; and how the model has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokennet.testing.example.forms import Leaf, Slot, bounds_in
from tokennet.testing.example.guess import Found, is_integer
from tokennet.testing.example.roles import Kind, Role


def in_standard_form(leaf: Leaf, role: Role, sets: Sequence[Found]) -> tuple[Slot, Any, Role]:
    """The slot of an input, its value in standard form, and its role there.

    Args:
        role: in dimensions of the model's own form.
        sets: those that are known, to tell sets from heads.
    """
    value, slot = leaf.value, Slot(leaf.path, ragged=leaf.ragged)
    if not isinstance(value, Tensor):
        return slot, value, role
    found = next((found for found in sets if found.name in role.sets), None)
    if role.kind in (Kind.TOKENS, Kind.POSITIONS):
        slot = _of_tokens(slot, value, role.dims, is_integer(value) or found is not None)
        if slot != Slot(leaf.path, ragged=leaf.ragged):
            role = replace(role, dims=(-2 if slot.features else -1,))
    elif role.kind is Kind.PADDING and found is not None:
        extra = value.dim() - len(found.lead)
        if extra > 0 and len(found.lead) > 1:
            slot = slot._replace(ones=tuple(range(1, 1 + extra)))
        role = replace(role, dims=(-1,))
    elif role.kind in (Kind.PTR, Kind.LENGTHS) and found is not None and len(found.lead) == 1:
        slot = slot._replace(bounds=bounds_in(value, found.size))
        role = replace(role, kind=Kind.MEMBERSHIP)
        return slot, slot.standard(value, num_tokens=found.size), role
    elif role.kind is Kind.PAIRS and found is not None:
        return _pairs(slot, value, role, found)
    elif role.kind is Kind.EDGE_INDEX and role.dims == (0,):
        slot, role = slot._replace(order=(1, 0)), replace(role, dims=())
    elif role.kind is Kind.PER_SET and role.dims and role.dims[0] != -value.dim():
        at = role.dims[0] + value.dim()
        order = [at, *(d for d in range(value.dim()) if d != at)]
        slot, role = slot._replace(order=_inverse(order)), replace(role, dims=())
    return slot, slot.standard(value), role


def _pairs(slot: Slot, value: Tensor, role: Role, found: Found) -> tuple[Slot, Tensor, Role]:
    """Sets and heads in one dimension become two."""
    lead = value.shape[: value.dim() + role.dims[0]]
    count = found.batch.numel() if found.batch else 1
    merged = len(found.batch) == 1 and len(lead) == 1 and lead[0] % count == 0
    if merged and lead[0] != count:
        slot = slot._replace(merged=True)
        return slot, slot.standard(value, lead[0] // count), role
    return slot, value, role


def _of_tokens(slot: Slot, value: Tensor, dims: tuple[int, ...], may_lack_features: bool) -> Slot:
    at = sorted(dim + value.dim() for dim in dims)
    rest = [dim for dim in range(value.dim()) if dim not in at]
    after = [dim for dim in rest if dim > at[-1]]
    if len(at) == 1 and (at[0] == 0 and len(rest) < 2):
        return slot  # (N,), (N, D)
    if at[0] == 0:
        batch, kept = rest[:1], rest[1:]  # (N, B, D)
    elif not after:
        batch, kept = rest[:1], rest[1:]  # (B, C, N), (B, N)
        if may_lack_features and len(rest) == 1:
            return slot
        if len(rest) == 1:
            batch, kept = [], rest  # (C, N)
    else:
        batch, kept = [dim for dim in rest if dim < at[0]], after
    order = [*batch, *at, *kept]
    if order == list(range(value.dim())) and len(at) == 1 and len(kept) < 2:
        return slot
    sizes = tuple(value.shape[d] for d in at) if len(at) > 1 else ()
    return slot._replace(
        order=() if order == sorted(order) else _inverse(order),
        tokens=sizes,
        features=tuple(value.shape[d] for d in kept),
    )


def _inverse(order: list[int]) -> tuple[int, ...]:
    return tuple(torch.tensor(order).argsort().tolist())
