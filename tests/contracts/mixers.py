"""What every mixer must obey: a test class that inherits `MixerContract` is held to it.

A mixer in `MIXERS` is tested by being registered. It is held to the laws on the graph families that
it honors, one at least; others it must refuse with a ValueError that names the graph. Axes that do
not depend on each other are covered pairwise by default, and as the whole product under `sweep`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from tests import oracle
from tests.families import CORE, RAGGED, SQUARE, TYPED, honors
from tokennet import (
    Aggregate,
    Attention,
    Convolution,
    CrossAttention,
    Cycle,
    Disjoint,
    Edges,
    Full,
    Grid,
    Mixer,
    PyGMixer,
    TokenGraph,
    Tokens,
)
from tokennet.mixers import (
    MIXERS,
    GridConvolution,
    HyperMixer,
    Latents,
    PoolingByAttention,
    Recurrence,
    RecurrentAttention,
    RelationalAggregate,
    SetNorm,
)
from tokennet.nets import AttentionReadout, MemoryTokens
from tokennet.testing import (
    applicable_laws,
    check_declared,
    parametrize_with_checks,
    random_permutation,
)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 1e-1}


def tokens_on(
    graph: TokenGraph, dim: int, dtype: torch.dtype, batch: tuple[int, ...] = ()
) -> Tokens:
    z = torch.randn(*batch, graph.num_targets, dim, dtype=dtype)
    return Tokens(z, graph, torch.randn(graph.num_targets, 2, dtype=dtype))


def assert_near(got: Tensor, want: Tensor) -> None:
    """Largest difference within the tolerance of the type, relative to the largest value."""
    assert got.shape == want.shape
    if want.numel():
        scale = want.abs().max().clamp(min=1.0)
        assert float((got - want).detach().abs().max() / scale.detach()) <= TOLERANCE[want.dtype]


def relabeling(mixer: Mixer, tokens: Tokens) -> None:
    """f(P tokens) = P f(tokens), z, graph and pos moved together."""
    perm = random_permutation(tokens.graph, torch.Generator().manual_seed(1))
    moved = mixer(tokens.permute(perm))
    assert_near(moved.z, mixer(tokens).z[..., perm, :])


def shuffling(mixer: Mixer, tokens: Tokens, automorphism: Tensor) -> None:
    """f commutes with moving z alone by an automorphism of the graph."""
    moved = mixer(tokens.replace(z=tokens.z[..., automorphism, :]))
    assert_near(moved.z, mixer(tokens).z[..., automorphism, :])


def edge_order(mixer: Mixer, tokens: Tokens) -> None:
    """The order in which edges are listed does not matter."""
    edges = tokens.graph.edge_index()
    order = torch.randperm(edges.shape[1])
    n = tokens.num_tokens
    listed = Edges(edges, n, **tokens.graph.fields())
    mixed = Edges(edges[:, order], n, **tokens.graph.fields(order))
    first = mixer(tokens.replace(graph=listed)).z
    assert_near(mixer(tokens.replace(graph=mixed)).z, first)
    assert_near(first, mixer(tokens).z)


def batch_is_one_by_one(mixer: Mixer, tokens: Tokens) -> None:
    """Sets in leading dimensions do not see each other."""
    z = torch.stack([tokens.z, -tokens.z, tokens.z.flip(-1)]).unflatten(0, (3, 1))
    together = mixer(tokens.replace(z=z)).z
    for number in range(3):
        assert_near(together[number, 0], mixer(tokens.replace(z=z[number, 0])).z)


def ragged_is_one_by_one(mixer: Mixer, tokens: Tokens) -> None:
    """Sets in a ragged batch do not see each other."""
    other = tokens.replace(z=3 * tokens.z + 1)
    together = mixer(Tokens.batch([tokens, other, tokens]))
    assert isinstance(together.graph, Disjoint)
    parts = together.z.split(3 * [tokens.num_tokens], dim=-2)
    for alone, part in zip((tokens, other, tokens), parts, strict=True):
        assert_near(part, mixer(alone).z)


def finite(mixer: Mixer, tokens: Tokens) -> None:
    """Output and all gradients are finite, also of targets without neighbors."""
    z = tokens.z.clone().requires_grad_()
    out = mixer(tokens.replace(z=z)).z
    assert out.isfinite().all()
    inputs = [z, *mixer.parameters()]
    for gradient in torch.autograd.grad(out.square().sum(), inputs, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


def attends_only_to_neighbors(mixer: Mixer, tokens: Tokens) -> None:
    """A token depends on itself and on those that it attends to, on no other."""
    z = tokens.z.clone().requires_grad_()
    out = mixer(tokens.replace(z=z)).z
    for target in range(tokens.num_tokens):
        weight = torch.linspace(1, 2, tokens.dim, dtype=z.dtype, device=z.device)
        total = (out[..., target, :] * weight).sum()
        (gradient,) = torch.autograd.grad(total, z, retain_graph=True, allow_unused=True)
        reached = (torch.zeros_like(z) if gradient is None else gradient).abs().amax(-1) > 0
        allowed = tokens.graph.dense(z.device)[target].clone()
        allowed[target] = True
        assert not (reached & ~allowed).any()


def as_oracle(mixer: Mixer, tokens: Tokens, oracle: nn.Module) -> None:
    """Values and gradients of z and of every parameter are those of another way to compute."""
    results = []
    for module in (mixer, oracle):
        z = tokens.z.clone().requires_grad_()
        out = module(tokens.replace(z=z)).z
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).to(out.device).view_as(out)
        inputs = [z, *module.parameters()]
        gradients = torch.autograd.grad((out * weight).sum(), inputs, allow_unused=True)
        zeros = [torch.zeros_like(x) for x in inputs]
        results.append(
            [out, *(z if g is None else g for g, z in zip(gradients, zeros, strict=True))]
        )
    for got, want in zip(*results, strict=True):
        assert_near(got, want)


def symmetry_is_declared(mixer: Mixer, tokens: Tokens) -> None:
    """What the mixer declares holds when measured, on parameters that hide nothing."""
    report = check_declared(mixer, tokens, discover=False)
    assert report.holds, report


DIM, HEADS = 8, 2
VARIANTS = {
    "several_aggregations": lambda dim, num_heads, num_tokens: Aggregate(
        dim, ["mean", "std", "max"]
    ),
    "sorting_aggregation": lambda dim, num_heads, num_tokens: Aggregate(dim, "median"),
    "sage": lambda dim, num_heads, num_tokens: PyGMixer(SAGEConv(dim, dim)),
    "dilated_conv": lambda dim, num_heads, num_tokens: Convolution(
        dim, dilation=2, causal=True, groups=dim
    ),
    "circular_conv": lambda dim, num_heads, num_tokens: Convolution(dim, periodic=True, groups=1),
    "circular_conv2d": lambda dim, num_heads, num_tokens: GridConvolution(
        dim, periodic=True, groups=dim
    ),
    "conv2d_with_grid": lambda dim, num_heads, num_tokens: GridConvolution(dim, grid=(2, 3)),
    "bidirectional": lambda dim, num_heads, num_tokens: Recurrence(
        dim, "lstm", num_layers=2, bidirectional=True
    ),
    "set_norm": lambda dim, num_heads, num_tokens: SetNorm(dim),
    "tied_hypermixer": lambda dim, num_heads, num_tokens: HyperMixer(dim, 5, tied=True),
    "rgcn": lambda dim, num_heads, num_tokens: RelationalAggregate(dim, 3, num_bases=2),
    "relational_sum": lambda dim, num_heads, num_tokens: RelationalAggregate(dim, 4, "sum"),
    "typed_attention": lambda dim, num_heads, num_tokens: Attention(
        dim, num_heads, num_edge_types=3
    ),
    "grouped_attention": lambda dim, num_heads, num_tokens: Attention(
        dim, num_heads, num_kv_heads=1, dropout=0.5, softcap=3.0, sinks=True, qk_norm=True
    ),
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
"""Layers that return other tokens than they are given, or attend to others, for which the laws of a
mixer are not defined; and one that differs from `Attention` in its steps only."""
TESTED = {**MIXERS, **VARIANTS}
FAMILIES = {**SQUARE, **RAGGED}
GRAPHS = {**FAMILIES, **TYPED}
RELATIONAL = {"rgcn", "relational_sum", "typed_attention"}
"""Mixers that read types of edges: they honor graphs that have some, and are tested on `TYPED`."""
EXACT = {"attends_only_to_neighbors", "symmetry_is_declared"}
"""Laws that are decided in float64 alone."""
FEW = ("full", "causal", "cycle", "grid", "offsets", "multi_edges", "no_tokens", "ragged", *RAGGED)
"""Families for what costs more, or varies less."""
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
LAWS = {
    law.__name__: law
    for law in (
        relabeling,
        edge_order,
        batch_is_one_by_one,
        ragged_is_one_by_one,
        finite,
        attends_only_to_neighbors,
        symmetry_is_declared,
    )
}
ROTATION = torch.arange(6).roll(1)
TORUS_SHIFT = torch.arange(12).view(3, 4).roll((1, 2), (0, 1)).flatten()
SHUFFLES = {
    "rotation": (Cycle(6, 1), ROTATION),
    "reflection": (Cycle(6, 2), torch.arange(6).flip(0)),
    "shift": (Grid(3, 4, periodic=True), TORUS_SHIFT),
    "any": (Full(6), torch.tensor([3, 1, 0, 5, 2, 4])),
}


def make(name: str, num_tokens: int, dtype: torch.dtype, device: str = "cpu") -> Mixer:
    return TESTED[name](DIM, HEADS, num_tokens).to(device, dtype).eval()


def cases_of_laws(names: Iterable[str]) -> list:
    """Mixer, family it honors, law and dtype.

    By default each mixer meets each second family of its core with one law and one dtype, in turn,
    so that laws meet all mixers, families and dtypes; the rest of the product is marked as `sweep`.
    """
    pairs = [(name, family) for name in names for family in honored(name)]
    core = []
    for turn, name in enumerate(names):
        families = _core(name)
        core += [(name, family) for family in families[turn % 2 :: 2] or families]
    params = []
    for name, family in pairs:
        chosen = dtype_in_turn = None
        if (name, family) in core:
            number = core.index((name, family))
            chosen = list(LAWS)[number % len(LAWS)]
            dtype_in_turn = DTYPES[(number // len(LAWS) + number) % len(DTYPES)]
        for law in LAWS:
            dtypes = DTYPES if family in FEW and law not in EXACT else DTYPES[:1]
            chosen_dtype = dtype_in_turn if dtype_in_turn in dtypes else DTYPES[0]
            for dtype in dtypes:
                marks = [] if (law, dtype) == (chosen, chosen_dtype) else [pytest.mark.sweep]
                params.append(pytest.param(name, family, law, dtype, marks=marks))
    return params


def _core(name: str) -> tuple[str, ...]:
    """The families of a mixer by default: those of the core, if it honors several."""
    core = tuple(family for family in honored(name) if family in CORE)
    return core if len(core) > 2 else honored(name)


@functools.cache
def honored(name: str) -> tuple[str, ...]:
    """The families of graphs that a mixer honors; the others it must refuse."""
    families = {**FAMILIES, **TYPED} if name in RELATIONAL else FAMILIES
    mixer_of = functools.cache(lambda num_tokens: make(name, num_tokens, torch.float32))
    graphs = {family: _graph(family) for family in families}
    return tuple(
        family for family, graph in graphs.items() if honors(mixer_of(graph.num_targets), graph)
    )


_graph = functools.cache(lambda family: GRAPHS[family]())


def obeys(mixer: Mixer, law: str, tokens: Tokens) -> None:
    """Hold the mixer to a law, as far as it applies and needs graphs that are honored."""
    if law == "relabeling" and mixer.symmetry.relabeling == "trivial":
        return
    graph = tokens.graph
    needed = {
        "edge_order": Edges(graph.edge_index(), graph.num_targets, **graph.fields()),
        "ragged_is_one_by_one": Disjoint([graph, graph]),
    }.get(law, graph)
    if honors(mixer, needed):
        LAWS[law](mixer, tokens)
    else:  # such as a convolution, which reads the sides of its grid from the graph
        with pytest.raises(ValueError, match="^graph must be "):
            LAWS[law](mixer, tokens)


class OnGraph(nn.Module):
    """A layer on a fixed graph: a tensor in, a tensor out."""

    def __init__(self, layer: nn.Module, graph: TokenGraph) -> None:
        super().__init__()
        self.layer, self.graph = layer, graph

    def forward(self, z: Tensor) -> Tensor:
        tokens = Tokens(z, self.graph)
        if isinstance(self.layer, CrossAttention):
            return self.layer(tokens, tokens.replace(z=z.flip(-1))).z
        out = self.layer(tokens)
        return out.z if isinstance(out, Tokens) else out


def on_graph(name: str, family: str) -> tuple[nn.Module, Tensor]:
    graph = GRAPHS[family]()
    layer = OTHERS[name]() if name in OTHERS else make(name, graph.num_targets, torch.float32)
    return OnGraph(layer, graph), torch.randn(2, graph.num_targets, DIM)


def traced(names: Iterable[str], turns: Collection[int] = (0, 1, 2), every: int = 3) -> list:
    """Layers on a graph that they honor, and on a ragged batch.

    By default the first, of the numbers modulo `every` in `turns`; the rest is marked as `sweep`.
    """
    params = []
    for number, name in enumerate(names):
        for wanted in (
            ("grid", "full", "torus", "typed"),
            ("ragged_full", "ragged_grids", "ragged_typed"),
        ):
            families = ("full", "ragged_full") if name in OTHERS else honored(name)
            family = next((family for family in wanted if family in families), None)
            if family is not None:
                is_default = wanted[0] == "grid" and number % every in turns
                marks = [] if is_default else [pytest.mark.sweep]
                params.append(pytest.param(name, family, marks=marks))
    return params


def shuffled(names: Iterable[str]) -> list:
    """Mixers that declare a symmetry, and the graphs that they honor: by default one, in turn."""
    params = []
    for number, name in enumerate(names):
        kinds = [
            kind
            for kind, (graph, _) in SHUFFLES.items()
            if honors(mixer := make(name, graph.num_targets, torch.float32), graph)
            and mixer.symmetry.shuffling != "trivial"
        ]
        for turn, kind in enumerate(kinds):
            marks = [] if turn == number % len(kinds) else [pytest.mark.sweep]
            params.append(pytest.param(name, kind, marks=marks))
    return params


def checks(name: str) -> list:
    """Cases of `parametrize_with_checks` for a mixer, on a ragged batch or a graph that it honors.

    Mixers that read the index are not equivariant to permutations, as they declare.
    """
    families = ("ragged", "ragged_full", "ragged_grids", "full", "torus", "ragged_typed")
    graph = GRAPHS[next(family for family in families if family in honored(name))]()
    mixer = make(name, graph.num_targets, torch.float64)
    tokens = tokens_on(graph, DIM, torch.float64)
    laws = applicable_laws(mixer, tokens)
    if mixer.symmetry.relabeling == "trivial":
        laws = tuple(law for law in laws if law not in ("node_permutation", "tied_inputs"))
    return parametrize_with_checks({name: (mixer, tokens, {"laws": laws})}).args[1]


class ByOracle(nn.Module):
    """The same mixer with `attend` replaced by loops over targets."""

    def __init__(self, mixer: Mixer, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.mixer, self.monkeypatch = mixer, monkeypatch

    def forward(self, tokens: Tokens) -> Tokens:
        with self.monkeypatch.context() as patch:
            for module in ("scores", "graph_attention"):
                patch.setattr(f"tokennet.mixers.{module}.attend", oracle.attend_oracle)
            return self.mixer(tokens)


class LayerContract:
    """Autocast, and compilation or export, of the layers in `names`; both under `sweep`."""

    names: tuple[str, ...] = ()

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        build = CASES.get(metafunc.function.__name__)
        if build is not None:
            metafunc.parametrize(build[0], build[1](cls.names))

    def test_compiles_without_a_break(self, name: str, family: str) -> None:
        torch.compiler.reset()
        module, z = on_graph(name, family)
        z.requires_grad_()
        expected = module(z)
        out = torch.compile(module, fullgraph=True, backend="eager")(z)
        assert_near(out, expected)
        weight = torch.randn_like(expected)
        inputs = [z, *module.parameters()]
        found, wanted = (torch.autograd.grad((y * weight).sum(), inputs) for y in (out, expected))
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want)

    def test_exports(self, name: str, family: str) -> None:
        module, z = on_graph(name, family)
        program = torch.export.export(module, (z,))
        assert_near(program.module()(z), module(z))

    def test_bfloat16_autocast(self, name: str, family: str) -> None:
        module, z = on_graph(name, family)
        z.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = module(z)
        out.float().square().sum().backward()
        assert z.grad is not None
        assert z.grad.isfinite().all()
        exact = module(z)
        assert (out.float() - exact).abs().max() < 0.1 * exact.abs().max()


class MixerContract(LayerContract):
    """Inherit it and set `names`, of mixers in `TESTED`, to hold them to all laws of a mixer."""

    def test_each_honors_a_family_with_several_tokens(self) -> None:
        for name in self.names:
            assert any(_graph(family).num_targets > 1 for family in honored(name)), name

    def test_refuses_what_it_cannot_honor(self, name: str) -> None:
        for family in (each for each in FAMILIES if each not in honored(name)):
            graph = GRAPHS[family]()
            mixer = make(name, graph.num_targets, torch.float32)
            with pytest.raises(ValueError, match="^graph must be ") as raised:
                mixer(tokens_on(graph, DIM, torch.float32))
            assert any(repr(part) in str(raised.value) for part in (graph, *graph.parts)), family

    def test_flops_of_a_batch_are_those_of_its_sets(self, name: str) -> None:
        family = next(each for each in honored(name) if GRAPHS[each]().num_targets > 1)
        graph = GRAPHS[family]()
        mixer = make(name, graph.num_targets, torch.float32)
        flops = mixer.flops(tokens_on(graph, DIM, torch.float32))
        assert mixer.flops(tokens_on(graph, DIM, torch.float32, batch=(3, 2))) == 6 * flops

    def test_law(self, name: str, family: str, law: str, dtype: torch.dtype) -> None:
        graph = GRAPHS[family]()
        mixer, tokens = make(name, graph.num_targets, dtype), tokens_on(graph, DIM, dtype)
        assert mixer(tokens).z.dtype == dtype
        obeys(mixer, law, tokens)

    def test_shuffling_by_automorphisms(self, name: str, kind: str) -> None:
        graph, automorphism = SHUFFLES[kind]
        mixer = make(name, graph.num_targets, torch.float64)
        shuffling(mixer, tokens_on(graph, DIM, torch.float64), automorphism)


CASES: dict[str, tuple[Any, Callable[[Iterable[str]], list]]] = {
    "test_compiles_without_a_break": (("name", "family"), partial(traced, turns=(0,), every=6)),
    "test_exports": (("name", "family"), partial(traced, turns=(2,), every=6)),
    "test_bfloat16_autocast": (("name", "family"), partial(traced, turns=(0, 1))),
    "test_refuses_what_it_cannot_honor": ("name", list),
    "test_flops_of_a_batch_are_those_of_its_sets": ("name", list),
    "test_law": (("name", "family", "law", "dtype"), cases_of_laws),
    "test_shuffling_by_automorphisms": (("name", "kind"), shuffled),
}
