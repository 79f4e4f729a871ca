"""Mixers with a fixed sparsity pattern: which graphs they honor, and how often one is compared."""

import gc
import weakref

import pytest
import torch
from torch import nn

from tokennet import Convolution, Edges, Full, Offsets, Tokens, Window
from tokennet.mixers import CrossPatchLinear, FixedPatternMixer


def previous(graph):
    return Offsets(graph.num_sources, (-1,))


class Previous(FixedPatternMixer):
    """A token receives the one before it, times a weight."""

    pattern = (previous,)

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale = nn.Parameter(torch.ones(dim))

    def mix_set(self, z, graph):
        before = torch.cat([torch.zeros_like(z[..., :1, :]), z[..., :-1, :]], dim=-2)
        return self.scale * before


def test_a_mixer_defined_by_its_pattern():
    layer, z = Previous(4), torch.randn(2, 5, 4)
    out = layer(z, graph=Window(5, 1))
    torch.testing.assert_close(out[:, 1:], z[:, :-1])
    with pytest.raises(ValueError, match=r"graph must be Offsets\(5, \(-1,\)\) or contain it"):
        layer(z, graph=Window(5, 0))
    sets = Tokens.batch([Tokens(torch.randn(n, 4)) for n in (3, 1, 3)])
    for alone, part in zip(sets.unbatch(), layer(sets).unbatch(), strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)


def test_a_graph_is_compared_once_with_each_pattern(monkeypatch):
    graph, compared = Edges(Window(6, 1).edge_index(), 6), []
    contains = Edges.contains
    monkeypatch.setattr(
        Edges, "contains", lambda self, other: compared.append(other) or contains(self, other)
    )
    for layer in (Convolution(4), Convolution(4), Convolution(4, 1), Previous(4), Previous(4)):
        layer(torch.randn(6, 4), graph=graph)
        layer(torch.randn(6, 4), graph=graph)
    assert len(compared) == 3  # one for each pattern
    with pytest.raises(ValueError, match="or contain it"):
        Convolution(4, 5)(torch.randn(6, 4), graph=graph)


def test_a_graph_does_not_keep_the_layers_that_it_was_compared_with():
    graph = Edges(Window(6, 1).edge_index(), 6)
    layer = Convolution(4)
    layer(torch.randn(6, 4), graph=graph)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None


def test_the_complete_graph_may_be_listed():
    layer, z = CrossPatchLinear(4, 5), torch.randn(5, 4)
    edges = Full(5).edge_index()
    torch.testing.assert_close(layer(z, graph=Edges(edges, 5)), layer(z))
    with pytest.raises(ValueError, match=r"graph must be Full\(5\) or contain it"):
        layer(z, graph=Edges(edges[:, 1:], 5))
    with pytest.raises(ValueError, match=r"graph must be Full\(5\) or contain it"):
        layer(torch.randn(6, 4))


def test_offsets_are_integers():
    with pytest.raises(TypeError, match=r"offsets\[1\] must be an int, got 1.5"):
        Offsets(4, (0, 1.5))
    assert Offsets(5, (-1, 2)).T.dense().equal(Offsets(5, (-1, 2)).dense().T)
    assert Offsets(3, (-4, -1, 2), periodic=True).num_edges == 3  # all the same on a ring of 3
    assert Offsets(4, ()).num_edges == 0
