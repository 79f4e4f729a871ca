"""The widths at which nets of different mixers have the same number of parameters or FLOPs."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokennet.checks import lookup
from tokennet.compare.own_nets import OwnSpec
from tokennet.compare.task import Batch, NetSpec, Task, TrainConfig, Width
from tokennet.nets import count_parameters
from tokennet.nets.evaluating import evaluating

Match = Literal["params", "flops", "none"]
TOLERANCE = 0.02
LARGEST_DIM = 4096
LARGEST_SIZE = 2**16
FIXED = Width(0, 0)
"""Of a net whose size is given."""


def find_widths(
    task: Task, nets: Sequence[NetSpec], config: TrainConfig, match: Match, size: int | None
) -> dict[NetSpec, Width]:
    """Return the widths at which each net costs `size`.

    Args:
        match: what is equal: "params", "flops" (forward, for one example), or "none",
            where `size` is the token width itself.
        size: by default what the first net of a fixed size has; without such a net
            `config.size` parameters, and for the other two what the first net has at that number
            of parameters.

    Raises:
        ValueError: an unknown `match`, or no widths cost that.
    """
    lookup("match", match, dict.fromkeys(get_args(Match)))
    wanted = _size(task, nets, config, match) if size is None else size
    try:
        return {net: find_width(task, net, net.config_of(config), match, wanted) for net in nets}
    except ValueError as error:
        if size is not None or not (fixed := [str(net) for net in nets if net.is_fixed]):
            raise
        told = f"{error} (the size of {fixed[0]}, which is fixed; give another by size)"
        raise ValueError(told) from error


def _size(task: Task, nets: Sequence[NetSpec], config: TrainConfig, match: Match) -> int:
    fixed = [net for net in nets if net.is_fixed]
    if fixed and match != "none":
        return round(cost_of(task, fixed[0], config, match)(FIXED))
    if match == "params":
        return config.size
    first = next((net for net in nets if not net.is_fixed), nets[0])
    own = first.config_of(config)
    width = find_width(task, first, own, "params", config.size)
    return width.dim if match == "none" else round(cost_of(task, first, own, match)(width))


def find_width(task: Task, net: NetSpec, config: TrainConfig, match: Match, size: int) -> Width:
    """Return the widths at which one net costs `size`, within 2 %.

    The token width is the nearest multiple of heads at the MLP ratio of `config`; the width of
    the MLPs, in which the cost is linear, accounts for the rest.
    """
    if net.is_fixed:
        return FIXED
    if isinstance(net, OwnSpec):
        return Width(size if match == "none" else _own_size(task, net, config, match, size), 0)
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


def _own_size(task: Task, net: OwnSpec, config: TrainConfig, match: Match, target: int) -> int:
    """The size of a net of the user's at which its cost is nearest to `target`."""
    cost = cost_of(task, net, config, match)

    def at(size: int) -> tuple[float, int]:
        """At this size, or at the next one that it can be made of, such as a multiple of heads."""
        for number in range(size, size + 64):
            try:
                return cost(Width(number, 0)), number
            except Exception as error:  # whatever a net of other people raises
                problem = error
        raise ValueError(f"size: {net} cannot be made of size {size}: {problem}") from problem

    top = 1
    while at(top)[0] < target:
        if top > LARGEST_SIZE:
            raise ValueError(f"size: {net} has at most {at(top)[0]:,} {match}, got {target:,}")
        top *= 2
    above = 1 + bisect_left(range(1, top + 1), float(target), key=lambda size: at(size)[0])
    found = [at(size) for size in (max(1, above - 1), above)]
    return min(found, key=lambda pair: abs(pair[0] - target))[1]


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
    batch = example(task, net)

    def flops(width: Width) -> int:
        found = flops_of(net.build(task, config, width), batch)
        if found is None:
            raise ValueError(f"match must be params: FLOPs of {net} cannot be counted, got flops")
        return found

    def parameters(width: Width) -> int:
        # Nets of other people may compute with numbers as they are made, which meta has none of.
        device = "cpu" if isinstance(net, OwnSpec) else "meta"
        with torch.device(device), torch.random.fork_rng():
            return count_parameters(net.build(task, config, width))

    return flops if match == "flops" else parameters


def flops_of(net: nn.Module, batch: Batch) -> int | None:
    """Forward, on the source and the tokens of a batch: by formula, or else counted by torch.

    None where torch counts nothing, or the net does not run in eval mode.
    """
    from torch.utils.flop_counter import FlopCounterMode  # it loads the compiler

    with evaluating(net):
        if callable(by_formula := getattr(net, "flops", None)):
            return by_formula(*batch.given)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # a fused kernel counts as nothing
        counter = FlopCounterMode(display=False)
        try:
            with sdpa_kernel(SDPBackend.MATH), counter:
                net(*batch.given)
        except Exception:  # whatever a net of other people raises
            return None
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        return counter.get_total_flops() or None


def example(task: Task, net: NetSpec) -> Batch:
    """The first training example: one set, or the graph whose tokens are the examples."""
    return task.batch(task.splits(0)["train"][:1], net.graph)
