"""The tasks of the library: inputs, targets, trivial models by formula, and the contract."""

import json
import os
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from tests.contracts.tasks import TaskContract
from tokennet import Tokens
from tokennet.compare import TASKS, Model, NetSpec, Width, load_task
from tokennet.compare.builders import cross_attention
from tokennet.compare.data import text_file
from tokennet.compare.metric import majority, median
from tokennet.compare.tasks import questions
from tokennet.compare.tasks.csl import skip_links
from tokennet.compare.tasks.digits import digit_images
from tokennet.compare.tasks.questions import ANSWERS, COLORS, WORDS
from tokennet.compare.tasks.sets import log_likelihood
from tokennet.compare.tasks.shakespeare import NGram
from tokennet.mixers import Convolution
from tokennet.positional import return_probabilities

DATA = os.environ.get("TOKENNET_DATA", "")
TEXT = "What is the city but the people? True, the people are the city.\n" * 60


def small(name, **changes):
    return TASKS[name](**{**TASKS[name].tiny, **changes})


@pytest.fixture(autouse=True)
def text(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENNET_DATA", str(write(tmp_path / "text.txt", TEXT)))


def write(path, text):
    path.write_text(text)
    return path


def registered():
    """Every task; those whose data set is downloaded need `TOKENNET_DATA`."""
    marks = {name: [pytest.mark.data] * bool(task.dataset) for name, task in TASKS.items()}
    return [pytest.param(name, marks=marks[name]) for name in TASKS]


class TestRegistered(TaskContract):
    @pytest.fixture(params=registered())
    def make(self, request, monkeypatch, cache):
        if TASKS[request.param].dataset:
            monkeypatch.setenv("TOKENNET_DATA", DATA)
        return partial(small, request.param)


def test_the_sample_of_a_text_is_drawn_a_character_at_a_time_from_the_last_window(tmp_path):
    task, generator = small("shakespeare"), torch.Generator().manual_seed(0)
    model = task.build(NetSpec("attention", "window"), task.config, Width(16, 16)).eval()
    with torch.no_grad():
        task.write_artifacts(model, NetSpec("attention", "window"), tmp_path)
    start = task.begin_of_test
    ids, on = task.ids[start : start + 16].tolist(), task.batch(torch.tensor([0]), "window").tokens
    for _ in range(200):
        scores = model(Tokens(torch.tensor(ids[-16:])[:, None], on.graph, on.pos))[-1]
        ids.append(int(torch.multinomial((scores / 0.8).softmax(-1), 1, generator=generator)))
    said = task.characters.decode(ids[16:])
    assert (tmp_path / "sample.txt").read_text().endswith(f"goes on:]{said}\n")


def test_copy_asks_for_the_symbols_after_the_silence():
    task = small("copy")
    batch = task.batch(torch.tensor([3]), "causal")
    ids = batch.tokens.z[0, :, 0].tolist()
    assert ids[:10] == batch.target[0].tolist() == task.target[3].tolist()
    assert ids[10:] == [8] * 11 + [9] + [8] * 10
    right = torch.nn.functional.one_hot(batch.target, 8) * 100.0
    silent = torch.zeros(1, 22, 8)
    assert task.loss(torch.cat([silent, right], dim=1), batch.target).item() < 1e-6
    wrong_at_the_end = torch.cat([right, silent], dim=1)
    assert task.loss(wrong_at_the_end, batch.target).item() == pytest.approx(np.log(8))
    assert task.baselines(0)["guess"] == {"accuracy": 0.125, "exact match": 0.125**10}
    assert len(TASKS["copy"]().pos) == 220


def test_the_window_of_copy_does_not_reach_back():
    task = TASKS["copy"](examples=8)
    reach = task.batch(torch.tensor([0]), "window").tokens.graph.reach(task.config.depth)
    assert not reach.dense()[-10:, :10].any()


@pytest.mark.parametrize("name", ["copy", "adding"])
def test_windows_of_long_sequences_reach_64_tokens_back(name):
    graph = TASKS[name](examples=8).on["window"]
    assert graph.neighbors(100).tolist() == list(range(36, 101))


@pytest.mark.parametrize("name", ["copy", "shakespeare"])
def test_temporal_convolutions_hear_the_first_token_and_no_later_one(name):
    task = small(name)
    net = task.build(NetSpec("tcn", "causal"), task.config, Width(8, 8)).double().eval()
    tokens = task.batch(torch.tensor([0]), "causal").tokens.to(torch.float64)
    embed, *others = net.layers
    z = embed(tokens).z.detach().requires_grad_()
    result = tokens.replace(z=z)
    for layer in others:
        result = layer(result)
    (last,) = torch.autograd.grad(result.z[0, -1].sum(), z, retain_graph=True)
    assert (last[0].abs().sum(-1) > 0).all()
    (middle,) = torch.autograd.grad(result.z[0, 5].sum(), z)
    assert middle[0, 6:].abs().max() == 0
    with pytest.raises(ValueError, match="graph must"):
        net(task.batch(torch.tensor([0]), "window").tokens.to(torch.float64))


def test_adding_adds_the_marked_numbers():
    task = small("adding")
    batch = task.batch(torch.arange(20), "causal")
    values, marks = batch.tokens.z.unbind(-1)
    assert (marks.sum(1) == 2).all()
    assert (marks[:, :6].sum(1) == 1).all()
    torch.testing.assert_close(batch.target, (values * marks).sum(1))
    only_the_last = torch.zeros(20, 12, 1)
    only_the_last[:, -1, 0] = batch.target
    assert task.loss(only_the_last, batch.target).max() == 0
    assert task.loss(only_the_last.flip(1), batch.target).min() > 0
    big = TASKS["adding"](steps=20, examples=4_000)
    assert big.baselines(0)["median"]["mean absolute error"] == pytest.approx(1 / 3, abs=0.03)


def test_sets_ask_for_the_largest_and_for_how_many_are_different():
    largest, unique = small("sets"), small("sets-unique")
    for number in range(20):
        assert largest.target[number] == max(largest.sets[number].flatten().tolist())
        assert unique.target[number] == len(set(unique.sets[number].flatten().tolist()))
    batch = largest.batch(torch.tensor([0, 1]), "self")
    assert batch.tokens.graph.num_edges == batch.tokens.num_tokens
    assert largest.batch(torch.tensor([0]), "full").tokens.graph.num_edges == (
        len(largest.sets[0]) ** 2
    )
    assert largest.predict(lambda given: given.target / 100, batch).tolist() == pytest.approx(
        batch.target.tolist()
    )
    assert largest.loss(batch.target[:, None] / 100, batch.target).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["sets", "sets-unique"])
def test_no_set_of_the_test_was_seen_in_training(name):
    task = TASKS[name](examples=2_000)
    splits = task.splits(0)
    train, test = (
        {tuple(sorted(task.sets[number].flatten().tolist())) for number in splits[split].tolist()}
        for split in ("train", "test")
    )
    assert len(splits["test"]) == 500
    assert not train & test


def test_trivial_models_by_hand():
    splits = {"train": torch.arange(3), "test": torch.arange(3, 5)}
    numbers = torch.tensor([0.0, 4.0, 5.0, 4.0, 7.0])
    assert median(numbers, splits) == {"median": {"mean absolute error": 1.5}}
    splits["test"] = torch.arange(3, 7)
    labels = torch.tensor([2, 2, 0, 2, 0, 0, 0])
    assert majority(labels, splits) == {"majority": {"accuracy": 0.25}}


def test_the_density_of_clusters_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    answer = torch.randn(3, 20, generator=generator)
    points = torch.randn(3, 7, 2, generator=generator)
    parts = answer.view(3, 4, 5)
    normal = torch.distributions.Independent(
        torch.distributions.Normal(parts[..., 1:3], parts[..., 3:].exp()), 1
    )
    shares = torch.distributions.Categorical(logits=parts[..., 0])
    mixture = torch.distributions.MixtureSameFamily(shares, normal)
    expected = mixture.log_prob(points.transpose(0, 1)).mean(0)
    torch.testing.assert_close(log_likelihood(answer, points), expected)
    padded = torch.cat([points, torch.full((3, 2, 2), torch.nan)], dim=1)
    torch.testing.assert_close(log_likelihood(answer, padded), expected)


def test_one_normal_distribution_is_the_best_of_one():
    task = small("sets-clusters")
    index = task.splits(0)["test"]
    answers = torch.zeros(len(index), 20)
    for row, number in enumerate(index.tolist()):
        points = task.sets[number]
        one = torch.tensor([0.0, *points.mean(0), *points.std(0, correction=0).log()])
        answers[row] = one.repeat(4)
    expected = task.baselines(0)["one normal"]["log likelihood"]
    assert float(log_likelihood(answers, task.target[index]).mean()) == pytest.approx(expected)
    assert float(log_likelihood(answers + 0.1, task.target[index]).mean()) < expected


def test_skip_links_are_alike_to_neighbors_and_not_to_walks():
    graphs = [skip_links(41, skip) for skip in (2, 3, 16)]
    for graph in graphs:
        dense = graph.dense()
        assert (dense.sum(0) == 4).all()
        assert torch.equal(dense, dense.T)
    codes = [return_probabilities(graph, 6) for graph in graphs]
    for code in codes:
        torch.testing.assert_close(code, code[:1].expand_as(code))
    assert codes[0][0, :3].tolist() == pytest.approx([0, 0.25, 6 / 64])  # triangles i, i+1, i+2
    assert codes[1][0, :3].tolist() == pytest.approx([0, 0.25, 0])
    assert len({tuple(code[0].tolist()) for code in codes}) == 3


def test_message_passing_gives_every_skip_link_graph_the_same_answer():
    task = small("csl")
    net = NetSpec("gin", "skips")
    built = task.build(net, task.config, Width(8, 8)).double()
    index = torch.arange(len(task.target))
    batch = task.batch(index, "skips")
    answer = built(batch.tokens.to(torch.float64))
    torch.testing.assert_close(answer, answer[:1].expand_as(answer))
    walks = built(task.batch(index, "skips+walks").tokens.to(torch.float64))
    of_class = walks[::5]
    assert torch.pdist(of_class).min() > 1e-6
    assert task.baselines(0) == {"majority": {"accuracy": 0.1}}


def test_trigrams_are_smoothed_as_witten_and_bell_say():
    ids = np.array([0, 1, 2, 0, 1, 2, 0, 1, 1])
    model = NGram(ids, 4, 3)
    for context in ([0, 1], [2, 0], [3, 3], [1, 1]):
        last = [model.probabilities(np.array([*context, c]))[2] for c in range(4)]
        assert sum(last) == pytest.approx(1)
        assert min(last) > 0
    one = {c: (n + 3 / 4) / (9 + 3) for c, n in enumerate([3, 4, 2, 0])}
    two = (2 + 2 * one[2]) / (3 + 2)  # after 1: 2 twice, 1 once
    three = (2 + 2 * two) / (3 + 2)  # after 0 1: 2 twice, 1 once
    assert model.probabilities(np.array([0, 1, 2])).tolist() == pytest.approx(
        [one[0], (3 + one[1]) / (3 + 1), three]
    )
    assert model.bits(np.array([0]))[0] == pytest.approx(-np.log2(one[0]))
    assert model.probabilities(np.array([], dtype=int)).tolist() == []


def test_the_next_character_is_asked_for():
    task = small("shakespeare")
    batch = task.batch(torch.tensor([0, 5]), "window")
    read = task.characters.decode(batch.target)
    assert read == [TEXT[1:17], TEXT[6:22]]
    assert batch.tokens.z[1, :, 0].tolist() == task.ids[5:21].tolist()
    assert not batch.tokens.graph.dense()[0, 1:].any()
    splits = task.splits(3)
    assert splits["train"].max() + 16 < task.begin_of_test == splits["test"][0]
    assert len({int(task.splits(seed)["train"][0]) for seed in range(5)}) > 1
    uniform = torch.zeros(2, 16, task.characters.vocab_size)
    bits = task.metrics[0].values(uniform, batch.target)
    expected = torch.full((2, 16), np.log2(task.characters.vocab_size)).float()
    torch.testing.assert_close(bits, expected)


def test_the_trigram_is_asked_for_the_characters_the_nets_are_asked_for():
    task = small("shakespeare")
    cut, ids, test = task.begin_of_test, task.ids.numpy(), task.splits(0)["test"].tolist()
    model, own = NGram(ids[:cut], task.characters.vocab_size, 3), []
    for first in test:
        for last in range(first + 1, first + 17):  # from two characters, from one at the start
            own.append(model.bits(ids[max(first, last - 2) : last + 1])[-1])
    assert task.baselines(0)["trigram"]["bits per character"] == pytest.approx(np.mean(own))


def test_any_text_will_do_and_a_short_one_is_refused(monkeypatch, tmp_path):
    path = write(tmp_path / "own.txt", TEXT)
    monkeypatch.setenv("TOKENNET_DATA", str(path))
    assert "".join(sorted(set(TEXT))) == load_task("shakespeare", TASKS).characters.alphabet
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("TOKENNET_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="must be a text or hold the file here/input.txt, got"):
        text_file("here", "https://nowhere")
    own = write(tmp_path / "here" / "input.txt", "text")
    assert text_file("here", "https://nowhere") == own
    with pytest.raises(ValueError, match="the text must have at least 2580 characters, got 64"):
        TASKS["shakespeare"](path=write(path, TEXT[:64]))


def test_a_text_that_cannot_be_downloaded_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("TOKENNET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(OSError, match="plays could not be downloaded .* set TOKENNET_DATA"):
        text_file("plays", (tmp_path / "nothing").as_uri())
    source = write(tmp_path / "source.txt", "text")
    assert text_file("plays", source.as_uri()).read_text() == "text"
    source.unlink()
    assert text_file("plays", source.as_uri()).read_text() == "text"


def test_sunspots_are_forecast_from_their_past():
    task = small("sunspots")
    assert (task.years[0], task.years[-1], len(task.numbers)) == (1700, 2008, 309)
    splits = task.splits(0)
    batch = task.batch(splits["test"][:1], "causal")
    start = int(splits["test"][0])
    assert task.years[start + 44] == 1950
    ahead, past = task.numbers[start + 44 : start + 55], task.numbers[start : start + 44]
    mean, deviation = past.mean(), past.std()
    assert batch.target[0, :11].tolist() == ahead.tolist()
    assert batch.tokens.z[0, :, 0].tolist() == pytest.approx(
        ((past - mean) / deviation).tolist(), abs=1e-5
    )
    perfect = ((ahead - mean) / deviation).expand(1, 44, 11)
    assert task.loss(perfect, batch.target).item() == pytest.approx(0, abs=1e-6)
    answer = task.predict(lambda _: perfect, batch)
    assert task.metrics[0].values(answer, batch.target).max().item() == pytest.approx(0, abs=1e-4)
    assert task.years[splits["train"][-1] + 54] == 1899
    assert task.years[splits["val"][-1] + 54] == 1949
    last = np.mean([
        abs(task.numbers[i + 43] - task.numbers[i + 44 + k])
        for i in splits["test"].tolist() for k in range(11)
    ])  # fmt: skip
    assert task.baselines(0)["persistence"]["mean absolute error"] == pytest.approx(last, rel=1e-5)


def test_sorting_is_asked_step_by_step():
    task = small("sort")
    batch = task.batch(torch.tensor([0, 1]), "full")
    assert torch.equal(batch.target, task.digits[:2].sort(1).values)
    assert batch.tokens.z[0, :, 0].tolist() == [10, *batch.target[0, :-1].tolist()]
    assert torch.equal(batch.source.z[..., 0], task.digits[:2])
    net = task.build(NetSpec("attention", "full"), task.config, Width(16, 16)).double().eval()
    for parameter in net.parameters():  # far from even, so that digits are told apart
        torch.nn.init.normal_(parameter, std=0.5)
    batch = task.batch(torch.arange(20), "full")
    batch = replace(batch, tokens=batch.tokens.to(torch.float64))
    answer, encoded = torch.full((20, 0), 0), []
    for place in range(4):
        said = torch.nn.functional.pad(answer, (1, 3 - place), value=10)[..., None]
        scores = net(batch.source, batch.tokens.replace(z=said))[:, place]
        answer = torch.cat([answer, scores.argmax(-1)[:, None]], 1)
    net.encoder.register_forward_hook(lambda *given: encoded.append(1))
    assert torch.equal(task.predict(Model(net), batch).argmax(-1), answer)
    assert len(answer.unique()) > 3
    assert encoded == [1]
    digits, right = task.digits[task.splits(0)["test"]], task.target[task.splits(0)["test"]]
    same = (digits == right).float().mean()
    assert task.baselines(0)["as given"]["accuracy"] == pytest.approx(float(same))


def test_the_sample_of_sorting_marks_the_wrong_answers(tmp_path, monkeypatch):
    task = small("sort")
    net = task.build(NetSpec("mean", "full"), task.config, Width(16, 8)).eval()
    answers = torch.nn.functional.one_hot(task.target[task.splits(0)["test"]], 10).float()
    answers[0] = answers[0].roll(1, -1)
    monkeypatch.setattr(type(task), "predict", lambda self, model, batch: answers)
    task.write_artifacts(net, NetSpec("mean", "full"), tmp_path)
    _, first, *others = (tmp_path / "sample.txt").read_text().splitlines()
    assert first.endswith("  wrong")
    assert others
    assert not any("wrong" in line for line in others)


@pytest.mark.parametrize(("steps", "blocks"), [(41, 4), (40, 4), (61, 4), (62, 5)])
def test_temporal_convolutions_are_no_deeper_than_the_first_token_needs(steps, blocks):
    task = TASKS["adding"](steps=steps, examples=8)  # reach 4 (2^blocks - 1) before the last token
    net = task.build(NetSpec("tcn", "causal"), task.config, Width(8, 8))
    assert sum(isinstance(part, Convolution) for part in net.modules()) == blocks


def test_words_weights_over_patches_sum_to_one():
    task = small("questions")
    net = task.build(NetSpec("mean", "grid"), task.config, Width(16, 8))
    batch = task.batch(torch.arange(3), "grid")
    weights = cross_attention(lambda: batch.run(net), net)
    assert weights.shape == (3, 4, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))


def test_the_picture_shows_the_attention_of_the_last_word(tmp_path, monkeypatch):
    task, shown = small("questions"), []
    of_word = torch.arange(4.0)[None, :, None].expand(2, 4, 9)
    monkeypatch.setattr(questions, "cross_attention", lambda run, net: of_word)
    draw = Axes.imshow

    def imshow(panel, image, *args, **options):
        shown.extend([torch.as_tensor(image)] if options.get("cmap") == "magma" else [])
        return draw(panel, image, *args, **options)

    monkeypatch.setattr(Axes, "imshow", imshow)
    net = task.build(NetSpec("mean", "grid"), task.config, Width(16, 8)).eval()
    task.write_artifacts(net, NetSpec("mean", "grid"), tmp_path)
    assert [weight.unique().tolist() for weight in shown] == 2 * [[3.0]]


def test_boxes_and_clusters_are_drawn_where_they_are(tmp_path, monkeypatch):
    drawn, limits, add = [], [], Axes.add_patch
    monkeypatch.setattr(Axes, "add_patch", lambda panel, one: drawn.append(one) or add(panel, one))
    monkeypatch.setattr(Axes, "set", lambda panel, **given: limits.append(given))
    task = small("detect")
    number = int(task.splits(0)["test"][0])
    first = task.target[number, 0]
    answer = torch.zeros(8, 1, 15)
    answer[..., int(first[0])], answer[..., 11:] = 10.0, first[1:]
    monkeypatch.setattr(type(task), "guesses", lambda self, output: answer)
    net = task.build(NetSpec("mean", "grid"), task.config, Width(16, 8)).eval()
    task.write_artifacts(net, NetSpec("mean", "grid"), tmp_path)
    (x, y), w, h = drawn[0].get_xy(), drawn[0].get_width(), drawn[0].get_height()
    ink = task.images[number, 0][round(y + 0.5) :, round(x + 0.5) :][: round(h), : round(w)]
    assert ink.shape == (round(h), round(w))
    assert ink.mean() > 0.1
    task = small("sets-clusters")
    net = task.build(NetSpec("mean", "self", "mean"), task.config, Width(16, 8)).eval()
    task.write_artifacts(net, NetSpec("mean", "self", "mean"), tmp_path)
    assert len(limits) == 4
    assert all(one["xlim"] == one["ylim"] == (-5, 5) for one in limits)


def test_questions_have_the_answer_that_is_in_the_image():
    task = small("questions")
    kinds = set()
    for image, words, answer in zip(task.images, task.words, task.target, strict=True):
        question = " ".join(WORDS[word] for word in words.tolist())
        said = ANSWERS[answer]
        cells = image.unfold(1, 8, 8).unfold(2, 8, 8).flatten(1, 2)  # (3, 9, 8, 8)
        present = [cells[:, place] for place in range(9) if cells[:, place].any()]
        colors = []
        for cell in present:
            brightest = cell[:, cell.sum(0) == cell.sum(0).max()][:, 0]
            shade = brightest / brightest.max()
            colors.append(min(COLORS, key=lambda c: (torch.tensor(COLORS[c]) - shade).norm()))
        kinds.add(question.split()[1])
        if question == "how many are there":
            assert said == ("two", "three", "four")[len(present) - 2]
        elif question.startswith("which color"):
            assert said in colors
        else:
            assert question.split()[-1] in colors
    assert kinds == {"digit", "color", "many"}


def test_no_handwritten_digit_is_in_both_pools():
    pools = digit_images()
    for train_of, test_of in zip(pools["train"], pools["test"], strict=True):
        assert torch.cdist(train_of.flatten(1), test_of.flatten(1)).min() > 0
    assert sum(map(len, pools["train"])) + sum(map(len, pools["test"])) == 1797


def test_results_of_the_tasks_can_be_written(tmp_path):
    from tokennet.compare import Budget, compare

    task = small("detect")
    result = compare(task, nets=["mean@grid"], budget=Budget(epochs=1), out=tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert list(written["baselines"][0]) == ["name", "mAP"]
    assert written["nets"][0]["declared_relabeling"] == "S_n"
    assert tmp_path / "boxes.png" in result.files


def test_statsmodels_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.datasets", None)
    with pytest.raises(ImportError, match=r'statsmodels .* pip install "tokennet\[tasks\]"'):
        TASKS["sunspots"]()


def test_a_set_of_another_kind_is_one_set():
    batch = small("sets").batch(torch.tensor([0]), "full")
    assert isinstance(batch.tokens, Tokens)
    assert batch.tokens.graph.num_graphs == 1
