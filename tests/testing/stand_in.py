"""A stand-in for `tokennet.testing._check` whose verdicts the model itself tells.

So verdicts that are hard to provoke are as easy as the others, and a law costs nothing.
"""

from __future__ import annotations

from types import SimpleNamespace

from torch import nn

from tokennet.testing import SymmetryReport, Verdict

LAWS = ("node_permutation", "edge_permutation", "causality", "deterministic")


class Told(nn.Module):
    """A model with a verdict for each law; without one it passes."""

    def __init__(self, **verdicts: str) -> None:
        super().__init__()
        self.verdicts = verdicts

    def forward(self, tokens):
        return tokens


class Broken(Told):
    """A model that breaks one law."""

    def __init__(self) -> None:
        super().__init__(edge_permutation="BROKEN")


def applicable_laws(model, example, *, causal=False):
    """All but edge_permutation, which needs an example of edges, and causality, if wanted."""
    without = {"causality": causal, "edge_permutation": example == "edges"}
    return tuple(law for law in LAWS if without.get(law, True))


def check(model, example, *, laws=None, **options):
    """Report each law as the model tells; `reason` shows the options."""
    reports = {
        law: SymmetryReport(
            law, type(model).__name__, Verdict(model.verdicts.get(law, "PASS")),
            f"told so on {example} with {sorted(options.items())}",
            error=float("nan"), tolerance=1e-12, dtype="float64", rounding=0.0, signal=1.0,
            noise=0.0,
        )
        for law in laws
    }  # fmt: skip
    return SimpleNamespace(reports=reports)
