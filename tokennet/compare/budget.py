"""The widths at which nets of different mixers have the same number of parameters or FLOPs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import nn

from tokennet.checks import lookup
from tokennet.compare.task import Batch, NetSpec, Task, TrainConfig, Width
from tokennet.nets import count_parameters
from tokennet.nets.evaluating import evaluating

Match = Literal["params", "flops", "none"]
TOLERANCE = 0.02
LARGEST_DIM = 4096


def find_widths(
    task: Task, nets: Sequence[NetSpec], config: TrainConfig, match: Match, size: int | None
) -> dict[NetSpec, Width]:
    """Return the widths at which each net costs `size`.

    Args:
        match: what is equal: "params", "flops" (forward, for one example), or "none",
            where `size` is the token width itself.
        size: by default `config.size` parameters; for the other two, what the first net has
            at that number of parameters.

    Raises:
        ValueError: an unknown `match`, or no widths cost that.
    """
    lookup("match", match, dict.fromkeys(get_args(Match)))
    if size is None and match == "params":
        size = config.size
    elif size is None:
        first = find_width(task, nets[0], config, "params", config.size)
        size = first.dim if match == "none" else round(cost_of(task, nets[0], config, match)(first))
    return {net: find_width(task, net, config, match, size) for net in nets}


def find_width(task: Task, net: NetSpec, config: TrainConfig, match: Match, size: int) -> Width:
    """Return the widths at which one net costs `size`, within 2 %.

    The token width is the nearest multiple of heads at the MLP ratio of `config`; the width of
    the MLPs, in which the cost is linear, accounts for the rest.
    """
    step = math.lcm(config.num_heads, 2 * max(task.interface.num_coordinates, 1))
    if match == "none":
        if size % step or size < step:
            raise ValueError(f"size must be a multiple of {step} for match none, got {size}")
        return Width(size, _hidden(size, config))
    cost = cost_of(task, net, config, match)
    start = _nearest_dim(cost, config, step, size)
    reached = []
    for dim in (start, start - step, start + step, start - 2 * step):
        if dim < step:
            continue
        at_1, at_2 = cost(Width(dim, 1)), cost(Width(dim, 2))
        width = Width(dim, max(1, 1 + round((size - at_1) / (at_2 - at_1))))
        reached.append(round(cost(width)))
        if abs(reached[-1] / size - 1) <= TOLERANCE:
            return width
    nearest = min(reached, key=lambda found: abs(found - size))
    raise ValueError(f"size: no {net} has {size:,} {match} within 2 %; the nearest has {nearest:,}")


def _nearest_dim(cost: Callable[[Width], float], config: TrainConfig, step: int, size: int) -> int:
    """The largest multiple of `step` at which the net costs at most `size`; at least `step`."""

    def at(dim: int) -> float:
        return cost(Width(dim, _hidden(dim, config)))

    top = step
    while at(top) <= size:
        if top > LARGEST_DIM:
            raise ValueError(f"size must allow dim at most {LARGEST_DIM}, got {size:,}")
        top *= 2
    dims = range(step, top, step)
    return step * max(1, bisect_right(dims, float(size), key=at))


def _hidden(dim: int, config: TrainConfig) -> int:
    return max(1, round(config.mlp_ratio * dim))


def cost_of(
    task: Task, net: NetSpec, config: TrainConfig, match: Match
) -> Callable[[Width], float]:
    """The cost of a net as a function of its widths."""
    if match == "flops":
        batch = example(task, net)
        return lambda width: flops_of(task.build(net, config, width), batch)

    def parameters(width: Width) -> int:
        with torch.device("meta"):
            return count_parameters(task.build(net, config, width))

    return parameters


def flops_of(net: nn.Module, batch: Batch) -> int:
    """Forward, on the source and the tokens of a batch."""
    with evaluating(net):
        return net.flops(*batch.given)  # type: ignore[operator]


def example(task: Task, net: NetSpec) -> Batch:
    """The first training example: one set, or the graph whose tokens are the examples."""
    return task.batch(task.splits(0)["train"][:1], net.graph)
