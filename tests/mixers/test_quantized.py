"""`quantize_dynamic` replaces linear layers; layers that read weights work on with them."""

import warnings

import pytest
import torch
from torch import nn

from tokennet import Attention, Cycle, Edges, Full, GraphAttention, Grid, Tokens
from tokennet.mixers import MIXERS, GraphIsomorphism
from tokennet.nets import READOUTS, IOSpec, MixtureOfExperts, build_net
from tokennet.positional import IntegerEncoding, UnitIntervalEncoding

DIM, N, FEATURES = 8, 6, 3
LAYERS = {
    "attention with features": lambda: Attention(DIM, 2, edge_dim=FEATURES),
    "graph attention with features": lambda: GraphAttention(DIM, 2, edge_dim=FEATURES),
    "isomorphism with features": lambda: GraphIsomorphism(DIM, edge_dim=FEATURES),
    "experts": lambda: MixtureOfExperts(DIM, 3),
    "integers": lambda: IntegerEncoding(DIM),
    "unit interval": lambda: UnitIntervalEncoding(DIM),
}
ERRORS = {torch.qint8: 0.1, torch.float16: 1e-2}


def quantized(layer, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch: deprecated
        return torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, dtype=dtype)


def error(layer, tokens, dtype):
    want, got = layer.eval()(tokens).z, quantized(layer, dtype)(tokens).z
    return float((got - want).detach().abs().max() / want.detach().abs().max())


@pytest.mark.parametrize("dtype", ERRORS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_read_weights(name, dtype):
    torch.manual_seed(0)
    graph = Edges(Cycle(N).edge_index(), N, edge_attr=torch.randn(3 * N, FEATURES))
    assert error(LAYERS[name](), Tokens(torch.randn(N, DIM), graph), dtype) < ERRORS[dtype]


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer(name):
    torch.manual_seed(0)
    layer = MIXERS[name](DIM, 2, N)
    tokens = Tokens(torch.randn(N, DIM), Grid(2, 3) if name == "conv2d" else Full(N))
    assert error(layer, tokens, torch.qint8) < ERRORS[torch.qint8]


@pytest.mark.parametrize("kind", [Attention, GraphAttention])
def test_weights_of_attention(kind):
    graph = Edges(Cycle(N).edge_index(), N, edge_attr=torch.randn(3 * N, FEATURES))
    layer, tokens = kind(DIM, 2, edge_dim=FEATURES), Tokens(torch.randn(N, DIM), graph)
    want = layer.attention_weights(tokens)
    got = quantized(layer, torch.qint8).attention_weights(tokens)
    torch.testing.assert_close(got, want, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", [*MIXERS, *LAYERS])
def test_flops_are_those_of_the_layer(name):
    layer = MIXERS[name](DIM, 2, N) if name in MIXERS else LAYERS[name]()
    graph = Edges(Cycle(N).edge_index(), N, edge_attr=torch.randn(3 * N, FEATURES))
    if name in MIXERS:
        graph = Grid(2, 3) if name == "conv2d" else Full(N)
    tokens = Tokens(torch.randn(N, DIM), graph)
    assert quantized(layer, torch.qint8).flops(tokens) == layer.flops(tokens)


@pytest.mark.parametrize("readout", READOUTS)
def test_flops_of_a_net(readout):
    spec = IOSpec(3, 5, readout=readout)
    net, tokens = build_net("attention", spec, DIM, num_heads=2), torch.randn(2, N, 3)
    want = net.summary(tokens)
    got = quantized(net, torch.qint8).summary(tokens)
    assert got.flops == want.flops > 0
    assert [row.flops for row in got.rows] == [row.flops for row in want.rows]
