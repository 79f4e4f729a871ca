"""Which backend runs a call: what it would cost on each, the choice, and its explanation.

    seconds = calls c_1 + pieces c_2 + gathered c_3 + scores c_4 + FLOPs c_5 + bytes c_6 + far c_7

Each backend counts its own work; the constants are measured (`tokennet bench --calibrate`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tokennet._compiling import constant_result
from tokennet.checks import lookup
from tokennet.graphs import TokenGraph
from tokennet.ops.call import Call
from tokennet.ops.kernels.cache import cache_root
from tokennet.ops.terms import PLAIN

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
    """Scores that are computed and normalized, by head, needed or masked."""
    flops: float
    bytes: float
    """Moved between memory, or cache, and the cores."""
    far: float
    """Those of `bytes` that are gathered and miss the cache."""

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
        """Totals over batch and heads.

        Args:
            call: what is computed.
            calls: as the field.
            pieces: as the field.
            scores: of one head and one entry of the batch.
            gathered: rows of keys and values, of one entry of the batch.
            mask: entries of a mask that is read, of one head and one entry of the batch.
        """
        channels, size = call.q.shape[-1] + call.v.shape[-1], call.q.element_size()
        moved = call.groups * gathered * channels * size / call.queries_per_key
        far = 0.0
        if gathered:  # rows that the caches do not hold, of a walk in the targets' order
            spread = call.graph.cached(_spread) * call.k.shape[-2] * channels * size
            far = moved * max(0.0, 1 - CACHE_BYTES / spread) if spread else 0.0
        return cls(
            calls,
            pieces,
            call.batch * gathered,
            call.groups * scores,
            2 * call.groups * scores * channels,
            call.io_bytes + call.groups * mask * size + moved,
            far,
        )


def _spread(graph: TokenGraph) -> float:
    """How many sources the edges of neighboring targets are spread over, about.

    Lists no edges that are not listed: a choice must not cost more than what is chosen.
    """
    if graph.band is not None:
        return float(min(sum(graph.band) + 1, graph.num_sources))
    if graph.is_ragged:
        return float(max(graph.source_sizes, default=0))
    if not graph.is_explicit:
        return float(graph.num_sources)
    source, target = graph.edge_index()
    if source.numel() == 0:
        return 0.0
    opposite = target * (graph.num_sources / max(graph.num_targets, 1))
    distance = (source - opposite).abs().mean()
    # Sources drawn at random are a third of them away on average.
    return float((3 * distance).clamp(max=graph.num_sources))


def seconds(backend: str, call: Call, work: Work) -> float:
    """Predicted time of a call: forward, and backward where a gradient will be asked for.

    Infinite for a backend without constants, which is then chosen only if no other can run.
    """
    device = call.q.device.type
    mode = "training" if call.needs_grad else "forward"
    constants = _constants(device if device in CONSTANTS else "cuda", backend, mode)
    if not constants:
        return math.inf
    size = call.q.element_size()
    wide = max(size, 4) / 4  # float64: half the numbers at a time
    exact = 0.0
    if device != "cpu" and size >= 4 and backend in EXACT_FLOP:
        exact = wide * work.flops * EXACT_FLOP[backend][mode]
    work = work._replace(scores=wide * work.scores, flops=wide * work.flops)
    return exact + sum(constant * amount for constant, amount in zip(constants, work, strict=True))


@constant_result
def _constants(device: str, backend: str, mode: str) -> tuple[float, ...]:
    return tuple(load(device).get(backend, {}).get(mode, ()))


@cache
def load(device: str) -> dict[str, dict[str, list[float]]]:
    """Constants for a kind of device: measured on this machine, or those of `constants.json`."""
    try:
        kept = json.loads((cache_root() / "costs.json").read_text())[device]
        measured = {name: modes for name, modes in kept.items() if _is_complete(modes)}
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError):
        measured = {}  # none were measured here, or the file is spoiled
    return {**CONSTANTS[device], **measured}


def _is_complete(modes: dict[str, list[float]]) -> bool:
    wanted = len(Work._fields)
    return all(len(modes[mode]) == wanted for mode in ("forward", "training"))


CONSTANTS: dict[str, dict[str, dict[str, list[float]]]] = json.loads(
    Path(__file__).with_name("constants.json").read_text()
)
"""By kind of device, backend and mode, in the order of the fields of `Work`, in seconds.

CPU: by `tokennet bench --calibrate` on two cores of an AMD EPYC, PyTorch 2.13. CUDA: the same on
one H200 in bfloat16, PyTorch 2.11, without what compiling takes.
"""

EXACT_FLOP: dict[str, dict[str, float]] = {
    "dense": {"forward": 2.9e-14, "training": 1e-13},
    "ragged": {"forward": 4.1e-14, "training": 1.2e-13},
    "banded": {"forward": 4.1e-14, "training": 1.2e-13},
    "flex": {"forward": 5.2e-14, "training": 6.7e-13},
}
"""On CUDA, added for float32 and float64, which have no tensor cores: measured in float32 on
complete graphs of 4 x 4096 tokens, and with a mask of a grid of 64 x 64. Kernels that go along
edges take no tensor cores anyway."""


@dataclass(frozen=True)
class Prospect:
    """One backend's view of a call."""

    backend: str
    reason: str | None
    """Why it cannot run the call, or None if it can."""
    work: Work | None
    """What a forward pass would do; None where the backend cannot run the call."""
    seconds: float | None
    """Predicted time, with the backward pass where a gradient will be asked for."""
    note: str | None = None
    """What else the backend does to the call."""

    def __str__(self) -> str:
        if self.work is None or self.seconds is None:
            return f"{self.backend:<10} {self.reason}"
        time = f"{1e3 * self.seconds:10,.3f} ms"
        if self.seconds == math.inf:
            time = "not measured: tokennet bench --calibrate"
        line = (
            f"{self.backend:<10} {time} "
            f"{self.work.flops / 1e6:12,.2f} MFLOP {self.work.bytes / 1e6:12,.2f} MB"
        )
        return line if self.note is None else f"{line}, {self.note}"


@dataclass(frozen=True)
class Explanation:
    """The backend that `attend` chooses, why, and what each would do. Made by `explain`."""

    chosen: str
    why: str
    prospects: list[Prospect]

    def __str__(self) -> str:
        lines = [f"{self.chosen}: {self.why}"]
        for prospect in self.prospects:
            lines.append(f"{'->' if prospect.backend == self.chosen else '  '} {prospect}")
        return "\n".join(lines)


MOST_CHOICES = 64
"""Signatures whose backend a graph remembers; then it forgets all of them."""


def choose(call: Call, backend: str, backends: Mapping[str, ModuleType]) -> str:
    """The backend named, if it can run the call; for "auto" that of the least predicted time.

    Decided once for all calls of one signature, and remembered with the graph: a decision takes
    longer than attention among a few tokens.

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: the named backend cannot run this call, with the reason.
    """
    if torch.compiler.is_compiling():
        return decide(call, backend, backends)
    key, remembered = signature(call, backend), call.graph.cached(_no_choices)
    try:
        chosen = remembered.get(key)
    except TypeError:  # sizes are symbols while a program is traced for any size
        return decide(call, backend, backends)
    if chosen is None:
        chosen = decide(call, backend, backends)
        if len(remembered) >= MOST_CHOICES:  # threads may decide twice, and alike
            remembered.clear()
        remembered[key] = chosen
    return chosen


def _no_choices(graph: TokenGraph) -> dict[Hashable, str]:
    return {}


def signature(call: Call, backend: str) -> Hashable:
    """All that a decision may depend on besides the graph, the machine, and the process.

    A backend's `unsupported` and `work` must read nothing of a call that is not here.
    """
    q, bias, score, edges = call.q, call.bias, call.score, call.edges
    kind: Hashable = None if bias is None else "function"
    if isinstance(bias, Tensor):
        kind = bias.dim() > 2, bias.requires_grad
    return (
        backend, q.shape, call.v.shape[-2:], q.dtype, q.device, kind,
        None if score is None else score.activation,
        None if edges is None else edges.attr.shape[1],
        None if call.softmax is PLAIN else call.softmax.kind, call.wants_lse,
        torch.is_grad_enabled() and (True, call.needs_grad),
        forward_ad._current_level >= 0 and call.has_tangent,
        torch._C._functorch.peek_interpreter_stack() and call.transform,
        torch.backends.cuda.flash_sdp_enabled(),
    )  # fmt: skip


def decide(call: Call, backend: str, backends: Mapping[str, ModuleType]) -> str:
    """What `choose` remembers."""
    if backend == "auto":
        if _needs_no_choice(call, backends):
            return "dense"
        able = choices([name for name in backends if backends[name].unsupported(call) is None])
        cost = [seconds(name, call, backends[name].work(call)) for name in able]
        return able[cost.index(min(cost))]  # not min(..., key=...), which dynamo does not know
    module = lookup("backend", backend, {"auto": None, **backends})
    reason = module.unsupported(call)  # type: ignore[union-attr]
    if reason:
        raise RuntimeError(f"backend {backend!r} cannot run this call: {reason}")
    return backend


def explained(call: Call, backend: str, backends: Mapping[str, ModuleType]) -> Explanation:
    """Which backend is chosen, why, and what each of them would do."""
    chosen = decide(call, backend, backends)
    prospects = []
    for name, module in backends.items():
        reason, work, predicted, note = module.unsupported(call), None, None, None
        if reason is None:
            work = module.work(call)
            predicted = seconds(name, call, work)
            note = module.note(call) if hasattr(module, "note") else None
        prospects.append(Prospect(name, reason, work, predicted, note))
    why = "you named it"
    if backend == "auto":
        able = choices([prospect.backend for prospect in prospects if prospect.reason is None])
        why = f"the least predicted time of {', '.join(able)}" if able[1:] else "nothing else can"
        if _needs_no_choice(call, backends):
            why = "the graph is complete or causal, and nothing beats SDPA without a mask"
    return Explanation(chosen, why, prospects)


def choices(able: list[str]) -> list[str]:
    """Of the backends that can run a call, those to choose from: the reference as a last resort."""
    return [name for name in able if name != "reference"] or able


def _needs_no_choice(call: Call, backends: Mapping[str, ModuleType]) -> bool:
    """Without a mask SDPA is the best there is; and sizes may be symbolic while exporting."""
    return not call.needs_mask and backends["dense"].unsupported(call) is None
