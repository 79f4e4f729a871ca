"""Numbers: NaN and inf, second derivatives, long sums, small types, factors of any type."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian, hvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from tests.axes import in_turn, spread
from tests.oracle import attend_oracle
from tokennet import (
    Attention,
    Causal,
    Disjoint,
    Edges,
    Full,
    Grid,
    Tokens,
    Window,
    attend,
    explain,
)
from tokennet.nets import IOSpec, build_net
from tokennet.ops import Additive, EdgeFeatures, attention_weights, combine, edge_scores

NAN = math.nan
SMALL = [
    Full(4), Full(17), Causal(5), Window(70, 3), Grid(4, 4),
    Disjoint([Full(3), Causal(4), Full(3)]), Disjoint([Window(3, 1), Window(4, 1)]),
]  # fmt: skip


def tokens_of(graph, channels=4, dtype=torch.float32):
    return torch.randn(graph.num_targets, 2, channels, dtype=dtype)


# NaN and inf


@pytest.mark.parametrize(
    "graph", [Disjoint([Window(3, 1), Window(4, 1)]), Disjoint([Full(3), Full(4)])], ids=repr
)
def test_nan_in_one_set_leaves_the_others_whatever_backend_is_taken(graph):
    z, v = tokens_of(graph), tokens_of(graph)
    clean = attend(z, z, v, graph)
    v[5] = NAN
    torch.testing.assert_close(attend(z, z, v, graph)[:3], clean[:3])


@pytest.mark.parametrize(
    ("graph", "bad", "good"),
    [(Causal(1000), 996, 996), (Window(64, 2), 60, 57), (Grid(8, 8), 63, 54)],
    ids=repr,
)
def test_nan_does_not_reach_tokens_that_do_not_attend_to_it(graph, bad, good):
    z = torch.randn(graph.num_targets, 16)
    z[bad:] = NAN
    out = Attention(16, num_heads=2)(z, graph=graph)
    assert out[:good].isfinite().all()
    assert out[bad:].isnan().all()


def test_nan_in_one_set_of_a_net_spoils_its_row_alone():
    net = build_net("attention", IOSpec(in_features=4, out_features=2), dim=16)
    sets = [torch.randn(n, 4) for n in (3, 4, 3)]
    sets[1][0, 0] = NAN
    assert net(Tokens.batch(sets)).isnan().any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 33])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_net_that_diverged_does_not_look_alive(n, dtype):
    """PyTorch's flash kernel for CPUs gives 0 where all scores of a target are NaN."""
    for graph in (Full(n), Causal(n)):
        for bad in (NAN, math.inf):
            q, k, v = (tokens_of(graph, dtype=dtype) for _ in range(3))
            q[:] = bad
            assert attend(q, k, v, graph).isnan().all()
            assert attend(k, q, v, graph).isnan().all()


def test_nan_in_a_bias_spoils_its_target_alone():
    q, bias = tokens_of(Full(6)), torch.zeros(2, 6, 6)
    for columns in (slice(None), slice(1, 2)):
        bias[:, 3] = 0
        bias[:, 3, columns] = NAN
        for backend in ("dense", "reference"):
            out = attend(q, q, q, Full(6), bias, backend=backend)
            assert out.isnan().all(-1).all(-1).tolist() == [False] * 3 + [True] + [False] * 2


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=str)
def test_nan_does_not_pass_a_bias_that_hides_it_from_some_heads(lead):
    q, v = (torch.randn(*lead, 5, 2, 4) for _ in range(2))
    v[..., 1, :, :] = NAN
    bias = torch.zeros(2, 5, 5)
    bias[0, :3, 1] = bias[1, 2:, 1] = -math.inf
    out = attend(q, q, v, Full(5), bias, backend="dense")
    spoiled = out.isnan().any(-1).expand(*lead, 5, 2)
    assert torch.equal(spoiled, (bias[..., 1] == 0).T.expand(*lead, 5, 2))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("graph", spread(SMALL), ids=repr)
def test_the_same_where_numbers_cannot_be_looked_at(graph):
    """Compiled, exported and under `torch.func.vmap`."""
    x = tokens_of(graph)
    x[1] = NAN

    class Net(nn.Module):
        def forward(self, x):
            return attend(x, x, x, graph, backend="dense")

    net = Net()
    wanted = net(x).isnan()
    assert wanted.any()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x).isnan(), wanted)
    assert torch.equal(torch.export.export(net, (x,)).module()(x).isnan(), wanted)
    assert torch.equal(torch.func.vmap(net)(x[None])[0].isnan(), wanted)


def test_explain_says_nothing_of_nan_on_a_cpu():
    for graph in SMALL:
        q = tokens_of(graph)
        assert "NaN" not in str(explain(q, q, q, graph))


# Second derivatives


def penalty(net, x):
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    return ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()


@pytest.mark.parametrize("graph", [Full(64), Causal(64), Window(200, 4), Grid(4, 4)], ids=repr)
def test_a_gradient_penalty_is_that_of_the_plain_kernel(graph):
    layer = Attention(16, 2).double()
    x = torch.randn(4, graph.num_targets, 16, dtype=torch.float64, requires_grad=True)

    def gradients():
        layer.zero_grad()
        penalty(lambda x: layer(x, graph=graph).square(), x).backward()
        return [p.grad.clone() for p in layer.parameters() if p.grad is not None]

    found = gradients()
    with sdpa_kernel(SDPBackend.MATH):
        wanted = gradients()
    assert len(found) == len(wanted) >= 2
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_a_gradient_penalty_of_a_net():
    net = build_net("attention", IOSpec(in_features=8, out_features=1), dim=16)
    x = torch.randn(4, 64, 8, requires_grad=True)
    penalty(net, x).backward()
    slopes = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert all(slope.isfinite().all() and slope.any() for slope in slopes.values())
    assert any("query" in name or "qkv" in name for name in slopes), list(slopes)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("graph", [Full(4), Causal(4), Disjoint([Full(2), Full(3)])], ids=repr)
def test_hessians_by_every_way(graph):
    x = tokens_of(graph, dtype=torch.float64)

    def loss(x):
        return attend(x, x, x, graph).square().sum()

    with sdpa_kernel(SDPBackend.MATH):
        wanted = hessian(loss, x)
    torch.testing.assert_close(hessian(loss, x), wanted)
    torch.testing.assert_close(hessian(loss, x, vectorize=True), wanted)
    torch.testing.assert_close(hvp(loss, x, x)[1], torch.tensordot(wanted, x, 3))
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(loss))(x), wanted)
    torch.testing.assert_close(torch.func.hessian(loss)(x), wanted)
    leaf = x.clone().requires_grad_()
    (mixed,) = torch.autograd.grad((torch.func.grad(loss)(leaf) * x).sum(), leaf)
    torch.testing.assert_close(mixed, torch.tensordot(wanted, x, 3))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("make", [lambda: Window(4, 1), lambda: Disjoint([Full(2), Full(3)])])
def test_what_a_transform_builds_first_serves_the_next(make):
    graph = make()
    x = tokens_of(graph)

    def loss(x):
        return attend(x, x, x, graph).square().sum()

    first = torch.func.grad(loss)(x)
    assert torch.equal(torch.func.grad(loss)(x), first)
    torch.testing.assert_close(torch.autograd.functional.vjp(loss, x)[1], first)


def test_third_derivatives():
    x = torch.randn(4, 1, 3, dtype=torch.float64, requires_grad=True)
    found = attend(x, x, x, Full(4)).square().sum()
    expected = attend_oracle(x, x, x, Full(4)).square().sum()
    for _ in range(3):
        (found,) = torch.autograd.grad(found, x, create_graph=True)
        (expected,) = torch.autograd.grad(expected, x, create_graph=True)
        torch.testing.assert_close(found, expected)
        found, expected = found.square().sum(), expected.square().sum()


def test_first_derivatives_are_those_of_the_fast_kernel():
    """Also where a graph is kept, within checkpoints, and of a tensor that is q, k and v."""
    x = torch.randn(8, 2, 16, requires_grad=True)
    plain = nn.functional.scaled_dot_product_attention(*3 * [x.transpose(0, 1)[None]], scale=0.25)
    (wanted,) = torch.autograd.grad(plain.square().sum(), x)
    out = attend(x, x, x, Full(8))
    (found,) = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
    torch.testing.assert_close(found, wanted)
    (again,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    torch.testing.assert_close(again, wanted)
    assert again.requires_grad
    kept = checkpoint(lambda x: attend(x, x, x, Full(8)), x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(kept.square().sum(), x)[0], found)


# Types and sums


@pytest.mark.parametrize("backend", ["reference", "fused", "sparse"])
def test_half_precision_of_many_neighbors_and_of_large_scores(backend):
    n = 70_000
    edges = Edges(torch.stack([torch.arange(n), torch.zeros(n, dtype=torch.long)]), 1, n)
    v = torch.ones(n, 1, 4, dtype=torch.half)
    assert (attend(0 * v[:1], 0 * v, v, edges, backend=backend) == 1).all()
    q = 200 * torch.ones(4, 1, 4, dtype=torch.half)
    for name in (backend, "dense"):
        assert (attend(q, q, v[:4], Window(4, 1), backend=name) == 1).all()
    assert edge_scores(q, q, Window(4, 1)).dtype == torch.half


@in_turn(backend=["reference", "fused", "sparse"], content=["constant", "random", "rising"])
def test_sums_over_a_million_neighbors(backend, content):
    n = 10**6
    many = torch.arange(n)
    to_one = Edges(torch.stack([many, torch.zeros_like(many)]), 1, n)
    from_one = Edges(torch.stack([torch.zeros_like(many), many]), n, 1)
    q, k, v = torch.ones(1, 1, 4), torch.zeros(n, 1, 4), torch.full((n, 1, 4), 0.1)
    if content == "random":
        k, v = torch.randn(n, 1, 4), torch.rand(n, 1, 4)
    elif content == "rising":  # each peak of the scores rescales the sums so far
        k = torch.linspace(0, 0.3, n)[:, None, None].expand(n, 1, 4).contiguous()
    weights = (2 * k.double().mean(-1)).softmax(0)  # q.k / 2
    expected = (weights[..., None] * v.double()).sum(0, keepdim=True)
    out = attend(q, k, v, to_one, backend=backend)
    torch.testing.assert_close(out.double(), expected, rtol=2e-5, atol=0)
    one = torch.ones(1, 1, 4, requires_grad=True)
    out = attend(k, q, one, from_one, backend=backend)
    (slope,) = torch.autograd.grad(out, one, v)
    torch.testing.assert_close(slope.double(), v.double().sum(0, keepdim=True), rtol=2e-5, atol=0)


@in_turn(backend=["reference", "fused", "sparse"], targets=[1, 1000])
def test_gradients_of_weights_over_a_million_edges(backend, targets):
    """The weights of additive scores, and the map of features, are in the score of every edge."""
    edges = 10**6
    ends = torch.stack([torch.randint(0, most, (edges,)) for most in (1000, targets)])
    graph = Edges(ends, targets, 1000)
    q, k = torch.randn(targets, 1, 4), torch.randn(1000, 1, 4)
    attr, weight, key = torch.randn(edges, 2), torch.randn(1, 4), torch.randn(1, 4, 2)
    upstream = torch.rand(targets, 1, 4)

    def gradients(dtype, **options):
        given = [x.to(dtype) for x in (q, k, k, attr)]  # values that go with the scores
        by = [weight.to(dtype).requires_grad_(), key.to(dtype).requires_grad_()]
        features = EdgeFeatures(given[3], key=by[1])
        out = attend(*given[:3], graph, score=Additive(by[0]), edges=features, **options)
        return torch.autograd.grad(out, by, upstream.to(dtype))

    wanted = gradients(torch.float64, backend="fused")
    for got, want in zip(gradients(torch.float32, backend=backend), wanted, strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm()


def test_a_million_neighbors_in_parts():
    n = 10**6
    many = torch.arange(n)
    graph = Edges(torch.stack([many, torch.zeros_like(many)]), 1, n)
    weights = attention_weights(torch.ones(1, 1, 4), torch.zeros(n, 1, 4), graph)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / n), rtol=1e-6, atol=0)
    out = combine(torch.ones(n, 1), torch.full((n, 1, 4), 0.1), graph)
    torch.testing.assert_close(out, torch.full_like(out, n / 10), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "graph", [Window(64, 1), Window(4096, 1), Disjoint([Full(300)] * 8)], ids=repr
)
def test_the_type_under_autocast_is_that_of_sdpa(graph):
    q = tokens_of(graph)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = q.transpose(0, 1)[None]
        expected = nn.functional.scaled_dot_product_attention(x, x, x).dtype
        assert attend(q, q, q, graph).dtype == expected == torch.bfloat16


# Factors


@pytest.mark.parametrize(
    "scale", [np.float32(0.5), np.float64(0.5), Fraction(1, 2), 0.5], ids=lambda x: type(x).__name__
)
def test_a_scale_is_any_real_number(scale):
    q = tokens_of(Full(3))
    expected = attend(q, q, q, Full(3), scale=0.5)
    assert torch.equal(attend(q, q, q, Full(3), scale=scale), expected)
    assert torch.equal(
        attend(q, q, q, Full(3), scale=np.int64(2)), attend(q, q, q, Full(3), scale=2)
    )


@pytest.mark.parametrize("scale", [math.inf, -math.inf, NAN, np.float32("nan")])
def test_a_scale_must_be_finite(scale):
    q = tokens_of(Full(3))
    for function in (attend, explain):
        with pytest.raises(ValueError, match="scale must be finite, got"):
            function(q, q, q, Full(3), scale=scale)
    for function in (edge_scores, attention_weights):
        with pytest.raises(ValueError, match="scale must be finite, got"):
            function(q, q, Full(3), scale=scale)
    with pytest.raises(ValueError, match="negative_slope must be finite, got"):
        attend(q, q, q, Full(3), score=Additive(torch.ones(2, 4), negative_slope=float(scale)))


@pytest.mark.parametrize("scale", ["1", 1j, Decimal(1), [1.0], torch.ones(2)], ids=repr)
def test_a_scale_must_be_a_number(scale):
    q = tokens_of(Full(3))
    with pytest.raises(TypeError, match="scale must be a number or None, got"):
        attend(q, q, q, Full(3), scale=scale)
