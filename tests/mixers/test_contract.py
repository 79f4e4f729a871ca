"""Every registered mixer is held to `MixerContract`; the contract is held to injected bugs."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.axes import pairwise
from tests.contracts import mixers as laws
from tests.contracts.mixers import (
    DIM,
    DTYPES,
    FAMILIES,
    HEADS,
    LAWS,
    OTHERS,
    ROTATION,
    TESTED,
    TORUS_SHIFT,
    ByOracle,
    LayerContract,
    MixerContract,
    checks,
    honored,
    make,
    on_graph,
)
from tests.families import CORE, SQUARE
from tokennet import Attention, Cycle, Edges, Full, GraphAttention, Grid, Mixer, Symmetry
from tokennet.testing.strategies import listed_graphs

SLOW = {"symmetry_is_declared"}
"""Laws that take a second for each example; by default on the families of graphs alone."""
BACKENDS = ("reference", "dense", "fused", "sparse", "auto")
EVERYWHERE = sorted(name for name in TESTED if len(honored(name)) == len(FAMILIES))
"""Mixers that honor every graph."""


class TestMixers(MixerContract):
    names = tuple(TESTED)


class TestOtherLayers(LayerContract):
    names = tuple(OTHERS)


@pytest.mark.parametrize("which", ["one", pytest.param("every", marks=[pytest.mark.sweep])])
@pytest.mark.parametrize("name", TESTED)
def test_laws_of_the_library(name, which):
    """By default one law of each mixer, in turn."""
    cases = checks(name)
    turn = list(TESTED).index(name) % len(cases)
    for case in cases if which == "every" else [cases[turn]]:
        model, law = case.values
        law(model)


def _on_backends(*axes):
    """Kind and family with the further axes; by default one value of each, in turn."""
    params = []
    families = sorted(SQUARE, key=lambda family: family not in CORE)
    for number, (kind, family) in enumerate(
        (kind, family) for kind in (Attention, GraphAttention) for family in families
    ):
        chosen = [axis[(number + number // len(axes[0])) % len(axis)] for axis in axes]
        for values in itertools.product(*axes):
            default = list(values) == chosen and family in CORE
            marks = [] if default else [pytest.mark.sweep]
            params.append(pytest.param(kind, family, *values, marks=marks))
    return params


@pytest.mark.parametrize(("kind", "family", "dtype", "backend"), _on_backends(DTYPES, BACKENDS))
def test_backends_are_the_oracle(kind, family, backend, dtype, monkeypatch):
    graph = SQUARE[family]()
    mixer = kind(DIM, HEADS, backend=backend).to(dtype)
    tokens = laws.tokens_on(graph, DIM, dtype, batch=(2,))
    if backend == "dense" and (graph.has_multi_edges or kind is GraphAttention):
        with pytest.raises(RuntimeError, match="backend 'dense' cannot run this call"):
            mixer(tokens)
        return
    laws.as_oracle(mixer, tokens, ByOracle(mixer, monkeypatch))


@pytest.mark.parametrize(("kind", "family", "law", "backend"), _on_backends(list(LAWS), BACKENDS))
def test_law_on_each_backend(kind, family, law, backend):
    graph = SQUARE[family]()
    if backend == "dense" and (graph.has_multi_edges or kind is GraphAttention):
        backend = "auto"
    mixer = kind(DIM, HEADS, backend=backend).double()
    LAWS[law](mixer, laws.tokens_on(graph, DIM, torch.float64))


@given(graph=listed_graphs(st.integers(0, 5)), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize(
    ("name", "law"),
    [
        pytest.param(name, law, marks=[pytest.mark.sweep] if law in SLOW or (i + j) % 6 else [])
        for i, name in enumerate(EVERYWHERE)
        for j, law in enumerate(LAWS)
    ],
)
def test_law_on_any_listed_graph(name, law, graph, seed):
    torch.manual_seed(seed)
    mixer = make(name, graph.num_targets, torch.float64)
    LAWS[law](mixer, laws.tokens_on(graph, DIM, torch.float64))


@given(graph=listed_graphs(st.integers(0, 5)), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize(
    "law",
    [
        pytest.param(law, marks=[pytest.mark.sweep] if law in SLOW else [])
        for law in LAWS
        if law != "batch_is_one_by_one"
    ],
)
def test_law_with_edge_features(law, graph, seed):
    torch.manual_seed(seed)
    attr = torch.randn(graph.num_edges, 3, dtype=torch.float64)
    graph = Edges(graph.edge_index(), graph.num_targets, edge_attr=attr)
    mixer = GraphAttention(DIM, HEADS, edge_dim=3).double()
    LAWS[law](mixer, laws.tokens_on(graph, DIM, torch.float64))


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


@pairwise(name=OTHERS, family=["full", "no_tokens", "ragged_full"], dtype=DTYPES)
def test_other_layers_give_finite_numbers_of_their_type(name, family, dtype):
    module, z = on_graph(name, family)
    module, z = module.to(dtype), z.to(dtype).requires_grad_()
    out = module(z)
    assert out.dtype == dtype
    assert out.isfinite().all()
    for gradient in torch.autograd.grad(out.square().sum(), [z, *module.parameters()]):
        assert gradient.isfinite().all()
    for alone, together in zip(z, out, strict=True):
        laws.assert_near(module(alone), together)


class Buggy(Mixer):
    """Breaks one law on purpose: a bug is injected as a function."""

    def __init__(self, mix, symmetry=None) -> None:
        super().__init__(DIM)
        self._mix = mix
        self.scale = nn.Parameter(torch.ones(DIM, dtype=torch.float64))
        if symmetry is not None:
            self.symmetry = symmetry

    def mix(self, tokens, source, graph):
        return self._mix(tokens.z, graph) * self.scale


def _by_index_in_the_list(z, graph):
    weight = torch.arange(1.0, graph.num_edges + 1, dtype=z.dtype)
    source, target = graph.edge_index()
    return torch.zeros_like(z).index_add(-2, target, weight[:, None] * z[..., source, :])


def _mean_over_neighbors_without_care(z, graph):
    dense = graph.dense().to(z.dtype)
    return dense @ z / dense.sum(1, keepdim=True)


BUGS = {
    "relabeling": lambda z, graph: z + torch.arange(z.shape[-2], dtype=z.dtype)[:, None],
    "edge_order": _by_index_in_the_list,
    "batch_is_one_by_one": lambda z, graph: z - (z.mean(0) if z.dim() > 2 else 0 * z),
    "ragged_is_one_by_one": lambda z, graph: z + z.mean(-2, keepdim=True),
    "finite": _mean_over_neighbors_without_care,
    "attends_only_to_neighbors": lambda z, graph: z + 1e-9 * z.sum(-2, keepdim=True),
    "symmetry_is_declared": lambda z, graph: z.cumsum(-2),
}


@pytest.mark.parametrize("law", LAWS)
def test_an_injected_bug_is_caught(law):
    graph = Edges(torch.tensor([[0, 1, 2, 0], [1, 2, 1, 3]]), 5)
    tokens = laws.tokens_on(graph, DIM, torch.float64)
    LAWS[law](make("attention", 5, torch.float64), tokens)
    with pytest.raises(AssertionError):
        LAWS[law](Buggy(BUGS[law]), tokens)


def test_a_mixer_that_reads_the_graph_but_does_not_say_so_is_caught():
    silent = Buggy(lambda z, graph: graph.dense().to(z.dtype) @ z, symmetry=Symmetry())
    tokens = laws.tokens_on(Cycle(6, 1), DIM, torch.float64)
    with pytest.raises(AssertionError):
        laws.symmetry_is_declared(silent, tokens)


def test_a_mixer_that_is_not_its_oracle_is_caught():
    tokens = laws.tokens_on(Cycle(6, 1), DIM, torch.float64)
    right = Buggy(lambda z, graph: z)
    laws.as_oracle(right, tokens, Buggy(lambda z, graph: z * 1.0))
    with pytest.raises(AssertionError):
        laws.as_oracle(right, tokens, Buggy(lambda z, graph: z * 1.001))
    with pytest.raises(AssertionError):  # same values, other gradients
        laws.as_oracle(right, tokens, Buggy(lambda z, graph: 2 * z - z.detach()))
