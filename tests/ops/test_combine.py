"""Scores, weights and combinations edge by edge: against loops over edges, and each other."""

import math
import sys

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.axes import pairwise
from tests.families import by_default
from tests.ops.kinds import FAMILIES, KINDS, assert_all_close, call, derivatives, make_inputs
from tests.oracle import attend_oracle
from tokennet import Causal, Disjoint, Edges, Full, TokenGraph, Window, attend
from tokennet.ops import (
    NORMALIZERS,
    Additive,
    EdgeFeatures,
    attention_weights,
    combine,
    edge_scores,
    normalize,
)

EXACT = {"rtol": 1e-9, "atol": 1e-11}


def in_parts(q, k, v, graph, bias=None, *, scale=None, score=None, edges=None, softmax=None):
    """What `attend` does, by the functions of this file."""
    given = {"scale": scale, "score": score, "edges": edges, "softmax": softmax}
    if softmax is not None:
        return combine(attention_weights(q, k, graph, bias, **given), v, graph, edges)
    scores = edge_scores(q, k, graph, bias, **given)
    return combine(normalize(scores, graph), v, graph, edges)


def some_of(values, family, count):
    """A few of the values, others for neighboring families."""
    values, first = list(values), count * list(FAMILIES).index(family)
    return [values[(first + i) % len(values)] for i in range(count)]


@pytest.mark.parametrize("family", by_default(FAMILIES))
def test_the_parts_make_attention(family):
    for kind in some_of(KINDS, family, 2):
        check_parts(family, kind)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_make_attention_of_every_kind(family, kind):
    check_parts(family, kind)


def check_parts(family, kind):
    graph = FAMILIES[family]()
    inputs = make_inputs(kind, graph, (2,) if len(family) % 2 else ())
    expected, out = (call(kind, inputs, graph, function) for function in (attend_oracle, in_parts))
    torch.testing.assert_close(out, expected, **EXACT)
    assert_all_close(derivatives(out, inputs), derivatives(expected, inputs), **EXACT)


def weights_by_loops(scores: torch.Tensor, graph: TokenGraph, normalizer: str) -> torch.Tensor:
    """Of one set: edge by edge (E, H); for "hard" with the derivative of softmax."""
    rows, targets = [], graph.edge_index()[1].tolist()
    for edge, target in enumerate(targets):
        mine = torch.stack([scores[e] for e, i in enumerate(targets) if i == target])  # (S, H)
        peak = mine.max(0).values
        soft = (scores[edge] - peak).exp() / (mine - peak).exp().sum(0)
        rows.append(
            {
                "softmax": soft,
                "sigmoid": 1 / (1 + (-scores[edge]).exp()),
                "none": scores[edge],
                "hard": (scores[edge] == peak) / (mine == peak).sum(0) + soft - soft.detach(),
            }[normalizer]
        )
    return torch.stack(rows) if rows else scores * 1


@pytest.mark.parametrize("family", by_default(FAMILIES))
def test_weights_by_loops(family):
    for normalizer in some_of(NORMALIZERS, family, 1):
        check_weights(family, normalizer)


@pytest.mark.sweep
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_every_normalizer_by_loops(family, normalizer):
    check_weights(family, normalizer)


def check_weights(family, normalizer):
    graph = FAMILIES[family]()
    scores = torch.randn(graph.num_edges, 2, dtype=torch.float64)
    if graph.num_edges > 2:
        scores[1] = scores[0]  # equally good, if they are of one target
    scores.requires_grad_()
    expected, out = (
        weights_by_loops(scores, graph, normalizer),
        normalize(scores, graph, normalizer),
    )
    torch.testing.assert_close(out, expected, **EXACT)
    assert_all_close(
        derivatives(out, {"scores": scores}), derivatives(expected, {"scores": scores}), **EXACT
    )
    batch = torch.stack([scores, 2 * scores, -scores]).detach().unflatten(0, (3, 1))
    for alone, together in zip(batch, normalize(batch, graph, normalizer), strict=True):
        torch.testing.assert_close(together, normalize(alone, graph, normalizer), **EXACT)


def test_hard_is_one_exactly_and_its_derivative_that_of_softmax():
    graph = Edges(torch.tensor([[0, 1, 2, 1, 0], [0, 0, 0, 2, 2]]), 3)
    scores = torch.tensor([[1.0], [3.0], [2.0], [5.0], [5.0]]).double().requires_grad_()
    hard = normalize(scores, graph, "hard")
    assert hard.flatten().tolist() == [0.0, 1.0, 0.0, 0.5, 0.5]
    weight = torch.randn(5, 1).double()
    got, want = (
        torch.autograd.grad((normalize(scores, graph, name) * weight).sum(), scores)[0]
        for name in ("hard", "softmax")
    )
    assert torch.equal(got, want)
    assert got.abs().max() > 0.01


@pytest.mark.parametrize("graph", [Full(3), Causal(3)], ids=repr)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_scores_of_minus_infinity_weigh_nothing_and_derivatives_stay_finite(graph, normalizer):
    scores = torch.randn(graph.num_edges, 1, dtype=torch.float64)
    target = graph.edge_index()[1]
    scores[target == 1] = -math.inf
    scores[-1] = -math.inf
    scores.requires_grad_()
    weights = normalize(scores, graph, normalizer)
    assert torch.equal(weights[scores == -math.inf], torch.zeros(int((target == 1).sum()) + 1))
    assert weights.isfinite().all()
    assert torch.autograd.grad(weights.square().sum(), scores)[0].isfinite().all()


@pairwise(family=by_default(FAMILIES), shared=[True, False])
def test_combinations_by_loops(family, shared):
    graph, batch = FAMILIES[family](), (2, 1)
    weights = torch.randn(*(() if shared else batch), graph.num_edges, 2, dtype=torch.float64)
    v = torch.randn(*batch, graph.num_sources, 2, 3, dtype=torch.float64)
    attr = torch.randn(graph.num_edges, 2, dtype=torch.float64)
    value = torch.randn(2, 3, 2, dtype=torch.float64)
    inputs = {"weights": weights, "v": v, "attr": attr, "value": value}
    for tensor in inputs.values():
        tensor.requires_grad_()
    expected = torch.zeros(*batch, graph.num_targets, 2, 3, dtype=torch.float64) + 0 * v.sum()
    for edge, (j, i) in enumerate(graph.edge_index().t().tolist()):
        receiver = torch.zeros(graph.num_targets, 1, 1, dtype=torch.float64)
        receiver[i] = 1.0
        sent = v[..., j, :, :] + (value * attr[edge]).sum(-1)
        expected = expected + receiver * (weights[..., edge, :, None] * sent)[..., None, :, :]
    out = combine(weights, v, graph, EdgeFeatures(attr, value=value))
    torch.testing.assert_close(out, expected, **EXACT)
    assert_all_close(derivatives(out, inputs), derivatives(expected, inputs), **EXACT)


@pytest.mark.parametrize(
    "family", ["multi_edges", "more_edges_than_pairs", "bipartite_multi_edges"]
)
def test_parallel_edges_under_transforms_of_functions(family):
    graph = FAMILIES[family]()
    weights = torch.randn(3, graph.num_edges, 2, dtype=torch.float64)
    v = torch.randn(3, graph.num_sources, 2, 4, dtype=torch.float64)
    source, target = graph.edge_index()

    def by_index_add(weights, v):
        out = v.new_zeros(graph.num_targets, 2, 4)
        return out.index_add(0, target, weights[..., None] * v[source])

    def ours(weights, v):
        return combine(weights, v, graph)

    for function in (ours, by_index_add):
        assert torch.vmap(function)(weights, v).shape == (3, graph.num_targets, 2, 4)
    torch.testing.assert_close(torch.vmap(ours)(weights, v), torch.vmap(by_index_add)(weights, v))
    given, tangents = (weights[0], v[0]), (weights[1], v[1])
    for got, want in zip(
        torch.func.jvp(ours, given, tangents), torch.func.jvp(by_index_add, given, tangents),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(got, want)

    def loss(function):
        return lambda weights, v: function(weights, v).square().sum()

    got = torch.vmap(torch.func.grad(loss(ours), (0, 1)))(weights, v)
    want = torch.vmap(torch.func.grad(loss(by_index_add), (0, 1)))(weights, v)
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("graph", [Full(3, 4), Window(4, 1)], ids=repr)
def test_derivatives_of_derivatives(graph):
    weights = torch.randn(2, graph.num_edges, 1, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, graph.num_sources, 1, 2, dtype=torch.float64, requires_grad=True)

    def function(weights, v):
        return combine(normalize(weights, graph, "sigmoid"), v, graph)

    assert gradcheck(function, (weights, v), fast_mode=True)
    assert gradgradcheck(function, (weights, v), fast_mode=True)


@pairwise(family=["causal", "multi_edges"], limit=[0, 2**28], kind=KINDS)
def test_weights_in_forward_mode(family, limit, kind, monkeypatch):
    """By all pairs, or by gathered queries and keys where these are too many."""
    monkeypatch.setattr(sys.modules[combine.__module__], "DENSE_LIMIT", limit)
    graph = FAMILIES[family]()
    inputs = make_inputs(kind, graph, (2,))

    def weights_of(q, k, v, *rest, **options):
        return attention_weights(q, k, *rest, **options)

    def weights(q):
        return call(kind, {**inputs, "q": q}, graph, weights_of)

    q, t = inputs["q"].detach(), torch.randn_like(inputs["q"])
    found, tangent = torch.func.jvp(weights, (q,), (t,))
    expected, wanted = torch.autograd.functional.jvp(weights, q, t)
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(tangent, wanted, **EXACT)


def test_forward_mode_and_func_grad_go_by_matrices():
    graph = Causal(4)
    q, k, v = torch.randn(3, 4, 1, 2, dtype=torch.float64)

    def function(q):
        return combine(normalize(edge_scores(q, k, graph), graph), v, graph)

    jacobian = torch.func.jacfwd(function)(q)
    expected = torch.autograd.functional.jacobian(function, q)
    torch.testing.assert_close(jacobian, expected, **EXACT)
    torch.testing.assert_close(torch.func.jacrev(function)(q), expected, **EXACT)


@pytest.mark.parametrize("family", ["full", "causal", "edges", "ragged", "bipartite_mask"])
@pytest.mark.parametrize("edges", [False, True])
def test_scores_with_tanh(family, edges):
    graph = FAMILIES[family]()
    inputs = make_inputs("additive_edges" if edges else "additive", graph, (2,))
    score = Additive(inputs["weight"], activation="tanh")
    given = {"bias": inputs.get("bias"), "score": score}
    if edges:
        given["edges"] = EdgeFeatures(inputs["attr"], key=inputs["key"])
    tensors = [inputs[name] for name in ("q", "k", "v")]
    expected = attend_oracle(*tensors, graph, **given)
    wanted = derivatives(expected, inputs, 2)
    for backend in ("reference", "sparse", "auto"):
        out = attend(*tensors, graph, **given, backend=backend)
        torch.testing.assert_close(out, expected, **EXACT)
        assert_all_close(derivatives(out, inputs, 2), wanted, **EXACT)
    with pytest.raises(RuntimeError, match="knows LeakyReLU within additive scores, not tanh"):
        attend(*tensors, graph, **given, backend="fused")
    leaky = attend(*tensors, graph, **{**given, "score": Additive(inputs["weight"])})
    assert (leaky - expected).abs().max() > 1e-3
    weights = attention_weights(*tensors[:2], graph, **given)
    torch.testing.assert_close(combine(weights, tensors[2], graph), expected, **EXACT)


def test_half_precision_and_ragged_batches():
    graph = Disjoint([Full(2), Causal(3)])
    q, k, v = torch.randn(3, 2, 5, 2, 4)
    exact = combine(normalize(edge_scores(q, k, graph), graph, "sigmoid"), v, graph)
    q, k, v = (tensor.bfloat16() for tensor in (q, k, v))
    out = combine(normalize(edge_scores(q, k, graph), graph, "sigmoid"), v, graph)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: normalize(torch.zeros(4, 1), Full(2), "best"), "normalizer must be one of soft"),
        (lambda: normalize(torch.zeros(3, 1), Full(2)), r"scores must be .* with E = 4, got"),
        (lambda: combine(torch.zeros(4, 1), torch.zeros(2, 2, 3), Full(2)), "v must have shape"),
        (lambda: combine(torch.zeros(4), torch.zeros(2, 2, 3), Full(2)), "weights must be float"),
        (
            lambda: attend(
                *torch.zeros(3, 2, 1, 1), Full(2), score=Additive(torch.ones(1, 1), 0.2, "relu")
            ),
            "score.activation must be one of leaky_relu, tanh; got 'relu'",
        ),
    ],
)
def test_what_does_not_fit_is_named(do, message):
    with pytest.raises(ValueError, match=message):
        do()


def test_features_of_another_kind_are_named():
    q = k = torch.ones(2, 1, 4)
    with pytest.raises(TypeError, match="edges must be EdgeFeatures or None, got Tensor"):
        edge_scores(q, k, Full(2), edges=torch.ones(4, 3))
