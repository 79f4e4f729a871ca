"""What every law of `LAWS` must show, as a class that a test class inherits.

A law that is registered is tested: where no injected bug breaks it, its tests fail.
"""

from __future__ import annotations

import contextlib
import io

import pytest
from torch import nn

from tests.axes import spread
from tests.testing.cases import INJECTED_BUGS, PASSING_MODELS, InjectedBug, PassingModel
from tokennet.testing import LAWS, SymmetryReport, Verdict, applicable_laws, check
from tokennet.testing.laws import Law

DTYPES = ("float64", "float32")


class LawContract:
    """The tests of a law; the inheriting class parametrizes `law`, its id in `LAWS`."""

    def test_it_is_a_law_with_a_summary(self, law: str) -> None:
        entry = LAWS[law]
        assert isinstance(entry, Law)
        assert entry.summary
        assert "\n" not in entry.summary
        assert [other.summary for other in LAWS.values()].count(entry.summary) == 1

    def test_it_applies_to_the_example_of_its_injected_bug(self, law: str) -> None:
        bug = injected_bug(law)
        assert law in applicable_laws(*bug.make(), causal=bug.options.get("causal", False))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_an_injected_bug_breaks_it_and_the_script_shows_that(self, law: str, dtype: str):
        bug = injected_bug(law)
        report = self.report(law, bug, dtype)
        assert report.verdict is Verdict.BROKEN, report
        assert report.counterexample is not None
        assert shown_by(report.counterexample.script, bug.make()[0])

    @pytest.mark.parametrize("dtype", spread(DTYPES))
    def test_a_passing_model_obeys_it(self, law: str, dtype: str) -> None:
        report = self.report(law, passing_model(law), dtype)
        assert report.verdict is Verdict.PASS, report
        assert report.counterexample is None

    def report(self, law: str, case: InjectedBug | PassingModel, dtype: str) -> SymmetryReport:
        report = check(*case.make(), laws=[law], dtype=dtype, **case.options).reports[law]
        assert (report.law, report.dtype) == (law, dtype)
        return report


def injected_bug(law: str) -> InjectedBug:
    """The first injected bug that breaks a law."""
    bugs = [bug for bug in INJECTED_BUGS if bug.law == law]
    assert bugs, f"no injected bug breaks {law}: add one to tests/testing/cases"
    return bugs[0]


def passing_model(law: str) -> PassingModel:
    """The first passing model to which a law applies."""
    for passing in PASSING_MODELS:
        causal = passing.options.get("causal", False)
        asked = passing.laws is None or law in passing.laws
        if asked and law in applicable_laws(*passing.make(), causal=causal):
            return passing
    raise AssertionError(f"{law} applies to no passing model: add one to tests/testing/cases")


def shown_by(script: str, model: nn.Module) -> bool:
    """Whether the script of a report shows the break, on a model that was not checked."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(script, {"model": model})
    words = printed.getvalue().split()
    if set(words) <= {"True", "False"}:
        return "False" in words
    return not float(words[0]) <= 1e-9  # NaN, too, is not 0
