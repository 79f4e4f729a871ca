"""The parts of the engine by hand: actions, differences, tolerances, verdicts, ties."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import tensor
from torch_geometric.data import Batch, Data

from tokennet import Causal, Cycle, Disjoint, Edges, Full, Tokens
from tokennet.testing.engine.actions import (
    AsSet,
    Conjugate,
    Invariant,
    Permute,
    PermutePart,
    PermuteWithin,
    RelabelEdges,
    within,
)
from tokennet.testing.engine.channels import gaps, largest, per_channel, relative, units
from tokennet.testing.engine.differences import difference, gap
from tokennet.testing.engine.finding import Finding, _verdict
from tokennet.testing.engine.graph_actions import Relabel, ReorderEdges, Shuffle
from tokennet.testing.engine.rounding import ExactTies, Ties, UnstableSolvers
from tokennet.testing.engine.tolerance import (
    Errors,
    errors_against_tolerance,
    first_line,
    name_of_dtype,
    precision_of,
    tolerance,
)
from tokennet.testing.report import Verdict

SWAP = tensor([1, 0])
EPS = torch.finfo(torch.float64).eps


# Actions.


def test_degrees():
    x = torch.zeros(2, 5, 3)
    assert (Permute().degree(x), Permute(0).degree(x), Permute(-1).degree(x)) == (5, 2, 3)
    assert PermutePart(1, 3, 2).degree(x) == 3
    assert PermutePart(1, 3, 3).degree(x) == 0  # does not fit
    assert PermutePart(-1, 1, width=3).degree(x) == 1
    assert PermutePart(-1, 2, width=2).degree(x) == 0
    assert Conjugate().degree(torch.zeros(2, 4, 4)) == 4
    assert Conjugate((0, 2)).degree(torch.zeros(4, 1, 4)) == 4
    assert Invariant().degree(x) is None
    assert RelabelEdges().degree(tensor([[0], [1]])) is None
    assert RelabelEdges(7).degree(tensor([[0], [1]])) == 7
    assert ReorderEdges().degree(tensor([[0, 1, 2], [1, 2, 0]])) == 3
    assert ReorderEdges().degree(Tokens(torch.zeros(4, 1), Cycle(4))) == 12
    assert ReorderEdges().degree(Data(x=torch.zeros(4, 1))) == 0
    assert Relabel().degree(Tokens(torch.zeros(4, 1))) == 4
    assert Shuffle().degree(Data(x=torch.zeros(4, 1))) == 4


@pytest.mark.parametrize(
    ("action", "value", "error", "message"),
    [
        (Permute(), [1, 2], TypeError, r"can be permuted in a tensor, got \(1, 2\)"),
        (Permute(1), torch.zeros(3), ValueError, r"dim 1 is not in a tensor \(3,\)"),
        (Permute(-2), torch.zeros(3), ValueError, "dim -2 is not in"),
        (Conjugate(), torch.zeros(3, 4), ValueError, r"dims \(-2, -1\) must have the same size"),
        (RelabelEdges(), torch.zeros(3, 2), ValueError, r"must have shape \(2, E\), got"),
        (RelabelEdges(), torch.zeros(2), ValueError, r"must have shape \(2, E\), got"),
        (ReorderEdges(), 3, ValueError, r"must have shape \(2, E\), got 3"),
        (Relabel(), torch.zeros(3, 2), TypeError, "acts on Tokens and Data, got tensor"),
        (Relabel(), Data(x=torch.zeros(2, 1), adj_t=1), ValueError, "and no adj_t"),
    ],
)
def test_values_that_are_refused(action, value, error, message):
    with pytest.raises(error, match=message):
        action.degree(value)


def test_parts_move_and_the_rest_stays():
    x = torch.arange(7)
    perm = tensor([2, 0, 1])
    assert PermutePart(0, 3, 2).apply(x, perm).tolist() == [0, 1, 4, 2, 3, 5, 6]
    assert PermutePart(0, 3, 1, 2).apply(x, perm).tolist() == [0, 5, 6, 1, 2, 3, 4]
    assert Conjugate((0, 1)).restrict(torch.arange(9).view(3, 3), tensor([0, 2])).tolist() == [
        [0, 2], [6, 8],
    ]  # fmt: skip
    assert Permute(0).restrict(x, tensor([5])).tolist() == [5]
    assert Invariant().restrict(x, tensor([5])) is x
    edges = tensor([[0, 1], [1, 1]])
    assert RelabelEdges(2, row=1).apply(edges, SWAP).tolist() == [[0, 1], [0, 0]]
    assert RelabelEdges(2).apply(edges, SWAP).tolist() == [[1, 0], [0, 0]]
    for action in (PermutePart(0, 2), PermuteWithin(0, tensor([0, 0])), RelabelEdges()):
        with pytest.raises(NotImplementedError):
            action.restrict(x, tensor([0]))


def test_tokens_stay_in_their_sets():
    members = tensor([1, 0, 1, 0, 0, 1])
    moved = set()
    for seed in range(20):
        perm = within(members, torch.Generator().manual_seed(seed))
        assert torch.equal(members[perm], members)
        assert sorted(perm.tolist()) == list(range(6))
        moved.add(tuple(perm.tolist()))
    assert len(moved) > 10
    free = PermuteWithin(0).random(torch.zeros(6), torch.Generator().manual_seed(0))
    assert sorted(free.tolist()) == list(range(6))


def test_rows_as_a_set():
    rows = tensor([[3.0, 1.0], [2.0, 5.0], [3.0, 0.0]])
    for order in ([2, 0, 1], [1, 2, 0]):
        assert torch.equal(AsSet().compared(rows[order]), AsSet().compared(rows))
    assert not torch.equal(AsSet().compared(rows + 1), AsSet().compared(rows))
    columns = rows.T.contiguous()
    assert torch.equal(AsSet(-1).compared(columns[:, [2, 0, 1]]), AsSet(-1).compared(columns))
    assert AsSet(-1).compared(columns).shape == (2, 3)


def test_smaller_tokens_and_graphs():
    tokens = Tokens(torch.arange(8.0).view(4, 2), Causal(4), torch.arange(4.0)[:, None])
    less = Relabel().restrict(tokens, tensor([1, 3]))
    assert (less.z.tolist(), less.pos.tolist()) == ([[2, 3], [6, 7]], [[1], [3]])
    assert less.graph.dense().tolist() == [[True, False], [True, True]]
    assert Relabel().restrict(tokens.replace(graph=Full(4)), tensor([0])).graph.is_full
    edge_attr = Edges(tensor([[0, 1], [1, 2]]), 4, edge_attr=torch.ones(2, 1))
    ragged = Disjoint([Full(2), Full(2)])
    for graph in (edge_attr, ragged):
        with pytest.raises(NotImplementedError, match="is not cut into smaller graphs"):
            Relabel().restrict(tokens.replace(graph=graph), tensor([0, 1]))
    data = Data(x=torch.eye(3), edge_index=tensor([[0, 1, 2], [1, 2, 0]]))
    assert Relabel().restrict(data, tensor([1, 2])).edge_index.tolist() == [[0], [1]]
    mesh = Data(x=torch.eye(3), face=tensor([[0], [1], [2]]))
    for whole in (Batch.from_data_list([data]), mesh):
        with pytest.raises(NotImplementedError, match="is not cut into smaller graphs"):
            Relabel().restrict(whole, tensor([0, 1]))


def test_edges_in_another_order_keep_their_features():
    graph = Edges(tensor([[0, 1, 2], [1, 2, 0]]), 3, edge_attr=tensor([[5.0], [6.0], [7.0]]))
    moved = ReorderEdges().apply(Tokens(torch.eye(3), graph), tensor([2, 0, 1]))
    assert moved.graph.edge_index().tolist() == [[2, 0, 1], [0, 1, 2]]
    assert moved.graph.edge_attr.flatten().tolist() == [7, 5, 6]
    data = Data(x=torch.eye(3), edge_index=graph.edge_index(), edge_attr=graph.edge_attr)
    moved = ReorderEdges().apply(data, tensor([2, 0, 1]))
    assert moved.edge_index.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert moved.edge_attr.flatten().tolist() == [7, 5, 6]
    assert torch.equal(moved.x, data.x)
    assert torch.equal(Shuffle().apply(data, tensor([2, 0, 1])).x, data.x[[2, 0, 1]])


# Differences.


@pytest.mark.parametrize(
    ("wanted", "got", "expected"),
    [
        ([4.0, 2.0], [4.0, 1.0], 0.25),
        ([0.0, 0.0], [0.0, 3.0], 3.0),  # absolute where all is 0
        ([math.inf, 2.0], [math.inf, 1.0], 0.5),
        ([math.inf, 2.0], [1.0, 2.0], math.inf),
        ([math.nan, 2.0], [math.nan, 1.0], 0.5),
        ([1e30, 2.0, 1.0, 1.0], [1e30, 1.0, 1.0, 1.0], 0.5),  # the first stands for infinity
        ([1e30, 1e30], [1e30, 0.9e30], 0.1),
        ([math.inf], [math.inf], 0.0),
    ],
)
def test_differences(wanted, got, expected):
    assert difference([tensor(wanted)], [tensor(got)]) == pytest.approx(expected)


def test_differences_of_several_outputs_and_types():
    one, two = tensor([1.0]), tensor([2.0])
    assert difference([], []) == 0
    assert difference([one, two], [one, one]) == 0.5
    assert difference([one], [tensor([1.0, 1.0])]) == math.inf
    assert difference([one], [one, one]) == math.inf
    assert difference([torch.zeros(0)], [torch.zeros(0)]) == 0
    assert difference([tensor([True])], [tensor([False])]) == 1.0
    assert difference([tensor([True])], [tensor([True])]) == 0.0
    assert difference([tensor([4, 2])], [tensor([4, 1])]) == 0.25
    inf = math.inf
    found = gap(tensor([inf, inf, -inf, math.nan, 1.0]), tensor([inf, -inf, 1.0, 1.0, 3.0]))
    assert found.tolist() == [0, inf, inf, inf, 2]


def test_channels():
    inf = math.inf
    found = gaps([tensor([1, 2]), tensor([1.0])], [tensor([1, 3]), tensor([3.0])])
    assert [x.tolist() for x in found] == [[0, 1], [2]]
    assert gaps([tensor([1.0])], [tensor([1.0, 2.0])])[0].tolist() == [inf]
    assert [x.tolist() for x in gaps([tensor([1.0, 1.0])], [])] == [[inf, inf]]
    sizes = per_channel([tensor([[1.0, -2.0], [-3.0, math.nan]]), tensor([1.0, -2.0]), tensor(5)])
    assert [x.tolist() for x in sizes] == [[3.0, inf], [2.0], [5.0]]
    assert per_channel([tensor([[3 + 4j]])])[0].tolist() == [5.0]
    assert per_channel([torch.zeros(0, 3)])[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("moved", "size", "unit"),
    [
        (2.0, 5.0, 2.0),
        (0.0, 5.0, 5.0),
        (0.0, 0.0, 1.0),
        (1e-20, 5.0, 5 * 4096 * EPS),
        (math.inf, 5.0, 1.0),
        (0.0, math.inf, 1.0),
    ],
)
def test_units_of_channels(moved, size, unit):
    (found,) = units([tensor([[moved]])], [tensor([[size]])], torch.float64)
    assert found.item() == pytest.approx(unit)


def test_units_of_low_precision_are_no_more_than_a_thousandth():
    (found,) = units([tensor([[1e-9]])], [tensor([[5.0]])], torch.bfloat16)
    assert found.item() == pytest.approx(5e-3)
    assert relative([tensor([[4.0, 3.0]])], [tensor([2.0, 6.0])])[0].tolist() == [2.0, 0.5]
    assert largest([tensor([1.0, 4.0]), tensor([3.0])]) == 4
    assert largest([]) == 0


# Tolerances and verdicts.


def test_tolerances():
    single = torch.finfo(torch.float32).eps
    assert tolerance(torch.float64, 0.0, torch.float32) == 64 * EPS
    assert tolerance(torch.float64, 10 * single, torch.float32) == pytest.approx(640 * EPS)
    assert tolerance(torch.float32, 0.0, torch.float32) == 64 * single
    assert tolerance(torch.float16, 0.0, torch.float16) == 8 * torch.finfo(torch.float16).eps
    assert tolerance(torch.bfloat16, 0.0, torch.float16) == 4 * torch.finfo(torch.bfloat16).eps


def test_names_of_precisions():
    assert precision_of("auto") is None
    assert precision_of("float16") is torch.float16
    assert precision_of(torch.float32) is torch.float32
    assert name_of_dtype(torch.bfloat16) == "bfloat16"
    with pytest.raises(ValueError, match="dtype must be one of .* or 'auto'.*did you mean float32"):
        precision_of("float3")
    assert first_line(ValueError("a\nb")) == "a"
    assert first_line(ValueError()) == "ValueError"


def errors(**changes):
    given = {"excess": [0.5], "error": 0.01, "tolerance": 1e-14, "rounding": 1e-7, "noise": 0.0}
    return Errors(**{**given, "noisy": False, "float32": {}, **changes})


def measured(**changes):
    given = {"changed": [True], "finite": True, "response": 1.0, "dtype": torch.float64}
    return SimpleNamespace(**{**given, **changes})


@pytest.mark.parametrize(
    ("of_runs", "of_errors", "noise_breaks", "verdict", "reason"),
    [
        ({}, {}, False, "PASS", "holds up to rounding"),
        ({}, {"excess": [1.0]}, False, "PASS", "holds up to rounding"),
        ({}, {"excess": [0.5, 1.1]}, False, "INCONCLUSIVE", "an error of 0.01 may be rounding"),
        ({}, {"excess": [1e3]}, False, "INCONCLUSIVE", "an error of 0.01 may be rounding"),
        ({}, {"excess": [1001.0]}, False, "BROKEN", "off by 0.01 of what tokens do"),
        ({}, {"excess": [33.0], "rounds_in": torch.float32}, False, "BROKEN", "off by 0.01"),
        ({"response": 64 * EPS}, {}, False, "VACUOUS", "the output does not depend on the tokens"),
        ({"response": 65 * EPS}, {}, False, "PASS", "holds up to rounding"),
        ({"changed": [False, False]}, {}, False, "INCONCLUSIVE", "no output has an entry"),
        ({"changed": [False, True]}, {}, False, "PASS", "holds up to rounding"),
        ({"finite": False}, {}, False, "INCONCLUSIVE", "not finite on the example itself"),
        ({}, {"noisy": True, "noise": 0.5}, False, "INCONCLUSIVE", "differ by 0.5: it is random"),
        ({}, {"noisy": True, "noise": 0.5}, True, "BROKEN", "differ by 0.5: it is random"),
        ({"response": 0.0}, {}, True, "PASS", "two runs on the same input agree"),
    ],
)  # fmt: skip
def test_verdicts(of_runs, of_errors, noise_breaks, verdict, reason):
    found, why = _verdict(measured(**of_runs), errors(**of_errors), noise_breaks)
    assert found is Verdict[verdict]
    assert reason in why


def test_which_interventions_break():
    def broken(dtype=torch.float64, **changes):
        of_runs = measured()
        found = Finding(
            None, of_runs, errors(**changes), Verdict.BROKEN, "", dtype, dtype, 1.0, 1.0
        )
        return found.broken

    assert broken(excess=[2e3, 5.0, 1e4, 1e3]) == [2, 0]
    assert broken(excess=[2.0, 5.0, 1.0]) == [1]
    assert broken(torch.float32, excess=[2e3, 5.0], diagnosed=1) == [1]
    assert errors(excess=[1.0, 4.0, 4.0]).worst == 1


def test_errors_are_held_to_the_rounding_of_their_channel():
    single = torch.finfo(torch.float32).eps
    rounding = tensor([single, 100 * single])
    error = tensor([3.2e-14, 3.2e-13], dtype=torch.float64)  # 2.3 and 0.2 tolerances
    runs = SimpleNamespace(
        dtype=torch.float64, interventions=[None, None], noise=[torch.zeros(2)],
        error=lambda number: [error / (1 + number)], rounding=lambda number, off, eps: [rounding],
    )  # fmt: skip
    runner = SimpleNamespace(float32=lambda measured, number: ({"math": 0.5 + number}, []))
    found = errors_against_tolerance(runner, runs, [])
    assert found.excess == pytest.approx([3.2e-14 / (64 * EPS), 1.6e-14 / (64 * EPS)])
    assert found.worst == 0
    assert (found.error, found.tolerance) == pytest.approx((3.2e-14, 64 * EPS))
    assert (found.float32, found.diagnosed, found.noisy) == ({"math": 0.5}, 0, False)
    runs.noise = [torch.full((2,), 65 * EPS)]
    assert errors_against_tolerance(runner, runs, []).noisy
    notes = []
    runner = SimpleNamespace(
        float32=lambda measured, number: ({"math": 0.5}, None), sensitivity=lambda dtype, eps: eps
    )
    assert errors_against_tolerance(runner, runs, notes).float32 == {}
    assert notes == ["float32 gives no finite output where float64 does"]

    def fails(measured, number):
        raise RuntimeError("no kernel\nfor this")

    runner.float32, notes = fails, []
    errors_against_tolerance(runner, runs, notes)
    assert notes == ["cannot run in float32 (no kernel)"]


# Ties and solvers.


def test_numbers_that_rounding_tells_apart_tie():
    x = tensor([1.0, 1.0 + 4 * EPS, 0.5], dtype=torch.float64)
    assert x.argmax() == 1
    with ExactTies(EPS) as ties:
        assert x.argmax() == 0
        assert ties.altered
        assert torch.equal(x.sort(stable=True).indices, tensor([2, 0, 1]))
        assert (x[:1] < x[1:2]).item() is False
        far = tensor([1.0, 1.0 + 200 * EPS], dtype=torch.float64)
        assert far.argmax() == 1
        masked = tensor([1.0, 1.0 + 4 * EPS, -1e30], dtype=torch.float64)
        assert masked.argmax() == 0  # the unit is not that of the mask
        hidden = tensor([-math.inf, 2.0], dtype=torch.float64)
        assert torch.equal(hidden.sort().values, hidden)
    with ExactTies(EPS) as ties:
        (x + 1).sum()
        tensor([1, 2]).argmax()
    assert x.argmax() == 1


def found_ties(run):
    with Ties(EPS) as ties:
        run()
    return ties.found


def test_choices_by_index_among_equals():
    equal, apart = tensor([[1.0, 1.0], [2.0, 3.0]]), tensor([[1.0, 2.0], [2.0, 1.0]])
    assert found_ties(lambda: equal.argmax(-1)) is True
    assert found_ties(lambda: equal.argmax(0)) is False
    assert found_ties(lambda: apart.argmax(0)) is False
    assert found_ties(lambda: apart.argmax()) is True  # 2.0 twice
    assert found_ties(lambda: equal.argmin()) is True
    assert found_ties(lambda: tensor([[1.0, 3.0], [3.0, 2.0]]).argmin()) is False
    assert found_ties(lambda: equal.max()) is False  # the value is the same
    assert found_ties(lambda: equal.max(-1)) is True
    assert found_ties(lambda: equal.sort(-1)) is True
    assert found_ties(lambda: equal.sort(dim=0)) is False
    assert found_ties(lambda: equal.topk(1, dim=0)) is False
    assert found_ties(lambda: equal.topk(1)) is True
    assert found_ties(lambda: equal.exp()) is False
    assert found_ties(lambda: tensor([1, 1]).argmax()) is False


def test_solvers_are_given_moved_matrices():
    a = torch.eye(3, dtype=torch.float64) + 0.1
    b = torch.ones(3, dtype=torch.float64)
    exact = torch.linalg.solve(a, b)
    with UnstableSolvers(EPS, 0) as solvers:
        moved = torch.linalg.solve(a, b)
        assert solvers.altered
    assert 0 < (moved - exact).abs().max() < 1e-13
    with UnstableSolvers(EPS, 0) as solvers:
        assert torch.equal(torch.linalg.solve(a, b), moved)  # by its seed
    with UnstableSolvers(EPS, 0) as solvers:
        a @ b
        assert not solvers.altered
