"""The hand-built model of masking and pair features, and the same in layers: exactly equal."""

import random
import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "examples" / "masking_and_pair_features.py"


@pytest.fixture(scope="module")
def model():
    return runpy.run_path(str(SCRIPT))


def after_ran(model, votes, words):
    row = votes[words.index("ran")]
    return [float(row[model["WORDS"].index(word)]) for word in ("down", "please")]


@pytest.mark.parametrize("way", ["by_features", "by_matrices", "by_layers"])
def test_votes_are_4_against_5_and_after_masking_0_against_1(model, way):
    program, battery = model["SENTENCES"]
    assert " ".join(program) == "check the program log and find out whether it ran please"
    assert " ".join(battery) == "check the battery log and find out whether it ran down please"
    assert after_ran(model, model[way](program, False), program) == [4, 5]
    assert after_ran(model, model[way](battery, False), battery) == [5, 4]
    assert after_ran(model, model[way](program, True), program) == [0, 1]
    assert after_ran(model, model[way](battery, True), battery) == [1, 0]
    for words in (program, battery):
        others = [place for place, word in enumerate(words) if word != "ran"]
        assert not model[way](words, True)[others].any()


@pytest.mark.parametrize("masked", [False, True])
def test_the_three_agree_exactly_on_any_different_words_after_the_one_that_decides(model, masked):
    draw = random.Random(0)
    fillers = [word for word in model["WORDS"] if word not in ("program", "battery")]
    seen = torch.zeros(0)
    for _ in range(40):
        words = draw.sample(fillers, k=draw.randint(0, len(fillers)))
        words = [draw.choice(["program", "battery"]), *words]
        votes = model["by_features"](words, masked)
        assert torch.equal(model["by_matrices"](words, masked), votes)
        assert torch.equal(model["by_layers"](words, masked), votes)
        seen = torch.cat([seen, votes.flatten()])
    assert seen.unique().numel() >= (2 if masked else 5)


def test_softmax_shares_one_vote_among_the_words_that_the_mask_leaves(model):
    words = ["check", "the", "battery", "program", "ran"]
    assert after_ran(model, model["by_matrices"](words, True), words) == [1, 1]
    assert after_ran(model, model["by_layers"](words, True), words) == [0.5, 0.5]


@pytest.mark.parametrize("part", ["query", "key", "value", "out"])
def test_every_matrix_of_the_attention_matters(model, part):
    words = model["SENTENCES"][0]
    mixer = model["attention_by_mask"]()
    tokens = model["as_tokens"](words)
    votes = model["by_features"](words, True)
    with torch.no_grad():
        assert torch.equal(model["language_model"](mixer)(tokens).z, votes)
        getattr(mixer, part).weight.mul_(-1)
        assert not torch.equal(model["language_model"](mixer)(tokens).z, votes)


def test_the_script_tells_the_story(model, capsys):
    model["main"]()
    told = capsys.readouterr().out
    for line in ("down 4, please 5", "down 5, please 4", "down 0, please 1", "down 1, please 0"):
        assert line in told
    assert told.rstrip().endswith("agree exactly on all 598 votes.")
