"""Convolutions are those of torch, on graphs that have their edges."""

import pytest
import torch
from torch import nn

from tests.axes import pairwise
from tests.mixers.same_weights import compare_entries
from tokennet import Causal, Convolution, Cycle, Disjoint, Full, Grid, Offsets, Tokens, Window
from tokennet.mixers import MIXERS, GridConvolution

DIM = 6


def copied(ours, theirs):
    ours.conv.load_state_dict(theirs.state_dict())
    return list(zip(ours.parameters(), theirs.parameters(), strict=True))


def random_tokens(n, batch=(2,)):
    return torch.randn(*batch, n, DIM, dtype=torch.float64, requires_grad=True)


@pairwise(
    kind=["zeros", "circular", "causal"], size=[(1, 1), (3, 1), (3, 2), (5, 3)], groups=[DIM, 2, 1]
)
def test_conv1d(kind, size, groups):
    kernel, dilation = size
    n, reach = 13, (kernel - 1) * dilation
    border = {"padding": reach // 2, "padding_mode": kind}
    if kind == "causal":
        border = {"padding": reach}
    theirs = nn.Conv1d(DIM, DIM, kernel, dilation=dilation, groups=groups, **border).double()
    ours = Convolution(
        DIM, kernel, dilation=dilation, groups=groups,
        causal=kind == "causal", periodic=kind == "circular",
    ).double()  # fmt: skip
    pairs, z = copied(ours, theirs), random_tokens(n)
    expected = theirs(z.mT)[..., :n].mT  # padded on both sides, the left n outputs are causal
    graph = {
        "zeros": Window(n, reach // 2),
        "circular": Cycle(n, reach // 2),
        "causal": Causal(n) & Window(n, reach),
    }[kind]
    compare_entries(ours(z, graph=graph), expected, z, pairs)


@pairwise(mode=["zeros", "circular"], kernel=[1, 3, 5], groups=[DIM, 2, 1])
def test_conv2d(mode, kernel, groups):
    height, width, radius = 4, 5, kernel // 2
    theirs = nn.Conv2d(DIM, DIM, kernel, padding=radius, padding_mode=mode, groups=groups).double()
    periodic = mode == "circular"
    ours = GridConvolution(DIM, kernel, periodic=periodic, groups=groups).double()
    pairs, z = copied(ours, theirs), random_tokens(height * width, (2, 3))
    image = z.flatten(0, 1).mT.unflatten(-1, (height, width))
    expected = theirs(image).flatten(-2).mT.view_as(z)
    compare_entries(
        ours(z, graph=Grid(height, width, radius=radius, periodic=periodic)), expected, z, pairs
    )
    told = GridConvolution(DIM, kernel, grid=(height, width), periodic=periodic, groups=groups)
    told.double().load_state_dict(ours.state_dict())
    torch.testing.assert_close(told(z), expected)


@pytest.mark.parametrize("kernel", [3, 7])
def test_rings_shorter_than_the_kernel(kernel):
    layer, z = Convolution(DIM, kernel, periodic=True, groups=DIM).double(), random_tokens(2)
    taps = layer.conv.weight.squeeze(1)  # (D, kernel)
    even = torch.tensor([(k - kernel // 2) % 2 == 0 for k in range(kernel)])
    same, other = taps[:, even].sum(1), taps[:, ~even].sum(1)
    expected = z * same + z.flip(-2) * other + layer.conv.bias
    torch.testing.assert_close(layer(z), expected)


def test_grids_of_a_ragged_batch_keep_their_sides():
    layer = GridConvolution(DIM).double()
    grids = [Grid(2, 3), Grid(3, 2), Grid(1, 1), Grid(2, 3)]
    sets = [Tokens(random_tokens(grid.num_targets, ()), grid) for grid in grids]
    together = layer(Tokens.batch(sets)).unbatch()
    for alone, part in zip(sets, together, strict=True):
        torch.testing.assert_close(part.z, layer(alone).z)


@pytest.mark.parametrize(
    ("layer", "graph", "message"),
    [
        (Convolution(DIM, 3), Causal(6), r"graph must be Offsets\(6, \(-1, 0, 1\)\) or contain"),
        (Convolution(DIM, 5), Window(6, 1), r"graph must be Offsets\(6, \(-2, -1, 0, 1, 2\)\)"),
        (Convolution(DIM, 3, periodic=True), Window(6, 1), "graph must be Offsets.*periodic=True"),
        (GridConvolution(DIM, 5), Grid(2, 3), r"graph must be Grid\(2, 3, radius=2\) or contain"),
        (GridConvolution(DIM, periodic=True), Grid(4, 4), "graph must be Grid.*periodic=True"),
        (GridConvolution(DIM), Full(6), r"graph must be a Grid .* or its sides must be given"),
        (
            GridConvolution(DIM),
            Grid(1, 2, 3),
            r"graph must be a Grid .* or its sides must be given",
        ),
        (GridConvolution(DIM, grid=(3, 2)), Grid(2, 3, radius=5), "graph must be a Grid of 3 x 2"),
        (GridConvolution(DIM, grid=(2, 2)), Full(6), r"graph must be Grid\(2, 2, radius=1\)"),
        (Convolution(DIM), Disjoint([Full(3), Causal(3)]), r"got Causal\(3\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_graphs_that_lack_a_connection_are_refused(layer, graph, message):
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(graph.num_targets, DIM), graph=graph)


def test_a_graph_may_have_more_edges_or_just_these():
    layer, z = Convolution(DIM, 3, dilation=2, causal=True), torch.randn(9, DIM)
    expected = layer(z)
    for graph in (Offsets(9, (-4, -2, 0)), Causal(9), Causal(9) & Window(9, 4), Full(9)):
        torch.testing.assert_close(layer(z, graph=graph), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Convolution(DIM, 4), "kernel_size must be odd"),
        (lambda: GridConvolution(DIM, 2), "kernel_size must be odd"),
        (lambda: Convolution(DIM, 0, causal=True), "kernel_size must be at least 1, got 0"),
        (lambda: Convolution(DIM, dilation=0), "dilation must be at least 1, got 0"),
        (lambda: GridConvolution(DIM, grid=3), r"grid must be \(height, width\) or None, got 3"),
        (lambda: Convolution(DIM, causal=True, periodic=True), "a ring has no past"),
        (lambda: Convolution(DIM)(torch.zeros(3, DIM), torch.zeros(3, DIM)), "source must be left"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_groups_are_those_of_torch():
    for ours, theirs in (
        (Convolution(DIM), nn.Conv1d(DIM, DIM, 3)),
        (GridConvolution(DIM), nn.Conv2d(DIM, DIM, 3)),
    ):
        assert ours.conv.weight.shape == theirs.weight.shape
    for name in ("causal_conv", "conv1d", "conv2d"):  # nets mix channels token by token
        assert MIXERS[name](DIM, 2, None).conv.groups == DIM
