"""Nets: built by name, summed up, compiled, exported, saved and copied."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric.nn import SAGEConv
from torch_geometric.nn.aggr import GRUAggregation

from tests.families import honors
from tokennet import (
    Aggregate,
    Attention,
    Causal,
    Disjoint,
    Edges,
    Full,
    GraphAttention,
    Grid,
    PyGMixer,
    Residual,
    Symmetry,
    TokenMixingMLP,
    TokenNet,
    Tokens,
    TokenWise,
)
from tokennet.mixers import MIXERS, FixedPatternMixer
from tokennet.nets import IOSpec, build_net, mlp
from tokennet.positional import LearnedEncoding

SPEC = IOSpec(in_features=3, out_features=5, num_tokens=12, num_coordinates=2, grid=(3, 4))
GRAPHS = {
    "full": lambda: Full(12),
    "causal": lambda: Causal(12),
    "grid": lambda: Grid(3, 4),
    "edges": lambda: Edges(torch.tensor([[0, 0, 5, 11, 7], [1, 1, 2, 3, 0]]), 12),
    "ragged": lambda: Disjoint([Full(5), Causal(7)]),
}
CASES = [
    (mixer, graph)
    for mixer, make in MIXERS.items()
    for graph in GRAPHS
    if honors(make(16, 2, 12), GRAPHS[graph]())
]

ONCE = {name for name, make in MIXERS.items() if isinstance(make(16, 2, 12), FixedPatternMixer)}
"""Mixers that do the same on every graph that they honor."""
TRACED = [
    (mixer, graph)
    for mixer, graph in CASES
    if mixer not in ONCE or graph == next(g for m, g in CASES if m == mixer)
]


def by_turns(cases, turns=(0, 1), every=2):
    """A case of each mixer, or of some by their number; the others are marked as sweep."""
    params = []
    for number, mixer in enumerate(MIXERS):
        own = [case for case in cases if case[0] == mixer]
        chosen = own[number % len(own)] if number % every in turns else None
        params += [
            pytest.param(*case, marks=() if case == chosen else pytest.mark.sweep) for case in own
        ]
    return params


def example(graph):
    batch = () if isinstance(graph, Disjoint) else (2,)
    return Tokens(torch.randn(*batch, 12, 3), graph, torch.rand(12, 2))


def net_for(mixer, positions="pos", depth=2):
    return build_net(mixer, SPEC, 16, depth=depth, num_heads=2, positions=positions)


@pytest.mark.parametrize(("mixer", "graph"), by_turns(TRACED, turns=(0,), every=18))
def test_compile_fullgraph_forward_and_backward(mixer, graph):
    """Layers are compiled one by one by the contract of mixers."""
    torch.compiler.reset()
    net, tokens = net_for(mixer, depth=1), example(GRAPHS[graph]())
    expected = net(tokens)
    wanted = torch.autograd.grad(expected.square().sum(), list(net.parameters()))
    out = torch.compile(net, fullgraph=True, backend="aot_eager")(tokens)
    torch.testing.assert_close(out, expected)
    found = torch.autograd.grad(out.square().sum(), list(net.parameters()))
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.sweep
def test_compile_by_inductor():
    torch.compiler.reset()
    net, tokens = net_for("attention", depth=1), example(Grid(3, 4))
    expected = net(tokens)
    torch.testing.assert_close(torch.compile(net, fullgraph=True)(tokens), expected)


def test_compile_before_the_first_run_says_what_to_do():
    torch.compiler.reset()
    net, tokens = net_for("attention", depth=1), example(GRAPHS["edges"]())
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="run the model once before compiling it"):
        compiled(tokens)
    torch.compiler.reset()
    broken = torch.compile(net, backend="eager")  # without fullgraph it just works
    torch.testing.assert_close(broken(tokens), net(tokens))


class OnGraph(nn.Module):
    """A net on a fixed graph, as it would be deployed."""

    def __init__(self, net, graph, pos):
        super().__init__()
        self.net, self.graph, self.pos = net, graph, pos

    def forward(self, z):
        return self.net(Tokens(z, self.graph, self.pos))


@pytest.mark.parametrize(("mixer", "graph"), by_turns(TRACED, turns=(1,), every=9))
def test_export_also_before_the_first_run(mixer, graph):
    tokens = example(GRAPHS[graph]())
    module = OnGraph(net_for(mixer, depth=1), tokens.graph, tokens.pos)
    program = torch.export.export(module, (tokens.z,))
    torch.testing.assert_close(program.module()(tokens.z), module(tokens.z))


@pytest.mark.parametrize(("mixer", "graph"), by_turns(CASES, turns=(0,)))
def test_bfloat16_autocast_forward_and_backward(mixer, graph):
    net, tokens = net_for(mixer), example(GRAPHS[graph]())
    with torch.autocast("cpu", torch.bfloat16):
        out = net(tokens)
    out.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    exact = net(tokens)
    assert (out.float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    ("mixer", "positions"),
    by_turns([(mixer, positions) for mixer in MIXERS for positions in ("pos", "index", "none")]),
)
def test_state_dict_round_trip_and_deepcopy(mixer, positions):
    net, other = net_for(mixer, positions), net_for(mixer, positions)
    tokens = example(GRAPHS[dict(CASES)[mixer]]())
    assert not torch.equal(other(tokens), net(tokens))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(tokens), net(tokens))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    assert torch.equal(twin(tokens), other(tokens))


def test_parameters_do_not_depend_on_the_graph():
    net = net_for("attention")
    outs = [net(example(make()).replace(z=torch.ones(12, 3))) for make in GRAPHS.values()]
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize(
    ("mixer", "positions", "relabeling", "shuffling"),
    [
        ("attention", "none", "S_n", "Aut(graph)"),
        ("attention", "pos", "S_n", "Aut(graph, pos)"),
        ("attention", "index", "trivial", "trivial"),
        ("mlp", "none", "trivial", "trivial"),
        ("mean", "none", "S_n", "Aut(graph)"),
    ],
)
def test_symmetry_of_a_net_is_the_intersection_over_its_layers(
    mixer, positions, relabeling, shuffling
):
    symmetry = net_for(mixer, positions).symmetry
    assert (symmetry.relabeling, symmetry.shuffling) == (relabeling, shuffling)


def hand_counted(mixer, graph, tokens):
    """FLOPs of the net of `net_for`, written out: N = 12, D = 16, hidden 64, depth 2."""
    rows = tokens.z.shape[:-1].numel()
    copies = tokens.z.shape[:-2].numel()
    edges = copies * graph.num_edges
    sizes = getattr(graph, "sizes", [12])
    sets = 2
    ends = 2 * rows * 3 * 16 + 2 * sets * 16 * 5
    mlps = 2 * (2 * rows * 16 * 64 + 2 * rows * 64 * 16)
    # Attention of latents to themselves, and two MLPs of width 16 for 32 of them.
    perceiver_latents = 4 * 2 * 32 * 16 * 16 + 4 * 32 * 32 * 16 + 2 * 2 * 2 * 32 * 16 * 16

    def through_points(points):
        """Attention from tokens to points, and from points to tokens."""
        return 2 * (2 * 2 * (rows + copies * points) * 16 * 16 + 4 * rows * points * 16)

    mixing = {
        "attention": 4 * 2 * rows * 16 * 16 + 4 * edges * 16,
        "gat": 2 * 2 * rows * 16 * 16 + 5 * edges * 16,
        "mlp": 2 * (2 * 12 * 48) * 16 * copies,
        "learned": 2 * 2 * rows * 16 * 16 + 2 * edges * 16,
        "mean": 2 * rows * 16 * 16 + edges * 16,
        "sum": 2 * rows * 16 * 16 + edges * 16,
        "max": 2 * rows * 16 * 16 + edges * 16,
        "gin": 2 * 2 * rows * 16 * 16 + edges * 16,
        "gcn": 2 * rows * 16 * 16 + edges * 16,
        "pool": edges * 16,
        "resmlp": 2 * 12 * 12 * 16 * copies,
        "gmlp": 2 * rows * 16 * 32 + 2 * 12 * 12 * 16 * copies + 2 * rows * 16 * 16,
        "hypermixer": 4 * 2 * rows * 16 * 16 + 2 * 2 * rows * 16 * 16,
        "gru": 3 * 2 * rows * 16 * (16 + 16),
        "lstm": 4 * 2 * rows * 16 * (16 + 16),
        "rnn": 2 * rows * 16 * (16 + 16),
        "causal_conv": 2 * copies * sum(3 * n - 3 for n in sizes) * 16,
        "conv1d": 2 * copies * sum(3 * n - 2 for n in sizes) * 16,
        "conv2d": 2 * copies * (3 * 3 - 2) * (3 * 4 - 2) * 16,
        "isab": through_points(16) + 2 * (rows + 16 * copies) * 16 * 16,
        "linear": 4 * 2 * rows * 16 * 16 + 4 * 8 * (16 + 2) * rows,
        "perceiver": through_points(32) + copies * perceiver_latents,
        "performer": 4 * 2 * rows * 16 * 16 + (4 * (16 + 2) + 2 * 2 * 2 * 8) * 16 * rows,
        "sab": 5 * 2 * rows * 16 * 16 + 4 * edges * 16,
    }[mixer]
    return ends + mlps + 2 * mixing


@pytest.mark.parametrize(("mixer", "graph"), by_turns(CASES))
def test_flops_are_those_counted_by_hand(mixer, graph):
    graph = GRAPHS[graph]()
    tokens = example(graph)
    assert net_for(mixer).summary(tokens).flops == hand_counted(mixer, graph, tokens)


def test_flops_of_attention_are_those_that_torch_counts():
    layer, tokens = Attention(16, num_heads=2), Tokens(torch.randn(3, 12, 16))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        layer(tokens)
    assert layer.flops(tokens) == counter.get_total_flops() > 0


def test_flops_of_edge_features():
    graph = Edges(torch.tensor([[0, 1], [1, 1]]), 3, edge_attr=torch.randn(2, 4))
    tokens = Tokens(torch.randn(3, 8), graph)
    with_features = GraphAttention(8, 2, edge_dim=4).flops(tokens)
    assert with_features - GraphAttention(8, 2).flops(tokens) == 2 * 2 * 4 * 8 + 2 * 8


def test_summary_has_a_row_for_each_layer():
    net, tokens = net_for("attention"), example(Grid(3, 4))
    summary = net.summary(tokens)
    assert summary.parameters == sum(p.numel() for p in net.parameters())
    assert [row.name for row in summary.rows] == [
        "TokenWise(Sequential)",
        "SinusoidalEncoding",
        *["Residual(Attention)", "Residual(TokenWise)"] * 2,
        "MeanReadout",
    ]
    assert summary.rows[2].shape == (2, 12, 16)
    assert summary.rows[-1].shape == (2, 5)
    text = str(summary).splitlines()
    assert text[0].split() == ["layer", "output", "parameters", "FLOPs", "relabeling", "shuffling"]
    assert text[-1].split()[1] == f"{summary.parameters:,}"
    assert net.training


def test_nets_nest_and_take_bare_tensors():
    inner = TokenNet([Residual(Attention(8, 2), nn.LayerNorm(8))])
    outer = TokenNet([inner, TokenWise(mlp(8)), inner])
    z = torch.randn(2, 5, 8)
    out = outer(z)
    assert isinstance(out, torch.Tensor)
    torch.testing.assert_close(outer(Tokens(z)).z, out)
    assert outer.symmetry == Symmetry({"graph"})
    assert outer.summary(z).rows[0].name == "TokenNet"


def test_a_layer_used_twice_counts_once_and_summing_up_changes_nothing():
    shared = Residual(Attention(8, 2), nn.BatchNorm1d(5))
    net = TokenNet([shared, shared])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    summary = net.summary(torch.randn(2, 5, 8))
    assert summary.parameters == sum(p.numel() for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes


def test_export_with_a_dynamic_batch_on_the_complete_graph():
    net = TokenNet([Residual(Attention(8, 2), nn.LayerNorm(8)), TokenWise(mlp(8))])
    z = torch.randn(3, 5, 8)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(net, (z,), dynamic_shapes=({0: batch},))
    more = torch.randn(7, 5, 8)
    torch.testing.assert_close(program.module()(more), net(more))


def test_a_bare_tensor_may_bring_its_graph():
    layer, z = Attention(8, 2), torch.randn(2, 5, 8)
    torch.testing.assert_close(layer(z, graph=Causal(5)), layer(Tokens(z, Causal(5))).z)
    net = Residual(layer, nn.LayerNorm(8))
    torch.testing.assert_close(net(z, graph=Causal(5)), net(Tokens(z, Causal(5))).z)


def test_residual_is_pre_norm_and_passes_the_source_on():
    layer = Residual(Attention(8, 2), nn.LayerNorm(8))
    z, source = torch.randn(5, 8), torch.randn(3, 8)
    expected = z + layer.layer(layer.norm(z), source=source)
    torch.testing.assert_close(layer(z, source=source), expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: build_net("magic", SPEC, 8), ValueError, "mixer must be one of .* 'magic'"),
        (
            lambda: build_net("mean", IOSpec(3, 5, readout="median"), 8),
            ValueError,
            "readout must be one of token, mean, .*, attention; got 'median'",
        ),
        (
            lambda: build_net("mean", SPEC, 8, positions="learned"),
            ValueError,
            "positions must be one of pos, index, none; got 'learned'",
        ),
        (
            lambda: build_net("mean", IOSpec(3, 5), 8, positions="pos"),
            ValueError,
            "positions='pos' needs tokens.pos",
        ),
        (
            lambda: build_net("mean", IOSpec(3, 5), 8, positions="index"),
            ValueError,
            "positions='index' needs a fixed number of tokens",
        ),
        (lambda: build_net("mlp", IOSpec(3, 5), 8), ValueError, "'mlp' needs a fixed number"),
        (
            lambda: TokenNet([nn.Linear(3, 3)]),
            TypeError,
            r"layers\[0\] must be .* Linear",
        ),
        (
            lambda: TokenNet([build_net("mean", SPEC, 8)]),
            ValueError,
            r"layers\[0\] must return tokens: it has a readout",
        ),
        (
            lambda: TokenWise(mlp(8))(torch.zeros(3, 8), source=torch.zeros(3, 8)),
            TypeError,
            "TokenWise accepts no source: it does not mix",
        ),
        (
            lambda: Residual(TokenWise(mlp(8)))(torch.zeros(3, 8), graph=Full(3)),
            TypeError,
            "Residual accepts no graph: it does not mix",
        ),
        (
            lambda: Attention(8, 2)(torch.zeros(3, 8), source=[1.0]),
            TypeError,
            "source must be Tokens or a tensor, got list",
        ),
        (
            lambda: Attention(8, 2)(torch.zeros(3, 8), torch.zeros(2, 8), graph="full"),
            TypeError,
            "graph must be a TokenGraph, got str",
        ),
        (
            lambda: Aggregate(8, GRUAggregation(8, 8)),
            ValueError,
            "order of neighbors, as GRUAggregation does",
        ),
        (
            lambda: PyGMixer(SAGEConv(8, 8, aggr="lstm")),
            ValueError,
            "order of neighbors, as LSTMAggregation does",
        ),
        (lambda: Attention(10, num_heads=4), ValueError, "num_heads must divide dim = 10, got 4"),
        (lambda: Attention(8, num_heads=0), ValueError, "num_heads must be at least 1, got 0"),
        (lambda: Attention(0, num_heads=1), ValueError, "dim must be at least 1, got 0"),
        (lambda: Attention(8, num_heads="2"), TypeError, "num_heads must be an int, got '2'"),
        (
            lambda: Attention(8, 2)(torch.zeros(2, 3, 8), torch.zeros(3, 4, 8)),
            ValueError,
            "leading dimensions that broadcast",
        ),
        (
            lambda: TokenWise(nn.Linear(8, 4))(torch.zeros(3, 9)),
            ValueError,
            r"tokens must have 8 channels, got shape \(3, 9\)",
        ),
        (
            lambda: TokenWise(mlp(8))(torch.zeros(3, 9)),
            ValueError,
            r"tokens must have 8 channels, got shape \(3, 9\)",
        ),
        (
            lambda: TokenNet(Residual(Attention(8, 2))),
            TypeError,
            "layers must be a list of layers, got a Residual",
        ),
        (
            lambda: GraphAttention(10, num_heads=4),
            ValueError,
            "num_heads must divide dim = 10, got 4",
        ),
        (lambda: Attention(8, 2)([1.0]), TypeError, "tokens must be Tokens or a tensor, got list"),
        (
            lambda: Attention(8, 2)(torch.zeros(3, 9)),
            ValueError,
            r"tokens must have 8 channels, got shape \(3, 9\)",
        ),
        (
            lambda: Attention(8, 2)(torch.zeros(3, 8), source=torch.zeros(2, 9)),
            ValueError,
            r"source must have 8 channels, got shape \(2, 9\)",
        ),
        (
            lambda: Attention(8, 2)(torch.zeros(3, 8), torch.zeros(2, 8), graph=Full(3)),
            ValueError,
            "graph must have 3 targets and 2 sources",
        ),
        (
            lambda: Attention(8, 2)(Tokens(torch.zeros(3, 8)), graph=Full(3)),
            ValueError,
            "graph goes with source",
        ),
        (
            lambda: TokenMixingMLP(8, 4, 4)(torch.zeros(3, 8)),
            ValueError,
            r"graph must be Full\(4\)",
        ),
        (
            lambda: TokenMixingMLP(8, 4, 4)(torch.zeros(4, 8), source=torch.zeros(4, 8)),
            ValueError,
            "source must be left out",
        ),
        (
            lambda: LearnedEncoding(8, 2)(torch.zeros(3, 8)),
            ValueError,
            r"positions in column 0 must be integers 0 \.\. 1, got values from 0 to 2",
        ),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_net_takes_a_graph_beside_a_tensor_as_its_layers_do():
    net, z = build_net("attention", SPEC, dim=16, num_heads=2), torch.randn(12, 3)
    torch.testing.assert_close(net(z, graph=Grid(3, 4)), net(Tokens(z, Grid(3, 4))))
    assert not torch.allclose(net(z, graph=Grid(3, 4)), net(z))
    with pytest.raises(ValueError, match="graph must be left out where tokens have a graph"):
        net(Tokens(z), graph=Grid(3, 4))
