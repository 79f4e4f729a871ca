"""Generation: with and without a cache, alone and in batches, by sampling and by beam search."""

import itertools

import pytest
import torch
from torch import nn

from tokennet import (
    Attention,
    Causal,
    Convolution,
    Edges,
    Full,
    LinearAttention,
    Residual,
    Tokens,
    TokenWise,
    Window,
)
from tokennet.mixers import Recurrence
from tokennet.models import bert, clip, create_model, detr, gpt, transformer
from tokennet.nets import (
    BatchNorm,
    BlockConfig,
    Decoder,
    Embedding,
    EncoderDecoder,
    Sampling,
    TokenReadout,
    WithGraph,
    mask_tokens,
    mlp,
    shift_right,
)
from tokennet.nets.compose import complete
from tokennet.nets.decoder import _repeated
from tokennet.positional import SinusoidalEncoding
from tokennet.testing import assert_causal

VOCAB = 11
GRAPHS = {"causal": Causal, "window": lambda n: Causal(n) & Window(n, 3)}


def language_model(graph=Causal, vocab=VOCAB, **options):
    sizes = {"dim": 16, "depth": 2, "num_heads": 2, "max_length": 24, **options}
    net = gpt(vocab, graph=graph, **sizes).double()
    with torch.no_grad():
        for parameter in net.parameters():  # far from even, so that ids are told apart
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def translator(**options):
    sizes = {"dim": 16, "depth": 2, "num_heads": 2, **options}
    return transformer(VOCAB, **sizes).double()


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("how", [{}, {"temperature": 0.9, "top_k": 5}, {"num_beams": 3}], ids=str)
def test_with_the_cache_as_without(graph, how):
    net, prompt = language_model(GRAPHS[graph]), torch.randint(0, VOCAB, (3, 4))

    def completed(cache):
        generator = torch.Generator().manual_seed(1)
        return net.generate(prompt, 9, use_cache=cache, generator=generator, **how)

    assert torch.equal(completed(True), completed(False))
    assert torch.equal(completed(True)[:, :4], prompt)
    assert completed(True).shape == (3, 13)


MIXERS = {
    "attention": lambda: Attention(8, 2),
    "causal convolution": lambda: Convolution(8, 3, causal=True),
    "gru of 2": lambda: Recurrence(8, "gru", num_layers=2),
    "lstm": lambda: Recurrence(8, "lstm", num_layers=3),
    "linear": lambda: LinearAttention(8, 2),
    "performer": lambda: LinearAttention(8, 2, features="softmax"),
}


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("mixer", MIXERS)
def test_beams_with_the_cache_are_those_without(mixer, beams):
    torch.manual_seed(2)
    layers = [Residual(MIXERS[mixer]()), Residual(TokenWise(mlp(8)))]
    net = Decoder([Embedding(VOCAB, 8), *layers], TokenReadout(8, VOCAB)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    prompt = torch.randint(0, VOCAB, (2, 3))
    cached, whole = (
        net.generate(prompt, 8, num_beams=beams, use_cache=cache) for cache in (True, False)
    )
    assert torch.equal(cached, whole)


def test_a_net_that_cannot_step_says_what_to_do():
    layers = [Embedding(VOCAB, 8), WithGraph(complete), Residual(Attention(8, 2))]
    net = Decoder(layers, TokenReadout(8, VOCAB))
    with pytest.raises(
        TypeError, match="WithGraph does not support incremental decoding\n.*use_cache=False"
    ):
        net.generate([1, 2], 3)
    assert net.generate([1, 2], 3, use_cache=False).shape == (5,)


def test_a_negative_length_is_refused():
    with pytest.raises(ValueError, match="max_new_tokens must be at least 0, got -1"):
        language_model().generate([1, 2], -1)
    assert language_model().generate([1, 2], 0).tolist() == [1, 2]


def test_of_equal_scores_no_more_than_k_are_drawn_from():
    probabilities = Sampling(1.0, top_k=2).probabilities(torch.tensor([[1.0, 3.0, 3.0, 3.0]]))
    assert (probabilities > 0).sum() == 2
    assert probabilities.sum() == 1


def test_the_cache_runs_each_token_once(monkeypatch):
    net, seen = language_model(), []
    embedding = net.layers[0]
    transform = embedding.transform
    monkeypatch.setattr(
        embedding, "transform", lambda tokens: seen.append(tokens.num_tokens) or transform(tokens)
    )
    net.generate([1, 2, 3, 4], 5)
    assert seen == [4, 1, 1, 1, 1]


def test_greedy_is_the_likeliest_each_time():
    net, ids = language_model(), torch.tensor([1, 2])
    for _ in range(5):
        ids = torch.cat([ids, net(ids)[-1].argmax()[None]])
    assert torch.equal(net.generate(torch.tensor([1, 2]), 5), ids)


def test_prompts_of_any_length_are_completed_as_alone():
    net = language_model()
    prompts = [[1, 2, 3], [4], [5, 6, 7], [8, 9]]
    together = net.generate(prompts, 6)
    for prompt, ids in zip(prompts, together, strict=True):
        assert torch.equal(ids, net.generate(prompt, 6))


def test_stopping():
    net = language_model()
    free = net.generate([[1], [2], [3]], 8)
    stop = int(free[1][4])
    stopped = net.generate([[1], [2], [3]], 8, eos_token_id=stop)
    for long, short in zip(free, stopped, strict=True):
        hits = (long[1:] == stop).nonzero().flatten()
        end = len(long) if not len(hits) else 2 + int(hits[0])
        assert torch.equal(short, long[:end])
    rows = net.generate(torch.tensor([[1], [2], [3]]), 8, eos_token_id=[stop])
    for row, short in zip(rows, stopped, strict=True):
        assert torch.equal(row[: len(short)], short[: len(row)])
        assert (row[len(short) :] == stop).all()


def test_draws_have_the_probabilities():
    scores = torch.randn(1, 6, dtype=torch.float64)
    sampling = Sampling(0.8, top_k=4, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount(sampling(scores.expand(20_000, -1)), minlength=6) / 20_000
    assert (drawn - sampling.probabilities(scores)[0]).abs().max() < 0.015
    assert (drawn > 0).sum() == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\]"),
        ({"num_beams": 2, "temperature": 1.0}, "num_beams must be 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        language_model().generate([1], 2, **options)


def test_prompts_that_cannot_be():
    net = language_model()
    with pytest.raises(ValueError, match="at least one id"):
        net.generate(torch.zeros(0, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="must together be at most 25 ids, got 20 and 6"):
        net.generate(list(range(5)) * 4, 6)
    assert net.generate(list(range(5)) * 4, 5).shape == (25,)
    with pytest.raises(ValueError, match="prompt must be integers"):
        net.generate(torch.zeros(3), 2)


@pytest.mark.parametrize(
    "graph",
    [Full, lambda n: Window(n, 2), lambda n: Edges(torch.tensor([[1], [0]]), max(n, 2))],
    ids=["full", "window", "edges"],
)
def test_a_graph_that_shows_later_ids_is_refused(graph):
    net = language_model(graph)
    for run in (net.generate, lambda ids, length: net(ids)):
        with pytest.raises(ValueError, match="graph must be causal for a decoder: no token"):
            run(torch.tensor([1, 2, 3]), 2)
    past = language_model(lambda n: Edges(torch.tensor([[0, *range(n)], [0, *range(n)]]), n))
    assert past.generate(torch.tensor([1, 2]), 2, use_cache=False).shape == (4,)


def test_a_graph_is_a_function_and_a_prompt_is_ids():
    with pytest.raises(TypeError, match="graph must be a function.*int.*TokenGraph.*'causal'"):
        language_model("causal")
    with pytest.raises(TypeError, match="prompt must be ids, got a string; a tokenizer"):
        language_model().generate("hello", 3)


def test_modes_are_put_back():
    net = language_model(dropout=0.5).train()
    net.layers[2].eval()
    first = net.generate([1, 2], 5)
    assert torch.equal(first, net.generate([1, 2], 5))
    assert net.training
    assert not net.layers[2].training


@torch.no_grad()
def log_probability(net, ids, start):
    steps = net(ids).log_softmax(-1)[:-1].gather(-1, ids[1:, None])
    return steps[start - 1 :].sum()


def test_all_hypotheses_find_the_best():
    net = language_model(vocab=4)
    prompt = torch.tensor([1, 2])
    best = max(
        (torch.tensor([1, 2, *rest]) for rest in itertools.product(range(4), repeat=3)),
        key=lambda ids: float(log_probability(net, ids, 2)),
    )
    assert torch.equal(net.generate(prompt, 3, num_beams=16), best)
    assert torch.equal(net.generate(prompt, 3, num_beams=1), net.generate(prompt, 3))


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_beams_that_stop_are_weighed_by_their_length(penalty):
    net, stop = language_model(vocab=4), 3
    ends = set()
    for rest in itertools.product(range(4), repeat=3):
        first = rest.index(stop) + 1 if stop in rest else 3
        ends.add(rest[:first])
    scored = {
        end: float(log_probability(net, torch.tensor([0, *end]), 1)) / len(end) ** penalty
        for end in ends
    }
    best = max(scored, key=scored.__getitem__)
    (found,) = net.generate([[0]], 3, num_beams=64, eos_token_id=stop, length_penalty=penalty)
    assert tuple(found[1:].tolist()) == best


CONFIGS = {
    "post": BlockConfig(post_norm=True, activation=nn.ReLU),
    "pre": BlockConfig(),
    "batch": BlockConfig(norm=BatchNorm),
}


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("config", CONFIGS)
def test_translation_with_the_cache_as_without(config, how):
    net = translator(config=CONFIGS[config]).eval()
    source = torch.randint(0, VOCAB, (2, 5))
    cached, whole = (net.generate(source, 1, 6, use_cache=cache, **how) for cache in (True, False))
    assert torch.equal(cached, whole)
    for row, alone in zip(cached, source, strict=True):
        assert torch.equal(row, net.generate(alone, 1, 6, **how))


def test_translations_of_any_length_are_those_alone():
    net = translator()
    sources = [[1, 2, 3], [4, 5], [6, 7, 8]]
    for source, ids in zip(sources, net.generate(sources, 1, 4), strict=True):
        assert torch.equal(ids, net.generate(source, 1, 4))


@pytest.mark.gpu
def test_translations_on_a_device_start_from_lists_and_tokens_of_the_cpu():
    net, sources = translator().to("cuda"), [[1, 2, 3], [4, 5]]
    for source, ids in zip(sources, net.generate(sources, 1, 4, eos_token_id=2), strict=True):
        assert ids.device.type == "cuda"
        alone = net.generate(Tokens(torch.tensor(source)[:, None]), 1, 4, eos_token_id=2)
        assert torch.equal(alone[: len(ids)], ids)


def test_a_source_that_is_repeated_keeps_its_positions():
    z, pos = torch.randn(2, 3, 4), torch.randn(2, 3, 1)
    of_each = _repeated(Tokens(z, pos=pos), 2, 2).pos
    assert torch.equal(of_each, pos[[0, 0, 1, 1]])
    shared = _repeated(Tokens(z, pos=pos[0]), 2, 2).pos
    single = _repeated(Tokens(z[0], pos=pos[0]), 2, 2).pos
    assert torch.equal(shared, pos[[0, 0, 0, 0]])
    assert torch.equal(single, shared)


def test_only_the_last_ids_are_read_where_the_context_says_so():
    net, prompt = language_model(), torch.randint(0, VOCAB, (2, 3))
    ids, choose = prompt, Sampling(1.0, generator=torch.Generator().manual_seed(1))
    for _ in range(30):  # more than the net has positions for
        ids = torch.cat([ids, choose(net(ids[:, -6:])[:, -1])[:, None]], 1)
    for cache in (True, False):
        draws = {"temperature": 1.0, "generator": torch.Generator().manual_seed(1)}
        assert torch.equal(net.generate(prompt, 30, context=6, use_cache=cache, **draws), ids)
    assert net.generate(prompt, 30, context=6, num_beams=3).shape == (2, 33)
    with pytest.raises(ValueError, match="context must be at least 1, got 0"):
        net.generate(prompt, 1, context=0)
    with pytest.raises(ValueError, match="must together be at most 25 ids"):
        net.generate(prompt, 30, context=25)


@pytest.mark.parametrize("cache", [True, False])
def test_ids_have_the_positions_that_the_net_gives_them(cache):
    layers = [Embedding(VOCAB, 8), SinusoidalEncoding(8), Residual(Attention(8, 2))]
    net = Decoder(layers, TokenReadout(8, VOCAB), pos=lambda n: 3 * torch.arange(float(n))[:, None])
    ids = torch.randint(0, VOCAB, (2, 5))
    with torch.no_grad():
        for parameter in net.double().parameters():
            parameter.add_(torch.randn_like(parameter))
    want = ids
    for count in range(5, 9):
        pos = 3 * torch.arange(float(count))[:, None]
        scores = net(Tokens(want[..., None], Causal(count), pos))
        torch.testing.assert_close(net(want), scores)
        want = torch.cat([want, scores[:, -1].argmax(-1)[:, None]], 1)
    assert torch.equal(net.generate(ids, 4, use_cache=cache), want)


def test_flops_of_nets_of_two_sets_are_those_of_their_parts():
    net = translator()
    source, target = torch.randint(0, VOCAB, (2, 5)), torch.randint(0, VOCAB, (2, 3))
    encoder, decoder = net.encoder.tokens(source), net.decoder.tokens(target)
    own = net.encoder.flops(encoder) + net.decoder.flops(decoder, net.encoder(encoder))
    assert net.flops(source, target) == net.flops(encoder, decoder) == own
    assert net.training
    per_token = 4 * 16 * 16 * 4 + 2 * 16 * 16 * 4  # in a block, but for edges: MLP, attention
    blocks = 2 * (per_token * (10 + 6) + 4 * 16 * (2 * 25 + 2 * 6))
    across = 2 * (4 * 16 * 16 * (10 + 6) + 4 * 16 * 2 * 15)
    assert own == blocks + across + 2 * 16 * VOCAB * 6
    sizes = {"dim": 8, "num_heads": 2, "depth": 1}
    match = clip(4, VOCAB, 6, image_dim=12, image_heads=2, **sizes)
    images, texts = torch.randn(3, 6, 4), torch.randint(0, VOCAB, (2, 5))
    towers = match.image.flops(images) + match.text.flops(texts)
    assert match.flops(images, texts) == towers + 2 * 3 * 2 * 8
    found = detr(4, 5, 7, hidden=16, **sizes)
    patches = Tokens(torch.randn(3, 6, 4), pos=torch.rand(6, 2))
    asked = Tokens(found.queries.expand(3, -1, -1))
    both = found.encoder.flops(patches) + found.decoder.flops(asked, found.encoder(patches))
    assert found.flops(patches) == both + 2 * 3 * 7 * (8 * 6 + 8 * 8 + 8 * 8 + 8 * 4)
    ragged = Tokens.batch([Tokens(z, pos=torch.rand(6, 2)) for z in patches.z])
    assert found.flops(ragged) == found.flops(patches)


def test_a_translator_is_causal_and_listens():
    net = translator().eval()
    source, target = torch.randint(0, VOCAB, (5,)), torch.randint(0, VOCAB, (6,))
    scores = net(source, shift_right(target, start=0))
    other = torch.cat([target[:3], (target[3:] + 1) % VOCAB])
    torch.testing.assert_close(net(source, shift_right(other, start=0))[:4], scores[:4])
    assert not torch.allclose(net(source, shift_right(other, start=0))[4:], scores[4:])
    assert not torch.allclose(net(source.flip(0), shift_right(target, start=0)), scores)


def test_ragged_pairs_are_one_by_one():
    net = translator().eval()
    sources, targets = [[1, 2, 3], [4, 5]], [[1, 6], [1, 7, 8]]
    together = net(sources, targets).split([2, 3])
    for source, target, got in zip(sources, targets, together, strict=True):
        torch.testing.assert_close(got, net(torch.tensor(source), torch.tensor(target)))


@pytest.mark.parametrize("rank", [1, 2], ids=["shared positions", "own positions"])
def test_questions_of_any_length_are_about_an_image_each(rank):
    net = create_model("question_net", in_features=4, vocab=VOCAB, dim=16, depth=1).double().eval()
    pos = torch.rand(2, 9, 2).double() if rank == 2 else torch.rand(9, 2).double()
    patches, questions = Tokens(torch.randn(2, 9, 4).double(), pos=pos), [[1, 2, 3], [4]]
    together = net(patches, questions)
    for number, question in enumerate(questions):
        one = Tokens(patches.z[number], pos=pos[number] if rank == 2 else pos)
        torch.testing.assert_close(together[number], net(one, torch.tensor(question)))
    assert net.flops(patches, questions) > 0


def test_encoder_and_decoder_must_fit():
    decoder = translator().decoder
    with pytest.raises(ValueError, match="encoder must return tokens"):
        EncoderDecoder(language_model(), decoder)
    with pytest.raises(ValueError, match="decoder must attend to a source"):
        EncoderDecoder(translator().encoder, language_model())
    asking = create_model("question_net", in_features=4, vocab=VOCAB, dim=16, depth=1)
    with pytest.raises(TypeError, match="decoder must be a Decoder"):
        asking.generate(torch.zeros(3, 4), 1, 2)


def test_a_decoder_sees_no_later_id():
    net = language_model().eval()
    layers = net.layers[1:]

    def after_embedding(z):
        tokens = Tokens(z, Causal(z.shape[-2]))
        for layer in layers:
            tokens = layer(tokens)
        return tokens.z

    assert_causal(after_embedding, torch.randn(6, 16, dtype=torch.float64))


def test_learning_to_repeat():
    """A decoder trained on one text completes it."""
    torch.manual_seed(0)
    text = torch.randint(0, VOCAB, (20,))
    net = gpt(VOCAB, dim=32, depth=1, num_heads=2, max_length=24)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(text[:-1]), text[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(net.generate(text[:5], 15), text)


def test_hidden_ids():
    ids = torch.randint(0, 50, (4, 5_000))
    generator = torch.Generator().manual_seed(0)
    inputs, targets = mask_tokens(ids, mask=50, vocab=50, generator=generator)
    chosen = targets != -100
    assert torch.equal(targets[chosen], ids[chosen])
    assert torch.equal(inputs[~chosen], ids[~chosen])
    assert abs(chosen.double().mean() - 0.15) < 0.01
    shares = [(inputs == 50)[chosen], (inputs == ids)[chosen]]
    for share, want in zip(shares, (0.8, 0.1 + 0.1 / 50), strict=True):
        assert abs(share.double().mean() - want) < 0.02


def test_filling_in():
    net = bert(VOCAB + 1, dim=16, depth=1, num_heads=2, max_length=8)
    ids = torch.tensor([[1, VOCAB, 3, 4]])
    filled = net.fill(ids, mask=VOCAB)
    assert filled[0, 1] == net.eval()(ids)[0, 1].argmax()
    assert filled[0, [0, 2, 3]].tolist() == [1, 3, 4]
