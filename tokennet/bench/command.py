"""The command `tokennet bench`: run a suite, or calibrate the planner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tokennet._files import to_json, write_text
from tokennet.bench.floor import environment
from tokennet.bench.measure import Plan
from tokennet.bench.peers import COMPILED
from tokennet.bench.planner import WITHIN, evaluate, fit, measure, save, share_within
from tokennet.bench.report import legend, plot, table
from tokennet.bench.suite import Results, device_of, run_suite
from tokennet.ops.planner import load

QUICK = Plan(rounds=5, seconds=0.5, scale=0.1, memory=False, without=frozenset(COMPILED))
"""Minutes rather than an hour: small graphs, few rounds, nothing compiled, no peaks."""


def bench(
    suite: str,
    cases: str | None,
    rounds: int,
    quick: bool,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Run the cases, print a table of each when it is done, and write the files.

    Raises:
        ValueError: there is no such suite or case.
    """
    plan = replace(QUICK, rounds=min(rounds, QUICK.rounds)) if quick else Plan(rounds=rounds)
    console = Console()

    def on_case(results: Results) -> None:
        console.print(table(results, results.cases[-1]))
        if json_file is not None:  # after each case, so that an interruption loses little
            write_text(json_file, to_json(results.to_dict()) + "\n")

    names = None if cases is None else [name.strip() for name in cases.split(",")]
    with console.status("") as status:
        results = run_suite(suite, names, plan=plan, on_progress=status.update, on_case=on_case)
    console.print(legend(results))
    if plot_file is not None:
        plot(results, plot_file)
    written = [str(path) for path in (json_file, plot_file) if path is not None]
    if written:
        console.print("Wrote " + ", ".join(written), soft_wrap=True)


def calibrate(suite: str, json_file: Path | None) -> None:
    """Measure the grid of the planner, print how often it chooses well, and store new constants.

    Raises:
        ValueError: there is no such suite, or no device for it.
    """
    device = device_of(suite)
    console = Console()
    with console.status("") as status:
        measurements = measure(status.update, device)
    fitted = fit(measurements)
    held_out = [m for m in measurements if m.half == 1]
    shown = Table("constants", "calls", f"within {WITHIN} of the best", "fitted to")
    rows = {
        "in use": evaluate(measurements, load(device)),
        "new": evaluate(held_out, fit([m for m in measurements if m.half == 0])),
    }
    fitted_to = {"in use": "before", "new": "the other half of the grid"}
    for name, found in rows.items():
        shown.add_row(name, str(len(found)), f"{share_within(found):.1%}", fitted_to[name])
    console.print(shown)
    for row in sorted(rows["new"], key=lambda row: -row["ratio"]):
        if row["ratio"] > WITHIN:
            slow = f"{row['chosen']} chosen, {row['ratio']:.2f} times the time of {row['best']}"
            console.print(f"{row['case']}, {row['mode']}: {slow}", soft_wrap=True)
    path = save(fitted, device)
    if json_file is not None:
        written = {**environment(device), "constants": fitted, "choices": rows}
        write_text(json_file, to_json(written) + "\n")
    console.print(f"Constants fitted to the whole grid are stored in {path}", soft_wrap=True)
