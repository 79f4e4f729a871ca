"""Mixers with connections of their own: what is asked of a graph, and how often."""

import pytest
import torch
from torch import nn

from tokennet import (
    Convolution,
    CrossPatchLinear,
    Edges,
    FixedPatternMixer,
    Full,
    Offsets,
    Tokens,
    Window,
)


class Previous(FixedPatternMixer):
    """A token hears the one before it, times a weight."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale = nn.Parameter(torch.ones(dim))
        self.asked = 0

    def connections(self, graph):
        self.asked += 1
        return Offsets(graph.num_sources, (-1,))

    def mix_set(self, z, graph):
        before = torch.cat([torch.zeros_like(z[..., :1, :]), z[..., :-1, :]], dim=-2)
        return self.scale * before


def test_a_mixer_of_ones_own():
    layer, z = Previous(4), torch.randn(2, 5, 4)
    out = layer(z, graph=Window(5, 1))
    torch.testing.assert_close(out[:, 1:], z[:, :-1])
    with pytest.raises(ValueError, match=r"graph must be Offsets\(5, \(-1,\)\) or contain it"):
        layer(z, graph=Window(5, 0))
    sets = Tokens.batch([Tokens(torch.randn(n, 4)) for n in (3, 1, 3)])
    for alone, part in zip(sets.unbatch(), layer(sets).unbatch(), strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)


def test_a_graph_is_looked_at_once_for_the_same_connections():
    graph, asked = Edges(Window(6, 1).edge_index(), 6), []
    for layer in (Convolution(4), Convolution(4), Convolution(4, 1)):
        connections = layer.connections
        layer.connections = lambda part, ask=connections: (asked.append(part), ask(part))[1]
        layer(torch.randn(6, 4), graph=graph)
        layer(torch.randn(6, 4), graph=graph)
    assert len(asked) == 2  # one for each kernel size
    unnamed = Previous(4)
    unnamed(torch.randn(6, 4), graph=graph)
    unnamed(torch.randn(6, 4), graph=graph)
    assert unnamed.asked == 2


def test_the_complete_graph_may_be_listed():
    layer, z = CrossPatchLinear(4, 5), torch.randn(5, 4)
    edges = Full(5).edge_index()
    torch.testing.assert_close(layer(z, graph=Edges(edges, 5)), layer(z))
    with pytest.raises(ValueError, match=r"graph must be Full\(5\) or contain it"):
        layer(z, graph=Edges(edges[:, 1:], 5))
    with pytest.raises(ValueError, match=r"graph must be Full\(5\) or contain it"):
        layer(torch.randn(6, 4))


def test_offsets_are_integers():
    with pytest.raises(TypeError, match="offsets must be integers, got 1.5"):
        Offsets(4, (0, 1.5))
    assert Offsets(5, (-1, 2)).T.dense().equal(Offsets(5, (-1, 2)).dense().T)
    assert Offsets(3, (-4, -1, 2), periodic=True).num_edges == 3  # all the same on a ring of 3
    assert Offsets(4, ()).num_edges == 0
