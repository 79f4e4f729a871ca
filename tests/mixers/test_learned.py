"""Weights that are parameters, in the place of weights that are data; token-wise functions."""

import copy
import pickle

import pytest
import torch
from torch import nn

from tests.contracts import mixers as laws
from tests.families import BIPARTITE, SQUARE
from tokennet import (
    Attention,
    Causal,
    Cycle,
    Disjoint,
    Edges,
    Full,
    Residual,
    TokenNet,
    Tokens,
    TokenWise,
    Window,
)
from tokennet.mixers import LearnedMixing
from tokennet.nets import Decoder, Embedding, TokenReadout, mlp
from tokennet.ops import NORMALIZERS, combine, normalize

DIM, HEADS = 8, 2
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def by_loops(layer, z):
    """Of one set: target by target, with the weights of its edges."""
    graph = layer.graph
    v = layer.value(z).unflatten(-1, (HEADS, -1))
    rows = []
    edges = graph.edge_index().t().tolist()
    for target in range(graph.num_targets):
        mine = [(e, j) for e, (j, i) in enumerate(edges) if i == target]
        row = 0 * v.sum((0, 2), keepdim=True)[0].expand(HEADS, v.shape[-1])
        if mine:
            logits = layer.weight[[e for e, _ in mine]]  # (S, H)
            soft = logits.softmax(0)
            weights = {
                "softmax": soft,
                "sigmoid": logits.sigmoid(),
                "none": logits,
                "hard": (logits == logits.max(0).values).double() + soft - soft.detach(),
            }[layer.normalizer]
            row = (weights[..., None] * v[[j for _, j in mine]]).sum(0)
        rows.append(row)
    return layer.out(torch.stack(rows).flatten(-2))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("family", ["full", "causal", "edges", "multi_edges", "no_edges"])
def test_values_and_gradients_are_those_of_loops(family, normalizer):
    graph = SQUARE[family]()
    layer = LearnedMixing(DIM, graph, HEADS, normalizer=normalizer).double()
    z = torch.randn(graph.num_targets, DIM, dtype=torch.float64, requires_grad=True)
    out, expected = layer(Tokens(z, graph)).z, by_loops(layer, z)
    torch.testing.assert_close(out, expected, **EXACT)
    weight, inputs = torch.randn_like(out), [z, *layer.parameters()]
    got, want = (
        torch.autograd.grad((x * weight).sum(), inputs, materialize_grads=True, allow_unused=True)
        for x in (out, expected)
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    batch = torch.stack([z, 2 * z])
    together = layer(Tokens(batch, graph)).z
    torch.testing.assert_close(together[1], layer(Tokens(2 * z, graph)).z, **EXACT)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_combinations_start_at_the_size_of_the_values_and_logits_at_1(normalizer):
    graph = Window(400, 12)
    layer = LearnedMixing(64, graph, 2, normalizer=normalizer)
    sd = (graph.num_edges / 400) ** -0.5 if normalizer == "none" else 1.0
    assert float(layer.weight.detach().std()) == pytest.approx(sd, rel=0.03)
    assert abs(float(layer.weight.detach().mean())) < 0.03 * sd


def test_between_two_sets():
    graph = BIPARTITE["full"]()
    layer = LearnedMixing(DIM, graph, HEADS, source_dim=6).double()
    z, source = torch.randn(2, 3, DIM).double(), torch.randn(2, 5, 6).double()
    expected = torch.stack([by_loops(layer, one) for one in source])
    torch.testing.assert_close(layer(z, source), expected, **EXACT)


def test_attention_and_learned_weights_take_each_others_place():
    attention, z = Attention(DIM, HEADS).double(), torch.randn(6, DIM, dtype=torch.float64)
    learned = LearnedMixing(DIM, Full(6), HEADS, normalizer="none").double()
    learned.value.load_state_dict(attention.value.state_dict())
    learned.out.load_state_dict(attention.out.state_dict())
    learned.weight.data = attention.attention_weights(z).data
    torch.testing.assert_close(learned(z), attention(z), **EXACT)
    assert (learned(2 * z) - attention(2 * z)).abs().max() > 1e-3
    layers = [Residual(layer, nn.LayerNorm(DIM)) for layer in (attention, learned)]
    net = TokenNet([*layers, Residual(TokenWise(mlp(DIM)))], TokenReadout(DIM, 3)).double()
    assert net(torch.randn(2, 6, DIM).double()).shape == (2, 6, 3)
    assert net.symmetry.relabeling == "trivial"


def test_any_linear_map_of_the_tokens():
    layer = LearnedMixing(DIM, 6, 1, bias=False, normalizer="none").double()
    matrix, z = torch.randn(6, 6).double(), torch.randn(3, 6, DIM).double()
    for linear in (layer.value, layer.out):
        linear.weight.data.copy_(torch.eye(DIM))
    layer.weight.data.copy_(matrix.flatten()[:, None])
    torch.testing.assert_close(layer(z), matrix @ z, **EXACT)


def test_graphs_that_have_the_edges_are_honored_and_others_refused():
    layer = LearnedMixing(DIM, Window(6, 1), HEADS).double()
    tokens = laws.tokens_on(Window(6, 1), DIM, torch.float64)
    out = layer(tokens).z
    for graph in (Full(6), Window(6, 2), Edges(Window(6, 1).edge_index().flip(1), 6)):
        torch.testing.assert_close(layer(tokens.replace(graph=graph)).z, out)
    refused = Causal(6), Window(5, 1), Full(7), Edges(torch.zeros(2, 0, dtype=torch.long), 6)
    for graph in (*refused, Disjoint([Full(6), Full(5)])):
        with pytest.raises(ValueError, match=r"graph must be Window\(6, radius=1\) or contain it"):
            layer(laws.tokens_on(graph, DIM, torch.float64))
    with pytest.raises(ValueError, match=r"graph must be Window\(6, radius=1\) or contain it"):
        layer(tokens.z[:4], tokens.z)
    with pytest.raises(ValueError, match="graph must be that of one set"):
        LearnedMixing(DIM, Disjoint([Full(2), Full(2)]))


def test_sets_of_a_ragged_batch_share_the_weights():
    sets = [Tokens(torch.randn(2, n, DIM).double(), Causal(n)) for n in (5, 3, 5, 0, 1)]
    layer = LearnedMixing(DIM, Causal(5), HEADS).double()
    for alone, part in zip(sets, layer(Tokens.batch(sets)).unbatch(), strict=True):
        torch.testing.assert_close(part.z, layer(alone).z, **EXACT)
    whole = LearnedMixing(DIM, 3, HEADS).double()
    z = torch.randn(6, DIM).double()
    ragged = whole(Tokens(z, Disjoint([Full(3), Full(3)]))).z
    torch.testing.assert_close(ragged, torch.cat([whole(z[:3]), whole(z[3:])]), **EXACT)
    with pytest.raises(ValueError, match=r"graph must be Full\(3\) or contain it"):
        whole(Tokens(z, Disjoint([Full(4), Full(2)])))
    between = LearnedMixing(DIM, Full(1, 3), HEADS).double()
    seeds = Tokens(z[:2], Disjoint([Full(1), Full(1)]))
    heard = between(seeds, Tokens(z, Disjoint([Full(3), Full(3)]))).z
    torch.testing.assert_close(heard[1:], between(z[:1], z[3:]), **EXACT)


def test_the_first_tokens_where_none_has_weights_for_later_ones():
    graph = Causal(7) & Window(7, 2)
    layer, z = LearnedMixing(DIM, graph, HEADS).double(), torch.randn(7, DIM).double()
    for n in range(7):
        first = layer(Tokens(z[:n], Causal(n))).z
        torch.testing.assert_close(first, layer(Tokens(z, Causal(7))).z[:n], **EXACT)
    blocks = Edges(torch.tensor([[1, 0, 2], [0, 1, 2]]), 3)
    layer = LearnedMixing(DIM, blocks, HEADS).double()
    torch.testing.assert_close(layer(z[:2]), layer(z[:3])[:2], **EXACT)
    with pytest.raises(ValueError, match="or contain it"):
        layer(z[:1])


@pytest.mark.parametrize(
    "graph", [Full(5), Causal(5), Edges(Window(5, 2).edge_index().flip(1), 5)], ids=repr
)
def test_weights_are_in_the_order_of_the_graph_that_is_given(graph):
    own = Edges(torch.tensor([[0, 0, 1, 1, 0, 2, 4], [0, 1, 1, 1, 2, 2, 4]]), 5)
    layer = LearnedMixing(DIM, own, HEADS).double()
    z = torch.randn(2, 5, DIM).double()
    weights = layer.attention_weights(z, graph=graph)
    assert weights.shape == (2, graph.num_edges, HEADS)
    v = layer.value(z).unflatten(-1, (HEADS, -1))
    expected = layer(z, graph=graph)
    torch.testing.assert_close(layer.out(combine(weights, v, graph).flatten(-2)), expected, **EXACT)
    assert torch.equal(layer.attention_weights(z, graph=own)[0], normalize(layer.weight, own))
    ragged = Tokens(z.flatten(0, 1), Disjoint([graph, graph]))
    torch.testing.assert_close(layer.attention_weights(ragged), torch.cat([*weights]), **EXACT)
    assert torch.autograd.grad(weights.square().sum(), layer.weight)[0].abs().max() > 0


@pytest.mark.parametrize("law", ["batch_is_one_by_one", "finite", "symmetry_is_declared"])
@pytest.mark.parametrize("family", ["full", "multi_edges"])
def test_laws(law, family):
    graph = SQUARE[family]()
    layer = LearnedMixing(DIM, graph, HEADS).double()
    getattr(laws, law)(layer, laws.tokens_on(graph, DIM, torch.float64))


@pytest.mark.parametrize("cache", [True, False])
def test_a_decoder_goes_on_step_by_step_or_from_the_start(cache):
    mixing = Residual(LearnedMixing(DIM, Causal(16), HEADS))
    net = Decoder([Embedding(11, DIM), mixing, mixing], TokenReadout(DIM, 11)).double()
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    ids = net.generate(prompt, 13, use_cache=cache)
    assert ids.shape == (2, 16)
    scores = net(ids)  # all at once
    assert torch.equal(ids[:, 3:], scores[:, 2:-1].argmax(-1))
    with pytest.raises(ValueError, match=r"graph must (be|have the edges of) Causal\(16\)"):
        net.generate(prompt, 15, use_cache=cache)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_steps_are_the_whole(normalizer):
    graph = Causal(7) & Window(7, 3)
    layer = LearnedMixing(DIM, graph, HEADS, normalizer=normalizer).double()
    z, state, outputs = torch.randn(2, 7, DIM).double(), None, []
    for start, end in ((0, 3), (3, 4), (4, 7)):
        new = Tokens(z[:, start:end])
        out, state = layer.step(new, Causal(end).last(end - start), state)
        outputs.append(out.z)
    torch.testing.assert_close(torch.cat(outputs, 1), layer(Tokens(z, graph)).z, **EXACT)
    with pytest.raises(ValueError, match="graph must have the edges of Causal"):
        layer.step(Tokens(z[:, :1]), Causal(8).last(1), state)
    _, state = layer.step(Tokens(z[:, :2]), Causal(2))
    with pytest.raises(ValueError, match="graph must have the edges of Causal"):
        layer.step(Tokens(z[:, :1]), Window(3, 0).last(1), state)
    with pytest.raises(TypeError, match="attends to later tokens"):
        LearnedMixing(DIM, 7, HEADS).double().step(Tokens(z[:, :2]), Causal(2))


def test_flops_and_weights():
    layer = LearnedMixing(DIM, Causal(5), HEADS)
    tokens = Tokens(torch.zeros(3, 5, DIM), Causal(5))
    assert layer.flops(tokens) == 3 * (2 * 2 * 5 * DIM * DIM + 15 * 2 * DIM)
    assert layer.flops(Tokens.batch([Tokens(torch.zeros(n, DIM), Causal(n)) for n in (5, 2)])) == (
        2 * 2 * 7 * DIM * DIM + (15 + 3) * 2 * DIM
    )
    weights = layer.attention_weights(tokens)
    assert weights.shape == (3, 15, HEADS)
    torch.testing.assert_close(weights[0, 0], torch.ones(HEADS))
    with pytest.raises(ValueError, match="normalizer must be one of softmax"):
        LearnedMixing(DIM, 5, HEADS, normalizer="best")


def test_token_wise_functions_are_convolutions_of_kernel_1():
    fn = mlp(DIM, 16)
    first, last = nn.Conv1d(DIM, 16, 1), nn.Conv1d(16, DIM, 1)
    for conv, linear in ((first, fn[0]), (last, fn[3])):
        conv.weight.data.copy_(linear.weight[..., None])
        conv.bias.data.copy_(linear.bias)
    net = nn.Sequential(first, nn.GELU(), last).double()
    layer, z = TokenWise(fn).double(), torch.randn(3, 7, DIM, dtype=torch.float64)
    inputs = [z.clone().requires_grad_() for _ in range(2)]
    out, expected = layer(inputs[0]), net(inputs[1].transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(out, expected, **EXACT)
    weight = torch.randn_like(out)
    mine = torch.autograd.grad((out * weight).sum(), [inputs[0], *fn.parameters()])
    theirs = torch.autograd.grad((expected * weight).sum(), [inputs[1], *net.parameters()])
    for got, want in zip(mine, theirs, strict=True):
        torch.testing.assert_close(got, want.view_as(got), **EXACT)


def test_layers_are_told_apart_by_their_edges():
    graph, z = Causal(3), torch.zeros(3, 4)
    layer = LearnedMixing(4, Causal(3), 2)
    others = pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), LearnedMixing(4, Causal(3), 2)
    for same in (layer, *others):
        torch.testing.assert_close(same(z, graph=graph), same(z, graph=Full(3)))
    for different in (LearnedMixing(4, Full(3), 2), LearnedMixing(4, Cycle(3), 2)):
        with pytest.raises(ValueError, match="or contain it"):
            different(z, graph=graph)
