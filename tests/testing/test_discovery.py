"""`discover_group` finds known groups, and claims no group that it has not verified."""

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from tests.testing.cases.known_groups import KNOWN_GROUPS, Blocks, token_net
from tokennet import Causal, Cycle, Disjoint, Edges, Full, Tokens, from_networkx
from tokennet.nets import IOSpec, build_net
from tokennet.testing.groups import automorphisms, contains, name, order
from tokennet.testing.groups.coloring import clustered
from tokennet.testing.groups.discovery import discover_group
from tokennet.testing.groups.graph_automorphisms import numbered
from tokennet.testing.groups.permutations import transposition

FANO = torch.tensor([[0, 1, 2], [0, 3, 4], [0, 5, 6], [1, 3, 5], [1, 4, 6], [2, 3, 6], [2, 4, 5]])
PLANE_OF_13 = torch.tensor([[(d + s) % 13 for d in (0, 1, 3, 9)] for s in range(13)])


def products(blocks):
    """Pooled sum of products over given sets of tokens."""
    return lambda x: x[blocks].prod(1).sum(0)


def differences(n):
    """prod_{i < j} (x_i - x_j): even permutations keep it."""
    i, j = torch.triu_indices(n, n, 1)
    return lambda x: (x[i] - x[j]).prod(0)


def neighbors(a, b):
    """A product of two neighbors that is zero where all tokens but one are equal."""
    return lambda x: (x.roll(-a, -2) - x) * (x.roll(-b, -2) - x)


@pytest.mark.parametrize(
    ("make", "n", "expected"),
    [
        pytest.param(*known, id=name, marks=pytest.mark.sweep if name == "128 tokens" else ())
        for name, known in KNOWN_GROUPS.items()
    ],
)
def test_known_groups(make, n, expected):
    report = discover_group(make(), torch.randn(n, 4))
    assert report.exact
    assert report.name == expected
    assert report.order == report.order_at_most == order(report.generators, n)
    assert report.evaluations < 7 * n + 150


PARALLEL_TO = [1, 1, 2, 3, 0, 0, 1, 2, 3]
GRAPHS = {
    "ring": (Cycle(32, 1), 64),
    "directed ring": (from_networkx(nx.cycle_graph(9, create_using=nx.DiGraph)), 9),
    "Petersen": (from_networkx(nx.petersen_graph()), 120),
    "cube": (from_networkx(nx.hypercube_graph(3)), 48),
    "circular skip links": (from_networkx(nx.circulant_graph(11, [1, 3])), 22),
    "asymmetric": (from_networkx(nx.frucht_graph()), 1),
    "causal": (Causal(8), 1),
    "parallel edges": (Edges(torch.tensor([[0, 0, 1, 2, 3, 1, 2, 3, 0], PARALLEL_TO]), 4), 1),
}


NETS = [("attention", "token"), ("gat", "mean"), ("attention", "mean"), ("gat", "token")]


@pytest.mark.parametrize(
    ("name_of_graph", "mixer", "readout"),
    [
        pytest.param(
            graph, *kind, marks=() if kind == NETS[k % 4] and k % 2 == 0 else pytest.mark.sweep
        )
        for k, graph in enumerate(GRAPHS)
        for kind in NETS
    ],
)
def test_nets_on_a_graph_have_its_automorphisms(name_of_graph, mixer, readout):
    graph, size = GRAPHS[name_of_graph]
    n, known = graph.num_targets, automorphisms(graph)
    assert order(known, n) == size
    report = discover_group(token_net(mixer, readout), Tokens(torch.randn(n, 4), graph))
    assert report.exact
    assert report.order == size
    assert report.evaluations < 7 * n + 150
    assert all(contains(known, p) for p in report.generators)
    assert report.name == name(known, n)


def test_sets_of_a_ragged_batch_are_not_exchanged():
    report = discover_group(token_net(), Tokens(torch.randn(7, 4), Disjoint([Full(3), Full(4)])))
    assert report.exact
    assert report.name == "S_3 x S_4"


def test_positions_are_kept():
    interface = IOSpec(4, 3, "token", num_coordinates=1)
    model = build_net("attention", interface, 16, num_heads=2, positions="pos")
    pos = torch.tensor([[0.0], [1.0], [0.0], [2.0], [1.0], [0.0]])
    report = discover_group(model, Tokens(torch.randn(6, 4), pos=pos))
    assert report.exact
    assert report.name == "S_3 x S_2"
    assert report.orbits == ((0, 2, 5), (1, 4), (3,))


def test_generators_are_symmetries_of_the_unchanged_model():
    model = Blocks(3, 2).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    report = discover_group(model, x)
    for p in report.generators:
        assert torch.allclose(model(x[list(p)]), model(x)[list(p)], atol=1e-14)


def test_the_state_of_the_model_is_restored():
    model = token_net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    discover_group(model, torch.randn(5, 4))
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
        assert value.dtype == before[key].dtype


def hidden_halves(x):
    """Zero unless all tokens of a half differ; the halves differ too."""
    return differences(5)(x[::2]) ** 2 + 2 * differences(5)(x[1::2]) ** 2


TOO_SYMMETRIC = {
    "Fano plane, by cosets": (products(FANO), 7, 168, 360),
    "without gradients": (torch.no_grad()(products(FANO)), 7, 168, 400),
    "even permutations of 5": (differences(5), 5, 60, 400),
    "even permutations of 9, by samples": (differences(9), 9, math.factorial(9) // 2, 1000),
    "two halves, by transpositions": (hidden_halves, 10, 120**2, 500),
    "triples, by two tokens": (neighbors(1, 2), 32, 32, 4000),
    "triples, by two tokens in each role": (neighbors(1, 5), 32, 32, 4000),
    "two kinds without gradients": (
        torch.no_grad()(lambda x: x[:3].sum(0) * x[3:].sum(0)), 8, 720, 200,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("f", "n", "size", "most"), TOO_SYMMETRIC.values(), ids=TOO_SYMMETRIC)
def test_groups_that_responses_to_single_tokens_do_not_show(f, n, size, most):
    report = discover_group(f, torch.randn(n, 2))
    assert report.exact
    assert report.order == size
    assert report.evaluations < most


def test_the_plane_keeps_its_lines():
    report = discover_group(products(FANO), torch.randn(7, 2))
    lines = {frozenset(line) for line in FANO.tolist()}
    for p in report.generators:
        assert {frozenset(p[i] for i in line) for line in lines} == lines


def test_a_used_up_budget_returns_bounds():
    report = discover_group(products(PLANE_OF_13), torch.randn(13, 2), budget=500)
    assert not report.exact
    assert report.order <= 5616 < report.order_at_most == math.factorial(13)
    assert report.evaluations <= 500
    assert str(report).startswith("at least trivial (order 1), at most order 6,227,020,800")


def test_the_smallest_budget_is_not_exceeded():
    with pytest.raises(ValueError, match="budget must be at least") as error:
        discover_group(token_net(), torch.randn(32, 4), budget=0)
    least = int(str(error.value).split()[5])
    report = discover_group(token_net(), torch.randn(32, 4), budget=least)
    assert not report.exact
    assert report.evaluations <= least


def test_a_budget_that_ends_during_the_search_of_cosets_proves_nothing():
    report = discover_group(products(FANO), torch.randn(7, 2), budget=220)
    assert not report.exact
    assert report.order < report.order_at_most == 5040
    assert report.evaluations <= 220
    assert 168 % report.order == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.max(0).values,
        lambda x: x[x[:, 0].argmax()],
        lambda x: x.sort(0).values[-2:].sin().sum(0),
        lambda x: x.argsort(0).argsort(0) * x,
        lambda x: (x - x.mean(0)) / x.std(0),
    ],
    ids=["max", "argmax", "top 2", "ranks", "0 / 0 where tokens are equal"],
)
def test_jumps_at_equal_tokens_are_ignored(f, seed):
    report = discover_group(f, torch.randn(9, 2), seed=seed)
    assert report.exact
    assert report.name == "S_9"


@pytest.mark.parametrize("seed", range(10))
def test_integers_with_few_values(seed):
    weight = torch.tensor([1.0, 1, 1, 2, 2, 2, 2, 2])

    def f(bits):
        return (weight * bits).sum(-1).sin()

    bits = torch.tensor([0, 1, 0, 0, 1, 1, 0, 0])
    report = discover_group(f, bits, dim=-1, out_dim=None, seed=seed)
    assert report.name == "S_3 x S_5"


SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.sweep) for seed in range(3, 10))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [3, 7])
def test_neighbors_of_the_largest_of_equal_tokens_are_ignored(n, seed):
    def f(x):
        largest = int(x[:, 0].argmax())
        return x[largest] * x[(largest + 1) % n].sin()

    report = discover_group(f, torch.randn(n, 2), seed=seed)
    assert report.exact
    assert report.name == f"C_{n}"
    assert report.note == ""


def test_ranks_of_equal_integers_are_ignored():
    def f(ids):  # no integer can be moved a little to see that ranks jump where ids are equal
        return ids.argsort(0).argsort(0) * ids.sin()

    report = discover_group(f, torch.tensor([[0], [10**6], [1], [2], [3]]))
    assert report.exact
    assert report.name == "S_5"


def test_a_small_broken_symmetry_is_found():
    index = torch.arange(6, dtype=torch.float64)[:, None]
    assert discover_group(lambda x: x.sin(), torch.randn(6, 2)).name == "S_6"
    assert discover_group(lambda x: x.sin() + 1e-7 * index, torch.randn(6, 2)).name == "trivial"
    report = discover_group(lambda x: (x.sin() * (1 + 1e-7 * index)).sum(0), torch.randn(6, 2))
    assert report.name == "trivial"


def test_a_small_output_beside_a_large_output_counts():
    def f(x):
        return 1e6 * x.sum(0), 1e-6 * (x + x.roll(1, 0))

    assert discover_group(f, torch.randn(6, 2)).name == "C_6"


def test_offsets_and_rounding_break_nothing():
    def f(x):
        return x.softmax(0).sum(0), 1e5 + x.tanh()

    assert discover_group(f, 1e3 + torch.randn(8, 2)).name == "S_8"


def test_a_table_that_starts_as_zeros_is_not_missed():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(5, 2))

        def forward(self, x):
            return (x + self.table).tanh()

    assert discover_group(Model(), torch.randn(5, 2)).name == "trivial"


def test_tokens_without_influence_are_reported():
    report = discover_group(lambda x: x[:2].sum(0), torch.randn(8, 3))
    assert report.name == "S_2 x S_6"
    assert report.note == "the output does not depend on tokens {2-7}"
    assert str(report) == f"S_2 x S_6, order 1,440, orbits {{0-1}}, {{2-7}}; {report.note}"
    assert discover_group(lambda x: x.sum(0), torch.randn(8, 3)).note == ""


def test_tokens_that_rarely_have_influence_are_not_reported():
    def f(x):
        return x[(x[:, 0] + 0.1 * torch.arange(8)).argmax()]

    report = discover_group(f, torch.randn(8, 3))
    assert report.name == "trivial"
    assert report.note == ""


def test_a_constant_output_proves_nothing():
    report = discover_group(lambda x: 0 * x.sum(0) + 1, torch.randn(8, 3))
    assert not report.exact
    assert report.note == "the output is the same at all inputs tried"
    assert report.note in str(report)
    rows = torch.tensor([0.0, 0.0, 1.0, 2.0])[:, None]
    report = discover_group(lambda x: rows.expand(4, 3), torch.randn(4, 3))
    assert not report.exact
    assert report.order == 2


@pytest.mark.parametrize("pooled", [False, True])
def test_integer_tokens(pooled):
    embedding, layer = nn.Embedding(20, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def f(ids):
        out = layer(embedding(ids))
        return out.mean(-2) if pooled else out

    ids = torch.randint(0, 20, (2, 7))
    report = discover_group(f, ids, dim=-1, out_dim=None if pooled else -2)
    assert report.exact
    assert report.name == "S_7"
    first = discover_group(lambda ids: f(ids)[..., :1], ids, dim=-1, out_dim=None if pooled else -2)
    assert first.name == "S_7"


def test_all_outputs_count():
    def f(x):
        return {"tokens": x.tanh(), "pooled": x[..., :3, :].sum(-2)}

    assert discover_group(f, torch.randn(2, 8, 4)).name == "S_3 x S_5"


def test_outputs_without_a_gradient():
    table = nn.Parameter(torch.randn(5))

    def beside(x):  # the pooled output has a gradient, but not by x
        return table.exp(), x + x.roll(1, -2)

    assert discover_group(beside, torch.randn(6, 2)).name == "C_6"

    class NoDerivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x[:2].sum(0) * x[2:].sum(0)

    report = discover_group(NoDerivative.apply, torch.randn(5, 2))
    assert report.name == "S_2 x S_3"
    assert report.evaluations < 180


def test_dimensions():
    conv = nn.Conv1d(4, 3, 3, padding=1, padding_mode="circular")
    report = discover_group(conv, torch.randn(2, 4, 6), dim=-1)
    assert report.name == "C_6"
    scores = discover_group(lambda x: x.sum(-1) + x.mean(), torch.randn(6, 4), out_dim=-1)
    assert scores.name == "S_6"
    pooled = discover_group(lambda x: x.sum(-1) + x.mean(), torch.randn(6, 4), out_dim=None)
    assert pooled.name == "trivial"  # as an array of its own it does change


def test_reports_print_readably():
    report = discover_group(
        lambda x: x[:3].sum(0) * x[3] - x[4:6].prod(0) + x[6], torch.randn(7, 2)
    )
    assert str(report) == "S_3 x S_2, order 12, orbits {0-2}, {4-5}, 2 fixed"
    assert "order 2.63e+35" in str(discover_group(lambda x: x.sum(0), torch.randn(32, 2)))


def test_a_single_token():
    assert discover_group(nn.Linear(3, 2), torch.randn(1, 3)).name == "trivial"


X = torch.randn(6, 2)


@pytest.mark.parametrize(
    ("f", "arguments", "error", "message"),
    [
        (torch.sin, {"x": [1.0]}, TypeError, "x must be a tensor or Tokens, got list"),
        (lambda x: "text", {"x": X}, TypeError, "the model must return tensors"),
        (torch.sin, {"x": X + 0j}, TypeError, "x must hold real numbers or integers"),
        (torch.sin, {"x": X, "dim": 2}, ValueError, r"dim must be a dimension of x, .* got 2"),
        (torch.sin, {"x": Tokens(X), "dim": -1}, ValueError, "dim must be -2 for Tokens"),
        (torch.sin, {"x": X[:0]}, ValueError, "x must hold at least one token"),
        (torch.sin, {"x": 0 * X.long()}, ValueError, "x must hold at least two different integers"),
        (torch.sin, {"x": X, "out_dim": -1}, ValueError, "out_dim must be a dimension with 6"),
        (lambda x: x.sum(1), {"x": X}, ValueError, "out_dim must be given for an output of shape"),
        (torch.log, {"x": X}, ValueError, "f must return finite numbers"),
        (lambda x: x + torch.rand(()), {"x": X}, ValueError, "f must return the same output"),
        (lambda x: (1e9 * x).sin(), {"x": X}, ValueError, "f must not magnify rounding"),
        (
            torch.sin,
            {"x": X, "budget": 10},
            ValueError,
            r"budget must be at least \d+ for 6 tokens",
        ),
    ],
    ids=itertools.count(),
)
def test_errors(f, arguments, error, message):
    with pytest.raises(error, match=message):
        discover_group(f, **arguments)


def test_clusters_are_not_split_by_rounding():
    values = np.array([1.0, 2.0, 1.0 + 8e-10, 1.0 + 16e-10, 2.0 + 2e-9])
    assert clustered(values, 1e-9).tolist() == [0, 1, 0, 0, 2]


def test_equal_rows_get_equal_numbers():
    rows = np.array([[[1, 2], [0, 5]], [[1, 2], [1, 1]]])
    assert numbered(rows).tolist() == [[2, 0], [2, 1]]


def test_a_transposition_exchanges_two():
    assert transposition(0, 2, 4) == (2, 1, 0, 3)
