"""Time and memory ratios of the core: python -m benchmarks.core --json FILE.

Peers take turns, so that what else the machine does falls on all of them; medians and
quartiles of many rounds. Memory is the growth of the peak of a fresh process each.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch_geometric

from benchmarks.peers import CASES, forwards, steps


def times(case: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round; the slow peer takes part in every fourth."""
    prepared = steps(case)
    taken: dict[str, list[float]] = {name: [] for name in prepared}
    for number in range(rounds + 1):
        for name, step in prepared.items():
            if name == "pyg" and number % 4 != 1:
                continue
            start = time.perf_counter()
            step()
            if number:  # the first round warms up
                taken[name].append(1e3 * (time.perf_counter() - start))
    return taken


def peak_growth(case: str, peer: str) -> float:
    """MB by which a process's peak grows in forward and backward, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.core", "--peak", case, peer]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_peak(case: str, peer: str) -> float:
    forward = forwards(case)[peer]
    gc.collect()
    before = _reset_peak()
    forward().sum().backward()
    return (_status("VmHWM") - before) / 1024


def _reset_peak() -> int:
    """Set the peak to what is resident now, in kB (Linux), and return it."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def report(rounds: int) -> dict:
    cases = {}
    for case in CASES:
        taken = times(case, rounds)
        ours = statistics.median(taken["tokennet"])
        cases[case] = {
            name: {
                "median_ms": statistics.median(values),
                "quartiles_ms": statistics.quantiles(values, n=4)[::2],
                "ratio_to_tokennet": statistics.median(values) / ours,
                "peak_growth_mb": peak_growth(case, name),
            }
            for name, values in taken.items()
        }
    return {"cases": cases, **environment()}


def environment() -> dict:
    """Versions and machine, to stand beside figures."""
    versions = {"torch": torch.__version__, "torch_geometric": torch_geometric.__version__}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "PEER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(measure_peak(*args.peak))
        return
    figures = report(args.rounds)
    for case, peers in figures["cases"].items():
        print(f"{case}, forward + backward")
        for name, row in peers.items():
            low, high = row["quartiles_ms"]
            print(
                f"  {name:<10}{row['median_ms']:9.2f} ms  (quartiles {low:.2f} to {high:.2f})"
                f"{row['ratio_to_tokennet']:8.2f}x{row['peak_growth_mb']:9.0f} MB"
            )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
