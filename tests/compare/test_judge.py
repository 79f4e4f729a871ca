"""Whether nets differ: intervals that are honest, corrected for pairs, on what is shared."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from tests.compare.tasks_for_tests import Majority, a_run, shown
from tokennet.compare import Budget, Metric, compare
from tokennet.compare.judge import Pair, calibration_error, holm, interval, is_better, judge, kappa
from tokennet.compare.metric import accuracy
from tokennet.compare.report import judged, summarize

EXAMPLES = 500


def simulated(seeds, deviation, difference=0.0, *, generator):
    """Answers of two nets that differ by `difference` points; as the run files hold them."""
    random = generator.random
    difficulty = generator.beta(8, 1.5, size=EXAMPLES)
    found = {}
    for number, net in enumerate(("a", "b")):
        own = difficulty + generator.normal(0, 0.05, size=EXAMPLES) + number * difference / 100
        found[net] = []
        for _ in range(seeds):
            chance = own + generator.normal(0, deviation / 100)
            right = torch.from_numpy(random(EXAMPLES) < chance)
            found[net].append({"index": torch.arange(EXAMPLES), "accuracy": right.double()})
    return found


def share_told(seeds, deviation, difference, runs):
    generator = np.random.default_rng(0)
    told = 0
    for _ in range(runs):
        answers = simulated(seeds, deviation, difference, generator=generator)
        (pair,) = judge(answers, accuracy)
        told += pair.is_told
    return told / runs


@pytest.mark.parametrize(("seeds", "deviation"), [(2, 2.0), (5, 0.0)])
def test_equal_nets_are_seldom_told_apart(seeds, deviation):
    assert share_told(seeds, deviation, 0.0, 200) <= 0.09


@pytest.mark.sweep
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("deviation", [0.0, 0.5, 2.0])
def test_of_2000_pairs_of_equal_nets_few_are_told_apart(seeds, deviation):
    assert share_told(seeds, deviation, 0.0, 2_000) <= 0.065


def test_a_true_difference_is_found():
    assert share_told(10, 0.5, 3.0, 60) > 0.6
    assert share_told(10, 0.5, 6.0, 20) == 1.0


def test_one_seed_tells_nothing():
    answers = simulated(1, 0.0, 30.0, generator=np.random.default_rng(0))
    (pair,) = judge(answers, accuracy)
    assert (pair.p, pair.low, pair.is_told) == (None, None, False)
    assert pair.difference == pytest.approx(-0.3, abs=0.15)


def test_seeds_alone_are_a_t_test_and_examples_alone_a_normal():
    differences = [0.3, 0.1, 0.2, 0.4]
    mean, low, high, p = interval(differences, 0.0, 1_000)
    expected = stats.ttest_1samp(differences, 0)
    assert (mean, p) == (pytest.approx(0.25), pytest.approx(expected.pvalue))
    told = expected.confidence_interval()
    assert (low, high) == (pytest.approx(told.low), pytest.approx(told.high))
    _, low, high, p = interval([0.2, 0.2], 0.01, 10**9)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.1, rel=1e-3)
    assert p == pytest.approx(2 * stats.norm.sf(2), rel=1e-3)
    assert interval([0.0, 0.0], 0.0, 5)[3] == 1.0
    assert interval([5.0, 5.0001], 0.0, 5)[3] < 1e-4


def test_resampling_agrees_with_the_formula_of_means():
    answers = simulated(3, 1.0, 2.0, generator=np.random.default_rng(0))
    (by_formula,) = judge(answers, accuracy)
    resampled = Metric("accuracy", accuracy.values, reduce=lambda rows: float(rows.mean()))
    (by_bootstrap,) = judge(answers, resampled)
    assert by_bootstrap.difference == pytest.approx(by_formula.difference)
    width = by_formula.high - by_formula.low
    assert by_bootstrap.high - by_bootstrap.low == pytest.approx(width, rel=0.1)


def test_test_examples_of_each_seed_count_with_the_seed_alone():
    answers = simulated(4, 1.0, 2.0, generator=np.random.default_rng(0))
    for runs in answers.values():
        for number, run in enumerate(runs):
            run["index"] = run["index"] + number
    (pair,) = judge(answers, accuracy)
    pairs = zip(*answers.values(), strict=True)
    by_seed = [float(a["accuracy"].mean() - b["accuracy"].mean()) for a, b in pairs]
    assert pair.p == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)


@pytest.mark.parametrize("seeds", [1, 4])
def test_a_net_that_guesses_is_no_better_than_the_guess(seeds):
    runs = simulated(seeds, 0.0, generator=np.random.default_rng(0))["a"]
    score = float(torch.stack([run["accuracy"] for run in runs]).mean())
    assert not is_better(runs, score - 0.005, accuracy)
    assert is_better(runs, score - 0.1, accuracy)
    assert not is_better(runs, score + 0.1, accuracy)
    smaller = Metric("accuracy", accuracy.values, higher_is_better=False)
    assert is_better(runs, score + 0.1, smaller)


def test_several_pairs_are_corrected():
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([None, 0.02]) == [None, 0.02]
    generator = np.random.default_rng(0)
    answers = simulated(3, 0.5, 1.0, generator=generator)
    answers["c"] = simulated(3, 0.5, 30.0, generator=generator)["b"]
    pairs = judge(answers, accuracy)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    (alone,) = judge({name: answers[name] for name in ("a", "b")}, accuracy)
    assert pairs[0].p >= alone.p
    assert (pairs[0].low, pairs[0].high) == (alone.low, alone.high)


def test_kappa_is_that_of_sklearn():
    a, b = torch.randint(4, (50,)), torch.randint(4, (50,))
    b[:30] = a[:30]
    assert kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert kappa(a, a) == pytest.approx(1)
    assert kappa(torch.zeros(5).long(), torch.zeros(5).long()) is None


def test_the_calibration_error_is_the_gap_of_confidence_and_accuracy():
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.35, 0.65]]))
    run = {"answer": logits, "target": torch.tensor([0, 1, 1, 0]), "index": torch.arange(4)}
    # Two of confidence 0.9, half right; one of 0.7 that is right; one of 0.65 that is wrong.
    expected = 2 / 4 * abs(0.9 - 0.5) + 1 / 4 * abs(0.7 - 1) + 1 / 4 * abs(0.65 - 0)
    assert calibration_error([run]) == pytest.approx(expected, abs=1e-6)
    assert calibration_error([{**run, "target": torch.rand(4)}]) is None


def test_a_comparison_is_judged_and_says_so(tokennet, tmp_path):
    task = "tests.compare.tasks_for_tests:Majority"
    done = tokennet("compare", task, "--seeds", 2, "--epochs", 1, "--workers", 1, "--out", tmp_path)
    text = " ".join(done.stdout.split())
    assert "n = 8 test examples, 2 seeds, 1 pairs" in text
    assert "With 2 seeds these cannot be told apart: attention@full and mean@ring." in text
    stored = json.loads((tmp_path / "results.json").read_text())
    result = compare(Majority(), seeds=2, budget=Budget(epochs=1), out=tmp_path)
    assert [Pair(**pair) for pair in stored["pairs"]] == result.verdicts.pairs
    assert stored["calibration"] == result.verdicts.calibration
    means = [row.score for row in result.rows]
    assert result.verdicts.pairs[0].difference == pytest.approx(means[0] - means[1])
    done = tokennet("compare", task, "--seeds", 1, "--epochs", 1, "--out", tmp_path)
    assert "One seed: which net is better cannot be told" in " ".join(done.stdout.split())


def test_the_table_is_of_differences_to_the_best_net():
    generator = np.random.default_rng(0)
    answers = simulated(5, 0.2, 25.0, generator=generator)
    pairs = judge(answers, accuracy)
    runs = [
        a_run(net=net, seed=seed, scores={"accuracy": float(run["accuracy"].mean())})
        for net, of_net in answers.items()
        for seed, run in enumerate(of_net)
    ]
    text = shown(judged(pairs, summarize(runs), accuracy, {}))
    (line,) = [line for line in text.splitlines() if line.startswith("│ a ")]
    assert f"{100 * pairs[0].difference:+.3g} [" in line
    assert "p = " in line
    assert "All pairs are told apart." in text
    assert not math.isnan(pairs[0].p)
