"""Every net by name: made small, its symmetry, its laws, compiled and exported."""

import inspect

import pytest
import torch
from torch import nn

from tests.axes import spread
from tests.contracts import mixers as laws
from tests.families import by_default, honors
from tokennet import Causal, Cycle, Disjoint, Full, Grid, Tokens
from tokennet.models import (
    NETS,
    Objects,
    contrastive_loss,
    create_model,
    list_models,
    set_prediction_loss,
)
from tokennet.nets import Decoder, EncoderDecoder, OnGraph, TokenNet, WithGraph, count_parameters
from tokennet.testing import check_declared

FEATURES, N, VOCAB = 6, 6, 11
SMALL = {
    "in_features": FEATURES,
    "out_features": 3,
    "num_tokens": N,
    "dim": 16,
    "depth": 1,
    "num_heads": 2,
    "vocab": VOCAB,
    "source_vocab": VOCAB,
    "max_length": 12,
    "hidden": 24,
    "queries": 4,
    "classes": 3,
    "image_dim": 16,
    "image_heads": 2,
    "token_hidden": 8,
    "dims": (8, 16),
    "depths": (1, 1),
}
OF_PATCHES = ("vit", "deit3", "dinov2", "mixer", "resmlp", "clip")
"""Names of nets that are made for one grid of patches."""
BY_ARCHITECTURE = {NETS[name].build: name for name in reversed(NETS)}
ARCHITECTURES = list(BY_ARCHITECTURE.values())
PUBLISHED = {
    "gpt2": 124_439_808,
    "bert_base": 109_514_298,
    "roberta_base": 124_697_433 - 2 * 768,  # they have rows for the positions of padding
    "roberta_large": 355_412_057 - 2 * 1024,
    "distilbert": 66_985_530,
    "modernbert_base": 149_655_232,
    "modernbert_large": 395_881_664,
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "flan_t5_base": 247_577_856,
    "llama2_7b": 6_738_415_616,
    "llama3_8b": 8_030_261_248,
    "mistral_7b": 7_241_732_096,
    "vit_tiny": 5_717_416,
    "vit_base": 86_567_656,
    "deit3_small": 22_059_496,
    "deit3_base": 86_585_320,
    "deit3_large": 304_374_760,
    "dinov2_small": 22_825_192,
    "dinov2_base": 88_116_712,
    "dinov2_large": 306_416_616,
    "dinov2_giant": 1_139_552_232,
    "clip": 151_277_313,
    "clip_base_16": 149_620_737,
    "clip_large_14": 427_616_513,
    "mixer_base": 59_880_472,
    "resmlp_12": 15_350_872,
}
"""Parameters of the models of Hugging Face; in timm, of these at 224 by patches of 16. DINOv2 has a
vector for masked patches besides."""


def small(name, **options):
    known = inspect.signature(NETS[name].build).parameters
    sizes = {key: value for key, value in SMALL.items() if key in known}
    if name.startswith(OF_PATCHES):
        sizes["num_tokens"] = (2, 3)
    return create_model(name, **{**sizes, **options}).double().eval()


def patches(batch=()):
    grid = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0)).double()
    return Tokens(torch.randn(*batch, N, FEATURES, dtype=torch.float64), Full(N), grid)


def ids(batch=()):
    return torch.randint(0, VOCAB, (*batch, N))


def example(name):
    """Arguments of a call."""
    if name in ("gat", "gin", "gps"):
        z = torch.randn(N, FEATURES, dtype=torch.float64)
        return (Tokens(z, Cycle(N)),)
    if name == "poolformer_12":
        return (patches((2,)).replace(graph=Grid(2, 3)),)
    if name.startswith(("gpt", "bert", "llama", "modernbert")):
        return (ids((2,)),)
    return {
        "transformer_base": (ids((2,)), ids((2,))),
        "t5_small": (ids((2,)), ids((2,))),
        "question_net": (patches((2,)), ids((2,))),
        "clip": (patches((2,)), ids((2,))),
    }.get(name, (patches((2,)),))


def test_every_name_makes_a_net_that_learns():
    assert len(ARCHITECTURES) >= 12
    for name in ARCHITECTURES:
        net = small(name).train()
        out = net(*example(name))
        if name == "clip":
            loss = contrastive_loss(out)
        elif name == "detr":
            there = Objects(torch.tensor([1]), torch.full((1, 4), 0.5).double())
            loss = set_prediction_loss(out, [there, there])
        else:
            loss = out.square().mean()
        loss.backward()
        silent = [key for key, p in net.named_parameters() if p.grad is None]
        assert silent == [], name
        assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_published(name):
    assert count_parameters(NETS[name].on_meta()) == PUBLISHED[name]


def test_every_architecture_is_a_few_lines():
    for name in NETS:
        assert 1 <= NETS[name].lines <= 30
        assert NETS[name].build.__doc__


def test_names_and_options():
    assert list_models("vit_*") == ["vit_tiny", "vit_small", "vit_base", "vit_large"]
    assert set(list_models()) == set(NETS)
    with pytest.raises(ValueError, match="name must be one of encoder, .*; got 'resnet'"):
        create_model("resnet")
    with pytest.raises(ValueError, match="did you mean vit_tiny or vit_small or vit_base or"):
        create_model("vit")
    with pytest.raises(ValueError, match=r"got 'clop'; did you mean clip\?"):
        create_model("clop")
    with pytest.raises(ValueError, match="readout must be one of token, .*; got 'foo'"):
        create_model("gat", readout="foo")
    with pytest.raises(
        ValueError, match=r"option of gin must be .*; got 'dims'; did you mean .*dim"
    ):
        create_model("gin", dims=3)


TOKEN_NETS = [name for name in ARCHITECTURES if len(example(name)) == 1]
TOKEN_NETS = [name for name in TOKEN_NETS if isinstance(example(name)[0], Tokens)]
"""One architecture each, of nets of one set of vectors."""
SYMMETRY_GRAPHS = (Full(N), Cycle(N), Grid(2, 3))


def refuses(net, graph):
    """Whether a mixer does not honor the graph of the tokens, which the net does not replace."""
    modules = list(net.modules())
    if any(isinstance(module, WithGraph) for module in modules):
        return False
    elsewhere = {
        part for module in modules if isinstance(module, OnGraph) for part in module.modules()
    }
    return not all(honors(module, graph) for module in modules if module not in elsewhere)


NETS_ON_CAUSAL = [
    name
    for name in TOKEN_NETS
    if refuses(NETS[name].on_meta(), Cycle(N)) and not refuses(NETS[name].on_meta(), Causal(N))
]
"""Those that need all earlier tokens."""


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        pytest.param(
            name, graph, id=f"{name}-{graph._name()}",
            marks=() if (row - column) % 10 == 0 else pytest.mark.sweep,
        )
        for row, name in enumerate(TOKEN_NETS)
        for column, graph in enumerate(SYMMETRY_GRAPHS)
    ],
)  # fmt: skip
def test_declared_symmetry_is_measured(name, graph):
    net = small(name)
    tokens = patches().replace(graph=graph)
    readout = getattr(net, "readout", None)
    pooled = readout is None or readout.is_invariant
    if refuses(net, graph) or (name == "poolformer_12" and not isinstance(graph, Grid)):
        with pytest.raises(ValueError, match="graph must"):
            net(tokens)
        return

    def whole(tokens):
        out = net(tokens)
        return torch.cat([out.logits, out.boxes], -1) if name == "detr" else out

    whole.symmetry = net.symmetry
    report = check_declared(whole, tokens, pooled=pooled)
    assert report.holds, report
    assert not report.larger, report
    assert report.laws or net.symmetry.relabeling == "trivial"


def of_vectors(net):
    """A net of ids without its table."""
    return TokenNet(list(net.layers)[1:], net.readout)


def of_source(net, target):
    """A net of two sets as a function of its source."""

    def answer(source):
        return net(source, target)

    answer.symmetry = net.source_symmetry
    return answer


def of_target(net, source):
    def answer(target):
        return net(source, target)

    answer.symmetry = net.symmetry
    return answer


def parts_of_two():
    """Functions of one set of vectors or patches, and what they declare to shuffle."""
    match, anywhere = small("clip"), small("clip", num_tokens=None)
    asking, translator = small("question_net"), small("transformer_base")
    by_source = EncoderDecoder(of_vectors(translator.encoder), translator.decoder)
    by_target = EncoderDecoder(translator.encoder, of_vectors(translator.decoder))
    encoder, decoder = small("t5_small").children()
    by_words = EncoderDecoder(asking.encoder, of_vectors(asking.decoder))
    return {
        "gpt": (of_vectors(small("gpt_nano")), "trivial"),
        "bert": (of_vectors(small("bert_tiny")), "trivial"),
        "image of clip": (match.image, "trivial"),
        "image of clip by places": (anywhere.image, "Aut(pos)"),
        "text of clip": (of_vectors(match.text), "trivial"),
        "patches of question_net": (of_source(asking, ids()), "Aut(pos)"),
        "words of question_net": (of_target(by_words, patches()), "trivial"),
        "modernbert": (of_vectors(small("modernbert_base", radius=2)), "trivial"),
        "target of t5": (of_target(EncoderDecoder(encoder, of_vectors(decoder)), ids()), "trivial"),
        "source of transformer": (of_source(by_source, ids()), "trivial"),
        "target of transformer": (of_target(by_target, ids()), "trivial"),
    }


@pytest.mark.parametrize("name", spread(parts_of_two()))
def test_declared_symmetry_of_nets_of_ids_and_of_two_sets_is_measured(name):
    net, shuffling = parts_of_two()[name]
    assert net.symmetry.shuffling == shuffling
    of_patches = "image" in name or "patches" in name
    tokens = patches().replace(pos=torch.tensor([[0.0, 1, 2, 2, 1, 0]] * 2).double().T)
    if not of_patches:
        tokens = Tokens(torch.randn(N, 16).double(), Causal(N))
    pooled = name not in ("gpt", "bert", "modernbert", "target of transformer", "target of t5")
    report = check_declared(net, tokens, pooled=pooled)
    assert report.holds, report
    assert not report.larger, report
    assert report.declared_order == (8 if shuffling == "Aut(pos)" else 1)


def test_a_lie_about_symmetry_is_seen():
    net = small("vit_tiny")

    def lying(tokens):
        return net(tokens)

    lying.symmetry = small("encoder").symmetry
    assert not check_declared(lying, patches(), pooled=True, discover=False).holds


SIDES = [(2, 3), (3, 2), (1, 6)]


@pytest.mark.parametrize("name", TOKEN_NETS)
def test_sets_of_a_ragged_batch_do_not_see_each_other(name):
    graph = Causal(N) if name in NETS_ON_CAUSAL else Cycle(N)
    net, sets = small(name), [patches(), patches().replace(graph=graph), patches()]
    if name == "poolformer_12":
        sets = [part.replace(graph=Grid(*sides)) for part, sides in zip(sets, SIDES, strict=True)]
    together, alone = net(Tokens.batch(sets)), [net(part) for part in sets]
    if name == "detr":
        for number, want in enumerate(alone):
            laws.assert_near(together.logits[number], want.logits)
            laws.assert_near(together.boxes[number], want.boxes)
        return
    expected = torch.stack(alone) if net.readout.is_invariant else torch.cat(alone)
    laws.assert_near(together, expected)


def test_ragged_questions_and_texts():
    patch_sets = [patches(), patches()]
    texts = [[1, 2, 3], [4, 5]]
    asking = small("question_net")
    for number, text in enumerate(texts):
        together = asking(Tokens.batch(patch_sets), texts)[number]
        laws.assert_near(together, asking(patch_sets[number], torch.tensor(text)))
    match = small("clip")
    images = patches((2,))
    both = match(images, texts)
    assert both.shape == (2, 2)
    alone = match(images, torch.tensor(texts[1]).expand(2, -1))
    laws.assert_near(both[:, 1], alone[:, 0])


def test_a_question_does_not_mind_the_order_of_patches():
    net, image, text = small("question_net"), patches(), ids()
    moved = image.permute(torch.tensor([3, 1, 5, 0, 2, 4]))
    laws.assert_near(net(moved, text), net(image, text))
    assert not torch.allclose(net(image.replace(pos=image.pos.flip(0)), text), net(image, text))


@pytest.mark.parametrize("name", ["vit_tiny", "mixer_small", "detr"])
def test_images_are_seen_whole_whatever_the_graph_of_their_patches(name):
    net, image = small(name), patches()
    torch.testing.assert_close(net(image.replace(graph=Grid(2, 3))), net(image))


def test_neighborhoods_on_request():
    near = small("vit_tiny", graph=lambda grid: grid, depth=2)
    image = patches().replace(graph=Cycle(N))
    assert not torch.allclose(near(image), near(image.replace(graph=Full(N))))


class OnTokens(nn.Module):
    """A net on fixed graphs, as it would be deployed."""

    def __init__(self, net, arguments):
        super().__init__()
        self.net, self.arguments = net, arguments

    def forward(self, *zs):
        given = [
            z if isinstance(old, torch.Tensor) else old.replace(z=z)
            for z, old in zip(zs, self.arguments, strict=True)
        ]
        return self.net(*given)


def exported(module, zs):
    return torch.export.export(module, zs).module()


def compiled(module, zs):
    return torch.compile(module, fullgraph=True, backend="eager")


@pytest.mark.parametrize("run", [exported, pytest.param(compiled, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("name", by_default(ARCHITECTURES, list(ARCHITECTURES)[::8]))
def test_compile_and_export(name, run):
    """Their layers are by the contract of mixers; most nets and compilation under sweep."""
    torch.compiler.reset()
    arguments = example(name)
    zs = tuple(part if isinstance(part, torch.Tensor) else part.z for part in arguments)
    module = OnTokens(small(name), arguments)
    torch.testing.assert_close(module(*zs), run(module, zs)(*zs))


def test_decoders_are_causal_by_their_graph():
    for name in list_models("gpt*"):
        net = NETS[name].on_meta()
        assert isinstance(net, Decoder)
        assert isinstance(net.graph(5), Causal)


@pytest.mark.parametrize("name", NETS_ON_CAUSAL)
def test_nets_over_sequences_decode_incrementally_and_see_no_later_token(name):
    net = small(name, depth=2, readout="token")
    z = torch.randn(2, 9, FEATURES, dtype=torch.float64)
    whole, state, steps = net(Tokens(z, Causal(9))), None, []
    for place in range(9):
        graph = Causal(place + 1).last(1)
        out, state = net.step(Tokens(z[:, place : place + 1]), graph, state)
        steps.append(out)
    laws.assert_near(torch.cat(steps, dim=1), whole)
    other = torch.cat([z[:, :5], -z[:, 5:]], dim=1)
    laws.assert_near(net(Tokens(other, Causal(9)))[:, :5], whole[:, :5])
    if "index" in net.symmetry.reads:  # causal on the complete graph too
        laws.assert_near(net(other)[:, :5], whole[:, :5])


def test_state_dicts_go_round():
    for name in ARCHITECTURES:
        net, other = small(name), small(name)
        other.load_state_dict(net.state_dict())
        given = example(name)
        torch.testing.assert_close(other(*given), net(*given), rtol=0, atol=0)


def test_patches_of_any_image_by_their_places():
    net = small("vit_tiny", num_tokens=None)
    big = torch.cartesian_prod(torch.arange(4.0), torch.arange(5.0)).double()
    sets = [patches(), Tokens(torch.randn(20, FEATURES).double(), Full(20), big)]
    together = net(Tokens.batch(sets))
    assert isinstance(Tokens.batch(sets).graph, Disjoint)
    for row, part in zip(together, sets, strict=True):
        laws.assert_near(row, net(part))
