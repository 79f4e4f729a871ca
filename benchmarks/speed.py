"""Write the tables of speed in docs/benchmarks.md: python -m benchmarks.speed.

They are made from benchmarks/results, in the format of `tokennet bench --json`: attention alone
where that was timed, otherwise the layer; forward and backward, and on a GPU also forward alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pages import DOCS, head, row, write

RESULTS = Path(__file__).parent / "results"
PEERS = ("pyg", "sdpa", "padded", "padded each time", "nested")
COLUMNS = ("case", "edges", "ms", "MB", *(f"`{peer}`" for peer in PEERS))
GPU_PEERS = ("pyg", "sdpa", "padded", "flex", "varlen")
GPU_COLUMNS = ("case", "edges", "took", "ms", "of a gather", *(f"`{peer}`" for peer in GPU_PEERS))


def rows(cases: list[dict[str, Any]]) -> Iterator[str]:
    """A row for each case on a CPU; times are forward and backward."""
    for case in cases:
        name, found = _timings(case)
        ours, both = found["tokennet"]["both"], _by_peer(found, "both")
        memory = "" if ours.get("peak_mb") is None else f"{ours['peak_mb']:.0f}"
        times = f"{ours['median_ms']:.3g}", memory
        yield row(name, f"{case['edges']:,}", *times, *(_ratio(both.get(p)) for p in PEERS))


def gpu_rows(found: dict[str, Any]) -> Iterator[str]:
    """A row for each case; times are forward / forward and backward."""
    for case in found["cases"]:
        name, timings = _timings(case)
        ours = {direction: x["median_ms"] for direction, x in timings["tokennet"].items()}
        floor = next(x for x in case["floors"] if x["direction"] == "forward")
        gather = 1e-6 * floor["gathered"] / found["ceilings"]["gbytes"]
        yield row(
            name,
            f"{case['edges']:,}",
            case["backends"].get("forward", ""),
            " / ".join(f"{ms:.3g}" for ms in ours.values()),
            f"{ours['forward'] / gather:.2g}x",
            *(
                " / ".join(f"{x['ratio']:.3g}x" for x in timings.get(peer, {}).values())
                for peer in GPU_PEERS
            ),
        )


def _timings(case: dict[str, Any]) -> tuple[str, dict[str, dict[str, Any]]]:
    """The name of a case, and its timings by peer and direction."""
    levels = {timing["level"] for timing in case["timings"]}
    level = "attend" if "attend" in levels else "layer"
    found: dict[str, dict[str, Any]] = {}
    for timing in case["timings"]:
        if timing["level"] == level:
            found.setdefault(timing["peer"], {})[timing["direction"]] = timing
    return f"`{case['name']}`" + (", layer" if level == "layer" else ""), found


def _by_peer(found: dict[str, dict[str, Any]], direction: str) -> dict[str, Any]:
    return {peer: by[direction] for peer, by in found.items() if direction in by}


def _ratio(timing: dict[str, Any] | None) -> str:
    """The time of a peer over that of tokennet, and its memory where that was measured."""
    if timing is None:
        return ""
    memory = timing.get("peak_mb")
    return f"{timing['ratio']:.3g}x" + ("" if memory is None else f", {memory:.0f} MB")


def main() -> None:
    cpu, gpu = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("cpu", "gpu")
    )
    write(DOCS / "benchmarks.md", "speed", [*head(*COLUMNS), *rows(cpu["cases"])])
    write(DOCS / "benchmarks.md", "speed on a GPU", [*head(*GPU_COLUMNS), *gpu_rows(gpu)])


if __name__ == "__main__":
    main()
