"""Errors under relabeling and shuffling as numbers: relative, and NaN wherever an output is."""

import math

import pytest
import torch

from tokennet import Cycle, Full, Tokens, check
from tokennet.testing import relabeling_error, shuffling_error


def by_index(tokens):
    return tokens.z * torch.arange(1.0, tokens.num_tokens + 1)[:, None].to(tokens.z)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_errors_are_relative_to_the_output(factor):
    tokens = Tokens(torch.randn(5, 3, dtype=torch.float64), Cycle(5))
    for error in (relabeling_error, shuffling_error):
        wanted = error(by_index, tokens)
        assert wanted > 0.1
        assert error(lambda tokens: factor * by_index(tokens), tokens) == pytest.approx(wanted)


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_a_nan_of_any_run_comes_out(bad):
    """In `max` a NaN can hide behind a number that comes before or after it."""
    calls = []

    def fails_once(tokens):
        calls.append(tokens)
        return by_index(tokens) * (math.nan if len(calls) == 1 + bad else 1.0)

    assert math.isnan(relabeling_error(fails_once, Tokens(torch.randn(5, 3), Full(5))))
    assert len(calls) == 4


def test_a_break_in_a_quiet_channel_is_not_hidden_by_rounding_in_a_loud_one():
    def model(tokens):
        loud = tokens.z.sum(-2, keepdim=True) * 1e9 + tokens.z  # its rounding is 1e9 times eps
        quiet = tokens.z * (1 + 1e-7 * by_index(tokens))
        return torch.cat([loud, quiet], -1)

    report = check(model, Tokens(torch.randn(6, 2)), laws=["node_permutation"])
    assert report.reports["node_permutation"].verdict.name == "BROKEN"
