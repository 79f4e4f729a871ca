"""Heads that share keys, soft-capping, sinks, dropout, and parts that are merged."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.axes import spread
from tests.contracts.backends import NAMES, attempt
from tests.ops.kinds import slope
from tests.oracle import attend_oracle
from tokennet import Causal, Disjoint, Edges, Full, Tokens, Window, attend, explain
from tokennet.graphs import PerHead
from tokennet.ops import (
    Additive,
    Softmax,
    attend_with_lse,
    attention_weights,
    edge_scores,
    merge_attention,
)
from tokennet.ops.call import make_call
from tokennet.ops.planner import signature

EXACT = {"rtol": 1e-9, "atol": 1e-11}


def qkv(n, m=None, heads=4, kv_heads=2, channels=3, dtype=torch.float64):
    sizes = (n, heads), (m or n, kv_heads), (m or n, kv_heads)
    return [torch.randn(*size, channels, dtype=dtype).requires_grad_() for size in sizes]


def test_shared_keys_are_those_of_torch():
    q, k, v = (x.detach().transpose(0, 1)[None] for x in qkv(5, heads=6, kv_heads=2))
    expected = scaled_dot_product_attention(q, k, v, enable_gqa=True)[0].transpose(0, 1)
    out = attend(*(x[0].transpose(0, 1) for x in (q, k, v)), Full(5))
    torch.testing.assert_close(out, expected)


def test_shared_keys_are_not_copied():
    """The kernels are given k as it is, of one head, and write a gradient of one head."""
    q = torch.randn(6, 8, 4, requires_grad=True)
    k, v = torch.randn(2, 6, 1, 4).requires_grad_()
    call = make_call(q, k, v, Window(6, 1))
    assert call.k.data_ptr() == k.data_ptr()
    assert call.k.shape == (1, 6, 1, 4)
    for backend in ("fused", "sparse", "dense"):
        out = attend(q, k, v, Window(6, 1), backend=backend)
        assert torch.autograd.grad(out.sum(), v)[0].shape == (6, 1, 4)


def test_additive_scores_refuse_shared_keys():
    q, k, v = qkv(3)
    with pytest.raises(ValueError, match="k must have the 4 heads of q where .* additive, got 2"):
        attend(q, k, v, Full(3), score=Additive(torch.ones(4, 3).double()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"softcap": 0.0}, "softcap must be positive, got 0.0"),
        ({"softcap": -1.0}, "softcap must be positive"),
        ({"softcap": math.nan}, "softcap must be finite"),
        ({"dropout": 1.5}, "dropout must be from 0 to 1, got 1.5"),
        ({"dropout": -0.1}, "dropout must be from 0 to 1"),
    ],
)
def test_bad_options_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        Softmax(**given)


@pytest.mark.parametrize("graph", [Full(6), Window(6, 1), Disjoint([Full(2), Causal(4)])], ids=repr)
@pytest.mark.parametrize("backend", NAMES)
def test_dropout_is_that_of_sdpa_in_distribution(backend, graph):
    """Weights are 0 or w / (1 - p), as often as they should be, and the values follow."""
    torch.manual_seed(0)
    q, k, _ = (x.detach() for x in qkv(6, kv_heads=4))
    v = torch.eye(6, dtype=torch.float64)[:, None].expand(6, 4, 6)  # so that weights come out
    runs = [
        attempt(
            backend, lambda: attend(q, k, v, graph, backend=backend, softmax=Softmax(dropout=0.4))
        )
    ]
    if runs[0][0] is None:
        assert "dropped by chance" in runs[0][1] or backend in ("ragged", "banded", "flex")
        return
    for _ in range(400):
        runs.append((attend(q, k, v, graph, backend=backend, softmax=Softmax(dropout=0.4)), ""))
    found = torch.stack([out for out, _ in runs])  # (R, N, H, M)
    weights = attend(q, k, v, graph)
    kept = found != 0
    torch.testing.assert_close(found, kept * weights / 0.6, **EXACT)
    rate = kept.double().mean(0)[weights > 0]
    assert (rate - 0.6).abs().max() < 5 * (0.6 * 0.4 / len(runs)) ** 0.5
    assert (kept[:, :, 0] != kept[:, :, 1]).any()  # by head


@pytest.mark.parametrize("backend", spread(["sparse", "reference", "dense"], every=3))
def test_gradients_go_through_the_weights_that_are_kept(backend):
    q, k, v = qkv(5)
    graph, softmax = Window(5, 1), Softmax(dropout=0.5, softcap=2.0)

    def function(*given):
        torch.manual_seed(3)
        return attend(*given, graph, softmax=softmax, backend=backend)

    assert torch.autograd.gradcheck(function, (q, k, v))
    assert torch.autograd.gradgradcheck(function, (q, k, v))


def test_explain_says_who_cannot():
    q, k, v = qkv(40)
    reasons = {
        p.backend: p.reason
        for p in explain(q, k, v, Window(40, 2), softmax=Softmax(dropout=0.1)).prospects
    }
    assert "dropped by chance" in reasons["fused"]
    assert reasons["sparse"] is reasons["dense"] is reasons["reference"] is None
    reasons = {
        p.backend: p.reason
        for p in explain(q, k, v, Disjoint([Full(20)] * 2), softmax=Softmax(softcap=9.0)).prospects
    }
    assert "bounded by softcap" in reasons["ragged"]
    assert "bounded by softcap" in reasons["fused"]
    sinks = Softmax(sinks=torch.zeros(4).double())
    reasons = {
        p.backend: p.reason for p in explain(q, k, v, Window(40, 2), softmax=sinks).prospects
    }
    assert "log-sum-exp" in reasons["flex"]
    assert reasons["fused"] is None


def test_signatures_hold_all_that_decides():
    q, k, v = qkv(4)
    graph, sinks = Full(4), torch.zeros(4).double()
    calls = [
        make_call(q, k, v, graph),
        make_call(q, torch.cat([k, k], 1), torch.cat([v, v], 1), graph),
        make_call(q, k, v, graph, wants_lse=True),
        *(
            make_call(q, k, v, graph, softmax=Softmax(**given))
            for given in ({"dropout": 0.1}, {"softcap": 1.0}, {"sinks": sinks})
        ),
    ]
    assert len({signature(call, "auto") for call in calls}) == len(calls)


@pytest.mark.parametrize("backend", spread(["fused", "auto", "dense", "reference", "sparse"]))
def test_parts_merged_are_the_whole_with_all_derivatives(backend):
    q, k, v = qkv(6)
    sinks = torch.randn(4, dtype=torch.float64, requires_grad=True)
    halves = [
        Edges(torch.tensor(pairs), 6)
        for pairs in ([[0, 1, 2, 3], [0, 0, 3, 4]], [[5, 4, 1, 0, 2], [0, 1, 3, 4, 4]])
    ]
    whole = Edges(torch.cat([half.edge_index() for half in halves], 1), 6)

    def merged(q, k, v, sinks):
        parts = [attend_with_lse(q, k, v, half, backend=backend) for half in halves[:1]]
        parts.append(
            attend_with_lse(q, k, v, halves[1], softmax=Softmax(sinks=sinks), backend=backend)
        )
        return merge_attention(parts)

    out, lse = merged(q, k, v, sinks)
    expected = attend_oracle(q, k, v, whole, softmax=Softmax(sinks=sinks))
    torch.testing.assert_close(out, expected, **EXACT)
    assert lse.shape == (6, 4)
    assert (out[2] == 0).all()
    inputs = (q, k, v, sinks)
    for mine, other in zip(
        torch.autograd.grad(out.sin().sum(), inputs, create_graph=True),
        torch.autograd.grad(expected.sin().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, **EXACT)
    assert torch.autograd.gradcheck(merged, inputs)
    assert torch.autograd.gradgradcheck(merged, inputs, fast_mode=True)


@pytest.mark.parametrize("backend", ["reference", "dense", "fused", "sparse"])
def test_the_log_sum_exp_of_every_backend(backend):
    graph = Window(70, 3)
    q, k, v = qkv(70)
    out, lse = attend_with_lse(q[None], k[None], v[None], graph, backend=backend)
    scores, target = edge_scores(q, k, graph), graph.edge_index()[1]
    wanted = torch.stack([scores[target == i].logsumexp(0) for i in range(70)])
    torch.testing.assert_close(lse[0], wanted, **EXACT)
    torch.testing.assert_close(out[0], attend(q, k, v, graph), **EXACT)


def test_what_cannot_be_merged_is_refused():
    out, lse = torch.zeros(3, 2, 4), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="parts must be at least one output"):
        merge_attention([])
    with pytest.raises(ValueError, match=r"parts must be .* got \(3, 2, 4\) and \(3,\)"):
        merge_attention([(out, lse[:, 0])])
    with pytest.raises(ValueError, match=r"of one shape .* got \(2, 2, 4\)"):
        merge_attention([(out, lse), (out[:2], lse[:2])])


def test_weights_are_without_what_goes_to_sinks_and_are_not_dropped():
    q, k, v = qkv(5)
    graph = Causal(5)
    softmax = Softmax(softcap=1.0, sinks=torch.randn(4).double(), dropout=0.9)
    weights = attention_weights(q, k, graph, softmax=softmax)
    source, target = graph.edge_index()
    messages = weights[..., None] * v.repeat_interleave(2, 1)[source]
    out = torch.zeros(5, 4, 3, dtype=torch.float64).index_add(0, target, messages)
    expected = attend(q, k, v, graph, softmax=Softmax(1.0, softmax.sinks))
    torch.testing.assert_close(out, expected, **EXACT)
    with pytest.raises(ValueError, match=r"softmax.sinks must be None with the normalizer 'none'"):
        attention_weights(q, k, graph, softmax=softmax, normalizer="none")


def test_numbers_that_are_not_finite_stay_where_they_are_visible():
    q, k, v = (x.detach() for x in qkv(6, dtype=torch.float64))
    graph = Disjoint([Full(3), Causal(3)])
    sinks = Softmax(sinks=torch.zeros(4).double())
    for backend in ("dense", "sparse", "fused", "reference"):
        clean = attend(q, k, v, graph, softmax=sinks, backend=backend)
        spoiled = k.clone()
        spoiled[0] = math.nan
        out = attend(q, spoiled, v, graph, softmax=sinks, backend=backend)
        assert out[:3].isnan().all()
        torch.testing.assert_close(out[3:], clean[3:], **EXACT)


def per_head():
    window = Window(6, 1)
    return PerHead([window, Full(6), window, Causal(6)])


@pytest.mark.parametrize("kind", ["none", "pairs", "shared", "function"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_graph_for_each_head_is_attention_head_by_head(kv_heads, kind):
    graph = per_head()
    q, k, v = qkv(6, kv_heads=kv_heads)
    sinks = torch.randn(4, dtype=torch.float64, requires_grad=True)
    biases = {"pairs": torch.randn(4, 6, 6).double(), "shared": torch.randn(1, 6, 6).double()}
    bias = slope if kind == "function" else biases.get(kind)
    inputs = [q, k, v, sinks]

    def one_by_one():
        outs = []
        for head, one in enumerate(graph.graphs):
            own = [head * kv_heads // 4]
            of = bias if kind != "function" else lambda h, i, j, head=head: slope(h + head, i, j)
            of = bias[head : head + 1] if kind == "pairs" else of
            cap = Softmax(2.0, sinks[head : head + 1])
            outs.append(attend_oracle(q[:, [head]], k[:, own], v[:, own], one, of, softmax=cap))
        return torch.cat(outs, 1)

    for out in (
        attend(q, k, v, graph, bias, softmax=Softmax(2.0, sinks)),
        attend_with_lse(q[None], k[None], v[None], graph, bias, softmax=Softmax(2.0, sinks))[0][0],
    ):
        expected = one_by_one()
        torch.testing.assert_close(out, expected, **EXACT)
        found, wanted = (torch.autograd.grad(x.sin().sum(), inputs) for x in (out, expected))
        torch.testing.assert_close(found, wanted, **EXACT)


def test_weights_of_a_graph_for_each_head_are_those_of_its_edges():
    graph = per_head()
    q, k, _ = qkv(6)
    weights = attention_weights(q, k, graph, slope)
    source, target = graph.union.edge_index()
    assert weights.shape == (graph.union.num_edges, 4)
    for head, one in enumerate(graph.graphs):
        mine = one.attends(target, source)
        assert (weights[~mine, head] == 0).all()
        alone = attention_weights(q, k, PerHead([one] * 4), slope)
        torch.testing.assert_close(weights[mine, head], alone[:, head], **EXACT)


def test_graphs_of_heads_that_do_not_fit_are_refused():
    q, k, v = qkv(6)
    with pytest.raises(ValueError, match=r"graphs must have the same .* \(5, 5\)\]"):
        PerHead([Full(6), Full(5)])
    with pytest.raises(ValueError, match="graphs must be at least one graph"):
        PerHead([])
    with pytest.raises(TypeError, match=r"graphs\[0\] must be a TokenGraph, got int"):
        PerHead([3])
    with pytest.raises(ValueError, match=r"graph for each head of q, 4, got PerHead\(\[Full\(6\)"):
        attend(q, k, v, PerHead([Full(6)]))
    with pytest.raises(ValueError, match="their edges have no common order"):
        attend(q, k, v, per_head(), torch.zeros(36, 4))
    with pytest.raises(TypeError, match="graph must be a TokenGraph, got PerHead"):
        Tokens(torch.zeros(6, 4), per_head())
