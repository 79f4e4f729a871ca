"""Every score x normalizer x graph against loops over edges, values and gradients."""

from itertools import cycle

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.axes import in_turn, pairwise, spread
from tests.contracts import mixers as laws
from tests.families import BIPARTITE, SQUARE
from tokennet import (
    Attention,
    Causal,
    CrossAttention,
    Disjoint,
    Edges,
    Full,
    Residual,
    TokenNet,
    Tokens,
)
from tokennet.mixers import SCORES
from tokennet.mixers.scores import (
    Bahdanau,
    Cosine,
    DotProduct,
    General,
    Location,
    ScaledDotProduct,
)
from tokennet.ops import NORMALIZERS
from tokennet.positional import ALiBi, LearnedOffset, Rotary
from tokennet.testing import relabeling_error

DIM, HEADS = 8, 2
EXACT = {"rtol": 1e-9, "atol": 1e-11}
LEAKY = {"activation": "leaky_relu", "negative_slope": 0.3}
MAKE = {
    "scaled_dot_product": ScaledDotProduct,
    "dot_product": DotProduct,
    "general": General,
    "additive": Bahdanau,
    "leaky": lambda normalizer: Bahdanau(normalizer, **LEAKY),
    "cosine": Cosine,
    "cosine_given": lambda normalizer: Cosine(normalizer, temperature=0.4, learned=False),
    "location": lambda normalizer: Location(8, normalizer),
    "gram": lambda normalizer: Cosine(normalizer, query=nn.Identity(), key=nn.Identity()),
    "modules": lambda normalizer: DotProduct(
        normalizer, query=nn.Sequential(nn.Linear(DIM, 5), nn.Tanh(), nn.Linear(5, DIM))
    ),
}
LAWS = (
    "relabeling",
    "edge_order",
    "batch_is_one_by_one",
    "ragged_is_one_by_one",
    "finite",
    "symmetry_is_declared",
)
GRAPHS = ["full", "causal", "edges", "multi_edges", "no_edges", "ragged"]


def score_of(layer, name, h, q, k, place):
    """One number, for one head of one target and one source."""
    if name == "scaled_dot_product":
        return q @ k / (DIM // HEADS) ** 0.5
    if name in ("dot_product", "modules"):
        return q @ k
    if name == "general":
        return q @ layer.score.weight[h] @ k
    if name == "additive":
        return layer.score.weight[h] @ torch.tanh(q + k)
    if name == "leaky":
        inner = q + k
        return layer.score.weight[h] @ torch.where(inner > 0, inner, 0.3 * inner)
    if name == "location":
        return q @ layer.score.table[place, h]
    cosine = q @ k / (q.square().sum() * k.square().sum()).sqrt()
    return cosine / (0.4 if name == "cosine_given" else layer.score.log_temperature[h].exp())


def by_loops(layer, name, normalizer, z, source, graph):
    """Weights (E, H) and output (N, D) of one set, in loops."""
    edges, places = graph.edge_index().t().tolist(), graph.T.local_index().tolist()
    q, v = (linear(x).unflatten(-1, (HEADS, -1)) for linear, x in
            ((layer.query, z), (layer.value, source)))  # fmt: skip
    k = v if name == "location" else layer.key(source).unflatten(-1, (HEADS, -1))
    scores = [
        torch.stack([score_of(layer, name, h, q[i, h], k[j, h], places[j]) for h in range(HEADS)])
        for j, i in edges
    ]
    weights, total = [], torch.zeros_like(layer.query(z)).unflatten(-1, (HEADS, -1)) * 1.0
    for (j, i), score in zip(edges, scores, strict=True):
        mine = torch.stack([s for s, (_, t) in zip(scores, edges, strict=True) if t == i])
        soft = score.exp() / mine.exp().sum(0)
        peak = mine.max(0).values
        share = ((score - peak).abs() < 1e-9).double() / ((mine - peak).abs() < 1e-9).sum(0)
        weights.append(
            {
                "softmax": soft,
                "hard": share + soft - soft.detach(),
                "sigmoid": 1 / (1 + (-score).exp()),
                "none": score,
            }[normalizer]
        )
        row = torch.zeros(len(z), 1, 1, dtype=torch.float64)
        row[i] = 1
        total = total + row * weights[-1][:, None] * v[j]
    stacked = torch.stack(weights) if weights else torch.zeros(0, HEADS, dtype=torch.float64)
    return stacked, layer.out(total.flatten(-2))


def gradients(out, inputs):
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    found = torch.autograd.grad((out * weight).sum(), inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def compare(layer, name, normalizer, z, graph, source=None):
    given = () if source is None else (source, graph)
    tokens = Tokens(z, graph) if source is None else z
    out = layer(tokens, *given)
    out = out.z if source is None else out
    weights, expected = by_loops(layer, name, normalizer, z, z if source is None else source, graph)
    torch.testing.assert_close(out, expected, **EXACT)
    torch.testing.assert_close(layer.attention_weights(tokens, *given), weights, **EXACT)
    inputs = [z, *layer.parameters()]
    for got, want in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(got, want, **EXACT)


@pairwise(name=MAKE, normalizer=NORMALIZERS, family=GRAPHS)
def test_values_weights_and_gradients_are_those_of_loops(name, normalizer, family):
    graph = SQUARE[family]()
    layer = Attention(DIM, HEADS, score=MAKE[name](normalizer)).double()
    z = torch.randn(graph.num_targets, DIM, dtype=torch.float64, requires_grad=True)
    compare(layer, name, normalizer, z, graph)


@pairwise(
    name=[name for name in MAKE if name != "gram"],
    normalizer=NORMALIZERS,
    family=["mask", "multi_edges", "ragged"],
)
def test_between_two_sets(name, normalizer, family):
    graph = BIPARTITE[family]()
    layer = Attention(DIM, HEADS, score=MAKE[name](normalizer), source_dim=6).double()
    z = torch.randn(graph.num_targets, DIM, dtype=torch.float64, requires_grad=True)
    source = torch.randn(graph.num_sources, 6, dtype=torch.float64)
    compare(layer, name, normalizer, z, graph, source)


def obeys(name, normalizer, law, family, dtype=torch.float64):
    layer = Attention(DIM, HEADS, score=MAKE[name](normalizer)).to(dtype)
    if law == "relabeling" and name == "location":
        assert layer.symmetry.relabeling == "trivial"
        return
    tokens = laws.tokens_on(SQUARE[family](), DIM, dtype)
    assert layer(tokens).z.dtype == dtype
    getattr(laws, law)(layer, tokens)


@pairwise(name=MAKE, normalizer=NORMALIZERS, law=LAWS)
def test_laws(name, normalizer, law):
    obeys(name, normalizer, law, "multi_edges")


@in_turn(name=MAKE, law=[law for law in LAWS if law != "edge_order"])
def test_laws_on_ragged_batches(name, law):
    """But for the order of edges: in one list they are one set, where tokens have other places."""
    obeys(name, "hard", law, "ragged")


@in_turn(name=MAKE, normalizer=NORMALIZERS, dtype=[torch.float32, torch.bfloat16])
def test_laws_in_less_precision(name, normalizer, dtype):
    for law in ("batch_is_one_by_one", "finite"):
        obeys(name, normalizer, law, "multi_edges", dtype)


def test_location_reads_the_index_and_the_target_alone():
    layer = Attention(DIM, 1, score=Location(6)).double()
    tokens = laws.tokens_on(Full(6), DIM, torch.float64)
    assert relabeling_error(layer, tokens) > 1e-3
    assert layer.key is None
    weights = layer.attention_weights(tokens).unflatten(0, (6, 6))
    changed = tokens.replace(z=torch.cat([tokens.z[:1], torch.randn(5, DIM).double()]))
    torch.testing.assert_close(layer.attention_weights(changed).unflatten(0, (6, 6))[0], weights[0])
    with pytest.raises(ValueError, match="sources must be at most 6, got index 6"):
        layer(torch.zeros(7, DIM, dtype=torch.float64))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("name", ["dot_product", "general", "additive", "location"])
def test_features_of_edges_enter_keys_and_values(name, normalizer):
    graph = SQUARE["multi_edges"]()
    attr = torch.randn(graph.num_edges, 3, dtype=torch.float64)
    graph = Edges(graph.edge_index(), 6, edge_attr=attr)
    layer = Attention(DIM, HEADS, score=MAKE[name](normalizer), edge_dim=3).double()
    z = torch.randn(6, DIM, dtype=torch.float64, requires_grad=True)
    # The same by a set in which each edge has a source of its own.
    own = layer.edge(attr).unflatten(-1, (HEADS, -1))
    source, target = graph.edge_index()
    alone = Edges(torch.stack([torch.arange(graph.num_edges), target]), 6, graph.num_edges)
    places = Tokens(z, graph)
    q = layer.score.of_query(layer.query(z).unflatten(-1, (HEADS, -1)))
    if name == "location":
        k = layer.score.table[source] + own
    else:
        k = layer.key(z).unflatten(-1, (HEADS, -1))[source] + own
    v = layer.value(z).unflatten(-1, (HEADS, -1))[source] + own
    expected = layer.out(layer.score.attend(q, k, v, alone).flatten(-2))
    out = layer(places).z
    torch.testing.assert_close(out, expected, **EXACT)
    inputs = [z, *layer.parameters()]
    for got, want in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(got, want, **EXACT)


@in_turn(name=MAKE, normalizer=NORMALIZERS)
def test_steps_are_the_whole(name, normalizer):
    net = TokenNet([Residual(Attention(DIM, HEADS, score=MAKE[name](normalizer)))]).double()
    z, state, outputs = torch.randn(2, 7, DIM, dtype=torch.float64), None, []
    for start, end in ((0, 3), (3, 4), (4, 7)):
        new = Tokens(z[:, start:end])
        out, state = net.step(new, Causal(end).last(end - start), state)
        outputs.append(out.z)
    torch.testing.assert_close(torch.cat(outputs, 1), net(Tokens(z, Causal(7))).z, **EXACT)


@pytest.mark.parametrize("name", [name for name in MAKE if name != "gram"])  # of equal channels
def test_steps_with_a_source(name):
    score = MAKE[name]("softmax")
    layer = CrossAttention(DIM, HEADS, score=score, source_dim=6).double()
    z, source = torch.randn(2, 4, DIM).double(), torch.randn(2, 5, 6).double()
    first, state = layer.step(Tokens(z[:, :1]), Full(1), None, source)
    rest, _ = layer.step(Tokens(z[:, 1:]), Causal(4).last(3), state, source)
    torch.testing.assert_close(torch.cat([first.z, rest.z], 1), layer(z, source), **EXACT)


def test_the_scaled_dot_product_is_the_default():
    plain, named = Attention(DIM, HEADS), Attention(DIM, HEADS, score="scaled_dot_product")
    assert plain.state_dict().keys() == named.state_dict().keys()
    named.load_state_dict(plain.state_dict())
    z = torch.randn(5, DIM)
    assert torch.equal(plain(z), named(z))
    torch.testing.assert_close(plain.attention_weights(z), named.attention_weights(z))
    assert plain.flops(Tokens(z)) == named.flops(Tokens(z))


def test_flops():
    z = torch.zeros(3, 5, DIM)

    def flops(score):
        return Attention(DIM, HEADS, score=score).flops(Tokens(z))

    plain, one_map = flops(None), 3 * 2 * 5 * DIM * DIM
    assert flops("additive") == plain + 3 * 25 * DIM
    assert flops("general") == plain - 2 * one_map + one_map // HEADS
    assert flops(Location(5)) == plain - one_map
    nonlinear = nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh(), nn.Linear(DIM, DIM))
    assert flops(DotProduct(query=nonlinear)) == plain + one_map


def test_maps_may_be_functions():
    z = torch.randn(5, DIM)
    score = Cosine(query=lambda z: 2 * z, key=lambda z: 3 * z)
    layer = Attention(DIM, HEADS, score=score)
    same = Attention(DIM, HEADS, score=Cosine(query=nn.Identity(), key=nn.Identity()))
    same.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(z), same(z))


def test_maps_that_are_given_keep_their_weights_and_names():
    query = nn.Linear(DIM, DIM)
    before = query.weight.clone()
    layer = Attention(DIM, HEADS, score=DotProduct(query=query, key=query))
    assert torch.equal(layer.query.weight, before)
    assert layer.query is layer.key
    assert {"query.weight", "key.weight", "value.weight", "out.weight"} <= set(layer.state_dict())


@pytest.mark.parametrize("name", SCORES)
def test_scores_by_name(name):
    layer = Attention(DIM, HEADS, score=name)
    assert type(layer.score) is SCORES[name]
    assert layer(torch.randn(2, 5, DIM)).shape == (2, 5, DIM)


class Weighing(nn.Module):
    """Tokens in, output and weights out."""

    def __init__(self, layer, graph):
        super().__init__()
        self.layer, self.graph = layer, graph

    def forward(self, z):
        tokens = Tokens(z, self.graph)
        return self.layer(tokens).z, self.layer.attention_weights(tokens)


TRACED = [
    *zip(
        [*SCORES, "location"],
        cycle(NORMALIZERS),
        cycle(["causal", "multi_edges", "full"]),
        strict=False,
    )
]
"""Each score with one normalizer on one graph; together, all of them."""


@pytest.mark.parametrize("case", spread(TRACED, every=4), ids="-".join)
def test_layer_and_weights_compile_and_export(case):
    name, normalizer, family = case
    torch.compiler.reset()
    module = Weighing(Attention(DIM, HEADS, score=MAKE[name](normalizer)), SQUARE[family]())
    z = torch.randn(2, 6, DIM, requires_grad=True)
    expected = module(z)
    compiled = torch.compile(module, backend="eager", fullgraph=True)(z)
    exported = torch.export.export(module, (z,)).module()(z)
    inputs = [z, *module.parameters()]
    for found in (compiled, exported):
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got, want)
    for number in range(2):
        for got, want in zip(
            gradients(compiled[number], inputs), gradients(expected[number], inputs), strict=True
        ):
            torch.testing.assert_close(got, want)


@in_turn(name=MAKE, family=["full", "causal", "multi_edges"])
def test_forward_mode_of_layer_and_weights(name, family):
    normalizer = {"full": "softmax", "causal": "sigmoid", "multi_edges": "softmax"}[family]
    layer = Attention(DIM, HEADS, score=MAKE[name](normalizer)).double()
    module, (z, t) = Weighing(layer, SQUARE[family]()), torch.randn(2, 6, DIM).double()
    values, tangents = torch.func.jvp(module, (z,), (t,))
    with sdpa_kernel(SDPBackend.MATH):  # which has derivatives of derivatives
        _, wanted = torch.autograd.functional.jvp(module, z, t)
    for got, want in zip((*values, *tangents), (*module(z), *wanted), strict=True):
        torch.testing.assert_close(got, want, **EXACT)
    loss = torch.func.grad(
        lambda z: layer.attention_weights(Tokens(z, module.graph)).square().sum()
    )(z)
    z.requires_grad_()
    want = torch.autograd.grad(module(z)[1].square().sum(), z)[0]
    torch.testing.assert_close(loss, want, **EXACT)


def test_compiled_in_half_precision():
    layer = Attention(DIM, HEADS, score=Cosine("hard")).bfloat16()
    z = torch.randn(2, 5, DIM, dtype=torch.bfloat16)
    expected = layer(Tokens(z, Causal(5))).z
    graph = Causal(5)
    layer(Tokens(z, graph))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(Tokens(z, graph)).z, expected)


def test_places_are_those_within_the_sets_however_the_graph_is_written():
    tokens = Tokens.batch([Tokens(torch.randn(n, DIM).double()) for n in (3, 4)])
    source = Tokens.batch([Tokens(torch.randn(n, DIM).double()) for n in (2, 5)])
    apart = Disjoint([Full(3, 2), Full(4, 5)])
    listed = Edges(apart.edge_index(), 7, 7)
    for how in ({"position": ALiBi(HEADS)}, {"score": Location(5)}):
        layer = Attention(DIM, HEADS, **how).double()
        expected = layer(tokens, source, apart).z
        torch.testing.assert_close(layer(tokens, source, listed).z, expected, **EXACT)
        bare = layer(tokens.z, source=source.z, graph=apart)
        torch.testing.assert_close(bare, expected, **EXACT)


@pytest.mark.parametrize("name", [*SCORES, "location"])
@pytest.mark.parametrize("graph", [Full(5), Causal(5), Edges(torch.arange(5).repeat(2, 1), 5)])
def test_every_score_runs_under_autocast(name, graph):
    layer = Attention(DIM, HEADS, score=Location(5) if name == "location" else name)
    tokens = Tokens(torch.randn(2, 5, DIM), graph)
    exact, weights = layer(tokens).z, layer.attention_weights(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        got, got_weights = layer(tokens).z, layer.attention_weights(tokens)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), exact, rtol=0.1, atol=0.1)
    torch.testing.assert_close(got_weights.float(), weights, rtol=0.1, atol=0.1)


SHARED = Cosine()
Attention(DIM, HEADS, score=SHARED)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Attention(DIM, score="euclid"), ValueError, "score must be one of scaled_dot_p"),
        (lambda: Attention(DIM, score=3), TypeError, "score must be a Score, a name or None, got"),
        (lambda: Attention(DIM, score="location"), ValueError, r"such as Location\(size\)"),
        (lambda: Attention(DIM, score=SHARED), ValueError, "this Cosine belongs to another"),
        (lambda: Cosine("best"), ValueError, "normalizer must be one of softmax, hard, sigmoid"),
        (lambda: Cosine(temperature=0), ValueError, "temperature must be positive, got 0"),
        (lambda: Attention(DIM, score=Cosine("hard"), backend="sparse"), ValueError, "backend mu"),
        (lambda: Attention(DIM, score="cosine", edge_dim=2), ValueError, "edge_dim must be None"),
        (lambda: Attention(DIM, position="alibi"), TypeError, "position must be a RelativePosit"),
        (lambda: Attention(DIM, 4, position=LearnedOffset(2, 3)), ValueError, "for 4 heads, not"),
        (
            lambda: Attention(DIM, score="additive", position=Rotary()),
            ValueError,
            "position must not rotate: Bahdanau is no product",
        ),
        (lambda: Attention(6, 2, position=Rotary()), ValueError, "channels must be a multiple of"),
    ],
)
def test_what_does_not_go_together_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
