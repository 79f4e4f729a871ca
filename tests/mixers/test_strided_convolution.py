"""A grid made coarser: torch's convolution with a stride, and what becomes of graph and places."""

import pytest
import torch
from torch import nn

from tests.mixers.same_weights import compare, copy_linear
from tokennet import Disjoint, Full, Grid, TokenNet, Tokens
from tokennet.mixers import StridedConvolution

DIM, OUT = 3, 5


def as_image(z, height, width):
    return z.unflatten(-2, (height, width)).movedim(-1, -3)


@pytest.mark.parametrize("periodic", [False, True], ids=["border", "torus"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 3), (3, 1), (1, 2)])
@pytest.mark.parametrize("sides", [(4, 7), (5, 6)], ids=str)
def test_it_is_that_of_torch(sides, kernel, stride, periodic):
    padding_mode = "circular" if periodic else "zeros"
    theirs = nn.Conv2d(
        DIM, OUT, kernel, stride=stride, padding=kernel // 2, padding_mode=padding_mode
    ).double()
    ours = StridedConvolution(DIM, OUT, kernel, stride).double()
    pairs = copy_linear(ours.conv, theirs)
    z = torch.randn(2, sides[0] * sides[1], DIM, dtype=torch.float64, requires_grad=True)
    image = theirs(as_image(z, *sides))
    out = ours(Tokens(z, Grid(*sides, periodic=periodic)))
    assert out.graph.grid_shape == image.shape[-2:]
    assert out.graph.periodic == periodic
    compare(out.z, image.movedim(-3, -1).flatten(-3, -2), z, pairs)


def test_tokens_have_the_places_of_the_middles_of_their_boxes():
    places = torch.cartesian_prod(torch.arange(5), torch.arange(4))
    out = StridedConvolution(DIM, OUT)(Tokens(torch.zeros(2, 20, DIM), Grid(5, 4), places))
    assert out.pos.tolist() == [[0, 0], [0, 2], [2, 0], [2, 2], [4, 0], [4, 2]]


def test_sets_of_a_ragged_batch_have_grids_of_their_own():
    layer = StridedConvolution(DIM, OUT).double()
    grids = [Grid(4, 3), Grid(2, 6, radius=2), Grid(0, 5), Grid(1, 1)]
    sets = [Tokens(torch.randn(2, g.num_targets, DIM).double(), g) for g in grids]
    together = layer(Tokens.batch(sets))
    assert isinstance(together.graph, Disjoint)
    for part, alone in zip(together.unbatch(), sets, strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)
        assert repr(part.graph) == repr(layer(alone).graph)
    assert layer(Tokens(torch.zeros(0, DIM), Disjoint([]))).z.shape == (0, OUT)


def test_the_coarser_grid_is_made_once():
    net, grid = TokenNet([StridedConvolution(DIM, DIM), StridedConvolution(DIM, OUT)]), Grid(8, 8)
    first, second = (net(Tokens(torch.zeros(64, DIM), grid)) for _ in range(2))
    assert first.graph is second.graph


def test_what_it_cannot_do_is_refused():
    for graph in (Full(4), Grid(4), Grid(2, 2, 1)):
        with pytest.raises(ValueError, match="graph must be a 2-D Grid for Strided"):
            StridedConvolution(DIM, OUT)(Tokens(torch.zeros(4, DIM), graph))
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        StridedConvolution(DIM, OUT, kernel_size=2)
    with pytest.raises(ValueError, match="stride must be at least 1"):
        StridedConvolution(DIM, OUT, stride=0)
    assert StridedConvolution(DIM, OUT).symmetry.relabeling == "trivial"
