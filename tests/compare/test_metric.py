"""Metrics and losses against formulas."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from tokennet.compare.metric import accuracy, classes, error, exact_match, squares


def logits_of(classes_, number):
    return torch.nn.functional.one_hot(torch.tensor(classes_), number).float()


def test_accuracy_counts_every_target_and_exact_match_whole_examples():
    answer = logits_of([[0, 1, 2], [2, 2, 2]], 3)
    target = torch.tensor([[0, 1, 2], [2, 0, 2]])
    assert accuracy.reduce(accuracy.values(answer, target)) == pytest.approx(5 / 6)
    assert exact_match.reduce(exact_match.values(answer, target)) == 0.5
    assert accuracy.reduce(accuracy.values(answer[:, 0], target[:, 0])) == 1.0


def test_error_is_the_mean_distance_whatever_the_shape():
    values = error.values(torch.tensor([[1.0], [4.0]]), torch.tensor([0.0, 2.0]))
    assert values.shape == (2,)
    assert error.reduce(values) == 1.5


def test_the_best_epoch_follows_the_direction_and_is_the_last_of_equals():
    assert accuracy.best([0.1, 0.9, 0.9, 0.2]) == 2
    assert error.best([0.1, 0.9, 0.1, 0.2]) == 2
    assert error.best([math.nan, 3.0]) == accuracy.best([math.nan, -3.0]) == 1


def test_figures_are_shown_with_three_digits_or_in_percent():
    assert accuracy.text(0.5) == "50.0"
    assert accuracy.text(0.5, 0.125) == "50.0 ± 12.5"
    assert error.text(123.4, 5.6) == "123 ± 6"
    assert error.text(0.0) == "0.000"
    assert error.text(math.inf) == "inf"
    assert accuracy.heading == "accuracy %"


def test_losses_are_one_for_each_example():
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(4, 5, 3, generator=generator)
    target = torch.randint(3, (4, 5), generator=generator)
    for row in range(4):
        expected = cross_entropy(output[row], target[row])
        assert classes(output, target)[row] == pytest.approx(float(expected), rel=1e-6)
    numbers = torch.randn(4, 5, generator=generator)
    expected = (output[..., 0] - numbers).square().mean(1)
    assert torch.equal(squares(output[..., :1], numbers), expected)
