"""What the law checker finds, and at what cost: python -m benchmarks.laws --json FILE.

Injected bugs (found, localized to the line, seconds), passing models (false positives), groups
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
from torch import nn

from tests.testing.cases import INJECTED_BUGS, PASSING_MODELS, bug_lines
from tests.testing.cases.known_groups import KNOWN_GROUPS, token_net
from tokennet import Tokens, from_networkx
from tokennet.bench import environment
from tokennet.testing import check, check_equivariance, discover_group

GRAPHS = {
    "Petersen graph": nx.petersen_graph(),
    "cube": nx.hypercube_graph(3),
    "circular skip links (11; 1, 3)": nx.circulant_graph(11, [1, 3]),
    "Frucht graph (asymmetric)": nx.frucht_graph(),
}


def bugs() -> list[dict[str, Any]]:
    """One row for each injected bug."""
    rows = []
    for bug in INJECTED_BUGS:
        model, example = bug.make()
        start = time.perf_counter()
        report = check(model, example, laws=bug.laws, **bug.options)
        seconds = time.perf_counter() - start
        found = report.reports[bug.law]
        location = found.location
        localized = location is not None and any(
            location.file == file and location.line <= line <= location.end_line
            for file, line in bug_lines(model)
        )
        false_positives = sorted(set(report.broken) - {bug.law, *bug.also_broken})
        rows.append(
            {
                "bug": bug.name,
                "law": bug.law,
                "verdict": str(found.verdict),
                "localized": localized,
                "source": location.source.removesuffix("# bug").strip() if location else "",
                "false positives": false_positives,
                "seconds": seconds,
            }
        )
    return rows


def passing() -> list[dict[str, Any]]:
    """One row for each model without a bug."""
    rows = []
    for model in PASSING_MODELS:
        start = time.perf_counter()
        report = check(*model.make(), laws=model.laws, **model.options)
        verdicts = Counter(str(result.verdict) for result in report.reports.values())
        seconds = time.perf_counter() - start
        rows.append({"model": model.name, "verdicts": dict(verdicts), "seconds": seconds})
    return rows


def groups() -> list[dict[str, Any]]:
    """One row for each model whose group is known."""
    rows = []
    for name, (make, n, _) in KNOWN_GROUPS.items():
        rows.append(_group(name, make(), torch.randn(n, 4)))
    for name, graph in GRAPHS.items():
        tokens = Tokens(torch.randn(len(graph), 4), from_networkx(graph))
        rows.append(_group(f"graph net on the {name}", token_net(), tokens))
    return rows


def _group(name: str, model: nn.Module, x: Any) -> dict[str, Any]:
    start = time.perf_counter()
    report = discover_group(model, x)
    seconds = time.perf_counter() - start
    found = {"group": report.name, "order": str(report.order), "exact": report.exact}
    return {"model": name, **found, "evaluations": report.evaluations, "seconds": seconds}


def cost(rounds: int) -> dict[str, float]:
    """Seconds of a run of a check over those of one forward pass in float64, by turns."""
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
            ratios.append(report.seconds / report.runs / forward)
    low, _, high = statistics.quantiles(ratios, n=4)
    return {"median": statistics.median(ratios), "quartiles": [low, high]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the metrics here")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    metrics = {"cost per run": cost(args.rounds)}
    metrics |= {"bugs": bugs(), "passing": passing(), "groups": groups()}
    for row in metrics["bugs"]:
        print(
            f"{row['bug']:<28}{row['law']:<20}{row['verdict']:<8}"
            f"{'found' if row['localized'] else 'NOT FOUND':<10}{row['seconds']:6.2f} s",
            row["source"],
            sep="  ",
        )
    for row in metrics["groups"]:
        print(f"{row['model']:<48}{row['group']:<14}order {float(row['order']):<10.4g}", end="")
        print(f"{row['evaluations']:>6} calls{row['seconds']:8.2f} s")
    missed = sum(row["verdict"] != "BROKEN" for row in metrics["bugs"])
    elsewhere = sum(not row["localized"] for row in metrics["bugs"])
    wrong = sum(bool(row["false positives"]) for row in metrics["bugs"])
    alarms = sum("BROKEN" in row["verdicts"] for row in metrics["passing"])
    print(
        f"{len(INJECTED_BUGS)} injected bugs: {missed} missed, {elsewhere} not localized, "
        f"{wrong} with false positives"
    )
    print(f"{len(PASSING_MODELS)} passing models: {alarms} false positives")
    print(f"a run costs {metrics['cost per run']['median']:.2f} forward passes in float64")
    if args.json:
        args.json.write_text(json.dumps({**metrics, **environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
