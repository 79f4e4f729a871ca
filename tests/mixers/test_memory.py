"""Segments that remember: equal to the whole where all is remembered, to a window otherwise."""

import pytest
import torch

from tokennet import Attention, Causal, Edges, Full, Residual, TokenNet, Tokens, Window
from tokennet.mixers import RecurrentAttention
from tokennet.mixers.scores import Bahdanau, Cosine, Location
from tokennet.positional import ALiBi, Rotary, T5Bias

DIM, HEADS, N = 8, 2, 12
EXACT = {"rtol": 1e-10, "atol": 1e-12}
OPTIONS = {
    "plain": dict,
    "rotary": lambda: {"position": Rotary()},
    "rotary_by_pos": lambda: {"position": Rotary("pos")},
    "t5": lambda: {"position": T5Bias(HEADS)},
    "alibi_by_pos": lambda: {"position": ALiBi(HEADS, "pos")},
    "cosine": lambda: {"score": Cosine("sigmoid")},
    "additive": lambda: {"score": Bahdanau()},
    "location": lambda: {"score": Location(N)},
}


def by_segments(net, z, pos, sizes):
    state, outputs, done = None, [], 0
    for size in sizes:
        new, done = slice(done, done + size), done + size
        segment = Tokens(z[..., new, :], pos=pos[new])
        graph = Causal(done).last(size)
        if isinstance(net, RecurrentAttention):
            graph = net.remembering(graph)
        out, state = net.step(segment, graph, state)
        outputs.append(out.z)
    return torch.cat(outputs, dim=-2)


def example():
    z = torch.randn(2, N, DIM, dtype=torch.float64, requires_grad=True)
    return z, torch.randint(-5, 5, (N, 1)).double()


@pytest.mark.parametrize("name", OPTIONS)
def test_with_memory_for_all_and_no_detaching_segments_are_the_whole(name):
    layers = [
        Residual(RecurrentAttention(DIM, HEADS, memory=N, detach=False, **OPTIONS[name]()))
        for _ in range(2)
    ]
    net, (z, pos) = TokenNet(layers).double(), example()
    whole = net(Tokens(z, Causal(N), pos)).z
    inputs, weight = [z, *net.parameters()], torch.randn_like(whole)
    wanted = torch.autograd.grad((whole * weight).sum(), inputs)
    for sizes in ((4, 4, 4), (1,) * N, (5, 1, 6)):
        out = by_segments(net, z, pos, sizes)
        torch.testing.assert_close(out, whole, **EXACT)
        for got, want in zip(
            torch.autograd.grad((out * weight).sum(), inputs), wanted, strict=True
        ):
            torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize("memory", [0, 1, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_token_by_token_it_is_a_window(name, memory):
    layer, (z, pos) = RecurrentAttention(DIM, HEADS, memory=memory, **OPTIONS[name]()), example()
    layer = layer.double()
    window = layer(Tokens(z, Causal(N) & Window(N, memory), pos)).z
    torch.testing.assert_close(by_segments(layer, z, pos, (1,) * N), window, **EXACT)
    if name == "plain" and memory:
        assert (window - layer(Tokens(z, Causal(N), pos)).z).abs().max() > 1e-3


def test_a_segment_sees_itself_and_the_memory():
    layer, (z, pos) = (
        RecurrentAttention(DIM, HEADS, memory=2, position=Rotary()).double(),
        example(),
    )
    out = by_segments(layer, z, pos, (4, 4, 4))
    plain = Attention(DIM, HEADS, position=Rotary()).double()
    plain.load_state_dict(layer.state_dict())
    for start in (4, 8):  # rotations are relative: a segment may be counted from its memory
        seen = Tokens(z[:, start - 2 : start + 4], Causal(6))
        torch.testing.assert_close(out[:, start : start + 4], plain(seen).z[:, 2:], **EXACT)


@pytest.mark.parametrize("detach", [True, False])
def test_derivatives_stop_at_the_memory(detach):
    layer, (z, pos) = RecurrentAttention(DIM, HEADS, memory=4, detach=detach).double(), example()
    out = by_segments(layer, z, pos, (4, 4, 4))
    gradient = torch.autograd.grad(out[:, 4:8].sum(), z)[0]
    assert (gradient[:, :4].abs().max() == 0) == detach
    assert gradient[:, 4:8].abs().max() > 1e-3


def test_other_graphs_in_segments():
    layer, (z, _) = RecurrentAttention(DIM, HEADS, memory=3).double(), example()
    graph, state, outputs = Causal(N) & Window(N, 3), None, []
    for end in range(2, N + 1, 2):
        near = (Causal(end) & Window(end, 3)).last(2)
        out, state = layer.step(Tokens(z[:, end - 2 : end]), near, state)
        outputs.append(out.z)
    torch.testing.assert_close(torch.cat(outputs, 1), layer(Tokens(z, graph)).z, **EXACT)


def test_a_step_refuses_edges_to_forgotten_tokens():
    layer, (z, _) = RecurrentAttention(DIM, HEADS, memory=2).double(), example()
    _, state = layer.step(Tokens(z[:, :4]), Causal(4))
    new, graph = Tokens(z[:, 4:6]), Causal(6).last(2)
    for forgetting in (graph, graph & Full(2, 6), Edges(graph.edge_index(), 2, 6)):
        with pytest.raises(ValueError, match="graph must have no edge to tokens that are not kept"):
            layer.step(new, forgetting, state)
    near = layer.remembering(graph)
    assert torch.equal(near.dense(), graph.dense() & (torch.arange(6) >= 2))
    whole = torch.cat([Causal(4).dense(), torch.zeros(4, 2, dtype=bool)], 1)
    source = torch.cat([whole, near.dense()]).nonzero().T.flip(0)
    want = layer(Tokens(z[:, :6], Edges(source, 6))).z[:, 4:]
    for listed in (near, layer.remembering(Edges(graph.edge_index(), 2, 6))):
        torch.testing.assert_close(layer.step(new, listed, state)[0].z, want, **EXACT)


def test_memory_must_be_a_number_of_tokens():
    with pytest.raises(ValueError, match="memory must be at least 0, got -1"):
        RecurrentAttention(DIM, HEADS, memory=-1)
