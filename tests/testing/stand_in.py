"""A fake of `tokennet.testing._check` that reports the verdicts that the model is made with.

For tests of the plugin and of `parametrize_with_checks`: any verdict can be had, at no cost.
"""

from __future__ import annotations

from types import SimpleNamespace

from torch import nn

from tokennet.testing import SymmetryReport, Verdict
from tokennet.testing.strategies import ShrinkingDraws

LAWS = dict.fromkeys(("node_permutation", "edge_permutation", "causality", "deterministic"))


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
    """All laws, but causality only on request and edge_permutation only for the example "edges"."""
    without = {"causality": causal, "edge_permutation": example == "edges"}
    return tuple(law for law in LAWS if without.get(law, True))


def check(model, example, *, laws=None, **options):
    """Report the verdicts of the model; `reason` shows the options that were given."""
    if isinstance(options.get("draws"), ShrinkingDraws):  # made by the decorator
        del options["draws"]
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
