"""Actions, groups and verdicts of `check_equivariance`."""

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, global_mean_pool

from tokennet import Attention, Cycle, Edges, Full, Tokens
from tokennet.nets import IOSpec, build_net
from tokennet.testing import (
    Conjugate,
    Invariant,
    Permute,
    PermuteWithin,
    Relabel,
    RelabelEdges,
    ReorderEdges,
    Shuffle,
    Verdict,
    assert_automorphism_equivariant,
    assert_equivariant,
    assert_invariant,
    assert_relabeling_equivariant,
    assert_set_to_set,
    check_equivariance,
)
from tokennet.testing.engine.channels import units
from tokennet.testing.engine.tolerance import UNDECIDED, tolerance
from tokennet.testing.example.layout import Layout, of_sets


def mix(x):
    return x + x.mean(-2, keepdim=True)


@pytest.fixture
def x():
    return torch.randn(2, 7, 4)


def test_the_verdicts(x):
    assert check_equivariance(mix, x).verdict is Verdict.PASS
    assert check_equivariance(lambda x: x.cumsum(-2), x).verdict is Verdict.BROKEN
    assert check_equivariance(lambda x: 0 * x + 1, x).verdict is Verdict.VACUOUS
    assert check_equivariance(torch.dropout, (x, 0.5, True)).verdict is Verdict.PASS
    calls = []  # a state, which differs from run to run
    counting = check_equivariance(lambda x: x * len(calls.append(1) or calls), x)
    assert counting.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("factor", [0.5, 2.0, 500.0, 5000.0])
def test_between_rounding_and_a_break_lies_the_unknown(x, factor):
    table = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    limit = 64 * torch.finfo(torch.float64).eps

    def nearly(z):
        scale = z.abs().max()  # so that errors are relative
        return z / scale + factor * limit * table.to(z.dtype)[torch.arange(7)] / 2

    report = check_equivariance(nearly, x[:1], num_permutations=20)
    wanted = {0.5: Verdict.PASS, 5000.0: Verdict.BROKEN}.get(factor, Verdict.INCONCLUSIVE)
    assert report.verdict is wanted, report


def test_the_evidence(x):
    report = check_equivariance(mix, x, num_permutations=3)
    assert 0 <= report.error < report.tolerance
    assert report.tolerance == tolerance(torch.float64, report.rounding, torch.float32)
    assert report.dtype == "float64"
    assert 0 < report.rounding < 1e-6
    assert report.signal > 0.1
    assert report.noise == 0
    assert report.runs == 3
    assert set(report.float32) == {"default"}
    assert report.float32["default"] < 1e-5
    assert report.counterexample is None
    assert report.location is None


def test_units_are_what_tokens_do_or_the_size_of_what_is_constant():
    outputs = [torch.tensor([[2.0, 100.0, 5.0, 0.0]], dtype=torch.float64)]
    moved = [torch.tensor([[0.5, 1e-8, 0.0, 0.0]], dtype=torch.float64)]
    assert units(moved, outputs, torch.float64)[0].tolist() == [0.5, 1e-8, 5.0, 1.0]
    floor = 4096 * torch.finfo(torch.float64).eps * 100
    moved[0][0, 1] = 1e-14  # cannot be told from rounding
    assert units(moved, outputs, torch.float64)[0][1] == floor
    assert units(moved, outputs, torch.bfloat16)[0][1] == pytest.approx(0.1)


def test_layouts_cut_outputs_at_sets_and_tokens():
    y, index = torch.arange(12.0).view(2, 6), torch.tensor([0, 2])
    assert Layout((-1,), before=1, sets=-2).of_tokens(y, index).tolist() == [[1, 3], [7, 9]]
    assert Layout((-1,), width=2).of_tokens(y, index).tolist() == [[0, 1, 4, 5], [6, 7, 10, 11]]
    assert of_sets([y], [Layout((-1,), sets=-2)], 1)[0].tolist() == [[6, 7, 8, 9, 10, 11]]
    pairs = torch.arange(9.0).view(3, 3)
    assert Layout((-2, -1)).of_tokens(pairs, index).tolist() == [[0, 2], [6, 8]]
    assert Layout().of_tokens(pairs, index) is pairs
    assert of_sets([pairs], [Layout()], 1)[0] is pairs


def test_tolerance_grows_with_what_is_measured():
    eps = torch.finfo(torch.float32).eps
    base = tolerance(torch.float64, 0.0, torch.float32)
    assert base == 64 * torch.finfo(torch.float64).eps
    assert tolerance(torch.float64, eps / 2, torch.float32) == base
    assert tolerance(torch.float64, 100 * eps, torch.float32) == pytest.approx(100 * base)
    assert UNDECIDED[torch.float64] == 1e3


def test_each_kernel_of_attention_is_diagnosed():
    def attend(z):
        return nn.functional.scaled_dot_product_attention(z, z, z)

    report = check_equivariance(attend, torch.randn(2, 3, 33, 16))
    assert {"default", "math"} == set(report.float32)


def test_counterexamples_are_reduced_to_one_swap_of_two_tokens():
    x = torch.randn(3, 50, 4)
    report = check_equivariance(lambda x: x.cumsum(-2), x)
    assert report.counterexample.perm == (1, 0)
    assert report.counterexample.inputs[0].shape == (3, 2, 4)
    assert report.counterexample.error > 0.01


def test_where_two_tokens_show_nothing_more_are_kept():
    def window(x):  # sees a swap only from three tokens on
        return x + 0.1 * x.roll(1, -2) if x.shape[-2] > 2 else mix(x)

    report = check_equivariance(window, torch.randn(12, 4))
    assert len(report.counterexample.perm) == 3
    assert sorted(report.counterexample.perm) == [0, 1, 2]


def test_a_model_of_fixed_size_keeps_its_tokens():
    table = torch.randn(6, 4)
    report = check_equivariance(lambda x: x + table.to(x), torch.randn(6, 4))
    moved = [i for i, p in enumerate(report.counterexample.perm) if i != p]
    assert len(report.counterexample.perm) == 6
    assert len(moved) == 2


def test_conjugation_of_dense_graphs():
    adjacency = (torch.rand(6, 6) < 0.5).float()
    x = torch.randn(6, 3)
    actions = (Conjugate(), Permute(-2))
    assert_equivariant(lambda a, x: a @ x, (adjacency, x), in_action=actions)
    report = check_equivariance(
        lambda a, x: a @ x, (adjacency, x), in_action=(Permute(), Permute())
    )
    assert report.verdict is Verdict.BROKEN
    assert_equivariant(
        lambda a, x: x @ x.T * a, (adjacency, x), in_action=actions, out_action=Conjugate()
    )


def test_relabeled_edges():
    edges = torch.randint(0, 6, (2, 12))
    x = torch.randn(6, 3)

    def gather(x, edge_index):
        return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])

    ins = (Permute(0), RelabelEdges(6))
    assert_equivariant(gather, (x, edges), in_action=ins)
    assert check_equivariance(gather, (x, edges), in_action=Permute(0)).verdict is Verdict.BROKEN
    assert_invariant(gather, (x, edges), in_action=(Invariant(), ReorderEdges()))


def test_pyg_data_and_batches():
    class Net(nn.Module):
        def __init__(self, pooled):
            super().__init__()
            self.conv, self.pooled = GCNConv(3, 4), pooled

        def forward(self, data):
            h = self.conv(data.x, data.edge_index)
            return global_mean_pool(h, data.batch) if self.pooled else h

    graphs = [Data(x=torch.randn(n, 3), edge_index=torch.randint(0, n, (2, 9))) for n in (4, 6)]
    assert_relabeling_equivariant(Net(False), graphs[0])
    batch = Batch.from_data_list(graphs)
    assert_invariant(Net(True), batch)
    perm = Relabel().random(batch, torch.Generator().manual_seed(0))
    assert torch.equal(batch.batch[perm], batch.batch)
    assert_invariant(Net(True), batch, in_action=ReorderEdges())
    assert check_equivariance(Net(False), graphs[0], in_action=Shuffle()).verdict is Verdict.BROKEN


def test_permutations_within_sets_that_are_not_sorted():
    membership = torch.tensor([2, 0, 1, 0, 2, 2, 1, 0])
    action = PermuteWithin(0, membership)
    seen = set()
    for seed in range(50):
        perm = action.random(torch.randn(8, 2), torch.Generator().manual_seed(seed))
        assert torch.equal(membership[perm], membership)
        assert sorted(perm.tolist()) == list(range(8))
        seen.add(tuple(perm.tolist()))
    assert len(seen) > 20


def test_smaller_graphs_are_those_that_tokens_induce():
    tokens = Tokens(torch.randn(6, 4), Cycle(6, 1), torch.arange(6.0)[:, None])
    fewer = Relabel().restrict(tokens, torch.tensor([5, 0, 2]))
    assert torch.equal(fewer.z, tokens.z[[5, 0, 2]])
    assert fewer.pos.flatten().tolist() == [5.0, 0.0, 2.0]
    edges = {tuple(edge) for edge in fewer.graph.edge_index().T.tolist()}
    assert edges == {(0, 1), (1, 0), (0, 0), (1, 1), (2, 2)}


def test_the_two_actions_on_tokens():
    layer = Attention(4, 2)
    ring = Tokens(torch.randn(6, 4), Cycle(6, 1))
    assert_relabeling_equivariant(layer, ring)
    assert_set_to_set(layer, Tokens(torch.randn(6, 4), Full(6)))
    with pytest.raises(AssertionError, match="equivariance BROKEN"):
        assert_set_to_set(layer, ring)


def test_automorphisms_of_a_fixed_graph():
    net = build_net(
        "gat", IOSpec(in_features=4, out_features=3, readout="token"), dim=8, num_heads=2
    )
    ring = Tokens(torch.randn(8, 4), Cycle(8, 1))
    report = assert_automorphism_equivariant(net, ring)
    assert report.runs >= 2  # generators and words that are not the identity
    line = Edges(torch.tensor([[0, 1, 2], [1, 2, 3]]), 4)
    with pytest.raises(ValueError, match="no automorphism but the identity"):
        assert_automorphism_equivariant(net, Tokens(torch.randn(4, 4), line))
    with pytest.raises(ValueError, match="graph must be given"):
        assert_automorphism_equivariant(mix, torch.randn(4, 4))
    with pytest.raises(AssertionError):
        assert_automorphism_equivariant(lambda x: x.cumsum(0), torch.randn(8, 4), Cycle(8, 1))


def test_a_group_by_generators():
    x = torch.randn(6, 4)
    shift = [1, 2, 3, 4, 5, 0]

    def convolve(x):
        return x + 0.5 * x.roll(1, 0)

    assert_equivariant(convolve, x, group=[shift])
    report = check_equivariance(convolve, x, group=[[5, 4, 3, 2, 1, 0]])
    assert report.verdict is Verdict.BROKEN
    assert report.counterexample.perm == (5, 4, 3, 2, 1, 0)  # no swap is in the group


def test_several_outputs():
    def two(x):
        return mix(x), x.sum(-2)

    x = torch.randn(5, 3)
    assert_equivariant(two, x, out_action=(Permute(-2), Invariant()))
    with pytest.raises(ValueError, match="one for each of the 2 outputs"):
        check_equivariance(two, x, out_action=(Permute(-2), Invariant(), Invariant()))
    with pytest.raises(ValueError, match="needs an output with 5 entries"):
        check_equivariance(two, x, out_action=(Permute(-2), Permute(-1)))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: check_equivariance(mix, ()), ValueError, "at least one input"),
        (lambda x: check_equivariance(mix, x[:, :1]), ValueError, "at least 2 tokens"),
        (
            lambda x: check_equivariance(mix, x, num_permutations=0),
            ValueError,
            "num_permutations must",
        ),
        (lambda x: check_equivariance(mix, x, group=[]), ValueError, "at least one generator"),
        (lambda x: check_equivariance(mix, x, group=[[0, 0]]), ValueError, "group must be"),
        (lambda x: check_equivariance(mix, x, in_action=3), TypeError, "not iterable"),
        (lambda x: check_equivariance(mix, x, in_action=[3]), TypeError, "in_action must be"),
        (lambda x: check_equivariance(mix, x, in_action=Permute(5)), ValueError, "dim 5"),
        (lambda x: check_equivariance(mix, x, in_action=Conjugate()), ValueError, "same size"),
        (
            lambda x: check_equivariance(mix, x[0, 0], in_action=Conjugate()),
            ValueError,
            r"dim -2 is not in a tensor",
        ),
        (
            lambda x: check_equivariance(lambda x: x.sum(-2), x),
            ValueError,
            "out_action Permute.* needs an output with 7 entries",
        ),
        (
            lambda x: check_equivariance(mix, (x, x), in_action=[Permute()] * 3),
            ValueError,
            "one for each of the 2 inputs",
        ),
        (
            lambda x: check_equivariance(torch.add, (x, x[:, :5]), in_action=[Permute()] * 2),
            ValueError,
            "the same number of things",
        ),
        (lambda x: check_equivariance(mix, x, dtype="float8"), ValueError, "dtype must be"),
        (lambda x: check_equivariance(mix, "x"), TypeError, "can be permuted in a tensor"),
    ],
)
def test_misuse_is_named(x, call, error, match):
    with pytest.raises(error, match=match):
        call(x)


def test_zero_tables_are_found_by_the_jitter_alone(x):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(7, 4))

        def forward(self, z):
            return z + self.table[: z.shape[-2]]

    assert check_equivariance(Table(), x, jitter=False).verdict is Verdict.PASS
    report = check_equivariance(Table(), x)
    assert report.verdict is Verdict.BROKEN
    assert any("parameters as given" in note for note in report.notes)
    model = Table()
    nn.init.normal_(model.table)
    assert not any("as given" in note for note in check_equivariance(model, x).notes)


def test_models_in_closures_and_methods_are_run_in_float64(x):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

    class Holder:
        def __init__(self):
            self.inner = model

        def encode(self, z):
            return mix(self.inner(z))

    for f in (lambda z: mix(model(z)), Holder().encode):
        report = check_equivariance(f, x)
        assert (report.verdict, report.dtype) == (Verdict.PASS, "float64"), report
    assert model.training
    assert model[0].weight.dtype == torch.float32


def test_reports_say_what_is_wrong(x):
    text = str(check_equivariance(lambda x: x.cumsum(-2), x))
    assert "BROKEN" in text
    assert "breaks at" in text
    assert "swapping tokens 0 and 1 of 2" in text
    assert "x.cumsum(-2)" in text
