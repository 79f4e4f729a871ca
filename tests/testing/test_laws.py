"""Every law of `LAWS` by its contract, and what several laws share."""

import dataclasses

import pytest
import torch

from tests.contracts.laws import LawContract
from tokennet.testing import LAWS, SymmetryReport, Verdict, check
from tokennet.testing.laws import Law
from tokennet.testing.laws.law import worst


@pytest.mark.parametrize("law", LAWS)
class TestLaws(LawContract):
    pass


def test_a_law_without_an_injected_bug_fails_its_contract(monkeypatch):
    monkeypatch.setitem(LAWS, "new", Law("nothing yet", lambda case, causal: True, None))
    with pytest.raises(AssertionError, match="no injected bug breaks new"):
        TestLaws().test_an_injected_bug_breaks_it_and_the_script_shows_that("new", "float64")


def test_the_worst_of_several_reports():
    report = SymmetryReport("law", "model", Verdict.PASS, "", 0.0, 0.0, "float64")
    order = (Verdict.PASS, Verdict.VACUOUS, Verdict.INCONCLUSIVE, Verdict.BROKEN)
    reports = [dataclasses.replace(report, verdict=verdict) for verdict in order]
    for number, verdict in enumerate(order):
        assert worst(reports[number::-1]).verdict is verdict


def test_the_plugin_and_the_checker_know_the_same_dtypes():
    import pytest_tokennet
    from tokennet.testing.engine.tolerance import PRECISIONS

    assert set(pytest_tokennet.DTYPES) == {"auto", *PRECISIONS}
    assert PRECISIONS["bfloat16"] is torch.bfloat16


def test_a_law_says_in_its_summary_all_that_it_speaks_of():
    assert "sets of padding" in LAWS["empty_neighborhood"].summary


def test_a_set_of_length_zero_is_tried():
    def total(x, lengths):
        return (x * (torch.arange(x.shape[1]) < lengths[:, None])[..., None]).sum(1)

    def mean(x, lengths):
        return total(x, lengths) / lengths[:, None]

    def safe(x, lengths):
        return total(x, lengths) / lengths.clamp(min=1)[:, None]

    inputs = (torch.randn(3, 5, 4), torch.tensor([5, 3, 4]))
    assert check(mean, inputs, laws=("empty_neighborhood",)).broken == ("empty_neighborhood",)
    assert check(safe, inputs, laws=("empty_neighborhood",)).passed
