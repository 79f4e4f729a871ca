"""Reports made by hand, with every verdict, for tests of the formats."""

import torch

from tokennet.testing import Counterexample, LawReport, Location, SymmetryReport, Verdict

HOSTILE = '<script>alert("x")</script> & \x00'
MODEL = """import torch


class Mean(torch.nn.Module):
    def forward(self, x):
        return (x
                - x.mean(0))
"""


def location(file, line=6, end_line=7):
    source = "return (x\n- x.mean(0))"
    return Location("sub", "norm (Mean)", str(file), line, end_line, source, 0.0, 1.0)


def counterexample():
    x = torch.arange(24.0).view(2, 3, 4)
    changed, got = x.clone(), x[:1].clone()
    changed[1, 0] = 7
    got[0, 0, 0] = 5
    return Counterexample(
        None, 2.0, "import torch\n", (x,), changed=(changed,), expected=[x[:1]], got=[got]
    )


def result(law, verdict, reason="told so", **evidence):
    return SymmetryReport(
        law, "Mean", verdict, reason, error=0.5, tolerance=1e-12, dtype="float64",
        seconds=0.25, **evidence,
    )  # fmt: skip


def report(file, reason="off by 0.5"):
    """Two breaks, one of which has no line, and one law of each other verdict."""
    broken = result(
        "batch_composition", Verdict.BROKEN, reason, location=location(file),
        counterexample=counterexample(),
    )  # fmt: skip
    reports = {
        "node_permutation": result("node_permutation", Verdict.PASS),
        "batch_composition": broken,
        "padding": result("padding", Verdict.BROKEN, "raises ValueError"),
        "causality": result("causality", Verdict.INCONCLUSIVE, "may be rounding"),
        "tied_inputs": result("tied_inputs", Verdict.VACUOUS),
    }
    return LawReport("Mean", "tensor (2, 3, 4)", reports, 1.5)
