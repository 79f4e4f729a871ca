"""Sets padded to a few sizes, as on a device, on a CPU."""

import pytest
import torch

from tests.ops.kinds import gradients, qkv
from tests.oracle import attend_oracle
from tokennet import Causal, Disjoint, Full, attend, explain
from tokennet.ops.backends import ragged as sets
from tokennet.ops.batching import masks_of, padded_sets, sets_alike
from tokennet.ops.call import make_call
from tokennet.ops.kernels import flash

BATCHES = {
    "complete": lambda: Disjoint([Full(n) for n in (3, 5, 9, 2, 4, 6, 7, 12, 1)]),
    "causal": lambda: Disjoint([Causal(n) for n in (3, 5, 2, 4, 6, 7)]),
    "both": lambda: Disjoint([Full(3), Causal(2), Full(2), Causal(3)]),
    "bipartite": lambda: Disjoint([Full(2, 9), Full(3, 11), Full(3, 9), Full(5, 1)]),
}


@pytest.fixture
def on_device(monkeypatch):
    """The batch padded, as if it were on a device."""
    monkeypatch.setattr(sets, "_padded", lambda call: padded_sets(call.graph))


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("name", BATCHES)
def test_it_is_the_oracle(name, batch, on_device):
    graph = BATCHES[name]()
    q, k, v = qkv(graph, batch)
    found, expected = (
        attend(q, k, v, graph, backend="ragged", scale=0.7),
        attend_oracle(q, k, v, graph, scale=0.7),
    )
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
    pairs = zip(gradients(found, [q, k, v]), gradients(expected, [q, k, v]), strict=True)
    for got, want in pairs:
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)


def test_second_derivatives(on_device):
    graph = BATCHES["both"]()
    given = [x.detach().requires_grad_() for x in qkv(graph)]
    torch.autograd.gradgradcheck(
        lambda q, k, v: attend(q, k, v, graph, backend="ragged"), given, fast_mode=True
    )


def test_sets_of_a_bin_are_about_as_long():
    made = padded_sets(BATCHES["complete"]())
    assert [(x.num_sets, x.num_targets, x.num_sources) for x in made.sets.shapes] == [
        (2, 3, 8), (4, 7, 8), (2, 12, 16), (1, 1, 8)
    ]  # fmt: skip
    assert len(made.sets.targets) == 2 * 3 + 4 * 7 + 2 * 12 + 1


@pytest.mark.parametrize(
    "graph",
    [
        Disjoint([Full(2), Full(0)]),
        Disjoint([Full(2, 0), Full(3)]),
        Disjoint([Full(2), Full(5), Causal(513)]),
        Disjoint([Full(2), Full(5, 513)]),
    ],
    ids=str,
)
def test_not_with_empty_sets_or_long_ones(graph):
    assert padded_sets(graph) is None


def test_a_causal_bin_needs_no_mask():
    made = padded_sets(BATCHES["both"]())
    masks, bins = masks_of(made, 2), made.sets.shapes
    assert [mask is None for mask in masks] == [x.is_causal for x in bins]
    for mask, alike in zip(masks, bins, strict=True):
        assert mask is None or mask.shape == (2 * alike.num_sets, 1, 1, alike.num_sources)


def test_no_entries_in_the_batch(on_device):
    graph = BATCHES["complete"]()
    q = torch.randn(0, graph.num_targets, 2, 4, requires_grad=True)
    out = attend(q, q, q, graph, backend="ragged")
    assert out.shape == q.shape
    assert torch.autograd.grad(out.sum(), q)[0].shape == q.shape


@pytest.mark.parametrize(
    "name",
    [name if name == "both" else pytest.param(name, marks=pytest.mark.sweep) for name in BATCHES],
)
def test_compiled_as_one_graph(name, on_device):
    graph = BATCHES[name]()
    given = qkv(graph, (2,))

    def run(*given):
        return attend(*given, graph, backend="ragged")

    expected = run(*given)
    out = torch.compile(run, backend="aot_eager", fullgraph=True)(*given)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-10)
    for got, want in zip(gradients(out, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)


def test_transforms_of_functions(on_device):
    graph = BATCHES["complete"]()
    z = torch.randn(3, graph.num_targets, 2, 4, dtype=torch.float64)

    def loss(z):
        return attend(z, z, z, graph, backend="ragged").square().sum()

    expected = torch.autograd.grad(sum(map(loss, z.requires_grad_())), z)[0]
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(z.detach()), expected)


def test_the_work_is_that_of_the_bins(on_device):
    graph = BATCHES["complete"]()
    q = torch.randn(graph.num_targets, 2, 4)
    work = sets.work(make_call(q, q, q, graph))
    assert work.calls == 4
    assert work.scores == 2 * (2 * 3 * 8 + 4 * 7 * 8 + 2 * 12 * 16 + 8)
    graph = BATCHES["causal"]()
    q = torch.randn(graph.num_targets, 2, 4)
    assert sets.work(make_call(q, q, q, graph)).scores == 2 * (2 * 3 * 3 + 4 * 7 * 7) / 2
    assert explain(q, q, q, graph, backend="ragged").chosen == "ragged"


class OnDevice(torch.Tensor):
    """Says that it is on a device, and is on the CPU."""

    device = torch.device("cuda")


@pytest.mark.parametrize(
    ("sizes", "padded"), [((3, 5, 6, 7), True), ((3, 3, 5), False), ((4, 4), False)]
)
def test_only_where_it_takes_fewer_calls_on_a_device(sizes, padded, monkeypatch):
    monkeypatch.setattr(sets, "padded_sets", lambda graph, device: padded_sets(graph))
    monkeypatch.setattr(sets, "sets_alike", lambda graph, device: sets_alike(graph))
    call = make_call(*3 * [torch.randn(sum(sizes), 2, 4)], Disjoint(Full(n) for n in sizes))
    assert sets._padded(call) is None
    call = call._replace(q=call.q.as_subclass(OnDevice))
    assert (sets._padded(call) is not None) == padded
    monkeypatch.setattr(flash, "unsupported", lambda call: None)
    monkeypatch.setattr(sets, "_sequences", lambda call: sets._build_sequences(call.graph))
    assert sets._padded(call) is None
