"""Steps in a row give what one call on the whole sequence gives."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

from tests.axes import pairwise
from tokennet import (
    Attention,
    Causal,
    Convolution,
    CrossAttention,
    Disjoint,
    Edges,
    Full,
    LinearAttention,
    MeanReadout,
    Residual,
    TokenMixingMLP,
    TokenNet,
    Tokens,
    TokenWise,
    Window,
)
from tokennet.layer import TokenLayer
from tokennet.mixers import GridConvolution, LearnedMixing, Recurrence
from tokennet.nets import (
    DropTokens,
    Embedding,
    MemoryTokens,
    OnGraph,
    Parallel,
    PostNorm,
    PrependTokens,
    TokenReadout,
    WithGraph,
    mlp,
)
from tokennet.nets.compose import complete
from tokennet.positional import LearnedEncoding, SinusoidalEncoding

N, DIM = 9, 8
GRAPHS = {"causal": Causal, "window": lambda n: Causal(n) & Window(n, 3)}


def decoder(cross: bool = False) -> TokenNet:
    mixers = [Attention(DIM, 2), *([CrossAttention(DIM, 2)] if cross else []), Attention(DIM, 2)]
    layers = [LearnedEncoding(DIM, N), SinusoidalEncoding(DIM, "index")]
    for mixer in mixers:
        layers += [Residual(mixer, nn.LayerNorm(DIM)), Residual(TokenWise(mlp(DIM)))]
    return TokenNet(layers, TokenReadout(DIM, 5)).double()


def by_steps(net, z, graph_of, sizes, source=None):
    state, outputs, done = None, [], 0
    for size in sizes:
        new, done = z[..., done : done + size, :], done + size
        out, state = net.step(Tokens(new), graph_of(done).last(size), state, source)
        outputs.append(out)
    return torch.cat(outputs, dim=-2)


@pairwise(cross=[False, True], graph=GRAPHS, sizes=[(9,), (1,) * 9, (4, 1, 1, 3)])
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


@pairwise(mixer=RECURRENT, sizes=[(9,), (1,) * 9, (4, 0, 1, 1, 3)], batch=[(), (2,), (2, 3)])
def test_steps_of_convolution_and_recurrence_are_the_whole(mixer, sizes, batch):
    layers = [Residual(RECURRENT[mixer](), nn.LayerNorm(DIM)), TokenWise(mlp(DIM))]
    net = TokenNet([*layers, RECURRENT[mixer]()], TokenReadout(DIM, 5)).double()
    z = torch.randn(*batch, N, DIM, dtype=torch.float64)
    torch.testing.assert_close(by_steps(net, z, Causal, sizes), net(Tokens(z, Causal(N))))


class Halved(nn.Module):
    def forward(self, z):
        return z / 2


@pytest.mark.parametrize("kind", [Residual, PostNorm])
def test_steps_of_a_residual_are_scaled_as_the_whole_is(kind):
    layer = kind(Attention(DIM, 2), nn.LayerNorm(DIM), scale=Halved()).double()
    plain = kind(layer.layer, layer.norm).double()
    z = torch.randn(2, N, DIM, dtype=torch.float64)
    readout = TokenReadout(DIM, DIM).double()
    nets = [TokenNet([each], readout) for each in (layer, plain)]
    scaled, unscaled = (by_steps(net, z, Causal, (4, 1, 1, 3)) for net in nets)
    torch.testing.assert_close(scaled, nets[0](Tokens(z, Causal(N))))
    assert (scaled - unscaled).abs().max() > 1e-3


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
        TokenMixingMLP(DIM, N, 4),
        Convolution(DIM),
        GridConvolution(DIM, grid=(3, 3)),
        Recurrence(DIM, bidirectional=True),
        TokenNet([Attention(DIM, 2)], MeanReadout(DIM, 3)),
    ],
    ids=["mlp", "conv", "grid conv", "bidirectional", "mean readout"],
)
def test_what_sees_all_tokens_at_once_refuses(layer):
    with pytest.raises(TypeError, match="does not support incremental decoding"):
        layer.step(Tokens(torch.zeros(N, DIM)), Full(N))


class Smoothed(TokenLayer):
    """Mixes tokens and declares nothing."""

    def transform(self, tokens):
        return tokens.replace(z=tokens.z.cumsum(-2))


@pytest.mark.parametrize(
    "layer",
    [
        Smoothed(),
        WithGraph(complete),
        OnGraph(complete, Attention(DIM, 2)),
        PrependTokens(DIM),
        DropTokens(),
        Residual(PrependTokens(DIM)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_goes_by_steps_only_if_it_says_so(layer):
    with pytest.raises(TypeError, match="does not support incremental decoding"):
        layer.step(Tokens(torch.zeros(2, DIM)), Causal(2))


def test_layers_of_token_wise_layers_are_token_wise():
    wise, z = TokenWise(mlp(DIM)), torch.randn(N, DIM)
    for layer in (OnGraph(complete, Residual(wise)), Parallel([wise, PostNorm(wise)])):
        assert layer.is_tokenwise
        out, _ = layer.step(Tokens(z[4:]), Causal(N).last(N - 4))
        torch.testing.assert_close(out.z, layer(z)[4:])
    assert not Parallel([wise, Attention(DIM, 2)]).is_tokenwise


STEPPING = {
    "attention": lambda: Attention(DIM, 2),
    "cross": lambda: CrossAttention(DIM, 2),
    "linear": lambda: LinearAttention(DIM, 2),
    "conv": lambda: Convolution(DIM, 3, causal=True),
    "gru": lambda: Recurrence(DIM),
    "learned": lambda: LearnedMixing(DIM, Causal(N), 2),
    "encoding": lambda: LearnedEncoding(DIM, N),
    "sines": lambda: SinusoidalEncoding(DIM, "index"),
    "memory": lambda: MemoryTokens(Attention(DIM, 2), DIM, 2, attend_to_all=False),
    "token-wise": lambda: TokenWise(nn.Identity()),
}


@pytest.mark.parametrize("name", STEPPING)
def test_a_step_refuses_graphs_that_are_not_of_its_tokens(name):
    layer, new = STEPPING[name](), Tokens(torch.zeros(3, DIM))
    source = torch.zeros(2, DIM) if name == "cross" else None
    layer.step(new, Causal(3), None, source)
    with pytest.raises(ValueError, match="graph must be that of one set"):
        layer.step(new, Disjoint([Causal(1), Causal(2)]), None, source)
    for graph in (Causal(5).last(2), Full(3, 2)):
        with pytest.raises(ValueError, match="graph must have the 3 new tokens as targets"):
            layer.step(new, graph, None, source)
    if name != "token-wise":
        with pytest.raises(ValueError, match=f"tokens must have {DIM} channels"):
            layer.step(Tokens(torch.zeros(3, 1)), Causal(3), None, source)


def test_ids_are_embedded_step_by_step():
    layer, ids = Embedding(5, DIM), torch.arange(5)[:, None]
    out, _ = layer.step(Tokens(ids[3:]), Causal(5).last(2))
    torch.testing.assert_close(out.z, layer(ids)[3:])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_states_have_the_batch_of_the_tokens(cell):
    layer, z = Recurrence(DIM, cell, num_layers=2).double(), torch.randn(3, 2, 4, DIM).double()
    _, state = layer.step(Tokens(z), Causal(4))
    for part in state if cell == "lstm" else [state]:
        assert part.shape == (3, 2, 2, DIM)
    row, new = tree_map(lambda part: part[1], state), z[1, :, :1]
    graph = Causal(5).last(1)
    torch.testing.assert_close(
        layer.step(Tokens(new), graph, row)[0].z,
        layer.step(Tokens(z[:, :, :1]), graph, state)[0].z[1],
    )


def listed(num_edges=30):
    torch.manual_seed(0)
    edges = torch.randint(N, (2, num_edges)).sort(dim=0).values  # sources before targets
    return Edges(edges, N, edge_attr=torch.randn(num_edges, 3, dtype=torch.float64))


def test_the_last_targets_of_a_list_keep_repeats_and_features():
    graph = listed()
    assert graph.has_multi_edges
    source, target = graph.edge_index()
    last, mine = graph.last(4), target >= N - 4
    assert torch.equal(last.edge_index(), torch.stack([source[mine], target[mine] - (N - 4)]))
    assert torch.equal(last.edge_attr, graph.edge_attr[mine])
    with pytest.raises(ValueError, match="last needs a graph of one set"):
        Disjoint([Full(2), Full(3)]).last(2)


@pytest.mark.parametrize("options", [{}, {"edge_dim": 3}], ids=str)
def test_steps_of_attention_along_listed_edges(options):
    layer, graph, z = Attention(DIM, 2, **options).double(), listed(), torch.randn(N, DIM).double()
    state, outputs = None, []
    for done in range(1, N + 1):
        early = graph.edge_index()[1] < done
        sofar = Edges(graph.edge_index()[:, early], done, edge_attr=graph.edge_attr[early])
        out, state = layer.step(Tokens(z[done - 1 : done]), sofar.last(1), state)
        outputs.append(out.z)
    torch.testing.assert_close(torch.cat(outputs), layer(Tokens(z, graph)).z)
    if options:
        with pytest.raises(ValueError, match="graph.edge_attr must have shape"):
            layer.step(Tokens(z), Causal(N))


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
