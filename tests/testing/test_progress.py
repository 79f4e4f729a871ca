"""What a check says while it runs, and of its time."""

import dataclasses
import logging

import torch
from rich.console import Console

from tokennet.testing import check, command


def mean(x):
    return x.mean(1)


def test_the_law_that_is_being_checked_is_logged(caplog):
    with caplog.at_level(logging.INFO, "tokennet.check"):
        check(mean, torch.randn(2, 4, 3), laws=["node_permutation", "deterministic"])
    assert caplog.messages == ["law 1 of 2: node_permutation", "law 2 of 2: deterministic"]


def test_progress_is_shown_on_terminals_only_and_leaves_the_logger_as_it_was(capsys, monkeypatch):
    logger = logging.getLogger("tokennet.check")
    before = logger.level, list(logger.handlers)
    with command.progress():
        check(mean, torch.randn(2, 4, 3), laws=["deterministic"])
    assert capsys.readouterr().err == ""

    def terminal(**options):
        return Console(force_terminal=True, width=120, **options)

    monkeypatch.setattr(command, "Console", terminal)
    monkeypatch.setattr(command, "PATIENCE", -1)
    with command.progress():
        logger.info("law 1 of 1: deterministic")
    shown = capsys.readouterr().err
    assert "law 1 of 1: deterministic, 0 s (a smaller example is checked faster)" in shown
    assert (logger.level, logger.handlers) == before


def test_a_slow_check_says_how_to_be_faster():
    report = check(mean, torch.randn(2, 4, 3), laws=["deterministic"])
    assert report.hint == ""
    slow = dataclasses.replace(report, seconds=108.0)
    assert slow.hint.startswith("hint: this took 108 s.")
    assert str(slow) == f"{report}\n\n{slow.hint}"
