"""Weights that are parameters, in the place of weights that are data; token-wise functions."""

import copy
import pickle

import pytest
import torch
from torch import nn

from tests import laws
from tests.families import BIPARTITE, SQUARE
from tokennet import (
    Attention,
    Causal,
    Cycle,
    Edges,
    Full,
    LearnedMixing,
    PerToken,
    Residual,
    TokenNet,
    Tokens,
    TokenWise,
    Window,
    mlp,
)
from tokennet.attend import NORMALIZERS

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
@pytest.mark.parametrize("family", ["full", "causal", "edges", "multi_edges", "no_edges", "ragged"])
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
    learned.weight.data = attention.weights(z).data
    torch.testing.assert_close(learned(z), attention(z), **EXACT)
    assert (learned(2 * z) - attention(2 * z)).abs().max() > 1e-3
    layers = [Residual(layer, nn.LayerNorm(DIM)) for layer in (attention, learned)]
    net = TokenNet([*layers, Residual(TokenWise(mlp(DIM)))], PerToken(DIM, 3)).double()
    assert net(torch.randn(2, 6, DIM).double()).shape == (2, 6, 3)
    assert net.symmetry.relabelling == "trivial"


def test_any_linear_map_of_the_tokens():
    layer = LearnedMixing(DIM, 6, 1, bias=False, normalizer="none").double()
    matrix, z = torch.randn(6, 6).double(), torch.randn(3, 6, DIM).double()
    for linear in (layer.value, layer.out):
        linear.weight.data.copy_(torch.eye(DIM))
    layer.weight.data.copy_(matrix.flatten()[:, None])
    torch.testing.assert_close(layer(z), matrix @ z, **EXACT)


def test_graphs_that_have_the_edges_are_honoured_and_others_refused():
    layer = LearnedMixing(DIM, Window(6, 1), HEADS).double()
    tokens = laws.tokens_on(Window(6, 1), DIM, torch.float64)
    out = layer(tokens).z
    for graph in (Full(6), Window(6, 2), Edges(Window(6, 1).edge_index().flip(1), 6)):
        torch.testing.assert_close(layer(tokens.replace(graph=graph)).z, out)
    for graph in (Causal(6), Window(5, 1), Edges(torch.zeros(2, 0, dtype=torch.long), 6)):
        with pytest.raises(ValueError, match="graph must be one with the edges that have weights"):
            layer(laws.tokens_on(graph, DIM, torch.float64))


@pytest.mark.parametrize("law", ["batch_is_one_by_one", "finite", "symmetry_is_declared_truly"])
@pytest.mark.parametrize("family", ["full", "multi_edges", "ragged"])
def test_laws(law, family):
    graph = SQUARE[family]()
    layer = LearnedMixing(DIM, graph, HEADS).double()
    getattr(laws, law)(layer, laws.tokens_on(graph, DIM, torch.float64))


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
    with pytest.raises(ValueError, match="graph must be one with the edges that have weights"):
        layer.step(Tokens(z[:, :1]), Causal(8).last(1), state)
    with pytest.raises(TypeError, match="listens to later tokens"):
        LearnedMixing(DIM, 7, HEADS).double().step(Tokens(z[:, :2]), Causal(2))


def test_flops_and_weights():
    layer = LearnedMixing(DIM, Causal(5), HEADS)
    tokens = Tokens(torch.zeros(3, 5, DIM), Causal(5))
    assert layer.flops(tokens) == 3 * (2 * 2 * 5 * DIM * DIM + 15 * 2 * DIM)
    weights = layer.weights()
    assert weights.shape == (15, HEADS)
    torch.testing.assert_close(weights[0], torch.ones(HEADS))
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


def test_layers_from_elsewhere_are_not_confused():
    graph = Full(3)
    layer = pickle.loads(pickle.dumps(LearnedMixing(4, Cycle(3), 2)))
    other = LearnedMixing(4, Causal(3), 2)
    names = {layer._kept_as, other._kept_as, copy.deepcopy(layer)._kept_as}
    assert len(names) == 3
    layer(torch.zeros(3, 4), graph=graph)
