"""What `tokennet check` prints: text as it is, in no colors but those of the verdicts."""

import re

import pytest

from tests.testing.formats.reports import report
from tokennet.testing import command
from tokennet.testing.formats import Baseline
from tokennet.testing.formats.baseline import breaks_of
from tokennet.testing.zoo import ZooModel


@pytest.fixture
def printed(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    told = report("models.py", reason="off by 0.5 in x[bold] at [1, 2]" + " and on" * 30)
    baseline = Baseline(frozenset([breaks_of("models:Mean", told)["padding"]]))
    subject = ZooModel(None, None, notes=("[mask] of 3 is left out",))
    code = command.report_on(told, "models:Mean", subject, baseline, command.Files())
    assert code == command.BROKEN
    return capsys.readouterr().out


def test_brackets_and_numbers_are_text(printed):
    lines = printed.splitlines()
    reason = "Mean: batch_composition BROKEN: off by 0.5 in x[bold] at [1, 2]" + " and on" * 30
    assert reason in lines  # in one line, however long
    assert "note: [mask] of 3 is left out" in lines
    assert "1 of 2 breaks are in the baseline." in lines
    alone = "padding is known by its reason alone, as no line is known: raises ValueError"
    assert alone in lines
    assert "2 of 5 laws are BROKEN: batch_composition, padding." in lines
    assert "x[bold]" in printed[: printed.index(reason)]  # in the table too


def test_the_table_fits_the_terminal_and_colors_verdicts(printed):
    table = printed[: printed.index("Mean: batch_composition BROKEN")]
    lines = re.sub("\x1b[^m]*m", "", table).splitlines()
    assert {len(line) for line in lines if line.startswith("│")} <= set(range(101))
    assert "\x1b[1;31mBROKEN" in table
    assert "\x1b[32mPASS" in table
    assert "\x1b[1;36m" not in printed  # of numbers
