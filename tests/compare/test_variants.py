"""Options in the names of nets: what is built of them, and how they are trained."""

import pytest
import torch
from torch import nn

from tests.compare.tasks_for_tests import Majority
from tokennet import Attention
from tokennet.compare import TASKS, Budget, NetSpec, TrainConfig, Width, compare, load_run
from tokennet.compare.variants import EXPERTS, NORMS, SCORES, WORDS, read_options, written
from tokennet.nets import MixtureOfExperts


def built(text, **config):
    task = Majority()
    spec = task.parse(text)
    config = spec.config_of(TrainConfig(num_heads=2, **config))
    return spec.build(task, config, Width(8, 12)), spec


@pytest.mark.parametrize("score", SCORES)
def test_scores_of_attention(score):
    net, spec = built(f"attention:{score}@full")
    found = [part.score for part in net.modules() if isinstance(part, Attention)]
    assert [type(each) for each in found] == [SCORES[score]] * 2
    assert str(spec) == f"attention:{score}@full"
    assert built(f"attention:score={score}@full")[1] == spec


@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_the_blocks(norm):
    net, _ = built(f"mean:{norm}@ring")
    blocks = [part for part in net.modules() if isinstance(part, NORMS[norm])]
    assert len(blocks) >= 4
    post, _ = built("mean:post@ring")
    assert {type(layer).__name__ for layer in post.layers} >= {"PostNorm"}


def test_experts_in_place_of_the_mlps():
    net, _ = built("attention:moe@full")
    found = [part for part in net.modules() if isinstance(part, MixtureOfExperts)]
    assert [len(part.experts) for part in found] == [EXPERTS, EXPERTS]
    assert found[0].experts[0][0].out_features == 12
    few, _ = built("attention:experts=2@full")
    assert sum(p.numel() for p in few.parameters()) < sum(p.numel() for p in net.parameters())


def test_options_of_training_are_of_this_net_alone():
    _, spec = built("mean:depth=3:lr=0.5:heads=4@ring")
    config = spec.config_of(TrainConfig(epochs=7))
    assert (config.depth, config.lr, config.num_heads, config.epochs) == (3, 0.5, 4, 7)
    assert NetSpec("mean", "ring").config_of(config) == config


@pytest.mark.parametrize("word", WORDS)
def test_names_are_read_as_they_are_written(word):
    options = read_options("attention", [word, "depth=2", "lr=0.001"])
    assert read_options("attention", written(options).split(":")[1:]) == options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attention:cosin@full", "option must be one of .*did you mean cosine"),
        ("attention:dept=3@full", "option must be one of .*did you mean depth"),
        ("attention:norm=bath@full", "norm must be one of layer, batch, .*did you mean batch"),
        ("attention:depth=x@full", "option depth must be a number, got 'x'"),
        ("attention:depth=0.5@full", "depth must be an int, got 0.5"),
        ("attention:lr=-1@full", "lr must be at least 0, got -1"),
        ("attention:experts=1@full", "experts must be at least 2, got 1"),
        ("attention:lr=1:lr=2@full", "option lr must be given once, got 'lr=2' too"),
        ("mean:cosine@full", "option score is of attention, got 'cosine' for mean"),
        ("atention:cosine@full", "mixer must be one of .*did you mean attention"),
    ],
)
def test_a_wrong_option_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        Majority().parse(text)


def test_the_load_of_experts_is_balanced_in_training(tmp_path, monkeypatch):
    nets, budget = ["attention:moe@full", "mean@ring"], Budget(epochs=2)
    with_balance = compare(Majority(), nets=nets, seeds=1, budget=budget, out=tmp_path / "a")
    monkeypatch.setattr("tokennet.compare.loop.BALANCE", 10.0)
    more = compare(Majority(), nets=nets, seeds=1, budget=budget, out=tmp_path / "b")
    experts, others = zip(with_balance.runs, more.runs, strict=True)
    assert experts[0].curves != experts[1].curves
    assert others[0].curves == others[1].curves


def test_variants_are_compared_and_loaded(tokennet, tmp_path):
    nets = "attention:cosine@full,attention:depth=1@full,none:rms"
    task = "tests.compare.tasks_for_tests:Majority"
    quick = ("--nets", nets, "--epochs", 1, "--seeds", 1, "--workers", 1, "--out", tmp_path)
    done = tokennet("compare", task, *quick)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("attention:cosine@full", "none:rms@full"))
    run = load_run(tmp_path, "attention:depth=1@full")
    torch.testing.assert_close(
        run.answers["answer"], run.predict()[run.task.splits(0)["test"].argsort()]
    )
    run.save_pretrained(tmp_path / "saved")


def test_the_recurrent_nets_have_names():
    task = TASKS["copy"](steps=4, examples=8)
    for cell in ("rnn", "gru", "lstm"):
        net = task.build(task.parse(f"{cell}@causal"), task.config, Width(8, 8))
        assert any(isinstance(part, nn.RNNBase) for part in net.modules())
