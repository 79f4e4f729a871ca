"""The cases that are timed, and the suites of them: a graph, and the width of its attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import torch

from tokennet.bench.graphs import (
    hubs,
    local_edges,
    molecules,
    power_law,
    random_edges,
    sets,
    superpixels,
)
from tokennet.checks import lookup
from tokennet.graphs import Causal, Full, Grid, TokenGraph, Window

Score = Literal["dot", "additive"]
LEVELS = ("layer", "attend")


@dataclass(frozen=True)
class Workload:
    """One case of the benchmark."""

    name: str
    summary: str
    make: Callable[[float], TokenGraph]
    """The graph at a scale of its number of tokens, 1 for the case proper."""
    heads: int
    channels: int
    """Of each head."""
    batch: int = 1
    """Number of sets that share the graph."""
    score: Score = "dot"
    """"dot" for `Attention`, "additive" for `GraphAttention`."""
    edge_dim: int | None = None
    levels: tuple[str, ...] = LEVELS
    """"layer" with its projections, "attend" from queries, keys and values."""
    ladder: bool = False
    """Whether the case is one rung of a ladder of sizes."""
    dtype: torch.dtype = torch.float32

    @property
    def dim(self) -> int:
        return self.heads * self.channels

    @property
    def is_plain(self) -> bool:
        """Whether scores are products of queries and keys and nothing else."""
        return self.score == "dot" and self.edge_dim is None


def _scaled(count: float, scale: float) -> int:
    return max(4, round(count * scale))


def _complete(n: int) -> Workload:
    summary = f"every one of {n:,} tokens attends to all"
    return Workload(f"complete-{n}", summary, lambda scale: Full(_scaled(n, scale)), 4, 16)


def _causal(n: int) -> Workload:
    summary = f"every one of {n:,} tokens attends to those before it"
    return Workload(f"causal-{n}", summary, lambda scale: Causal(_scaled(n, scale)), 4, 16)


def _rung(name: str, edges: float) -> Workload:
    return Workload(
        f"ladder-{name}",
        f"{edges:,.0f} edges, 16 for each token, all from close tokens",
        lambda scale: local_edges(_scaled(edges / 16, scale), 16, 1.0),
        4, 16, ladder=True,
    )  # fmt: skip


def _random(
    name: str, n: int, edges: int, score: Score = "dot", features: int | None = None
) -> Workload:
    plain = score == "dot" and features is None
    each = "" if features is None else f", each with {features} features"
    return Workload(
        name,
        f"{n:,} tokens, {edges:,} edges at random{each}",
        lambda scale: random_edges(_scaled(n, scale), _scaled(edges, scale), features),
        4, 32, score=score, edge_dim=features, levels=LEVELS if plain else ("layer",),
    )  # fmt: skip


def _network(name: str, n: int, edges: int, heads: int, channels: int, locality: float) -> Workload:
    where = f", {locality:.0%} of edges from close tokens" if locality else ""
    return Workload(
        name,
        f"{n:,} tokens, {edges:,} edges, degrees by a power law{where}",
        lambda scale: power_law(_scaled(n, scale), _scaled(edges, scale), locality),
        heads, channels,
    )  # fmt: skip


def _sets(count: int) -> Workload:
    summary = f"{count} sets of 8 to 64 tokens, each complete"
    return Workload(f"sets-{count}", summary, lambda scale: sets(_scaled(count, scale)), 4, 32)


def _side(scale: float) -> int:
    return _scaled(64, scale**0.5)


_EACH = [
    Workload("tiny", "16 tokens attend to all", lambda scale: Full(_scaled(16, scale)), 4, 16),
    *(make(n) for n in (64, 256, 1024, 4096) for make in (_complete, _causal)),
    Workload("batch-64-of-64", "64 sets of 64 tokens, each complete",
             lambda scale: Full(_scaled(64, scale)), 4, 16, batch=64),
    Workload("window-8192", "8,192 tokens attend to 64 on either side",
             lambda scale: Window(_scaled(8192, scale), 64), 4, 32),
    Workload("grid-64x64", "64 x 64 pixels attend to the 7 x 7 around them",
             lambda scale: Grid(_side(scale), _side(scale), radius=3), 4, 32),
    _sets(512),
    _sets(1024),
    Workload("perceiver-512-from-65536", "512 targets attend to 65,536 sources",
             lambda scale: Full(_scaled(512, scale), _scaled(65_536, scale)), 4, 32),
    _random("sparse-20k-400k", 20_000, 400_000),
    _random("sparse-150k-1.2m", 150_000, 1_200_000),
    _network("cora-like", 2_708, 10_556, 8, 8, 0.0),
    _network("pubmed-like", 19_717, 88_648, 8, 8, 0.0),
    _network("arxiv-like", 169_343, 2_500_000, 4, 32, 0.0),
    _network("arxiv-like-local", 169_343, 2_500_000, 4, 32, 0.9),
    Workload("molecules-1024", "1,024 graphs of 151 atoms, trees with a few rings",
             lambda scale: molecules(_scaled(1024, scale), 151), 4, 32),
    Workload("hubs", "50,000 tokens, degrees by Zipf's law, a few of 10,000",
             lambda scale: hubs(_scaled(50_000, scale), _scaled(10_000, scale)), 4, 32),
    *(_rung(name, float(name)) for name in ("1e5", "3e5", "1e6", "3e6", "1e7")),
    _random("sparse-edges-20k-400k", 20_000, 400_000, features=16),
    _random("gatv2-20k-400k", 20_000, 400_000, "additive"),
    _random("gatv2-edges-20k-400k", 20_000, 400_000, "additive", features=16),
]  # fmt: skip


def _on_device() -> list[Workload]:
    """Each case for a GPU in bfloat16 and in float32."""
    cpu = {workload.name: workload for workload in _EACH}
    plain = [
        Workload("complete-4x4096", "4 sets of 4,096 tokens, each complete",
                 lambda scale: Full(_scaled(4096, scale)), 16, 64, batch=4),
        Workload("causal-4x4096", "4 sets of 4,096 tokens that attend to those before",
                 lambda scale: Causal(_scaled(4096, scale)), 16, 64, batch=4),
        Workload("window-32768", "32,768 tokens attend to 256 on either side",
                 lambda scale: Window(_scaled(32_768, scale), 256), 8, 64),
        replace(cpu["grid-64x64"], name="grid-64x64-7x7", heads=8, channels=64),
        Workload("grid-64x64-13x13", "64 x 64 pixels attend to the 13 x 13 around them",
                 lambda scale: Grid(_side(scale), _side(scale), radius=6), 8, 64),
        Workload("ragged-1024", "1,024 sets of 8 to 64 tokens, each complete",
                 lambda scale: sets(_scaled(1024, scale)), 8, 64),
        replace(cpu["perceiver-512-from-65536"], name="perceiver", heads=8, channels=64),
        _network("arxiv", 169_343, 2_500_000, 8, 16, 0.0),
        replace(cpu["molecules-1024"], name="molecules", heads=8, channels=16),
        Workload("voc", "1,024 cycles of 479 points, each with its 4 nearest too",
                 lambda scale: superpixels(_scaled(1024, scale), 479), 8, 16),
        _network("products-quarter", 612_000, 30_000_000, 1, 128, 0.0),
        _network("products", 2_449_029, 123_718_280, 1, 128, 0.0),
        replace(cpu["hubs"], name="zipf", heads=8, channels=16),
    ]  # fmt: skip
    plain = [replace(workload, levels=("attend",)) for workload in plain]
    gatv2 = replace(
        _network("gatv2-arxiv", 169_343, 2_500_000, 8, 16, 0.0), score="additive", levels=("layer",)
    )
    return [
        replace(workload, name=f"{workload.name}-{name}", dtype=dtype)
        for workload in (*plain, gatv2)
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    ]


_ON_DEVICE = _on_device()
WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in (*_EACH, *_ON_DEVICE)}
"""Every case by name."""


class Suite(NamedTuple):
    """Cases, by name, and the device they run on."""

    device: str
    cases: tuple[str, ...]


SUITES = {
    "cpu": Suite("cpu", tuple(workload.name for workload in _EACH)),
    "gpu": Suite("cuda", tuple(workload.name for workload in _ON_DEVICE)),
}


def choose(suite: str, cases: Sequence[str] | None = None) -> list[Workload]:
    """The cases of a suite, or those among them that match one of some names.

    Args:
        suite: a name in `SUITES`.
        cases: names, or patterns such as `ladder-*`.

    Raises:
        ValueError: there is no such suite, or no such case in it.

    >>> [workload.name for workload in choose("cpu", ["sets-*"])]
    ['sets-512', 'sets-1024']
    """
    names = lookup("suite", suite, SUITES).cases
    for case in cases or ():
        if not any(fnmatchcase(name, case) for name in names):
            raise ValueError(f"cases must be among {', '.join(names)}; got {case!r}")
    wanted = ("*",) if cases is None else cases
    return [WORKLOADS[name] for name in names if any(fnmatchcase(name, case) for case in wanted)]
