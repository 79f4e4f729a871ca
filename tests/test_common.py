"""Every registered mixer x every law x every graph family x every backend x dtype.

A new mixer is tested here by being in `MIXERS`. What a mixer cannot honour it must refuse
with a ValueError that names the graph; nothing else counts as passing.
"""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_geometric.nn import SAGEConv

from tests import laws, oracle
from tests.families import SQUARE
from tokennet import (
    Aggregate,
    Attention,
    Cycle,
    Edges,
    Full,
    GraphAttention,
    Grid,
    Mixer,
    PyGMixer,
    Symmetry,
    Tokens,
)
from tokennet.mixers import MIXERS
from tokennet.testing.strategies import listed_graphs

DIM, HEADS = 8, 2
TESTED = {
    **MIXERS,
    "several_aggregations": lambda dim, heads, num_tokens: Aggregate(dim, ["mean", "std", "max"]),
    "sorting_aggregation": lambda dim, heads, num_tokens: Aggregate(dim, "median"),
    "sage": lambda dim, heads, num_tokens: PyGMixer(SAGEConv(dim, dim)),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
LAWS = {
    "relabelling": laws.relabelling,
    "edge_order": laws.edge_order,
    "batch_is_one_by_one": laws.batch_is_one_by_one,
    "ragged_is_one_by_one": laws.ragged_is_one_by_one,
    "finite": laws.finite,
    "symmetry_is_declared_truly": laws.symmetry_is_declared_truly,
}
BACKENDS = ("reference", "dense", "fused", "sparse", "auto")


def make(name: str, num_tokens: int, dtype: torch.dtype) -> Mixer:
    return TESTED[name](DIM, HEADS, num_tokens).to(dtype).eval()


def honours(mixer: Mixer, graph) -> bool:
    """Whether the mixer takes the graph; if not, it must say so."""
    try:
        mixer.check_graph(graph)
    except ValueError as error:
        with pytest.raises(ValueError, match="graph must be") as raised:
            mixer(laws.tokens_on(graph, DIM, torch.float32))
        assert str(raised.value) == str(error)
        return False
    return True


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("family", SQUARE)
@pytest.mark.parametrize("name", TESTED)
def test_law(name, family, law, dtype):
    graph = SQUARE[family]()
    mixer = make(name, graph.num_targets, dtype)
    if not honours(mixer, graph):
        return
    if law == "relabelling" and mixer.symmetry.relabelling == "trivial":
        return
    tokens = laws.tokens_on(graph, DIM, dtype)
    if law == "edge_order" and name == "mlp":
        with pytest.raises(ValueError, match="graph must be Full"):
            LAWS[law](mixer, tokens)
        return
    if law == "ragged_is_one_by_one" and name == "mlp":
        with pytest.raises(ValueError, match="graph must be Full"):
            LAWS[law](mixer, tokens)
        return
    LAWS[law](mixer, tokens)


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
    laws.as_oracle(mixer, tokens, _by_oracle(mixer, monkeypatch))


class _ByOracle(nn.Module):
    """The same mixer with `attend` replaced by loops over targets."""

    def __init__(self, mixer: Mixer, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.mixer, self.monkeypatch = mixer, monkeypatch

    def forward(self, tokens: Tokens) -> Tokens:
        with self.monkeypatch.context() as patch:
            patch.setattr(inspect.getmodule(type(self.mixer)), "attend", oracle.attend_oracle)
            return self.mixer(tokens)


def _by_oracle(mixer: Mixer, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    return _ByOracle(mixer, monkeypatch)


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
@pytest.mark.parametrize("name", [name for name in TESTED if name != "mlp"])
def test_law_on_any_listed_graph(name, law, graph, seed):
    torch.manual_seed(seed)
    mixer = make(name, graph.num_targets, torch.float64)
    if honours(mixer, graph):
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


@pytest.mark.parametrize(
    ("graph", "automorphism"),
    [
        (Cycle(6, 1), ROTATION),
        (Cycle(6, 2), torch.arange(6).flip(0)),
        (Grid(3, 4, periodic=True), TORUS_SHIFT),
        (Full(6), torch.tensor([3, 1, 0, 5, 2, 4])),
    ],
    ids=["rotation", "reflection", "shift", "any"],
)
@pytest.mark.parametrize("name", [name for name in TESTED if name != "mlp"])
def test_shuffling_by_automorphisms(name, graph, automorphism):
    mixer = make(name, graph.num_targets, torch.float64)
    if honours(mixer, graph):
        laws.shuffling(mixer, laws.tokens_on(graph, DIM, torch.float64), automorphism)


@pytest.mark.parametrize("name", [name for name in TESTED if name != "mlp"])
def test_shuffling_by_anything_else_is_seen(name):
    mixer = make(name, 6, torch.float64)
    if not honours(mixer, Cycle(6, 1)):
        return
    tokens = laws.tokens_on(Cycle(6, 1), DIM, torch.float64)
    with pytest.raises(AssertionError):
        laws.shuffling(mixer, tokens, torch.tensor([1, 0, 2, 3, 4, 5]))


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


def _mean_over_neighbours_without_care(z, graph):
    dense = graph.dense().to(z.dtype)
    return dense @ z / dense.sum(1, keepdim=True)


CHEATS = {
    "relabelling": lambda z, graph: z + torch.arange(z.shape[-2], dtype=z.dtype)[:, None],
    "edge_order": _by_place_in_the_list,
    "batch_is_one_by_one": lambda z, graph: z - (z.mean(0) if z.dim() > 2 else 0 * z),
    "ragged_is_one_by_one": lambda z, graph: z + z.mean(-2, keepdim=True),
    "finite": _mean_over_neighbours_without_care,
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
