"""Linear attention: what it approximates, what it may hear, and PyG's Performer."""

import pytest
import torch
from torch_geometric.nn.attention import PerformerAttention

from tests.axes import pairwise
from tests.mixers.same_weights import compare, copy_linear
from tokennet import (
    Attention,
    Causal,
    Disjoint,
    Edges,
    Full,
    LinearAttention,
    Residual,
    TokenNet,
    Tokens,
    Window,
)
from tokennet.mixers import EluFeatures, ReLUFeatures, SoftmaxFeatures, redraw_features
from tokennet.mixers._feature_maps import FEATURE_MAPS, orthogonal_gaussian
from tokennet.ops.batching import causal_order

DIM, HEADS = 16, 2
GRAPHS = {
    "full": lambda: Full(11),
    "causal": lambda: Causal(11),
    "relabeled": lambda: Causal(11).relabel(torch.randperm(11)),
    "listed": lambda: Edges(Causal(11).edge_index()[:, torch.randperm(66)], 11),
    "ragged": lambda: Disjoint([Causal(3), Full(2), Causal(3), Full(0), Full(2), Causal(1)]),
}


def layer(features="softmax", **options):
    return LinearAttention(DIM, HEADS, features, **options).double()


def pair_by_pair(mixer, z, graph):
    """The formula with all scores written out, N x N."""
    q, k, v = (
        linear(z).unflatten(-1, (HEADS, -1)) for linear in (mixer.query, mixer.key, mixer.value)
    )
    q, k = mixer.features(q).exp(), mixer.features(k).exp()
    scores = torch.einsum("...ihf,...jhf->...hij", q, k) * graph.dense()
    weights = scores / scores.sum(-1, keepdim=True)
    return mixer.out(torch.einsum("...hij,...jhc->...ihc", weights, v).flatten(-2))


@pairwise(graph=GRAPHS, chunk=[1, 4, 64], features=FEATURE_MAPS)
def test_sums_are_the_formula_pair_by_pair(graph, chunk, features):
    mixer, graph = layer(features, chunk=chunk), GRAPHS[graph]()
    z = torch.randn(2, 11, DIM, dtype=torch.float64, requires_grad=True)
    ours, theirs = mixer(Tokens(z, graph)).z, pair_by_pair(mixer, z, graph)
    compare(ours, theirs, z, [(p, p) for p in mixer.parameters()])


@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_add_up_to_the_output(graph):
    mixer, graph = layer(), GRAPHS[graph]()
    z = torch.randn(2, 11, DIM, dtype=torch.float64)
    weights, (j, i) = mixer.attention_weights(z, graph=graph), graph.edge_index()
    value = mixer.value(z).unflatten(-1, (HEADS, -1))
    out = torch.zeros_like(value).index_add(1, i, weights[..., None] * value[:, j])
    torch.testing.assert_close(mixer.out(out.flatten(-2)), mixer(z, graph=graph))


@pytest.mark.parametrize("features", FEATURE_MAPS)
def test_a_causal_set_is_the_complete_one_at_its_last_token(features):
    mixer, z = layer(features, chunk=3), torch.randn(11, DIM, dtype=torch.float64)
    causal = mixer(Tokens(z, Causal(11))).z
    for end in (1, 2, 5, 11):
        prefix = z[:end]
        torch.testing.assert_close(causal[end - 1], mixer(prefix)[-1])
        torch.testing.assert_close(causal[:end], mixer(Tokens(prefix, Causal(end))).z)


@pytest.mark.parametrize("features", FEATURE_MAPS)
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_the_future_has_no_gradient_and_no_influence_at_all(features, chunk):
    mixer = layer(features, chunk=chunk)
    z = torch.randn(11, DIM, dtype=torch.float64, requires_grad=True)
    out = mixer(Tokens(z, Causal(11))).z
    gradient = torch.autograd.grad(out[:6].square().sum(), z)[0]
    assert (gradient[:6] != 0).any(-1).all()
    assert (gradient[6:] == 0).all()
    louder = torch.cat([z[:6], 1e3 * z[6:]])  # keys whose features dwarf all the others
    assert torch.equal(mixer(Tokens(louder, Causal(11))).z[:6], out[:6])


@pytest.mark.parametrize("features", FEATURE_MAPS)
def test_sets_of_a_ragged_batch_are_one_by_one(features):
    mixer = layer(features)
    graphs = (Full(4), Causal(3), Full(1), Causal(3), Full(4))
    sets = [Tokens(torch.randn(g.num_targets, DIM).double(), g) for g in graphs]
    sets[1] = sets[1].replace(z=1e3 * sets[1].z)
    for part, alone in zip(mixer(Tokens.batch(sets)).unbatch(), sets, strict=True):
        torch.testing.assert_close(part.z, mixer(alone).z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [(11,), (1,) * 11, (4, 1, 0, 6)], ids=str)
@pytest.mark.parametrize("features", FEATURE_MAPS)
def test_steps_are_the_whole(features, sizes):
    net = TokenNet([Residual(layer(features, chunk=3)), Residual(layer(features))])
    z = torch.randn(2, 11, DIM, dtype=torch.float64)
    state, outs, done = None, [], 0
    for size in sizes:
        new, done = z[:, done : done + size], done + size
        out, state = net.step(Tokens(new), Causal(done).last(size), state)
        outs.append(out.z)
    torch.testing.assert_close(torch.cat(outs, 1), net(Tokens(z, Causal(11))).z)


def test_a_step_that_must_not_attend_to_all_before_it_is_refused():
    mixer, z = layer(), torch.randn(2, DIM, dtype=torch.float64)
    for graph in (
        (Causal(6) & Window(6, 2)).last(2),
        Full(2, 6),
        (Causal(6) & Window(6, 2)).last(1),
    ):
        new = Tokens(z[: graph.num_targets])
        with pytest.raises(ValueError, match="graph must let each new token attend to all tokens"):
            mixer.step(new, graph)


def estimating(exact, num_features):
    estimate = LinearAttention(DIM, HEADS, SoftmaxFeatures(DIM // HEADS, num_features)).double()
    estimate.load_state_dict({**estimate.state_dict(), **exact.state_dict()})
    return estimate


@pytest.mark.parametrize("graph", [Full, Causal])
def test_random_features_approach_softmax_attention(graph):
    """The error falls as 1 / sqrt(F): by 4 from 256 features to 4096, within a factor of 1.6."""
    z = 0.4 * torch.randn(12, DIM, dtype=torch.float64)
    exact, errors = Attention(DIM, HEADS).double(), {}
    want = exact(Tokens(z, graph(12))).z
    for count in (256, 4096):
        estimate, trials = estimating(exact, count), []
        for _ in range(8):
            estimate.redraw()
            trials.append((estimate(Tokens(z, graph(12))).z - want).detach().square().mean())
        errors[count] = torch.stack(trials).mean().sqrt() / want.detach().square().mean().sqrt()
    assert errors[4096] < 0.05
    assert 4 / 1.6 < errors[256] / errors[4096] < 4 * 1.6


def test_the_estimate_has_no_bias():
    q, k = 0.5 * torch.randn(2, 8, dtype=torch.float64)
    features = SoftmaxFeatures(8, 100_000).double()
    got = (features(q) + features(k)).exp()
    error = float(got.mean() / (q @ k / 8**0.5).exp() - 1)
    deviation = float(got.std() / got.mean()) / 100_000**0.5
    assert abs(error) < 4 * deviation < 0.05


def test_directions_are_orthogonal_and_gaussian():
    directions = orthogonal_gaussian(20, 8)
    for block in directions.split(8):
        gram = block @ block.T
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-12)
    many = orthogonal_gaussian(40_000, 4)
    assert float(many.mean().abs()) < 0.02
    torch.testing.assert_close(many.T.cov(), torch.eye(4).double(), rtol=0, atol=0.05)
    # The fourth moment tells Gaussian rows (3) from rows of one length (2 for four channels).
    assert 2.8 < float(many.pow(4).mean()) < 3.2


def test_redrawing_changes_random_features_and_no_parameter():
    net = TokenNet([Residual(layer()), Residual(layer("elu")), Residual(layer("relu"))])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    redraw_features(net, torch.Generator().manual_seed(1))
    changed = {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {f"layers.{i}.layer.features.projection" for i in (0, 2)}
    once = net.state_dict()["layers.0.layer.features.projection"].clone()
    redraw_features(net, torch.Generator().manual_seed(1))
    assert torch.equal(net.state_dict()["layers.0.layer.features.projection"], once)


@pairwise(scale=[1e-3, 1e2], graph=[Full, Causal], features=FEATURE_MAPS)
def test_large_and_small_tokens_stay_finite_in_half_precision(graph, scale, features):
    mixer = LinearAttention(DIM, HEADS, features).bfloat16()
    z = (scale * torch.randn(70, DIM)).bfloat16().requires_grad_()
    out = mixer(Tokens(z, graph(70))).z
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().square().mean(), [z, *mixer.parameters()])
    assert all(value.isfinite().all() for value in (out, *gradients))


def test_autocast_sums_in_float32():
    mixer, z = LinearAttention(DIM, HEADS, "softmax"), torch.randn(3000, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        out = mixer(z)
    exact = mixer(z)
    assert out.dtype == torch.bfloat16
    assert float(((out - exact).abs().max() / exact.abs().max()).detach()) < 0.03


def test_which_graphs_are_causal():
    perm = [2, 0, 3, 1]
    order = causal_order(Causal(4).relabel(perm))
    assert torch.tensor(perm)[order].tolist() == [0, 1, 2, 3]
    assert causal_order(Window(4, 1)) is None
    swapped = Edges(torch.tensor([[0, 1, 1, 0, 1, 2], [0, 0, 1, 2, 2, 2]]), 3)
    assert causal_order(swapped).tolist() == [1, 0, 2]
    same_count = Edges(torch.tensor([[0, 2, 1, 0, 1, 2], [0, 1, 1, 2, 2, 2]]), 3)
    assert causal_order(same_count) is None
    twice = Edges(torch.tensor([[0, 0, 0], [0, 1, 1]]), 2)
    assert causal_order(twice) is None


def performer_pair():
    theirs = PerformerAttention(DIM, HEADS, DIM // HEADS, qkv_bias=True)
    ours = LinearAttention(DIM, HEADS, ReLUFeatures(DIM // HEADS))
    ours.features.projection = theirs.fast_attn.projection_matrix
    pairs = []
    linears = zip(
        (ours.query, ours.key, ours.value, ours.out),
        (theirs.q, theirs.k, theirs.v, theirs.attn_out),
        strict=True,
    )
    for mine, other in linears:
        pairs += copy_linear(mine, other)
    return ours, theirs, pairs


def test_it_is_pyg_performer_attention():
    ours, theirs, pairs = performer_pair()
    ours, theirs = ours.double(), theirs.double()
    z = torch.randn(2, 20, DIM, dtype=torch.float64, requires_grad=True)
    compare(ours(z), theirs(z), z, pairs)


def test_padded_keys_leak_from_pyg_performer_attention_and_not_from_here():
    """PyG masks the values of padding but not its keys, which stay in the denominator."""
    ours, theirs, _ = performer_pair()
    sets = [torch.randn(n, DIM) for n in (7, 3)]
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    right = theirs(sets[1][None])[0]
    outs = []
    for padding in (0.0, 1.0):
        padded = torch.stack([sets[0], torch.cat([sets[1], torch.full((4, DIM), padding)])])
        outs.append(theirs(padded, mask)[1, :3])
    assert (outs[0] - right).abs().max() > 0.1 * right.abs().max()
    assert not torch.allclose(outs[0], outs[1], rtol=0.01)
    ragged = ours(Tokens.batch([Tokens(z) for z in sets]))
    torch.testing.assert_close(ragged.unbatch()[1].z, right)


def test_cross_attention_reads_the_other_set_only():
    mixer = LinearAttention(DIM, HEADS, "softmax", source_dim=6).double()
    z, source = torch.randn(2, 3, DIM).double(), torch.randn(2, 5, 6).double()
    assert mixer(z, source).shape == (2, 3, DIM)
    order = torch.randperm(5)
    torch.testing.assert_close(mixer(z, source[:, order]), mixer(z, source))
    nothing = mixer(z, source[:, :0])
    torch.testing.assert_close(nothing, mixer.out.bias.expand_as(nothing))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearAttention(8, 2, "cosine"), "features must be one of elu, relu, softmax"),
        (lambda: LinearAttention(8, 2, 3), "features must be one of .* or a FeatureMap; got 3"),
        (lambda: LinearAttention(8, 3), "num_heads must divide dim = 8, got 3"),
        (lambda: LinearAttention(8, 2, chunk=0), "chunk must be at least 1, got 0"),
        (lambda: SoftmaxFeatures(8, 0), "num_features must be at least 1, got 0"),
        (
            lambda: LinearAttention(8, 2)(Tokens(torch.zeros(6, 8), Window(6, 1))),
            r"graph must be complete or causal, set by set, .* Window\(6",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_flops_count_the_features():
    flops = [
        LinearAttention(8, 2, f).flops(Tokens(torch.zeros(3, 8)))
        for f in (EluFeatures(), SoftmaxFeatures(4, 10))
    ]
    assert flops[0] == 4 * 2 * 3 * 64 + 3 * 4 * 4 * 10
    assert flops[1] == 4 * 2 * 3 * 64 + 3 * (4 * 10 * 10 + 2 * 2 * 2 * 40)
