"""Every registered mixer x every law x every graph family x every backend x dtype.

A new mixer is tested here by being in `MIXERS`. It is held to the laws on the families that it
honors, one at least; others it must refuse with a ValueError that names the graph.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_geometric.nn import SAGEConv

from tests import laws, oracle
from tests.families import RAGGED, SQUARE, honors
from tokennet import (
    Aggregate,
    Attention,
    AttentionReadout,
    Convolution,
    CrossAttention,
    Cycle,
    Disjoint,
    Edges,
    Full,
    GraphAttention,
    Grid,
    GridConvolution,
    HyperMixer,
    Latents,
    MemoryTokens,
    Mixer,
    PoolingByAttention,
    PyGMixer,
    Recurrence,
    RecurrentAttention,
    SetNorm,
    Symmetry,
    Tokens,
)
from tokennet.mixers import MIXERS
from tokennet.testing.strategies import listed_graphs

DIM, HEADS = 8, 2
TESTED = {
    **MIXERS,
    "several_aggregations": lambda dim, num_heads, num_tokens: Aggregate(
        dim, ["mean", "std", "max"]
    ),
    "sorting_aggregation": lambda dim, num_heads, num_tokens: Aggregate(dim, "median"),
    "sage": lambda dim, num_heads, num_tokens: PyGMixer(SAGEConv(dim, dim)),
    "dilated_conv": lambda dim, num_heads, num_tokens: Convolution(dim, dilation=2, causal=True),
    "circular_conv": lambda dim, num_heads, num_tokens: Convolution(dim, periodic=True, groups=1),
    "circular_conv2d": lambda dim, num_heads, num_tokens: GridConvolution(dim, periodic=True),
    "conv2d_told": lambda dim, num_heads, num_tokens: GridConvolution(dim, grid=(2, 3)),
    "bidirectional": lambda dim, num_heads, num_tokens: Recurrence(
        dim, "lstm", num_layers=2, bidirectional=True
    ),
    "set_norm": lambda dim, num_heads, num_tokens: SetNorm(dim),
    "tied_hypermixer": lambda dim, num_heads, num_tokens: HyperMixer(dim, 5, tied=True),
    "memory_tokens": lambda dim, num_heads, num_tokens: MemoryTokens(
        Attention(dim, num_heads), dim, 2, attend_to_all=False
    ),
}
OTHERS = {
    "attention_readout": lambda: AttentionReadout(DIM, DIM, HEADS),
    "cross_attention": lambda: CrossAttention(DIM, HEADS),
    "latents": lambda: Latents(DIM, 3, HEADS),
    "pooling_by_attention": lambda: PoolingByAttention(DIM, HEADS, 3),
    "recurrent_attention": lambda: RecurrentAttention(DIM, HEADS, memory=3),
}
"""Layers that give other tokens than they are given, or listen to others, of which the laws of a
mixer do not speak; and one that is `Attention` but for its steps."""
FAMILIES = {**SQUARE, **RAGGED}
EXACT = {"hears_only_neighbors", "symmetry_is_declared_truly"}
"""Laws that are judged in float64 alone."""
FEW = ("full", "causal", "cycle", "grid", "offsets", "multi_edges", "no_tokens", "ragged", *RAGGED)
"""Families for what costs more, or varies less."""
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
LAWS = {
    "relabeling": laws.relabeling,
    "edge_order": laws.edge_order,
    "batch_is_one_by_one": laws.batch_is_one_by_one,
    "ragged_is_one_by_one": laws.ragged_is_one_by_one,
    "finite": laws.finite,
    "hears_only_neighbors": laws.hears_only_neighbors,
    "symmetry_is_declared_truly": laws.symmetry_is_declared_truly,
}
BACKENDS = ("reference", "dense", "fused", "sparse", "auto")


def make(name: str, num_tokens: int, dtype: torch.dtype, device: str = "cpu") -> Mixer:
    return TESTED[name](DIM, HEADS, num_tokens).to(device, dtype).eval()


def _pairs(families) -> tuple[list, list]:
    """(name, family): those that are honored, and the others."""
    both: tuple[list, list] = [], []
    for name in TESTED:
        for family in families:
            graph = FAMILIES[family]()
            both[not honors(make(name, graph.num_targets, torch.float32), graph)].append(
                (name, family)
            )
    return both


HONORED, REFUSED = _pairs(FAMILIES)
EVERYWHERE = sorted(set(TESTED) - {name for name, _ in REFUSED})
"""Mixers that honor every graph."""


@pytest.mark.parametrize("name", TESTED)
def test_each_mixer_honors_a_family_with_several_tokens(name):
    assert any(FAMILIES[family]().num_targets > 1 for mine, family in HONORED if mine == name)


@pytest.mark.parametrize(("name", "family"), REFUSED)
def test_what_a_mixer_cannot_honor_it_refuses(name, family):
    graph = FAMILIES[family]()
    mixer = make(name, graph.num_targets, torch.float32)
    with pytest.raises(ValueError, match="^graph must be ") as raised:
        mixer(laws.tokens_on(graph, DIM, torch.float32))
    assert any(repr(part) in str(raised.value) for part in (graph, *graph.parts))


def obeys(mixer: Mixer, law: str, tokens: Tokens) -> None:
    """Hold the mixer to a law, as far as it applies and asks of graphs that are honored."""
    if law == "relabeling" and mixer.symmetry.relabeling == "trivial":
        return
    graph = tokens.graph
    asked = {
        "edge_order": Edges(graph.edge_index(), graph.num_targets),
        "ragged_is_one_by_one": Disjoint([graph, graph]),
    }.get(law, graph)
    if honors(mixer, asked):
        LAWS[law](mixer, tokens)
    else:  # such as a convolution, that reads the sides of its grid from the graph
        with pytest.raises(ValueError, match="^graph must be "):
            LAWS[law](mixer, tokens)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("name", "family"), HONORED)
def test_law(name, family, law):
    graph = FAMILIES[family]()
    mixer = make(name, graph.num_targets, torch.float64)
    obeys(mixer, law, laws.tokens_on(graph, DIM, torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "law",
    [law for law in LAWS if law not in ("hears_only_neighbors", "symmetry_is_declared_truly")],
)
@pytest.mark.parametrize(("name", "family"), [pair for pair in HONORED if pair[1] in FEW])
def test_law_in_less_precision(name, family, law, dtype):
    graph = FAMILIES[family]()
    mixer = make(name, graph.num_targets, dtype)
    tokens = laws.tokens_on(graph, DIM, dtype)
    assert mixer(tokens).z.dtype == dtype
    obeys(mixer, law, tokens)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", SQUARE)
@pytest.mark.parametrize("kind", [Attention, GraphAttention])
def test_backends_are_the_oracle(kind, family, backend, dtype, monkeypatch):
    graph = SQUARE[family]()
    mixer = kind(DIM, HEADS, backend=backend).to(dtype)
    tokens = laws.tokens_on(graph, DIM, dtype, batch=(2,))
    if backend == "dense" and (graph.has_multi_edges or kind is GraphAttention):
        with pytest.raises(RuntimeError, match="backend 'dense' cannot run this call"):
            mixer(tokens)
        return
    laws.as_oracle(mixer, tokens, ByOracle(mixer, monkeypatch))


class ByOracle(nn.Module):
    """The same mixer with `attend` replaced by loops over targets."""

    def __init__(self, mixer: Mixer, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.mixer, self.monkeypatch = mixer, monkeypatch

    def forward(self, tokens: Tokens) -> Tokens:
        with self.monkeypatch.context() as patch:
            for module in ("score", "graph_attention"):
                patch.setattr(f"tokennet.mixers.{module}.attend", oracle.attend_oracle)
            return self.mixer(tokens)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("family", SQUARE)
@pytest.mark.parametrize("kind", [Attention, GraphAttention])
def test_law_on_each_backend(kind, family, law, backend):
    graph = SQUARE[family]()
    if backend == "dense" and (graph.has_multi_edges or kind is GraphAttention):
        backend = "auto"
    mixer = kind(DIM, HEADS, backend=backend).double()
    LAWS[law](mixer, laws.tokens_on(graph, DIM, torch.float64))


@given(graph=listed_graphs(st.integers(0, 5)), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_law_on_any_listed_graph(name, law, graph, seed):
    torch.manual_seed(seed)
    mixer = make(name, graph.num_targets, torch.float64)
    LAWS[law](mixer, laws.tokens_on(graph, DIM, torch.float64))


@given(graph=listed_graphs(st.integers(0, 5)), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("law", [law for law in LAWS if law != "batch_is_one_by_one"])
def test_law_with_edge_features(law, graph, seed):
    torch.manual_seed(seed)
    attr = torch.randn(graph.num_edges, 3, dtype=torch.float64)
    graph = Edges(graph.edge_index(), graph.num_targets, edge_attr=attr)
    mixer = GraphAttention(DIM, HEADS, edge_dim=3).double()
    LAWS[law](mixer, laws.tokens_on(graph, DIM, torch.float64))


ROTATION = torch.arange(6).roll(1)
TORUS_SHIFT = torch.arange(12).view(3, 4).roll((1, 2), (0, 1)).flatten()


SHUFFLES = {
    "rotation": (Cycle(6, 1), ROTATION),
    "reflection": (Cycle(6, 2), torch.arange(6).flip(0)),
    "shift": (Grid(3, 4, periodic=True), TORUS_SHIFT),
    "any": (Full(6), torch.tensor([3, 1, 0, 5, 2, 4])),
}


def shuffled() -> list[tuple[str, str]]:
    """Mixers that declare a symmetry, and the graphs that they honor."""
    return [
        (name, kind)
        for name in TESTED
        for kind, (graph, _) in SHUFFLES.items()
        if (mixer := make(name, graph.num_targets, torch.float32)).symmetry.shuffling != "trivial"
        and honors(mixer, graph)
    ]


@pytest.mark.parametrize(("name", "kind"), shuffled())
def test_shuffling_by_automorphisms(name, kind):
    graph, automorphism = SHUFFLES[kind]
    mixer = make(name, graph.num_targets, torch.float64)
    laws.shuffling(mixer, laws.tokens_on(graph, DIM, torch.float64), automorphism)


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        ("circular_conv", Cycle(6, 1)),
        ("circular_conv", Full(6)),
        ("circular_conv2d", Grid(3, 4, periodic=True)),
    ],
    ids=str,
)
def test_convolutions_without_borders_commute_with_translations(name, graph):
    mixer = make(name, graph.num_targets, torch.float64)
    shift = TORUS_SHIFT if isinstance(graph, Grid) else ROTATION
    laws.shuffling(mixer, laws.tokens_on(graph, DIM, torch.float64), shift)
    bordered = make({"circular_conv": "conv1d"}.get(name, "conv2d"), 6, torch.float64)
    with pytest.raises(AssertionError):
        laws.shuffling(bordered, laws.tokens_on(graph, DIM, torch.float64), shift)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_shuffling_by_anything_else_is_seen(name):
    mixer = make(name, 6, torch.float64)
    tokens = laws.tokens_on(Cycle(6, 1), DIM, torch.float64)
    with pytest.raises(AssertionError):
        laws.shuffling(mixer, tokens, torch.tensor([1, 0, 2, 3, 4, 5]))


def one_family(name: str, *families: str) -> str:
    """The first of some families that a mixer honors."""
    return next(family for family in families if (name, family) in HONORED)


TRACED = [(name, ("grid", "full", "torus")) for name in TESTED] + [
    (name, ("ragged_full", "ragged_grids"))
    for name in TESTED
    if name not in EVERYWHERE and {(name, "ragged_full"), (name, "ragged_grids")} & set(HONORED)
]
TRACED += [(name, (family,)) for name in OTHERS for family in ("full", "ragged_full")]
"""Mixers and the families of which the first that is honored will do: a set, and for mixers
that go set by set, several."""


class OnGraph(nn.Module):
    """A layer on a fixed graph: a tensor in, a tensor out."""

    def __init__(self, layer: nn.Module, graph) -> None:
        super().__init__()
        self.layer, self.graph = layer, graph

    def forward(self, z):
        tokens = Tokens(z, self.graph)
        if isinstance(self.layer, CrossAttention):
            return self.layer(tokens, tokens.replace(z=z.flip(-1))).z
        out = self.layer(tokens)
        return out.z if isinstance(out, Tokens) else out


def _on_graph(name: str, *families: str) -> tuple[nn.Module, torch.Tensor]:
    if name in OTHERS:
        graph = FAMILIES[families[0]]()
        layer = OTHERS[name]()
    else:
        graph = FAMILIES[one_family(name, *families)]()
        layer = make(name, graph.num_targets, torch.float32)
    return OnGraph(layer, graph), torch.randn(2, graph.num_targets, DIM)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", ["full", "no_tokens", "ragged_full"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_give_finite_numbers_of_their_type(name, family, dtype):
    module, z = _on_graph(name, family)
    module, z = module.to(dtype), z.to(dtype).requires_grad_()
    out = module(z)
    assert out.dtype == dtype
    assert out.isfinite().all()
    for gradient in torch.autograd.grad(out.square().sum(), [z, *module.parameters()]):
        assert gradient.isfinite().all()
    for alone, together in zip(z, out, strict=True):
        laws.assert_near(module(alone), together)


@pytest.mark.parametrize(("name", "families"), TRACED)
def test_compiles_without_a_break(name, families):
    torch.compiler.reset()
    module, z = _on_graph(name, *families)
    z.requires_grad_()
    expected = module(z)
    out = torch.compile(module, fullgraph=True, backend="eager")(z)
    laws.assert_near(out, expected)
    weight = torch.randn_like(expected)
    inputs = [z, *module.parameters()]
    found, wanted = (torch.autograd.grad((y * weight).sum(), inputs) for y in (out, expected))
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(("name", "families"), TRACED)
def test_exports(name, families):
    module, z = _on_graph(name, *families)
    program = torch.export.export(module, (z,))
    laws.assert_near(program.module()(z), module(z))


@pytest.mark.parametrize("name", [*TESTED, *OTHERS])
def test_bfloat16_autocast(name):
    module, z = _on_graph(name, "grid", "full", "torus")
    z.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(z)
    out.float().square().sum().backward()
    assert z.grad.isfinite().all()
    exact = module(z)
    assert (out.float() - exact).abs().max() < 0.1 * exact.abs().max()


class Cheat(Mixer):
    """Breaks one law on purpose; what it does is given as a function."""

    def __init__(self, mix, symmetry=None) -> None:
        super().__init__(DIM)
        self._mix = mix
        self.scale = nn.Parameter(torch.ones(DIM, dtype=torch.float64))
        if symmetry is not None:
            self.symmetry = symmetry

    def mix(self, tokens, source, graph):
        return self._mix(tokens.z, graph) * self.scale


def _by_place_in_the_list(z, graph):
    weight = torch.arange(1.0, graph.num_edges + 1, dtype=z.dtype)
    source, target = graph.edge_index()
    return torch.zeros_like(z).index_add(-2, target, weight[:, None] * z[..., source, :])


def _mean_over_neighbors_without_care(z, graph):
    dense = graph.dense().to(z.dtype)
    return dense @ z / dense.sum(1, keepdim=True)


CHEATS = {
    "relabeling": lambda z, graph: z + torch.arange(z.shape[-2], dtype=z.dtype)[:, None],
    "edge_order": _by_place_in_the_list,
    "batch_is_one_by_one": lambda z, graph: z - (z.mean(0) if z.dim() > 2 else 0 * z),
    "ragged_is_one_by_one": lambda z, graph: z + z.mean(-2, keepdim=True),
    "finite": _mean_over_neighbors_without_care,
    "hears_only_neighbors": lambda z, graph: z + 1e-9 * z.sum(-2, keepdim=True),
    "symmetry_is_declared_truly": lambda z, graph: z.cumsum(-2),
}


@pytest.mark.parametrize("law", LAWS)
def test_a_cheating_mixer_is_caught(law):
    graph = Edges(torch.tensor([[0, 1, 2, 0], [1, 2, 1, 3]]), 5)
    tokens = laws.tokens_on(graph, DIM, torch.float64)
    LAWS[law](make("attention", 5, torch.float64), tokens)
    with pytest.raises(AssertionError):
        LAWS[law](Cheat(CHEATS[law]), tokens)


def test_a_mixer_that_reads_the_graph_but_does_not_say_so_is_caught():
    silent = Cheat(lambda z, graph: graph.dense().to(z.dtype) @ z, symmetry=Symmetry())
    tokens = laws.tokens_on(Cycle(6, 1), DIM, torch.float64)
    with pytest.raises(AssertionError):
        laws.symmetry_is_declared_truly(silent, tokens)


def test_a_mixer_that_is_not_its_oracle_is_caught():
    tokens = laws.tokens_on(Cycle(6, 1), DIM, torch.float64)
    honest = Cheat(lambda z, graph: z)
    laws.as_oracle(honest, tokens, Cheat(lambda z, graph: z * 1.0))
    with pytest.raises(AssertionError):
        laws.as_oracle(honest, tokens, Cheat(lambda z, graph: z * 1.001))
    with pytest.raises(AssertionError):  # same values, other gradients
        laws.as_oracle(honest, tokens, Cheat(lambda z, graph: 2 * z - z.detach()))
