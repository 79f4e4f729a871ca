"""The measurements of a suite: a table for each case, and a picture of all cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from tokennet.bench.measure import Timing
from tokennet.bench.peers import PEERS
from tokennet.bench.suite import Case, Results
from tokennet.checks import require

LEGEND = """\
layer: with its projections; attend: from queries, keys and values.
both: forward and backward.  Medians of ms, and of ratios to tokennet by rounds.
MB: what the peak of {whose} grows by in a step.
Floor: of FLOP at {gflops:.0f} GFLOP/s and of bytes at {gbytes:.1f} GB/s, the larger."""

_ON_DEVICE = """
Gather: of keys and values, anew for each edge.  host: ms in which the host launches the step."""
_HALF = """
In bfloat16 of FLOP at {gflops:.0f} GFLOP/s."""

NAMES = {
    "tokennet": "tokennet",
    "pyg": "PyG",
    "sdpa": "SDPA",
    "padded": "SDPA, padded",
    "padded each time": "SDPA, padded each time",
    "nested": "SDPA, nested",
    "flex": "FlexAttention, compiled",
    "varlen": "flash, variable length",
}
"""The names of the peers in the picture."""

TITLES = {"forward": "forward", "both": "forward + backward"}


def legend(results: Results) -> str:
    """What the columns of the tables mean."""
    on_device = results.device == "cuda"
    whose = "allocated memory" if on_device else "a fresh process"
    text = LEGEND.format(**results.ceilings._asdict(), whose=whose)
    if on_device:
        text += _ON_DEVICE
    if results.half is not None:
        text += _HALF.format(**results.half._asdict())
    return text


def table(results: Results, case: Case) -> Table:
    """One case: times, their quartiles, ratios to this library, and memory."""
    scale = results.plan.scale
    size = "" if scale == 1 else f", at {scale:g} of the size"
    title = f"{case.workload.name}: {case.workload.summary}{size}"
    backends = "/".join(dict.fromkeys(case.backends.values()))
    lines = [f"backend of tokennet: {backends}"] if backends else []
    lines += [f"{peer} left out: {reason}" for peer, reason in case.left_out.items()]
    lines += [f"{peer}: {remark}" for peer, remark in case.remarks.items()]
    on_device = results.device == "cuda"
    shown = Table(
        title=title, title_justify="left", caption="\n".join(lines), caption_justify="left",
    )  # fmt: skip
    for heading in ("level", "pass"):
        shown.add_column(heading, no_wrap=True)
    shown.add_column("peer", min_width=len("tokennet"))
    for heading in ("ms", "quartiles", "ratio", "MB", *(["host"] * on_device)):
        shown.add_column(heading, justify="right", no_wrap=heading == "quartiles")
    for (level, direction), timings in groupby(case.timings, lambda t: (t.level, t.direction)):
        group = list(timings)
        for number, timing in enumerate(group):
            what = ("", "") if number else (level, direction)
            low, high = timing.quartiles
            others = [timing.peak_mb, *([timing.host_ms] * on_device)]
            shown.add_row(
                *what, timing.peer, short(timing.median), f"{short(low)} - {short(high)}",
                short(timing.ratio), *("" if x is None else short(x) for x in others),
            )  # fmt: skip
        floors = {"floor": results.floor(case, level, direction)}
        if on_device:
            floors["gather"] = results.gather(case, level, direction)
        for name, least in floors.items():
            ratio, last = short(least / group[0].median), name == list(floors)[-1]
            shown.add_row("", "", name, short(least), "", ratio, "", style="dim", end_section=last)
    return shown


def short(value: float) -> str:
    """About three digits, without exponents.

    >>> [short(value) for value in (0.01234, 1.234, 12.34, 123.4, 12345.6)]
    ['0.012', '1.23', '12.3', '123', '12,346']
    """
    digits = next((digits for limit, digits in ((1, 3), (10, 2), (100, 1)) if value < limit), 0)
    return f"{value:,.{digits}f}"


def plot(results: Results, path: Path) -> None:
    """Draw the ratios of layers to this library, and on a ladder the time per edge."""
    bars = [case for case in results.cases if not case.workload.ladder and _rivals(case)]
    rungs = [case for case in results.cases if case.workload.ladder]
    rows = sum(len(_rivals(case)) + 1 for case in bars)
    widths = [1.0, 1.0] * bool(bars) + [0.8] * bool(rungs)
    if not widths:
        raise ValueError("there is nothing to draw: no case had a peer")
    height = max(4.0, 0.2 * rows + 1.4)
    canvas = require("matplotlib.figure", "plot").Figure(
        figsize=(1 + 5.2 * sum(widths), height), layout="constrained"
    )
    panels = list(canvas.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
    if bars:
        for direction in TITLES:
            _draw_ratios(panels.pop(0), bars, direction)
    if rungs:
        _draw_growth(panels.pop(0), rungs)
    handles = {
        label: handle
        for panel in canvas.axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    names = [name for name in NAMES.values() if name in handles]
    canvas.legend(
        [handles[name] for name in names], names, loc="outside lower center", ncols=len(names)
    )
    scale = "" if results.plan.scale == 1 else f", at {results.plan.scale:g} of the size"
    types = ", ".join(dict.fromkeys(str(x.workload.dtype)[6:] for x in results.cases))
    canvas.suptitle(f"Attention layers with the same weights, {types}, {results.suite}{scale}")
    canvas.savefig(path, dpi=110)


def _timings(case: Case, direction: str) -> list[Timing]:
    return [
        timing
        for timing in case.timings
        if (timing.level, timing.direction) == (case.workload.levels[0], direction)
    ]


def _rivals(case: Case) -> list[str]:
    """Peers of a case other than this library, in the order of `PEERS`."""
    found = {timing.peer for timing in case.timings if timing.level == case.workload.levels[0]}
    return [peer for peer in PEERS if peer in found and peer != "tokennet"]


def _color(peer: str) -> str:
    return f"C{list(PEERS).index(peer)}"


def _draw_ratios(panel: Any, cases: Sequence[Case], direction: str) -> None:
    ticks, row = {}, 0
    for case in cases:
        ticks[row + (len(_rivals(case)) - 1) / 2] = case.workload.name
        drawn = {timing.peer: timing for timing in _timings(case, direction)}
        for peer in _rivals(case):
            if peer in drawn:
                _draw_bar(panel, row, drawn[peer])
            row += 1
        row += 1  # between cases
    panel.axvline(1, color="black", linewidth=1)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.margins(x=0.15)
    panel.set_ylim(row - 0.4, -0.8)
    panel.set_yticks(list(ticks), ticks.values() if direction == "forward" else [])
    panel.set_xlabel("time / time of tokennet (right of 1: tokennet is faster)")
    panel.set_title(TITLES[direction])
    panel.grid(axis="x", alpha=0.3)


def _draw_bar(panel: Any, row: int, timing: Timing) -> None:
    ratio, (low, high) = timing.ratio, timing.ratio_quartiles
    panel.barh(
        row, ratio - 1, left=1, height=0.85, color=_color(timing.peer), label=NAMES[timing.peer]
    )
    panel.plot([low, high], [row, row], color="black", linewidth=1)
    panel.annotate(
        short(ratio), (max(high, 1) if ratio >= 1 else min(low, 1), row),
        xytext=(3 if ratio >= 1 else -3, 0), textcoords="offset points",
        ha="left" if ratio >= 1 else "right", va="center", fontsize=7,
    )  # fmt: skip


def _draw_growth(panel: Any, rungs: Iterable[Case]) -> None:
    lines: dict[str, list[tuple[float, ...]]] = {}
    for case in rungs:
        per_edge = 1e6 / case.edges  # ms of all to ns of each
        for timing in _timings(case, "both"):
            values = (timing.median, *timing.quartiles)
            point = (case.edges, *(value * per_edge for value in values))
            lines.setdefault(timing.peer, []).append(point)
    for peer, points in lines.items():
        edges, median, low, high = zip(*points, strict=True)
        panel.plot(edges, median, "o-", color=_color(peer), label=NAMES[peer])
        panel.fill_between(edges, low, high, color=_color(peer), alpha=0.2, linewidth=0)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("{x:g}")
    panel.set_box_aspect(1)
    panel.set_anchor("N")
    panel.set_xlabel("edges")
    panel.set_ylabel("ns for each edge")
    panel.set_title("growth, forward + backward")
    panel.grid(alpha=0.3, which="both")
