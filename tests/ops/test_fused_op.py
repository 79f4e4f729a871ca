"""The fused operator in PyTorch: layouts, sizes, order of edges, memory, compilation, export."""

import warnings

import pytest
import torch

from tests.axes import pairwise
from tests.ops.kinds import FAMILIES, assert_all_close, call, derivatives, make_inputs
from tokennet import Edges, Window, attend
from tokennet.ops.backends import fused
from tokennet.ops.call import make_call
from tokennet.ops.edge_plans import edge_plan
from tokennet.ops.kernels.cpu import edges
from tokennet.ops.kernels.fused_op import fused_attention
from tokennet.ops.kernels.problem import Problem
from tokennet.ops.terms import Terms

EXACT = {"rtol": 1e-9, "atol": 1e-11}
TERMS = {
    "dot": (),
    "bias": ("bias",),
    "shared_bias": ("shared_bias",),
    "features": ("bias", "edge_attr", "edge_query"),
    "additive": ("weight",),
    "additive_features": ("weight", "edge_attr", "edge_key"),
}

CHECKED = (("features", False), ("additive_features", True))


def make_problem(graph, terms=(), batch=2, num_heads=2, channels=3, values=4, features=2):
    n, m, edges = graph.num_targets, graph.num_sources, graph.num_edges
    sizes = {
        "bias": (batch, edges, num_heads), "shared_bias": (1, edges, num_heads),
        "weight": (num_heads, channels), "edge_attr": (edges, features),
        "edge_query": (batch, n, num_heads, features), "edge_key": (features, num_heads, channels),
    }  # fmt: skip
    shapes = [
        (batch, n, num_heads, channels),
        (batch, m, num_heads, channels),
        (batch, m, num_heads, values),
    ]
    q, k, v = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    given = {
        name.removeprefix("shared_"): torch.randn(sizes[name], dtype=torch.float64)
        for name in terms
    }
    return Problem(q, k, v, Terms(**given), 0.5, 0.2, edge_plan(graph))


def flat(problem, contiguous=True):
    """The arguments of the operator, as leaves to differentiate by."""

    def leaf(x):
        if x is None:
            return None
        x = x if contiguous else x.transpose(0, -1).contiguous().transpose(0, -1)
        return x.detach().requires_grad_()

    q, k, v = map(leaf, problem[:3])
    terms = Terms(*map(leaf, problem.terms))
    return problem._replace(q=q, k=k, v=v, terms=terms).flat()


@pytest.mark.parametrize(
    ("terms", "contiguous"),
    [
        pytest.param(
            terms, contiguous, id=f"{name}-{contiguous}",
            marks=() if (name, contiguous) in CHECKED else pytest.mark.sweep,
        )
        for name, terms in TERMS.items()
        for contiguous in (True, False)
    ],
)  # fmt: skip
def test_both_operators_are_what_they_are_registered_as(terms, contiguous):
    inputs = flat(make_problem(FAMILIES["multi_edges"](), terms), contiguous)
    forward = torch.ops.tokennet.edge_attention.default
    backward = torch.ops.tokennet.edge_attention_backward.default
    with torch.no_grad():
        outputs = forward(*inputs)
    upstream = [torch.randn_like(x).requires_grad_() for x in outputs]
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if "edge_attr" in terms and not contiguous:
        checks.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(forward, inputs, test_utils=checks)
    given = (*upstream, *outputs, *inputs, True, True)
    torch.library.opcheck(backward, given, test_utils=checks)


def test_halves_merged_by_their_log_sum_exp_are_the_whole():
    index = torch.randint(0, 12, (2, 300))
    whole = make_problem(Edges(index, 12), ("bias",))
    parts = []
    for half in (slice(0, 120), slice(120, 300)):
        terms = whole.terms._replace(bias=whole.terms.bias[:, half])
        plan = edge_plan(Edges(index[:, half], 12))
        parts.append(fused_attention(whole._replace(terms=terms, plan=plan)))
    (first, _, one), (second, _, other) = parts
    lse = torch.logaddexp(one, other)
    merged = first * (one - lse).exp()[..., None] + second * (other - lse).exp()[..., None]
    out, edge_out, expected = fused_attention(whole)
    torch.testing.assert_close(merged, out, **EXACT)
    torch.testing.assert_close(lse, expected, **EXACT)
    assert edge_out.shape == (2, 12, 2, 0)


def test_the_log_sum_exp_is_that_of_the_scores():
    graph = FAMILIES["multi_edges"]()
    problem = make_problem(graph, ("bias", "edge_attr", "edge_query"))
    q, k, _, terms, scale, *_ = problem
    source, target = graph.edge_index()
    wanted = torch.einsum("behd,ed->beh", terms.edge_query[:, target], terms.edge_attr)
    scores = scale * ((q[:, target] * k[:, source]).sum(-1) + wanted) + terms.bias
    lse = fused_attention(problem)[2]
    for i in range(graph.num_targets):
        torch.testing.assert_close(lse[:, i], scores[:, target == i].logsumexp(1), **EXACT)
    assert (lse[:, 5] == -torch.inf).all()


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda x: torch.stack([x, x - 1], dim=-1)[..., 0],
    "off_by_one": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "first_of_a_batch": lambda x: torch.stack([x, x + 1])[0],
}


@pairwise(
    kind=["edge_both", "additive_edges"],
    dtype=[torch.float64, torch.bfloat16],
    layout=LAYOUTS.values(),
)
def test_layout_does_not_matter(kind, dtype, layout):
    graph = FAMILIES["multi_edges"]()
    plain = make_inputs(kind, graph, (2,), dtype=dtype)
    other = {name: layout(x.detach()).requires_grad_() for name, x in plain.items()}
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    out, same = (call(kind, given, graph, backend="fused") for given in (plain, other))
    assert torch.equal(out, same)
    for x, y in zip(derivatives(out, plain), derivatives(same, other), strict=True):
        assert torch.equal(x, y)
    expanded = {name: x[:1].expand_as(x) if name in "qkv" else x for name, x in plain.items()}
    out, same = (
        call(kind, given, graph, backend="fused")
        for given in (expanded, {name: x.contiguous() for name, x in expanded.items()})
    )
    assert torch.equal(out, same)
    assert all(map(torch.equal, derivatives(out, plain), derivatives(same, plain)))


@pytest.mark.parametrize("backend", ["fused", "sparse"])
def test_the_same_tensor_for_queries_keys_and_values(backend):
    graph = FAMILIES["multi_edges"]()
    x = make_inputs("dot", graph, (2,))["q"]
    out = attend(x, x, x, graph, backend=backend)
    expected = attend(x, x, x, graph, backend="reference")
    torch.testing.assert_close(out, expected, **EXACT)
    got, want = (derivatives(y, {"x": x}, order=2) for y in (out, expected))
    assert_all_close(got, want, **EXACT)


NOTHING = [((0,), {}), ((2, 0), {}), ((2,), {"num_heads": 0}), ((2,), {"values": 0})]
NOTHING.append(((), {"features": 0}))


@pytest.mark.parametrize(
    ("batch", "sizes", "kind", "backend"),
    [
        # A kernel is compiled for each kind without heads or values: by default for one of them.
        pytest.param(batch, sizes, kind, backend, marks=pytest.mark.sweep if swept else ())
        for batch, sizes in NOTHING
        for kind in ("pair_bias", "edge_both", "additive_edges")
        for backend in ("fused", "sparse")
        for swept in [("num_heads" in sizes and kind != "edge_both")
                      or ("values" in sizes and kind != "additive_edges")]
    ],
)  # fmt: skip
def test_sizes_of_nothing(batch, sizes, kind, backend):
    graph = FAMILIES["multi_edges"]()
    inputs = make_inputs(kind, graph, batch, **sizes)
    out = call(kind, inputs, graph, backend=backend)
    expected = call(kind, inputs, graph, backend="reference")
    torch.testing.assert_close(out, expected, **EXACT)
    got, want = (derivatives(x, inputs, order=2) for x in (out, expected))
    assert_all_close(got, want, **EXACT)


@pytest.mark.parametrize("kind", ["edge_both", "additive_edges"])
def test_the_order_of_edges_does_not_matter_and_their_gradients_go_with_them(kind):
    index = torch.randint(0, 20, (2, 500))
    listed, by_target = Edges(index, 20), Edges(index, 20).csr().edge_id
    inputs = make_inputs(kind, listed, (2,))
    out = call(kind, inputs, listed, backend="fused")
    found = dict(zip(inputs, derivatives(out, inputs), strict=True))
    for order in (torch.randperm(500), by_target, by_target.flip(0)):
        of_edges = ("bias", "attr")
        mixed = {
            name: (x.detach()[order] if name in of_edges else x.detach()).requires_grad_()
            for name, x in inputs.items()
        }
        graph = Edges(index[:, order], 20)
        again = call(kind, mixed, graph, backend="fused")
        torch.testing.assert_close(again, out, **EXACT)
        for name, gradient in zip(mixed, derivatives(again, mixed), strict=True):
            expected = found[name][order] if name in of_edges else found[name]
            torch.testing.assert_close(gradient, expected, **EXACT)


@pytest.mark.parametrize(
    "kind",
    [
        "edge_both",
        *(pytest.param(x, marks=pytest.mark.sweep) for x in ("edge_bias", "additive_edges")),
    ],
)
def test_memory_is_that_of_tokens_and_scores(kind):
    """Training: never E x F (102 MB), where F = H C = 128 are the channels of all heads."""
    n, edges, num_heads, channels, features = 5_000, 200_000, 4, 32, 8
    graph = Edges(torch.randint(0, n, (2, edges)), n)
    sizes = {"num_heads": num_heads, "channels": channels, "values": channels, "features": features}
    inputs = make_inputs(kind, graph, **sizes, dtype=torch.float32)

    def train():
        out = call(kind, inputs, graph, backend="fused")
        torch.autograd.grad(out.sum(), list(inputs.values()))

    train()  # once, for the plan
    with torch.profiler.profile(profile_memory=True) as profile:
        train()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    numbers = 6 * n * num_heads * channels + 3.5 * edges * num_heads
    numbers += 2.2 * edges * features if "attr" in inputs else 0
    assert 4 * n * num_heads * channels < peak < 4 * numbers < 4 * edges * num_heads * channels / 2


@pytest.mark.parametrize("kind", ["edge_both", "pair_bias", "function_bias", "additive_edges"])
def test_compiles_as_one_graph_after_one_warm_run(kind):
    graph = FAMILIES["multi_edges"]()
    inputs = make_inputs(kind, graph, (2,))
    out = call(kind, inputs, graph, backend="fused")
    torch._dynamo.reset()
    program = torch.compile(
        lambda given: call(kind, given, graph, backend="fused"),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    compiled = program(inputs)
    torch.testing.assert_close(compiled, out)
    assert_all_close(derivatives(compiled, inputs), derivatives(out, inputs))


@pytest.mark.parametrize("kind", ["edge_both", "additive_edges"])
def test_exports(kind):
    graph = Window(6, 1)
    inputs = {name: x.detach() for name, x in make_inputs(kind, graph, (2,)).items()}

    class Net(torch.nn.Module):
        def forward(self, q):
            return call(kind, {**inputs, "q": q}, graph, backend="fused")

    program = torch.export.export(Net(), (inputs["q"],)).module()
    changed = torch.randn_like(inputs["q"])
    torch.testing.assert_close(program(changed), Net()(changed))


def test_transforms_of_functions_are_right_or_refused():
    graph, x = Window(6, 1), torch.randn(3, 6, 2, 3, dtype=torch.float64)

    def function(x, backend="fused"):
        return attend(x, x, x, graph, backend=backend)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it runs one by one, and says so
        torch.testing.assert_close(torch.func.vmap(function)(x), function(x))
    with pytest.raises(RuntimeError, match="derivatives by autograd, not by torch.func"):
        torch.func.grad(lambda x: function(x).sum())(x)
    by_func = torch.func.grad(lambda x: function(x, "auto").square().sum())(x[0])
    leaf = x[0].clone().requires_grad_()
    function(leaf).square().sum().backward()
    torch.testing.assert_close(by_func, leaf.grad)
    x = x[0].requires_grad_()
    jacobian = torch.autograd.functional.jacobian(function, x, vectorize=True)
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(function, x))


def test_a_graph_first_met_in_inference_can_train():
    graph = FAMILIES["multi_edges"]()
    inputs = make_inputs("additive_edges", graph)
    with torch.inference_mode():
        first = call("additive_edges", inputs, graph, backend="fused")
    out = call("additive_edges", inputs, graph, backend="fused")
    assert torch.equal(out, first)
    assert all(g.isfinite().all() for g in derivatives(out, inputs))


@pytest.mark.parametrize("kind", ["edge_both", "additive_edges"])
def test_gradients_of_edges_are_written_only_where_they_are_wanted(kind, monkeypatch):
    graph = FAMILIES["multi_edges"]()
    inputs = make_inputs(kind, graph, (2,))
    out = call(kind, inputs, graph, backend="fused")
    expected = dict(zip(inputs, derivatives(out, inputs, order=2), strict=False))
    found, real = [], edges.backward
    monkeypatch.setattr(edges, "backward", lambda *x: found.append(real(*x)) or found[-1])
    for fixed in (("bias",), ("attr",), ("bias", "attr")):
        given = {name: x.detach() for name, x in inputs.items()}
        wanted = {name: x.requires_grad_() for name, x in given.items() if name not in fixed}
        out = call(kind, given, graph, backend="fused")
        for name, gradient in zip(wanted, derivatives(out, wanted), strict=True):
            torch.testing.assert_close(gradient, expected[name], **EXACT)
        assert (found[-1].bias.numel() == 0) == ("bias" in fixed)
        assert (found[-1].edge_attr.numel() == 0) == ("attr" in fixed)
        reference = call(kind, given, graph, backend="reference")
        got, want = (derivatives(x, wanted, order=2) for x in (
            call(kind, given, graph, backend="fused"), reference
        ))  # fmt: skip
        assert_all_close(got, want, **EXACT)


@pytest.mark.parametrize("backend", ["fused", "sparse", "reference"])
def test_a_bias_in_float32_is_not_rounded_to_the_type_of_the_queries(backend):
    graph = Edges(torch.randint(0, 8, (2, 60)), 8)
    q = k = torch.zeros(8, 2, 4, dtype=torch.bfloat16)
    v = torch.randn(8, 2, 4).bfloat16()
    bias = 50 + torch.rand(graph.num_edges, 2)  # where bfloat16 knows quarters
    bias.requires_grad_()
    out = attend(q, k, v, graph, bias, backend=backend)
    assert out.dtype == torch.bfloat16
    expected = attend(q.double(), k.double(), v.double(), graph, bias.double())
    torch.testing.assert_close(out.double(), expected, rtol=2**-7, atol=2**-7)
    (gradient,) = torch.autograd.grad(out.float().sum(), bias)
    assert gradient.dtype == torch.float32


def test_those_who_copy_inputs_into_cuda_graphs_are_warned():
    """The tables of a plan are found by its identity, which a copy has not."""
    for operator in (
        torch.ops.tokennet.edge_attention.default,
        torch.ops.tokennet.edge_attention_backward.default,
    ):
        assert torch.Tag.cudagraph_unsafe in operator.tags


def test_what_the_kernels_for_cuda_need(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    assert fused._triton_problem(0) == "its kernels for CUDA are in Triton, which is not installed"
    monkeypatch.setattr(fused, "find_spec", lambda name: name)
    assert fused._triton_problem(0) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (6, 1))
    assert fused._triton_problem(0) == "Triton needs a GPU of compute capability 7.0"


def test_other_devices_are_refused_by_name():
    q = torch.randn(3, 1, 2, device="meta")
    reason = fused.unsupported(make_call(q, q, q, Window(3, 1)))
    assert reason == "its kernels are for a CPU and for CUDA, not for meta"
