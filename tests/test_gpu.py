"""On a device: the common suite and the laws, compilation, precision, the same bits again.

`pytest -m gpu` runs these and all other tests that need a device.
"""

from contextlib import contextmanager

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.contracts import mixers as laws
from tests.contracts.mixers import (
    DIM,
    DTYPES,
    EXACT,
    FAMILIES,
    HEADS,
    LAWS,
    TESTED,
    ByOracle,
    honored,
    make,
    obeys,
)
from tests.families import SQUARE
from tests.ops.graphs import clusters, shuffled
from tests.ops.kinds import gradients
from tests.oracle import attend_oracle
from tokennet import (
    Attention,
    Causal,
    Disjoint,
    Edges,
    Full,
    GraphAttention,
    Grid,
    Tokens,
    Window,
    attend,
    explain,
)
from tokennet.mixers import Pooling
from tokennet.ops import BACKENDS, Additive, EdgeFeatures
from tokennet.ops.backends import flex
from tokennet.ops.backends import ragged as sets
from tokennet.ops.call import make_call
from tokennet.ops.edge_plans import edge_plan
from tokennet.ops.edge_products import edge_combine

pytestmark = pytest.mark.gpu
PRECISIONS = [*map(str, DTYPES), "TF32"]
JUDGED = [
    (law, precision)
    for law in LAWS
    for precision in PRECISIONS
    if law not in EXACT or precision == "torch.float64"
]
"""Each law with the types that it is judged in."""


@pytest.fixture(params=PRECISIONS)
def dtype(request, monkeypatch):
    """A type; float32 with products as they are, and with products of numbers cut to TF32."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = request.param == "TF32"
    if request.param == "TF32":
        monkeypatch.setitem(laws.TOLERANCE, torch.float32, 1e-2)
    yield torch.float32 if request.param == "TF32" else getattr(torch, request.param[6:])
    for switch, allowed in zip(switches, before, strict=True):
        switch.allow_tf32 = allowed


@pytest.fixture
def deterministic(monkeypatch):
    """What SDPA and flash attention need for the same bits in their backward pass."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("law", "dtype"), JUDGED, indirect=["dtype"])
@pytest.mark.parametrize("name", TESTED)
def test_laws(name, law, dtype):
    for family in honored(name):
        graph = FAMILIES[family]()
        mixer = make(name, graph.num_targets, dtype, "cuda")
        obeys(mixer, law, laws.tokens_on(graph, DIM, dtype).to("cuda"))


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("kind", [Attention, GraphAttention])
def test_backends_are_the_oracle(kind, backend, dtype, monkeypatch):
    for graph_of in SQUARE.values():
        graph = graph_of()
        mixer = kind(DIM, HEADS, backend=backend).to("cuda", dtype)
        tokens = laws.tokens_on(graph, DIM, dtype, batch=(2,)).to("cuda")
        with unless_declined(backend):
            mixer(tokens)
            laws.as_oracle(mixer, tokens, ByOracle(mixer, monkeypatch))


@contextmanager
def unless_declined(backend):
    """What a backend cannot run is of no matter, if it is not one that must run everything."""
    try:
        yield
    except RuntimeError as reason:
        if f"backend '{backend}' cannot run this call" not in str(reason):
            raise
        assert backend in ("dense", "ragged", "banded", "flex")


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize(("law", "dtype"), JUDGED, indirect=["dtype"])
@pytest.mark.parametrize("kind", [Attention, GraphAttention])
def test_laws_on_each_backend(kind, law, backend, dtype):
    for graph_of in SQUARE.values():
        graph = graph_of()
        mixer = kind(DIM, HEADS, backend=backend).to("cuda", dtype).eval()
        with unless_declined(backend):
            LAWS[law](mixer, laws.tokens_on(graph, DIM, dtype).to("cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "graph_of",
    [
        lambda: Window(300, 40),
        lambda: Window(900, 300),
        lambda: Causal(300) & Window(300, 40),
        lambda: Causal(900) & Window(900, 300),
        lambda: Grid(17, 20, radius=2),
        lambda: Full(150, 70),
        lambda: clusters(100, 200, 150, 90, 200, 150),
        lambda: shuffled(Grid(64, 64, radius=2)),
    ],
    ids=[
        "window", "wide window", "causal window", "wide causal window", "grid", "between",
        "clusters", "shuffled grid",
    ],
)  # fmt: skip
def test_flex_compiled_is_the_reference(graph_of, dtype, monkeypatch):
    """With as many channels as it must have to be compiled, and with blocks by a band."""
    monkeypatch.setattr(flex, "_WORTH", 0)
    monkeypatch.setattr(flex, "DENSE_LIMIT", 300 * 300 - 1)
    graph = graph_of()
    given = inputs(graph, 2, 32, dtype)
    exact = [x.detach().double().requires_grad_() for x in given]
    out, right = attend(*given, graph, backend="flex"), attend(*exact, graph, backend="reference")
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 3e-2}[dtype]
    found, expected = ([x, *gradients(x, y)] for x, y in ((out, given), (right, exact)))
    for got, want in zip(found, expected, strict=True):
        assert (got.double() - want).norm() <= tolerance * want.norm()


def test_flex_is_compiled_for_more_graphs_than_dynamo_keeps_versions():
    for n in range(200, 212):
        graph = Window(n, 5)
        given = inputs(graph, 2, 32, torch.bfloat16)
        assert attend(*given, graph, backend="flex").isfinite().all()


def scattered(tokens=3000, edges=60_000):
    """Edges at random, and a target and a source that have many."""
    index = torch.randint(0, tokens, (2, edges))
    index[1, :5000], index[0, 5000:10_000] = 7, 11
    return Edges(index, tokens)


def inputs(graph, num_heads=8, channels=16, dtype=torch.float32):
    sizes = graph.num_targets, graph.num_sources, graph.num_sources
    return [
        torch.randn(n, num_heads, channels, device="cuda", dtype=dtype, requires_grad=True)
        for n in sizes
    ]


def options(kind, graph, num_heads=8, channels=16):
    """Keywords of `attend`, and the leaves among them."""
    bias = torch.randn(graph.num_edges, num_heads, device="cuda", requires_grad=True)
    attr = torch.randn(graph.num_edges, 5, device="cuda", requires_grad=True)
    key = torch.randn(num_heads, channels, 5, device="cuda", requires_grad=True)
    weight = torch.randn(num_heads, channels, device="cuda", requires_grad=True)
    return {
        "dot": ({}, []),
        "bias": ({"bias": bias}, [bias]),
        "features": ({"edges": EdgeFeatures(attr, key=key, value=key)}, [attr, key]),
        "additive": (
            {"score": Additive(weight), "edges": EdgeFeatures(attr, key=key), "bias": bias},
            [weight, attr, key, bias],
        ),
    }[kind]


def twice(run):
    first, second = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(x.isfinite().all() for x in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["dot", "bias", "features", "additive"])
def test_the_kernels_give_the_same_bits_again(kind, dtype):
    graph = scattered()
    given, (keywords, leaves) = inputs(graph, dtype=dtype), options(kind, graph)

    def run():
        out = attend(*given, graph, backend="fused", **keywords)
        return [out, *torch.autograd.grad(out.float().sin().sum(), [*given, *leaves])]

    twice(run)


@pytest.mark.parametrize(
    ("backend", "graph"),
    [
        ("dense", Full(700)),
        ("dense", Causal(700)),
        ("ragged", Disjoint([Full(n) for n in (50, 3, 200, 81)])),
        ("banded", Window(1000, 70)),
    ],
)
def test_sdpa_and_flash_give_the_same_bits_again_where_that_is_asked(backend, graph, deterministic):
    given = inputs(graph, dtype=torch.bfloat16)

    def run():
        out = attend(*given, graph, backend=backend)
        return [out, *torch.autograd.grad(out.float().sin().sum(), given)]

    twice(run)


@pytest.mark.parametrize(
    ("backend", "graph"),
    [
        ("ragged", Disjoint([Full(n) for n in (5, 3, 20, 8)])),
        ("ragged", Disjoint([Causal(n) for n in (5, 3, 20, 8)])),
        ("ragged", Disjoint([Full(2, 30), Full(17, 4)])),
        ("banded", Window(90, 7)),
        ("banded", Causal(90) & Window(90, 7)),
        ("banded", Causal(90).T & Window(90, 7)),
        ("fused", Window(90, 7)),
        ("flex", Window(300, 7)),
        ("flex", None),
    ],
    ids=str,
)
def test_bfloat16_errs_at_most_twice_as_much_as_sdpa(backend, graph):
    """Against float64; SDPA is given the same numbers on all pairs, with a mask."""
    graph = graph or clusters(*[128] * 5)  # at random, and so not at collection
    given = inputs(graph, 4, 32, torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in given]
    mask = graph.dense("cuda")
    mask = mask | ~mask.any(-1, keepdim=True)
    assert explain(*given, graph, backend=backend).chosen == backend

    def sdpa(q, k, v):  # with a batch, without which it takes the slowest of its kernels
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v, mask).squeeze(0)

    alive = graph.dense("cuda").any(-1)[:, None, None]
    right = sdpa(*exact).transpose(0, 1) * alive
    slopes = gradients(right, exact)
    errors = []
    for out in (sdpa(*given).transpose(0, 1) * alive, attend(*given, graph, backend=backend)):
        found = [out, *gradients(out, given)]
        pairs = zip(found, [right, *slopes], strict=True)
        errors.append([float((x.double() - y).norm()) for x, y in pairs])
    for by_sdpa, ours in zip(*errors, strict=True):
        assert ours <= 2 * by_sdpa + 1e-6


@pytest.mark.parametrize(
    ("dtype", "channels"),
    [(torch.float64, 16), (torch.float32, 16), (torch.float32, 5), (torch.bfloat16, 12)],
    ids=str,
)
@pytest.mark.parametrize(
    "parts",
    [
        [Full(n) for n in (3, 50, 9, 20, 40, 6, 7, 12, 1)],
        [Causal(n) for n in (30, 5, 20, 4, 6, 7)],
        [Full(2, 9), Full(3, 11), Full(3, 9), Full(5, 40)],
    ],
    ids=["complete", "causal", "bipartite"],
)
def test_sets_that_are_filled_up(parts, dtype, channels):
    graph = Disjoint(parts)
    given = inputs(graph, 2, channels, dtype)
    assert sets._padded(make_call(*given, graph)) is not None
    exact = [x.detach().double().requires_grad_() for x in given]
    out, right = attend(*given, graph, backend="ragged"), attend_oracle(*exact, graph)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 3e-2}[dtype]
    found, expected = ([x, *gradients(x, y)] for x, y in ((out, given), (right, exact)))
    for got, want in zip(found, expected, strict=True):
        assert (got.double() - want).norm() <= tolerance * want.norm()


@pytest.mark.parametrize("dim", [1, 8])
def test_pooling_on_a_grid_is_that_of_the_cpu(dim):
    mixer, graph, results = Pooling(dim), Grid(3, 4), []
    z = torch.randn(2, 12, dim, dtype=torch.float64)
    for device in ("cpu", "cuda"):
        given = z.to(device).requires_grad_()
        out = mixer(Tokens(given, graph)).z
        weight = torch.linspace(-1, 1, out.numel(), dtype=z.dtype).view_as(z).to(device)
        results.append([out.cpu(), torch.autograd.grad((out * weight).sum(), given)[0].cpu()])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_products_of_strided_weights_and_of_more_edges_than_pairs():
    """Which the sparse products of CUDA would read as if they were contiguous, or refuse."""
    index = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]])
    y, weights = torch.randn(2, 3, 4), torch.randn(5, 3).t()
    results = [
        edge_combine(weights.to(device), y.to(device), edge_plan(Edges(index, 2), device)).cpu()
        for device in map(torch.device, ("cpu", "cuda"))
    ]
    torch.testing.assert_close(*results)


def test_a_function_as_bias_goes_to_flex():
    graph = Window(600, 40)
    given = inputs(graph, 2, 32)

    def bias(h, i, j):
        return -0.1 * (h + 1) * (i - j).abs()

    out = attend(*given, graph, bias, backend="flex")
    expected = attend(*given, graph, bias, backend="dense")
    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-3)
    for got, want in zip(gradients(out, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", ["bias", "additive"])
def test_the_operator_is_compiled_whole(kind):
    graph = scattered(300, 12_000)
    given, (keywords, leaves) = inputs(graph), options(kind, graph)

    def run(*given):
        return attend(*given, graph, backend="fused", **keywords)

    expected = run(*given)
    out = torch.compile(run, fullgraph=True)(*given)
    assert torch.equal(out, expected)
    everything = [*given, *leaves]
    assert all(map(torch.equal, gradients(out, everything), gradients(expected, everything)))


@pytest.mark.parametrize("backward", [False, True])
def test_the_operator_in_a_cuda_graph(backward):
    graph = scattered(300, 12_000)
    given = inputs(graph)

    def run():
        with torch.set_grad_enabled(backward):
            out = attend(*given, graph, backend="fused")
        return [out, *torch.autograd.grad(out.sum(), given)] if backward else [out]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        found = run()
    for x in given:
        x.data.copy_(torch.randn_like(x))
    captured.replay()
    assert all(map(torch.equal, found, run()))


def test_the_operator_is_compiled_beside_cuda_graphs():
    """Which copy their inputs: what is known of a graph is not known of a copy."""
    graph = scattered(300, 12_000)
    weight = torch.randn(16, 16, device="cuda")

    def run(q, k, v):
        return (attend(q @ weight, k, v, graph, backend="fused") @ weight).sin()

    run(*inputs(graph))
    compiled = torch.compile(run, mode="reduce-overhead", fullgraph=True)
    for _ in range(4):
        given = inputs(graph)
        expected = run(*given)
        wanted = torch.autograd.grad(expected.sum(), given)
        torch.compiler.cudagraph_mark_step_begin()
        out = compiled(*given)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(torch.autograd.grad(out.sum(), given), wanted)


def test_offsets_beyond_int32():
    """4.2 million tokens of 1024 numbers: the last rows begin after 2**31 numbers."""
    if torch.cuda.get_device_properties(0).total_memory < 100e9:
        pytest.skip("needs 100 GB")
    tokens, near = 2**22, 50
    index = tokens - 1 - torch.randint(0, near, (2, 400))
    graph = Edges(index, tokens)
    given = inputs(graph, 8, 128, torch.bfloat16)
    out = attend(*given, graph, backend="fused")
    last = [x.detach()[-near:].float().requires_grad_() for x in given]
    expected = attend_oracle(*last, Edges(index - (tokens - near), near))
    torch.testing.assert_close(out[-near:].float(), expected, rtol=2e-2, atol=2e-2)
    assert not out[:-near].any()
    grads = torch.autograd.grad(out[-near:].float().sin().sum(), given)
    wanted = torch.autograd.grad(expected.sin().sum(), last)
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got[-near:].float(), want, rtol=5e-2, atol=5e-2)
        assert not got[:-near].any()


def test_digits_are_compared_on_a_device(tokennet, tmp_path):
    done = tokennet("compare", "digits", "--device", "cuda", "--seeds", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


MODEL = """
from torch import nn


class Model(nn.TransformerEncoderLayer):
    def __init__(self):
        super().__init__(8, 2, 16, batch_first=True)


def example():
    import torch

    return torch.randn(2, 7, 8)
"""


def test_a_model_is_checked_on_a_device(tokennet, tmp_path):
    (tmp_path / "it.py").write_text(MODEL)
    options = ("--example", "it:example", "--device", "cuda")
    done = tokennet("check", "it:Model", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "node_permutation" in done.stdout
