"""Steps in a row give what one call on the whole sequence gives."""

import pytest
import torch
from torch import nn

from tokennet import (
    Attention,
    Causal,
    Convolution,
    CrossAttention,
    Full,
    GridConvolution,
    LearnedEncoding,
    MeanReadout,
    MLPMixer,
    PerToken,
    Recurrence,
    Residual,
    SinusoidalEncoding,
    TokenNet,
    Tokens,
    TokenWise,
    Window,
    mlp,
)

N, DIM = 9, 8
GRAPHS = {"causal": Causal, "window": lambda n: Causal(n) & Window(n, 3)}


def decoder(cross: bool = False) -> TokenNet:
    mixers = [Attention(DIM, 2), *([CrossAttention(DIM, 2)] if cross else []), Attention(DIM, 2)]
    layers = [LearnedEncoding(DIM, N), SinusoidalEncoding(DIM, "index")]
    for mixer in mixers:
        layers += [Residual(mixer, nn.LayerNorm(DIM)), Residual(TokenWise(mlp(DIM)))]
    return TokenNet(layers, PerToken(DIM, 5)).double()


def by_steps(net, z, graph_of, sizes, source=None):
    state, outputs, done = None, [], 0
    for size in sizes:
        new, done = z[..., done : done + size, :], done + size
        out, state = net.step(Tokens(new), graph_of(done).last(size), state, source)
        outputs.append(out)
    return torch.cat(outputs, dim=-2)


@pytest.mark.parametrize("sizes", [(9,), (1,) * 9, (4, 1, 1, 3)], ids=str)
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("cross", [False, True], ids=["alone", "cross"])
def test_steps_are_the_whole(cross, graph, sizes):
    net, z = decoder(cross), torch.randn(2, N, DIM, dtype=torch.float64)
    source = torch.randn(2, 4, DIM, dtype=torch.float64) if cross else None
    whole = net(Tokens(z, GRAPHS[graph](N)), source)
    torch.testing.assert_close(by_steps(net, z, GRAPHS[graph], sizes, source), whole)


RECURRENT = {
    "conv": lambda: Convolution(DIM, 3, causal=True),
    "dilated conv": lambda: Convolution(DIM, 3, dilation=2, causal=True, groups=1),
    "pointwise conv": lambda: Convolution(DIM, 1, causal=True),
    **{
        f"{cell} of {layers}": lambda cell=cell, layers=layers: Recurrence(
            DIM, cell, num_layers=layers
        )
        for cell in ("gru", "lstm", "rnn")
        for layers in (1, 2)
    },
}


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("sizes", [(9,), (1,) * 9, (4, 0, 1, 1, 3)], ids=str)
@pytest.mark.parametrize("mixer", RECURRENT)
def test_steps_of_convolution_and_recurrence_are_the_whole(mixer, sizes, batch):
    layers = [Residual(RECURRENT[mixer](), nn.LayerNorm(DIM)), TokenWise(mlp(DIM))]
    net = TokenNet([*layers, RECURRENT[mixer]()], PerToken(DIM, 5)).double()
    z = torch.randn(*batch, N, DIM, dtype=torch.float64)
    torch.testing.assert_close(by_steps(net, z, Causal, sizes), net(Tokens(z, Causal(N))))


def test_steps_of_a_convolution_on_just_its_window():
    layer, z = TokenNet([Convolution(DIM, 3, causal=True)]), torch.randn(N, DIM)
    state, parts = None, []
    for done in range(N):
        graph = (Causal(done + 1) & Window(done + 1, 2)).last(1)
        out, state = layer.step(Tokens(z[done : done + 1]), graph, state)
        parts.append(out.z)
    torch.testing.assert_close(torch.cat(parts), layer(Tokens(z, Causal(N))).z)


@pytest.mark.parametrize(
    "layer", [Convolution(DIM, 5, causal=True), Recurrence(DIM)], ids=["conv", "gru"]
)
def test_a_step_refuses_what_the_whole_refuses(layer):
    graph = Causal(N) & Window(N, 3)
    with pytest.raises(ValueError, match="graph must be"):
        layer(torch.zeros(N, DIM), graph=graph)
    with pytest.raises(ValueError, match="graph must be"):
        layer.step(Tokens(torch.zeros(2, DIM)), graph.last(2))


def test_a_source_is_given_where_one_is_needed_and_only_there():
    z = torch.randn(N, DIM, dtype=torch.float64)
    with pytest.raises(ValueError, match="source must be given"):
        decoder(cross=True)(z)
    with pytest.raises(ValueError, match="source must be left out"):
        decoder()(z, z)
    with pytest.raises(ValueError, match="source must be given"):
        CrossAttention(DIM, 2)(torch.zeros(N, DIM))


def test_flops_of_attention_to_a_source():
    net = TokenNet([CrossAttention(DIM, 2)])
    source = torch.zeros(4, DIM)
    projections = 2 * DIM * DIM * (2 * N + 2 * 4)
    assert net.flops(Tokens(torch.zeros(N, DIM)), source) == projections + 4 * DIM * N * 4


@pytest.mark.parametrize(
    "layer",
    [
        MLPMixer(DIM, N, 4),
        Convolution(DIM),
        GridConvolution(DIM, grid=(3, 3)),
        Recurrence(DIM, bidirectional=True),
        TokenNet([Attention(DIM, 2)], MeanReadout(DIM, 3)),
    ],
    ids=["mlp", "conv", "grid conv", "bidirectional", "mean readout"],
)
def test_what_sees_all_tokens_at_once_refuses(layer):
    with pytest.raises(TypeError, match="cannot be run step by step"):
        layer.step(Tokens(torch.zeros(N, DIM)), Full(N))


def test_last_targets_of_a_graph():
    for graph in (Causal(6), Causal(6) & Window(6, 2), Window(6, 1), Full(6)):
        for count in (0, 1, 2, 6):
            assert torch.equal(graph.last(count).dense(), graph.dense()[6 - count :])
    with pytest.raises(ValueError, match="count must be at most"):
        Causal(3).last(4)


def test_contains():
    assert Causal(5).contains(Causal(5) & Window(5, 2))
    assert not Window(5, 2).contains(Causal(5))
    with pytest.raises(ValueError, match="same tokens"):
        Full(4).contains(Full(5))
