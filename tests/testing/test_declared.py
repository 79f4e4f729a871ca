"""What every layer and net declares, held against the group that it has."""

import pytest
import torch
from torch import nn

from tests.contracts.mixers import RELATIONAL, TESTED
from tests.families import SQUARE, TYPED, honors
from tokennet import Cycle, Full, Grid, Mixer, Residual, Symmetry, Tokens, TokenWise
from tokennet.mixers import MIXERS
from tokennet.nets import READOUTS, IOSpec, build_net
from tokennet.positional import LearnedEncoding, SinusoidalEncoding
from tokennet.testing import check_declared

DIM, N = 8, 6
GRAPHS = ("full", "causal", "cycle", "grid", "torus", "global", "edges", "multi_edges", "ragged")


def tokens_on(graph, pos=None):
    return Tokens(torch.randn(graph.num_targets, DIM), graph, pos)


FAMILIES = {**SQUARE, **TYPED}
HONORED = [
    (name, family)
    for name, make in TESTED.items()
    for family in (TYPED if name in RELATIONAL else GRAPHS)
    if honors(make(DIM, 2, FAMILIES[family]().num_targets), FAMILIES[family]())
]


def test_each_mixer_honors_a_graph():
    assert list(dict(HONORED)) == list(TESTED)


def sweep_but(pairs, count, every=1):
    """Pairs of which `count` for each `every`-th first item are run by default, in turn."""
    found = []
    for number, first in enumerate(dict(pairs)):
        seconds = [second for other, second in pairs if other == first]
        default = {seconds[(7 * number + k) % len(seconds)] for k in range(count)}
        default = set() if number % every else default
        for second in seconds:
            marks = () if second in default else pytest.mark.sweep
            found.append(pytest.param(first, second, marks=marks))
    return found


@pytest.mark.parametrize(("name", "family"), sweep_but(HONORED, 1, every=2))
def test_a_mixer_has_what_it_declares_and_no_more(name, family):
    graph = FAMILIES[family]()
    mixer = TESTED[name](DIM, 2, graph.num_targets)
    report = check_declared(mixer, tokens_on(graph))
    assert report.holds, report
    assert report.measured.exact
    # What keeps the offsets of indices cannot be declared: translations of a ring or torus, and
    # of the two halves, even and odd, that dilation by two takes six tokens for.
    assert report.larger == name.startswith(("circular", "dilated")), report


POSITIONS = torch.tensor([[0.0], [0.0], [1.0], [1.0], [1.0], [2.0]])
LAYERS = {
    "token_wise": (lambda: TokenWise(nn.Sequential(nn.Linear(DIM, DIM), nn.GELU())), 720),
    "residual": (lambda: Residual(MIXERS["attention"](DIM, 2, N), nn.LayerNorm(DIM)), 12),
    "sinusoidal_by_pos": (lambda: SinusoidalEncoding(DIM, by="pos"), 12),
    "sinusoidal_by_index": (lambda: SinusoidalEncoding(DIM, by="index"), 1),
    "learned_by_pos": (lambda: LearnedEncoding(DIM, 3, by="pos"), 12),
    "learned_by_index": (lambda: LearnedEncoding(DIM, N, by="index"), 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    make, size = LAYERS[name]
    pos = POSITIONS.long() if name == "learned_by_pos" else POSITIONS
    report = check_declared(make(), tokens_on(Cycle(N, 1), pos))
    assert report.holds, report
    assert not report.larger, report
    assert report.measured.order == size


# The symmetry of a net is the intersection over its layers, and that of each mixer is above.
NETS = [(readout, mixer) for readout in READOUTS for mixer in MIXERS]


@pytest.mark.parametrize(("readout", "mixer"), sweep_but(NETS, 1, every=3))
def test_nets(readout, mixer):
    graphs = (Cycle(N, 1), Full(N), Grid(2, 3))
    graph = next(graph for graph in graphs if honors(MIXERS[mixer](DIM, 2, N), graph))
    interface = IOSpec(in_features=DIM, out_features=3, readout=readout, num_tokens=N)
    net = build_net(mixer, interface, dim=8, depth=2, num_heads=2)
    report = check_declared(net, tokens_on(graph), pooled=readout != "token")
    assert report.holds, report
    if "index" not in READOUTS[readout].symmetry.reads:
        assert not report.larger, report
    elif "index" not in MIXERS[mixer](DIM, 2, N).symmetry.reads:
        # One token is read: all that keeps its index is a symmetry, though it declares none.
        assert report.larger, report


class Silent(Mixer):
    """Reads more than it says."""

    def __init__(self, reads, mix):
        super().__init__(DIM)
        self.symmetry, self._mix = Symmetry(reads), mix
        self.scale = nn.Parameter(torch.ones(DIM))

    def mix(self, tokens, source, graph):
        return self._mix(tokens.z, graph) * self.scale


def test_a_layer_that_reads_more_than_it_says_is_caught():
    tokens = tokens_on(Cycle(N, 1))
    neighbors = Silent((), lambda z, graph: graph.dense().to(z) @ z)
    assert not check_declared(neighbors, tokens).holds
    assert "shuffling" in str(check_declared(neighbors, tokens))
    numbered = Silent(("graph",), lambda z, graph: z.cumsum(-2))
    assert not check_declared(numbered, tokens).holds


def test_a_larger_group_is_reported():
    modest = Silent(("graph", "index"), lambda z, graph: z + z.mean(-2, keepdim=True))
    report = check_declared(modest, tokens_on(Cycle(N, 1)))
    assert report.holds
    assert report.larger
    assert report.measured.name == "S_6"
    assert "more than declared" in str(report)
