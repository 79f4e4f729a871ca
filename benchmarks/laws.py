"""What the law checker finds, and at what cost: python -m benchmarks.laws --json FILE.

Planted bugs (found, named to the line, seconds), truthful models (accused or not), groups
(found, seconds), and the cost of a check in forward passes of the model in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import networkx as nx
import torch
from tests.symmetry.test_discover import KNOWN
from torch import nn

from tests.testing.planted import BUGS, TRUTHFUL, bug_line
from tokennet import IOSpec, Tokens, build_net, from_networkx
from tokennet.bench import environment
from tokennet.testing import check, check_equivariance, discover_group

GRAPHS = {
    "Petersen graph": nx.petersen_graph(),
    "cube": nx.hypercube_graph(3),
    "circular skip links (11; 1, 3)": nx.circulant_graph(11, [1, 3]),
    "Frucht graph (asymmetric)": nx.frucht_graph(),
}


def bugs() -> list[dict[str, Any]]:
    """One row for each planted bug."""
    rows = []
    for bug in BUGS:
        model, example = bug.make()
        start = time.perf_counter()
        report = check(model, example, laws=bug.laws, **bug.kwargs)
        seconds = time.perf_counter() - start
        found = report.reports[bug.law]
        place = found.location
        named = place is not None and any(
            place.file == file and place.line <= line <= place.end_line
            for file, line in bug_line(model)
        )
        others = sorted(set(report.broken) - {bug.law, *bug.also})
        rows.append(
            {
                "bug": bug.name,
                "law": bug.law,
                "verdict": str(found.verdict),
                "named": named,
                "source": place.source.removesuffix("# bug").strip() if place else "",
                "other laws accused": others,
                "seconds": seconds,
            }
        )
    return rows


def truthful() -> list[dict[str, Any]]:
    """One row for each model that obeys every law."""
    rows = []
    for model in TRUTHFUL:
        start = time.perf_counter()
        report = check(*model.make(), laws=model.laws, **model.kwargs)
        verdicts = Counter(str(result.verdict) for result in report.reports.values())
        seconds = time.perf_counter() - start
        rows.append({"model": model.name, "verdicts": dict(verdicts), "seconds": seconds})
    return rows


def groups() -> list[dict[str, Any]]:
    """One row for each model whose group is known."""
    rows = []
    for name, (make, n, _) in KNOWN.items():
        rows.append(_group(name, make(), torch.randn(n, 4)))
    for name, graph in GRAPHS.items():
        net = build_net("attention", IOSpec(4, 3, "token"), 16, 2, num_heads=2)
        tokens = Tokens(torch.randn(len(graph), 4), from_networkx(graph))
        rows.append(_group(f"graph net on the {name}", net, tokens))
    return rows


def _group(name: str, model: nn.Module, x: Any) -> dict[str, Any]:
    start = time.perf_counter()
    report = discover_group(model, x)
    seconds = time.perf_counter() - start
    found = {"group": report.name, "order": str(report.order), "exact": report.exact}
    return {"model": name, **found, "evaluations": report.evaluations, "seconds": seconds}


def cost(rounds: int) -> dict[str, float]:
    """Seconds of a trial of a check over those of one forward pass in float64, by turns."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
    exact, x = copy.deepcopy(encoder).double(), torch.randn(1, 1024, 64)
    ratios = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        with torch.no_grad():
            exact(x.double())
        forward = time.perf_counter() - start
        report = check_equivariance(encoder, x)
        if number:
            ratios.append(report.seconds / report.trials / forward)
    low, _, high = statistics.quantiles(ratios, n=4)
    return {"median": statistics.median(ratios), "quartiles": [low, high]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    figures = {"cost per trial": cost(args.rounds)}
    figures |= {"bugs": bugs(), "truthful": truthful(), "groups": groups()}
    for row in figures["bugs"]:
        print(
            f"{row['bug']:<28}{row['law']:<20}{row['verdict']:<8}"
            f"{'named' if row['named'] else 'NOT NAMED':<10}{row['seconds']:6.2f} s",
            row["source"],
            sep="  ",
        )
    for row in figures["groups"]:
        print(f"{row['model']:<48}{row['group']:<14}order {float(row['order']):<10.4g}", end="")
        print(f"{row['evaluations']:>6} calls{row['seconds']:8.2f} s")
    missed = sum(row["verdict"] != "BROKEN" for row in figures["bugs"])
    unnamed = sum(not row["named"] for row in figures["bugs"])
    accused = sum(bool(row["other laws accused"]) for row in figures["bugs"])
    alarms = sum("BROKEN" in row["verdicts"] for row in figures["truthful"])
    print(f"{len(BUGS)} bugs: {missed} missed, {unnamed} not named, {accused} with others accused")
    print(f"{len(TRUTHFUL)} truthful models: {alarms} accused")
    print(f"a trial costs {figures['cost per trial']['median']:.2f} forward passes in float64")
    if args.json:
        args.json.write_text(json.dumps({**figures, **environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
