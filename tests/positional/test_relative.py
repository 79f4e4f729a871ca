"""Positions within scores: by formula pair by pair, on all backends, in steps, and as declared."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.axes import pairwise
from tests.contracts import mixers as laws
from tests.families import BIPARTITE, SQUARE
from tokennet import Attention, Causal, CrossAttention, Full, TokenNet, Tokens, Window, attend
from tokennet.mixers.scores import Cosine
from tokennet.positional import ALiBi, LearnedOffset, Rotary, T5Bias
from tokennet.testing import relabeling_error

DIM, HEADS = 12, 3
EXACT = {"rtol": 1e-9, "atol": 1e-11}
POSITIONS = {
    "alibi": lambda by: ALiBi(HEADS, by),
    "t5": lambda by: T5Bias(HEADS, by, num_buckets=8, max_distance=6),
    "t5_causal": lambda by: T5Bias(HEADS, by, num_buckets=8, max_distance=6, bidirectional=False),
    "learned": lambda by: LearnedOffset(HEADS, 2, by),
    "rotary": lambda by: Rotary(by, base=100.0),
    "rotary_halves": lambda by: Rotary(by, base=100.0, interleaved=False),
    "rotary_some": lambda by: Rotary(by, base=100.0, channels=2),
}
IN_THE_PLANE = {
    "alibi": lambda: ALiBi(HEADS, "pos"),
    "learned": lambda: LearnedOffset(HEADS, (1, 3), "pos"),
    "rotary": lambda: Rotary("pos", num_coordinates=2, base=100.0),
}
FAMILIES = ["full", "causal", "multi_edges", "ragged", "mask_mod"]


def attention(position, dim=DIM, **options):
    layer = Attention(dim, HEADS, position=position, **options).double()
    for parameter in position.parameters():
        parameter.data.normal_()
    return layer


def t5_bucket(offset, bidirectional):
    """With 8 buckets to a distance of 6, in words of the paper."""
    count, first = 8, 0
    if bidirectional:
        count, first = 4, 4 if offset > 0 else 0
    distance = abs(offset) if bidirectional else max(-offset, 0)
    if distance < count // 2:
        return first + distance
    share = math.log(distance / (count // 2)) / math.log(6 / (count // 2))
    return first + min(count // 2 + int(share * (count // 2)), count - 1)


def turned(x, angles, halves):
    """(C,) as complex numbers, multiplied by e^{i angle}."""
    pairs = (x[: len(angles)], x[len(angles) :]) if halves else (x[0::2], x[1::2])
    points = torch.complex(*pairs) * torch.polar(torch.ones_like(angles), angles)
    return (
        torch.cat([points.real, points.imag]) if halves
        else torch.stack([points.real, points.imag], -1).flatten()
    )  # fmt: skip


def pair_score(position, name, h, q, k, target, source):
    """Scaled score of head h, for positions (P,) of both ends."""
    scale, offset = len(q) ** -0.5, (source - target).double()
    if name == "alibi":
        slope = [2**-4, 2**-8, 2**-2][h]  # of two heads, and the first of four
        return scale * q @ k - slope * offset.square().sum().sqrt()
    if name.startswith("t5"):
        bucket = t5_bucket(int(offset[0]), name == "t5")
        return scale * q @ k + position.table[bucket, h]
    if name == "learned":
        row = 0
        for o, r in zip(offset.tolist(), position.max_distance, strict=True):
            row = row * (2 * r + 1) + min(max(int(o), -r), r) + r
        return scale * q @ k + position.table[row, h]
    size = 2 if name == "rotary_some" else len(q)
    each = size // len(target)
    exponents = torch.arange(each // 2, dtype=torch.float64) * (-2 / each)
    frequency = 100.0**exponents
    ends = []
    for x, place in ((q, target), (k, source)):
        blocks = [
            turned(x[p * each : (p + 1) * each], place[p] * frequency, name == "rotary_halves")
            for p in range(len(place))
        ]
        ends.append(torch.cat([*blocks, x[size:]]))
    return scale * ends[0] @ ends[1]


def by_loops(layer, name, z, source, graph, targets, sources):
    """Weights (E, H) of one set, positions (N, P) and (M, P)."""
    q = layer.query(z).unflatten(-1, (HEADS, -1))
    k = layer.key(source).unflatten(-1, (HEADS, -1))
    edges = graph.edge_index().t().tolist()
    scores = [
        torch.stack([
            pair_score(layer.position, name, h, q[i, h], k[j, h], targets[i], sources[j])
            for h in range(HEADS)
        ])
        for j, i in edges
    ]  # fmt: skip
    totals = [
        torch.stack([s for s, (_, t) in zip(scores, edges, strict=True) if t == i]).exp().sum(0)
        for _, i in edges
    ]
    return torch.stack([s.exp() / t for s, t in zip(scores, totals, strict=True)])


def check(layer, name, tokens, graph, targets, sources, source=None):
    given = () if source is None else (source, graph)
    other = tokens.z if source is None else source.z
    expected = by_loops(layer, name, tokens.z, other, graph, targets, sources)
    torch.testing.assert_close(layer.attention_weights(tokens, *given), expected, **EXACT)
    v = layer.value(other).unflatten(-1, (HEADS, -1))
    total = torch.zeros(len(tokens.z), *v.shape[1:], dtype=torch.float64)
    total = total.index_add(
        0, graph.edge_index()[1], expected[..., None] * v[graph.edge_index()[0]]
    )
    want, got = layer.out(total.flatten(-2)), layer(tokens, *given).z
    torch.testing.assert_close(got, want, **EXACT)
    parameters = list(layer.parameters())
    weight = torch.randn_like(want)
    mine, theirs = (torch.autograd.grad((x * weight).sum(), parameters) for x in (got, want))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pairwise(name=POSITIONS, by=["index", "pos"], family=FAMILIES)
def test_by_formula(name, by, family):
    graph, layer = SQUARE[family](), attention(POSITIONS[name](by))
    pos = torch.randint(-9, 9, (graph.num_targets, 1)).double()
    tokens = Tokens(torch.randn(graph.num_targets, DIM, dtype=torch.float64), graph, pos)
    places = pos if by == "pos" else graph.local_index()[:, None]
    check(layer, name, tokens, graph, places, places)


@pairwise(name=POSITIONS, by=["index", "pos"], family=["mask", "ragged"])
def test_between_two_sets(name, by, family):
    graph, layer = BIPARTITE[family](), attention(POSITIONS[name](by))
    n, m = graph.num_targets, graph.num_sources
    pos = [torch.randint(-9, 9, (size, 1)).double() for size in (n, m)]
    tokens, source = (Tokens(torch.randn(len(p), DIM, dtype=torch.float64), pos=p) for p in pos)
    if by == "index":
        pos = [graph.local_index()[:, None], graph.T.local_index()[:, None]]
    check(layer, name, tokens, graph, *pos, source)


@pytest.mark.parametrize("name", IN_THE_PLANE)
def test_in_the_plane(name):
    layer = attention(IN_THE_PLANE[name]())
    pos = torch.randint(-3, 4, (6, 2)).double()
    tokens = Tokens(torch.randn(6, DIM, dtype=torch.float64), Full(6), pos)
    check(layer, name, tokens, Full(6), pos, pos)
    moved = tokens.replace(pos=pos + torch.tensor([2.0, -1.0]))
    torch.testing.assert_close(layer(moved).z, layer(tokens).z)
    assert (layer(tokens.replace(pos=2 * pos)).z - layer(tokens).z).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["full", "multi_edges", "ragged"])
@pytest.mark.parametrize("name", IN_THE_PLANE)
def test_positions_that_differ_within_a_batch(name, family):
    graph, layer = SQUARE[family](), attention(IN_THE_PLANE[name]())
    pos = torch.randint(-3, 4, (4, 1, graph.num_targets, 2)).double()
    z = torch.randn(4, 2, graph.num_targets, DIM, dtype=torch.float64)
    together = layer(Tokens(z, graph, pos.expand(-1, 2, -1, -1))).z
    shared = layer(Tokens(z, graph, pos)).z
    for b in range(4):
        alone = layer(Tokens(z[b, 1], graph, pos[b, 0])).z
        torch.testing.assert_close(together[b, 1], alone, **EXACT)
        torch.testing.assert_close(shared[b, 1], alone, **EXACT)


@pytest.mark.parametrize("backend", ["reference", "dense", "fused", "sparse"])
@pytest.mark.parametrize("name", POSITIONS)
def test_backends_agree(name, backend):
    layer = attention(POSITIONS[name]("index"))
    tokens = laws.tokens_on(Causal(6) & Window(6, 2), DIM, torch.float64, (2,))
    results = []
    for layer.backend in ("auto", backend):
        out = layer(tokens).z
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out, *torch.autograd.grad((out * weight).sum(), list(layer.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("name", ["alibi", "t5", "learned"])
def test_flex_attention_takes_the_bias(name):
    layer, z = attention(POSITIONS[name]("index")), torch.randn(6, DIM, dtype=torch.float64)
    places = torch.arange(6)[:, None]
    q, k, v = torch.randn(3, 6, HEADS, 4, dtype=torch.float64)
    with torch.no_grad():
        bias = layer.position.bias(places, places)
        expected = attend(q, k, v, Window(6, 2), bias, backend="reference")
        torch.testing.assert_close(attend(q, k, v, Window(6, 2), bias, backend="flex"), expected)
        assert (attend(q, k, v, Window(6, 2)) - expected).abs().max() > 1e-3
        assert layer(Tokens(z, Window(6, 2))).z.isfinite().all()


@pairwise(
    name=POSITIONS,
    by=["index", "pos"],
    law=["batch_is_one_by_one", "ragged_is_one_by_one", "finite", "symmetry_is_declared"],
)
def test_laws(name, by, law):
    layer = attention(POSITIONS[name](by))
    tokens = laws.tokens_on(Causal(6), DIM, torch.float64)
    tokens = tokens.replace(pos=torch.randint(-9, 9, (6, 1)).double())
    assert layer.symmetry.reads == {"graph", by}
    assert (relabeling_error(layer, tokens) < 1e-12) == (by == "pos")
    getattr(laws, law)(layer, tokens)


class Placed(torch.nn.Module):
    """A layer on a fixed graph: tensors in, output and weights out."""

    def __init__(self, layer, graph):
        super().__init__()
        self.layer, self.graph = layer, graph

    def forward(self, z, pos):
        tokens = Tokens(z, self.graph, pos)
        return self.layer(tokens).z, self.layer.attention_weights(tokens)


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("alibi", "index"),
        ("rotary", "pos"),
        pytest.param("t5", "pos", marks=pytest.mark.sweep),
        pytest.param("learned", "index", marks=pytest.mark.sweep),  # a table, as of t5
    ],
)
def test_layer_and_weights_compile_and_export(name, by):
    torch.compiler.reset()
    module = Placed(attention(POSITIONS[name](by)), Causal(6) & Window(6, 2))
    z, pos = torch.randn(2, 6, DIM).double(), torch.randint(-9, 9, (6, 1)).double()
    expected, parameters = module(z, pos), list(module.parameters())
    compiled = torch.compile(module, backend="eager", fullgraph=True)(z, pos)
    exported = torch.export.export(module, (z, pos)).module()(z, pos)
    for got, want in zip((*compiled, *exported), (*expected, *expected), strict=True):
        torch.testing.assert_close(got, want)
    weight = torch.randn_like(expected[0])
    mine, theirs = (
        torch.autograd.grad((out * weight).sum(), parameters) for out in (compiled[0], expected[0])
    )
    for got, want in zip(mine, theirs, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("by", ["index", "pos"])
@pytest.mark.parametrize("name", POSITIONS)
def test_forward_mode_of_layer_and_weights(name, by):
    module = Placed(attention(POSITIONS[name](by)), Causal(6))
    z, t = torch.randn(2, 6, DIM).double()
    pos = torch.randint(-9, 9, (6, 1)).double()
    _, tangents = torch.func.jvp(lambda z: module(z, pos), (z,), (t,))
    with sdpa_kernel(SDPBackend.MATH):  # which has derivatives of derivatives
        _, wanted = torch.autograd.functional.jvp(lambda z: module(z, pos), z, t)
    for got, want in zip(tangents, wanted, strict=True):
        torch.testing.assert_close(got, want, **EXACT)


def steps(net, z, pos, sizes, source=None):
    state, outputs, done = None, [], 0
    for size in sizes:
        new, done = slice(done, done + size), done + size
        part = Tokens(z[..., new, :], pos=None if pos is None else pos[..., new, :])
        out, state = net.step(part, Causal(done).last(size), state, source)
        outputs.append(out.z)
    return torch.cat(outputs, dim=-2)


@pytest.mark.parametrize("by", ["index", "pos"])
@pytest.mark.parametrize("name", POSITIONS)
def test_steps_are_the_whole(name, by):
    net = TokenNet([attention(POSITIONS[name](by)), attention(POSITIONS[name](by))])
    z = torch.randn(2, 9, DIM, dtype=torch.float64)
    pos = torch.randint(-9, 9, (2, 9, 1)).double() if by == "pos" else None
    whole = net(Tokens(z, Causal(9), pos)).z
    for sizes in ((1,) * 9, (4, 1, 1, 3)):
        torch.testing.assert_close(steps(net, z, pos, sizes), whole, **EXACT)


@pytest.mark.parametrize("by", ["index", "pos"])
@pytest.mark.parametrize("name", ["t5", "rotary"])
def test_steps_with_a_source(name, by):
    layer = CrossAttention(DIM, HEADS, position=POSITIONS[name](by)).double()
    z, other = torch.randn(2, 4, DIM).double(), torch.randn(2, 7, DIM).double()
    pos, places = torch.arange(4.0)[:, None], torch.arange(7.0)[:, None]
    source = Tokens(other, pos=places)
    whole = layer(Tokens(z, pos=pos), source).z
    torch.testing.assert_close(steps(layer, z, pos, (1, 3), source), whole, **EXACT)


def test_scores_of_other_kinds_take_positions():
    position = ALiBi(HEADS)
    layer = attention(position, score=Cosine("sigmoid"))
    z = torch.randn(5, DIM, dtype=torch.float64)
    bare = Attention(DIM, HEADS, score=Cosine("sigmoid")).double()
    bare.load_state_dict(layer.state_dict())
    logit = layer.attention_weights(z).logit() - bare.attention_weights(z).logit()
    distance = (torch.arange(5)[:, None] - torch.arange(5)).abs().flatten()
    torch.testing.assert_close(logit, -distance[:, None] * position.slopes)


def test_one_bias_for_all_layers():
    bias = T5Bias(HEADS)
    net = TokenNet([Attention(DIM, HEADS, position=bias) for _ in range(2)])
    assert sum(parameter is bias.table for parameter in net.parameters()) == 1
    net(torch.randn(4, DIM)).sum().backward()
    assert bias.table.grad is not None


def test_long_windows_stay_sparse():
    layer = Attention(DIM, HEADS, position=T5Bias(HEADS))
    z = torch.randn(30_000, DIM)
    assert layer(Tokens(z, Window(30_000, 2))).z.isfinite().all()


def test_ragged_batches_count_within_each_set():
    layer = attention(Rotary())
    sets = [Tokens(torch.randn(n, DIM, dtype=torch.float64), Causal(n)) for n in (3, 5)]
    for alone, part in zip(sets, layer(Tokens.batch(sets)).unbatch(), strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)


def test_the_type_is_kept():
    for make in POSITIONS.values():
        layer = Attention(DIM, HEADS, position=make("index"), backend="dense").bfloat16()
        assert layer(torch.randn(4, DIM).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ALiBi(2, "place"), "by must be one of pos, index; got 'place'"),
        (lambda: ALiBi(0), "num_heads must be at least 1, got 0"),
        (lambda: T5Bias(2, num_buckets=6), "num_buckets must be a multiple of 4, got 6"),
        (lambda: T5Bias(2, max_distance=8), "max_distance must be more than 8"),
        (lambda: LearnedOffset(2, (1, 1)), "max_distance must be one number"),
        (lambda: Rotary(channels=0), "channels must be at least 1, got 0"),
        (lambda: Rotary(channels=-2), "channels must be at least 1, got -2"),
        (lambda: Rotary(num_coordinates=2), "num_coordinates must be .* 1 where by='index', got 2"),
        (
            lambda: attention(Rotary("pos"))(torch.zeros(3, DIM).double()),
            r"tokens\.pos must hold positions where by='pos', got None",
        ),
        (
            lambda: attention(Rotary("pos"))(laws.tokens_on(Full(3), DIM, torch.float64)),
            r"pos must have 1 columns \(num_coordinates\), got 2",
        ),
        (
            lambda: attention(T5Bias(HEADS, "pos"))(laws.tokens_on(Full(3), DIM, torch.float64)),
            "pos must have 1 columns .* got 2",
        ),
        (
            lambda: attention(LearnedOffset(HEADS, (2, 2), "pos"))(
                laws.tokens_on(Full(3), DIM, torch.float64)
            ),
            "pos must hold whole numbers",
        ),
    ],
)
def test_bad_positions_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
