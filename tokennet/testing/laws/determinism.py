"""The law that two runs on the same input agree: dropout left on and kept state break it."""

from __future__ import annotations

from tokennet.testing.engine.intervention import ContentIntervention
from tokennet.testing.engine.verdict import run_law
from tokennet.testing.example.case import Case
from tokennet.testing.laws.law import Law, Options
from tokennet.testing.report import SymmetryReport


def _check(case: Case, options: Options) -> SymmetryReport:
    same = ContentIntervention(lambda inputs: inputs)
    return run_law(
        "deterministic", case.function, case.inputs, [same], noise_breaks=True, **options
    )


DETERMINISTIC = Law("two runs on the same input agree", lambda case, causal: True, _check)
