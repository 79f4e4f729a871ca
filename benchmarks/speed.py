"""The table of speed in docs/benchmarks.md: python -m benchmarks.speed.

From benchmarks/results/cpu.json, as `tokennet bench --json` writes it: attention alone where that
was timed, otherwise the layer, forward and backward.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pages import DOCS, head, row, write

RESULTS = Path(__file__).parent / "results" / "cpu.json"
PEERS = ("pyg", "sdpa", "padded", "padded each time", "nested")
COLUMNS = ("case", "edges", "ms", "MB", *(f"`{peer}`" for peer in PEERS))


def rows(cases: list[dict[str, Any]]) -> Iterator[str]:
    for case in cases:
        levels = {figure["level"] for figure in case["figures"]}
        level = "attend" if "attend" in levels else "layer"
        found = {
            figure["peer"]: figure
            for figure in case["figures"]
            if figure["level"] == level and figure["direction"] == "both"
        }
        ours = found["tokennet"]
        name = f"`{case['name']}`" + (", layer" if level == "layer" else "")
        memory = "" if ours.get("peak_mb") is None else f"{ours['peak_mb']:.0f}"
        times = f"{ours['median_ms']:.3g}", memory
        yield row(name, f"{case['edges']:,}", *times, *(_ratio(found.get(p)) for p in PEERS))


def _ratio(figure: dict[str, Any] | None) -> str:
    """How many times as long a peer takes, and its memory where that was measured."""
    if figure is None:
        return ""
    memory = figure.get("peak_mb")
    return f"{figure['ratio']:.3g}x" + ("" if memory is None else f", {memory:.0f} MB")


def main() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    write(DOCS / "benchmarks.md", "speed", [*head(*COLUMNS), *rows(found["cases"])])


if __name__ == "__main__":
    main()
