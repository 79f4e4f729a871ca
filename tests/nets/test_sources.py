"""Layers of a net that attend to what an earlier layer returned."""

import copy

import pytest
import torch
from torch import nn

from tokennet import Attention, Causal, Cycle, Disjoint, Residual, Tokens, TokenWise
from tokennet.layer import IncrementalDecodingError, TokenLayer
from tokennet.mixers import CrossAttention
from tokennet.nets import PrependTokens, TokenNet
from tokennet.positional import LearnedEncoding, T5Bias
from tokennet.testing import check_declared

D, N = 8, 6


def linear():
    return TokenWise(nn.Linear(D, D))


def cross():
    return Residual(CrossAttention(D, num_heads=2))


@pytest.mark.parametrize("earlier", [-1, 0, 1, 2])
@pytest.mark.parametrize("graph", [Cycle(N, 1), Disjoint([Causal(2), Cycle(4, 1)])], ids=repr)
def test_the_source_is_what_that_layer_returned(earlier, graph):
    layers = [linear(), Attention(D, num_heads=2), linear(), Residual(Attention(D, num_heads=2))]
    tokens = Tokens(torch.randn(N, D, requires_grad=True), graph)
    returned = {-1: tokens}
    for number in range(3):
        returned[number] = layers[number](returned[number - 1])
    expected = layers[3](returned[2], returned[earlier])
    net = TokenNet(layers, sources={3: earlier})
    torch.testing.assert_close(net(tokens).z, expected.z)
    assert not net.needs_source
    torch.testing.assert_close(copy.deepcopy(net)(tokens).z, expected.z)
    gradients = [torch.autograd.grad(out.square().sum(), tokens.z) for out in
                 (net(tokens).z, expected.z)]  # fmt: skip
    torch.testing.assert_close(*gradients)
    without = TokenNet(layers)(tokens).z
    assert (net(tokens).z - without).abs().max() > 1e-4


def test_beside_the_source_of_the_net():
    net = TokenNet([linear(), cross(), cross()], sources={2: 0})
    tokens, source = torch.randn(2, 5, D), torch.randn(2, 3, D)
    first = net.layers[0](tokens)
    expected = net.layers[2](net.layers[1](first, source), first)
    assert net.needs_source
    torch.testing.assert_close(net(tokens, source), expected)
    with pytest.raises(ValueError, match="source must be given"):
        net(tokens)
    with pytest.raises(ValueError, match="source must be left out"):
        TokenNet([linear(), cross()], sources={1: 0})(tokens, source)


def test_tokens_that_were_prepended_in_between_are_no_sources():
    net = TokenNet([linear(), PrependTokens(D, 2), cross()], sources={2: 0})
    out = net(torch.randn(3, 5, D))
    assert out.shape == (3, 7, D)
    changed = TokenNet([linear(), PrependTokens(D, 2), cross()], sources={2: 1})
    changed.load_state_dict(net.state_dict())
    assert changed.summary(torch.randn(3, 5, D)).flops > net.summary(torch.randn(3, 5, D)).flops


def test_the_symmetry_is_that_of_both_sets():
    graph = Cycle(N, 1)
    tokens = Tokens(torch.randn(N, D), graph)
    for first, order in ((linear(), 720), (Attention(D, num_heads=2), 12)):
        net = TokenNet([first, linear(), cross()], sources={2: 0})
        report = check_declared(net, tokens)
        assert report.holds, report
        assert report.measured.order == order
    indexed = TokenNet([LearnedEncoding(D, N, by="index"), linear(), cross()], sources={2: 0})
    assert "index" in indexed.symmetry.reads
    assert check_declared(indexed, tokens).holds


class ForgetPositions(TokenLayer):
    is_tokenwise = True

    def reads_after(self, upstream):
        return frozenset(), upstream._replace(hidden=upstream.hidden | {"pos"})

    def transform(self, tokens):
        return tokens.replace(pos=torch.zeros_like(tokens.pos))


def test_what_a_source_still_holds_is_read():
    def net(earlier):
        near = CrossAttention(D, num_heads=2, position=T5Bias(2, by="pos"))
        return TokenNet([ForgetPositions(), linear(), Residual(near)], sources={2: earlier})

    tokens = Tokens(torch.randn(N, D), Cycle(N, 1), torch.arange(N)[:, None])
    assert "pos" in net(-1).symmetry.reads
    assert "pos" not in net(1).symmetry.reads
    for earlier in (-1, 1):
        assert check_declared(net(earlier), tokens).holds


def test_incremental_decoding_is_refused():
    net = TokenNet([linear(), cross()], sources={1: 0})
    with pytest.raises(IncrementalDecodingError, match="all tokens of an earlier layer"):
        net.step(Tokens(torch.randn(1, D)), Causal(1))


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        ([1], TypeError, "sources must be a dict, from the number of a layer .* got"),
        (torch.ones(2), TypeError, "sources must be a dict, from the number of a layer .* got"),
        ({1: 1}, ValueError, r"sources\[1\] must be below 1, got 1"),
        ({1: 2}, ValueError, r"sources\[1\] must be below 1, got 2"),
        ({1: -2}, ValueError, r"sources\[1\] must be at least -1, got -2"),
        ({3: 0}, ValueError, "sources must be of layers 0 to 1, got 3"),
        ({-1: 0}, ValueError, "a number in sources must be at least 0, got -1"),
        ({"1": 0}, TypeError, "a number in sources must be an int, got"),
        ({0: -1}, ValueError, r"sources\[0\] must be of a layer that attends .* got TokenWise"),
    ],
)
def test_what_is_no_earlier_layer_is_refused(sources, error, message):
    layers = [linear(), cross()]
    with pytest.raises(error, match=message):
        TokenNet(layers, sources=sources)


def test_a_net_says_its_sources():
    assert "sources={1: 0}" in repr(TokenNet([linear(), cross()], sources={1: 0}))
    assert "sources" not in repr(TokenNet([linear()]))
