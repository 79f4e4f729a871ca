"""Widths at which nets of different mixers cost the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import nn

from tokennet.compare.net import NetSpec, Width
from tokennet.compare.task import Batch, Task, TrainConfig
from tokennet.nets import count_parameters

Match = Literal["params", "flops", "none"]
TOLERANCE = 0.02
LARGEST_DIM = 4096


def find_widths(
    task: Task, nets: Sequence[NetSpec], recipe: TrainConfig, match: Match, size: int | None
) -> dict[NetSpec, Width]:
    """Return the widths at which each net costs `size`.

    Args:
        match: what is to agree: "params", "flops" (forward, for one example), or "none",
            where `size` is the token width itself.
        size: by default the recipe's number of parameters; for the other two, what the
            first net has at that number.

    Raises:
        ValueError: an unknown `match`, or no widths cost that.
    """
    if match not in get_args(Match):
        raise ValueError(f"match must be one of {', '.join(get_args(Match))}; got {match!r}")
    if size is None and match == "params":
        size = recipe.size
    elif size is None:
        first = find_width(task, nets[0], recipe, "params", recipe.size)
        size = first.dim if match == "none" else round(cost_of(task, nets[0], recipe, match)(first))
    return {net: find_width(task, net, recipe, match, size) for net in nets}


def find_width(task: Task, net: NetSpec, recipe: TrainConfig, match: Match, size: int) -> Width:
    """Return the widths at which one net costs `size`, within 2 %.

    The token width comes as near as whole heads allow at the recipe's MLP ratio; the MLPs
    make up for the rest, in which the cost is linear.
    """
    step = math.lcm(recipe.num_heads, 2 * max(task.interface.num_coordinates, 1))
    if match == "none":
        if size % step or size < step:
            raise ValueError(f"size must be a multiple of {step} for match none, got {size}")
        return Width(size, _hidden(size, recipe))
    cost = cost_of(task, net, recipe, match)
    start = _nearest_dim(cost, recipe, step, size)
    best: tuple[float, Width] | None = None
    for dim in (start, start - step, start + step, start - 2 * step):
        if dim < step:
            continue
        one, two = cost(Width(dim, 1)), cost(Width(dim, 2))
        width = Width(dim, max(1, 1 + round((size - one) / (two - one))))
        error = abs(cost(width) / size - 1)
        if error <= TOLERANCE:
            return width
        best = min(best or (error, width), (error, width), key=lambda pair: pair[0])
    assert best is not None
    reached = round(cost(best[1]))
    raise ValueError(f"size: no {net} has {size:,} {match} within 2 %; the nearest has {reached:,}")


def _nearest_dim(cost: Callable[[Width], float], recipe: TrainConfig, step: int, size: int) -> int:
    dim = step
    while cost(Width(dim + step, _hidden(dim + step, recipe))) <= size:
        dim += step
        if dim > LARGEST_DIM:
            raise ValueError(f"size must allow dim at most {LARGEST_DIM}, got {size:,}")
    return dim


def _hidden(dim: int, recipe: TrainConfig) -> int:
    return max(1, round(recipe.mlp_ratio * dim))


def cost_of(
    task: Task, net: NetSpec, recipe: TrainConfig, match: Match
) -> Callable[[Width], float]:
    if match == "params":
        return lambda width: count_parameters(_on_meta(task, net, recipe, width))
    batch = example(task, net)
    return lambda width: flops_of(task.build(net, recipe, width), batch)


def _on_meta(task: Task, net: NetSpec, recipe: TrainConfig, width: Width) -> nn.Module:
    with torch.device("meta"):
        return task.build(net, recipe, width)


def flops_of(net: nn.Module, batch: Batch) -> int:
    """Forward, on the source and the tokens of a batch."""
    training = net.training
    try:
        return net.eval().flops(*batch.given)  # type: ignore[operator]
    finally:
        net.train(training)


def example(task: Task, net: NetSpec) -> Batch:
    """The first training example: one set, or the one graph there is."""
    return task.batch(task.splits(0)["train"][:1], net.graph)
