"""What a call costs on each backend, before it is run.

    seconds = calls c_1 + pieces c_2 + gathered c_3 + scores c_4 + FLOPs c_5 + bytes c_6 + far c_7

Each backend counts its own work; the constants are measured (`tokennet bench --calibrate`).
"""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

import torch

from tokennet.attend.cache import cache_root
from tokennet.attend.call import Call
from tokennet.attend.constants import CONSTANTS, EXACT_FLOP
from tokennet.graphs import Disjoint, TokenGraph

CACHE_BYTES = 2**24
"""About what stays near the cores while rows are gathered."""


class Work(NamedTuple):
    """What one forward pass does; the backward pass has constants of its own."""

    calls: float
    """Operators launched, one after the other."""
    pieces: float
    """Walked through one by one: rows of targets, or blocks of queries and keys of one head."""
    gathered: float
    """Rows of keys and values that are fetched edge by edge, all heads together."""
    scores: float
    """Scores that are computed and normalised, by head, needed or masked."""
    flops: float
    bytes: float
    """Moved between memory, or cache, and the cores."""
    far: float
    """Those of them that are gathered from further away than the caches."""

    @classmethod
    def of(
        cls,
        call: Call,
        *,
        calls: float,
        pieces: float,
        scores: float,
        gathered: float = 0,
        mask: float = 0,
    ) -> Work:
        """From what is so for all, and for one head of one entry of the batch: scores, masks,
        rows of keys and values that are gathered."""
        channels, size = call.q.shape[-1] + call.v.shape[-1], call.q.element_size()
        moved = call.groups * gathered * channels * size
        far = moved * _share_of_far(call, channels * size) if gathered else 0.0
        return cls(
            calls,
            pieces,
            call.batch * gathered,
            call.groups * scores,
            2 * call.groups * scores * channels,
            call.io_bytes + call.groups * mask * size + moved,
            far,
        )


def _share_of_far(call: Call, row_bytes: int) -> float:
    """Share of the gathered rows that the caches do not hold, of a walk in the targets' order."""
    near = call.graph.derive("spread", None, _spread) * call.num_heads * row_bytes
    return max(0.0, 1 - CACHE_BYTES / near) if near else 0.0


def _spread(graph: TokenGraph) -> float:
    """How many sources the edges of neighbouring targets are spread over, about.

    Lists no edges that are not listed: a choice must not cost more than what is chosen.
    """
    if graph.band is not None:
        return float(min(sum(graph.band) + 1, graph.num_sources))
    if isinstance(graph, Disjoint):
        return float(max(graph.source_sizes, default=0))
    if not graph.is_explicit:
        return float(graph.num_sources)
    source, target = graph.edge_index()
    if source.numel() == 0:
        return 0.0
    place = target * (graph.num_sources / max(graph.num_targets, 1))
    distance = (source - place).abs().mean()
    # Sources drawn at random are a third of them away on average.
    return float((3 * distance).clamp(max=graph.num_sources))


def seconds(backend: str, call: Call, work: Work) -> float:
    """Predicted time of a call: forward, and backward where a gradient will be asked for."""
    device = call.q.device.type
    mode = "training" if call.needs_grad else "forward"
    constants = _constants(device if device in CONSTANTS else "cuda", backend, mode)
    size = call.q.element_size()
    wide = max(size, 4) / 4  # float64: half as many numbers at a time
    exact = 0.0
    if device != "cpu" and size >= 4 and backend in EXACT_FLOP:
        exact = wide * work.flops * EXACT_FLOP[backend][mode]
    work = work._replace(scores=wide * work.scores, flops=wide * work.flops)
    return exact + sum(constant * amount for constant, amount in zip(constants, work, strict=True))


@torch.compiler.assume_constant_result
def _constants(device: str, backend: str, mode: str) -> tuple[float, ...]:
    return tuple(load(device)[backend][mode])


@cache
def load(device: str) -> dict[str, dict[str, list[float]]]:
    """Constants of a kind of device: those measured on this machine, or those that come along."""
    try:
        kept = json.loads((cache_root() / "costs.json").read_text())[device]
        measured = {name: modes for name, modes in kept.items() if _is_whole(modes)}
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError):
        measured = {}  # none were measured here, or the file is spoiled
    return {**CONSTANTS[device], **measured}


def _is_whole(modes: dict[str, list[float]]) -> bool:
    wanted = len(Work._fields)
    return all(len(modes[mode]) == wanted for mode in ("forward", "training"))
