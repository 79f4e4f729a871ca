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


DETERMINISTIC = Law(
    "two runs on the same input agree",
    lambda case, causal: True,
    _check,
    """\
Says: two runs on the same input agree, in eval mode.
Measured: the model runs twice on the same input with the same parameters, and the outputs are
compared.
Causes: dropout by F.dropout without training=self.training; random features or projections that
are drawn in forward; a state that is changed in forward, such as a cache or a running mean.
Mend: pass training=self.training; draw random features once, into a buffer; keep state in
arguments.
""",
)
