"""Verdicts on hard models: in float32 only, on ties, random, rare branches, sets; and the cost."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.nn import SAGPooling, TopKPooling

from tests.testing import random_models
from tests.testing.cases import reproduced_by
from tokennet.testing import (
    AsSet,
    Draw,
    Draws,
    Invariant,
    Verdict,
    check,
    check_equivariance,
    check_padding,
)
from tokennet.testing.engine.reach import reached
from tokennet.testing.engine.rounding import Ties
from tokennet.testing.parametrize import BrokenLaw, parametrize_with_checks

D = 8
ORDER = ["node_permutation", "tied_inputs"]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = draw(3, 7, D)
REAL = torch.arange(7) < torch.tensor([[7], [4], [5]])


def node(model, example=X, law="node_permutation", **options):
    return check(model, example, laws=[law], **options).reports[law]


# Breaks in float32 only.


def cancels(x):
    large = x.tanh() + 1e6
    total = large.sum(1)
    return total - 1e6 * x.shape[1]  # bug


def fast(x):
    if x.dtype == torch.float32:
        return x + 1e-3 * x.cumsum(1)  # bug
    return x + x.mean(1, keepdim=True)


@pytest.mark.parametrize("model", [cancels, fast])
def test_a_break_in_float32_only_is_localized_and_shown_in_float32(model):
    report = node(model)
    assert report.verdict is Verdict.BROKEN
    assert report.reason.startswith("holds in float64, but is off by")
    assert "# bug" in report.location.source
    assert report.notes == ("the line and the script are those of float32",)
    assert "dtype=torch.float32" in report.counterexample.script
    assert reproduced_by(report.counterexample.script, model)


def test_zeros_hide_a_break_only_in_models_with_parameters():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x + self.gate * x.cumsum(1)

    assert any("zeros hide" in note for note in node(Gated()).notes)
    assert not node(lambda x: x.cumsum(1)).notes


# Ties and bad conditioning.


class Scored(nn.Module):
    """A function of token vectors and their scores, after an attention layer or without one."""

    def __init__(self, function, layer):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(D, 2, 16, batch_first=True) if layer else None
        self.values, self.score, self.function = nn.Linear(D, D), nn.Linear(D, 1), function

    def forward(self, x):
        h = x if self.layer is None else self.layer(x)
        return self.function(self.values(h), self.score(h))


def gram(h, ridge):
    return h.mT @ h + ridge * torch.eye(D).to(h)


def suppressed(h, score):
    better = (torch.cdist(h, h) < 1.0) & (score.mT > score)
    return h * ~better.any(-1, keepdim=True)


STABLE = {
    "ridge": lambda h, score: torch.linalg.solve(gram(h, 1e-4), h.mT).mT,
    "cholesky": lambda h, score: torch.cholesky_solve(
        h.sum(1)[..., None], torch.linalg.cholesky(gram(h, 1e-6))
    ),
    "logdet": lambda h, score: torch.logdet(gram(h, 1e-5))[:, None],
    "pinv": lambda h, score: torch.linalg.pinv(h) @ h.mean(2, keepdim=True),
    "threshold": lambda h, score: h * (score >= score.topk(3, dim=1).values[:, -1:]),
    "hard_attention": lambda h, score: (h * (score == score.amax(1, keepdim=True))).sum(1),
    "suppressed": suppressed,
    "rank": lambda h, score: h * (score.mT < score).sum(-1, keepdim=True),
    "best": lambda h, score: h.take_along_dim(score.topk(3, dim=1).indices, 1).sum(1),
    "argmax": lambda h, score: h.take_along_dim(score.argmax(1, keepdim=True), 1),
    "sorted": lambda h, score: h.take_along_dim(score.argsort(1), 1).flatten(1),
}


@pytest.mark.parametrize("layer", [False, pytest.param(True, marks=pytest.mark.sweep)])
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("ridge", "threshold") else pytest.param(name, marks=pytest.mark.sweep)
        for name in STABLE
    ],
)
def test_ties_and_bad_conditioning_are_no_breaks(name, layer):
    for seed in range(1 if name in ("ridge", "threshold") else 2):
        torch.manual_seed(seed)
        report = check(Scored(STABLE[name], layer), draw(3, 7, D, seed=seed), laws=ORDER)
        assert report.passed, report


def test_an_unstable_solution_is_inconclusive_and_says_why():
    torch.manual_seed(0)
    ridge = Scored(lambda h, score: torch.linalg.solve(gram(h, 1e-14), h.mT).mT, False)
    report = node(ridge)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "ill-conditioned" in report.reason


def test_a_break_before_an_unstable_solution_or_a_choice_is_found():
    torch.manual_seed(0)
    table = draw(7, D, seed=5)

    def late(h, score):
        h = h + 1e-3 * table.to(h)  # bug
        return torch.linalg.solve(gram(h, 1e-4), h.mT).mT * (score > 0)

    report = node(Scored(late, False))
    assert report.verdict is Verdict.BROKEN
    assert "# bug" in report.location.source


@pytest.mark.parametrize("activation", [F.relu_, F.elu_, F.celu_, F.leaky_relu_, F.selu_])
def test_an_activation_in_place_is_no_solution(activation):
    layer = nn.Linear(D, D)
    report = node(lambda x: activation(layer(x)).cumsum(1))  # bug
    assert report.verdict is Verdict.BROKEN, report
    assert "# bug" in report.location.source


def test_a_solution_that_is_written_to_an_argument_hides_no_break():
    def inverted(x):
        x = x.detach()
        written = x.new_empty(len(x), D, D)
        torch.linalg.inv(x.mT @ x + torch.eye(D).to(x), out=written)
        return (x @ written).cumsum(1)  # bug

    assert node(inverted).verdict is Verdict.BROKEN


# A class token or registers beside the tokens.


WHERE = ("xt", "trx", "written")


class WithClassToken(nn.Module):
    def __init__(self, where, bug=True):
        super().__init__()
        self.token, self.registers = nn.Parameter(draw(1, 1, D)), nn.Parameter(draw(1, 3, D))
        self.layer = nn.TransformerEncoderLayer(D, 2, 16, batch_first=True, norm_first=True)
        self.table, self.where, self.bug = nn.Parameter(draw(1, 20, D)), where, bug

    def forward(self, x):
        token, registers = self.token.expand(len(x), -1, -1), self.registers.expand(len(x), -1, -1)
        if self.where == "written":
            h = x.new_zeros(len(x), 1 + x.shape[1], D)
            h[:, 1:] = x
        else:
            parts = {"t": token, "r": registers, "x": x}
            h = torch.cat([parts[name] for name in self.where], 1)
        h = self.layer(h)
        if self.bug:
            h = h + self.table[:, : h.shape[1]]  # bug
        h = self.layer(h)
        if self.where == "txr":
            return h
        return torch.cat([h[:, -1 if self.where == "xt" else 0], h.mean(1)], -1)


@pytest.mark.parametrize(
    "where", ["tx", "txr", *(pytest.param(w, marks=pytest.mark.sweep) for w in WHERE)]
)
@pytest.mark.parametrize("tokens", [7, pytest.param(8, marks=pytest.mark.sweep)])
def test_the_line_after_a_class_token_is_named_and_not_the_concatenation(where, tokens):
    torch.manual_seed(0)
    report = node(WithClassToken(where), draw(3, tokens, D))
    assert report.verdict is Verdict.BROKEN
    assert "# bug" in report.location.source
    assert node(WithClassToken(where, bug=False), draw(3, tokens, D)).verdict is Verdict.PASS


# Gradients of padding.


def through_padding(x, mask):
    m = mask[..., None]
    soft = x.mean(1, keepdim=True)  # bug
    return ((x + (x * m).sum(1, keepdim=True)) * m).tanh() * (1 + soft - soft.detach())


def test_gradients_of_tokens_do_not_depend_on_padding():
    report = node(through_padding, (X, REAL), law="padding")
    assert report.verdict is Verdict.BROKEN
    assert report.reason.startswith("values agree, the gradient")
    assert "# bug" in report.location.source
    clean = node(lambda x, mask: (x * mask[..., None]).sum(1).tanh(), (X, REAL), law="padding")
    assert (clean.verdict, clean.notes) == (Verdict.PASS, ())


def test_a_gradient_of_padding_is_told():
    def leaks(x, mask):
        return (x * mask[..., None]).sum(1) + (x - x.detach()).sum(1)

    report = node(leaks, (X, REAL), law="padding")
    assert report.verdict is Verdict.PASS
    assert report.notes[0].startswith("the gradient of padding is not 0")

    def not_finite(x, mask):
        return torch.where(mask[..., None], x, (x * 0).sqrt()).sum(1)

    report = node(not_finite, (X, REAL), law="padding")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "gradient" in report.reason


# Draws of other content.


class FiniteMask(nn.Module):
    """Attention with -100 for what must not be seen; unit scores hide it."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(D, 3 * D)

    def scores(self, x, hidden):
        q, k, v = self.qkv(x).chunk(3, -1)
        return (q @ k.mT / D**0.5 - 100.0 * hidden).softmax(-1) @ v


class PackedMask(FiniteMask):
    def forward(self, x, batch):
        return self.scores(x, batch[:, None] != batch)


class PaddingMask(FiniteMask):
    def forward(self, x, mask):
        return self.scores(x, ~mask[:, None])


SETS = torch.arange(3).repeat_interleave(torch.tensor([5, 7, 4]))


def found(seeds):
    """Of models with a finite mask on the hardest examples, how many are found."""
    cases = 0
    for seed in range(seeds):
        torch.manual_seed(seed)
        pair, one_padded = torch.arange(2), torch.tensor([[True, False]])
        packed = node(PackedMask(), (torch.randn(2, D), pair), law="batch_composition", seed=seed)
        padded = node(PaddingMask(), (torch.randn(1, 2, D), one_padded), law="padding", seed=seed)
        cases += (packed.verdict is Verdict.BROKEN) + (padded.verdict is Verdict.BROKEN)
    return cases


def test_a_finite_mask_leaks_on_some_draw():
    torch.manual_seed(0)
    example = draw(16, D), SETS
    assert node(PackedMask(), example, law="batch_composition", draws=0).verdict is Verdict.PASS
    report = node(PackedMask(), example, law="batch_composition")
    assert report.verdict is Verdict.BROKEN
    assert 0 < report.draws <= 8
    assert any(f"draw {report.draws}" in note for note in report.notes)


@pytest.mark.sweep
def test_a_finite_mask_is_found_for_nearly_every_seed():
    assert found(200) >= 396


def branch(x):
    return x.cumsum(1) if x.max() > 8 else x + x.mean(1, keepdim=True)  # bug


def test_a_rare_branch_is_found_and_the_draws_are_counted():
    assert node(branch, draws=0).verdict is Verdict.PASS
    report = node(branch)
    assert report.verdict is Verdict.BROKEN
    assert "# bug" in report.location.source
    assert reproduced_by(report.counterexample.script, branch)
    kept = node(torch.relu, draws=5)
    assert kept.draws == 5
    assert "5 draws" in str(kept)
    assert kept.to_dict()["draws"] == 5


def test_an_output_that_is_not_finite_where_all_tokens_are_equal_is_reported():
    def standardized(x):
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)

    report = node(standardized, law="tied_inputs")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.reason == "the output is not finite where all tokens are equal"


def test_a_search_of_ones_own_makes_the_draws():
    class Large(Draws):
        def first(self, fails):
            return next(filter(fails, [Draw(3, 50.0)]), None)

    report = node(branch, draws=Large())
    assert "50 times its size, seed 3: draw 1" in report.notes[0]


@pytest.mark.parametrize(("draws", "error"), [(-1, ValueError), ("many", TypeError)])
def test_draws_must_be_a_number(draws, error):
    with pytest.raises(error, match="draws must be"):
        check(torch.relu, X, draws=draws)
    with pytest.raises(error, match="draws must be"):
        check_padding(lambda x, mask: x, (X, REAL), REAL, draws=draws)


def test_hypothesis_makes_the_draws_and_finds_the_smallest():
    tests = parametrize_with_checks([(branch, X)], laws=["node_permutation"])
    (model, law) = tests.args[1][0].values
    notes = []
    for _ in range(2):
        with pytest.raises(BrokenLaw, match="breaks on content of 30 times its size, seed 0"):
            law(model)
        notes.append(law.report.notes)
    assert notes[0] == notes[1]
    assert law.report.draws >= 2


# Models that draw random numbers.


def but_the_first_in_sweep(kinds):
    return [kinds[0], *(pytest.param(kind, marks=pytest.mark.sweep) for kind in kinds[1:])]


def outcome(kind, seed):
    torch.manual_seed(seed)
    return node(kind(), draw(3, 5, random_models.DIM, seed=seed), seed=seed)


@pytest.mark.parametrize("kind", but_the_first_in_sweep(random_models.SYMMETRIC))
def test_a_random_model_may_hold_a_law_exactly_or_in_distribution(kind):
    report = outcome(kind, 0)
    assert report.verdict is Verdict.PASS
    assert report.reason.startswith("random: holds")
    assert report.draws > 0
    if kind is random_models.RandomOrder:
        assert report.p_value > 0.05


@pytest.mark.parametrize("kind", but_the_first_in_sweep(random_models.BROKEN))
def test_a_random_model_that_is_broken_is_found(kind):
    report = outcome(kind, 0)
    assert report.verdict is Verdict.BROKEN
    assert "not the same in distribution" in report.reason
    assert report.p_value <= 1e-3
    assert report.location is not None


@pytest.mark.sweep
@pytest.mark.parametrize("kind", random_models.SYMMETRIC)
def test_false_alarms_are_rare(kind):
    assert [outcome(kind, seed).verdict for seed in range(40)].count(Verdict.BROKEN) == 0


def test_a_model_whose_two_runs_agree_by_chance_is_random():
    class Rarely(nn.Module):
        def forward(self, x):
            return x + (torch.rand(1) < 0.3).to(x) * torch.rand(1).to(x) * x.mean(1, keepdim=True)

    laws = ["node_permutation", "deterministic"]
    assert check(Rarely(), X[:1], laws=laws).broken == ("deterministic",)


@pytest.mark.sweep
def test_noise_of_each_token_is_found_whatever_draws_it():
    for noisy in (
        lambda x: x + torch.randn_like(x),
        lambda x: x + torch.empty_like(x).uniform_(-1, 2),
        lambda x: x + torch.normal(x, 0.5),
        lambda x: x * torch.bernoulli(x.sigmoid()),
        lambda x: x + torch.empty_like(x).exponential_(2.0),
        lambda x: F.gumbel_softmax(x, dim=1),
        lambda x: F.dropout1d(x, 0.5, training=True),
        lambda x: x[:, torch.randperm(x.shape[1])].cumsum(1).mean(1),
    ):
        report = node(noisy)
        assert "exactly" in report.reason, (noisy, report)


# Sets as outputs.


class Kept(nn.Module):
    """The best tokens, in the order of their index."""

    def __init__(self, count, bug=False):
        super().__init__()
        self.score, self.count, self.bug = nn.Linear(D, 1), count, bug

    def forward(self, x):
        score = self.score(x).squeeze(-1)
        if self.bug:
            score = score + torch.arange(x.shape[-2]).to(x)
        index = score.topk(self.count or x.shape[-2] // 2, dim=-1).indices.sort(-1).values
        return x.take_along_dim(index[..., None], -2)


@pytest.mark.parametrize(
    ("count", "shape"),
    [(3, (7, D)), pytest.param(None, (3, 7, D), marks=pytest.mark.sweep)],
)
def test_tokens_that_are_kept_are_compared_as_a_set(count, shape):
    torch.manual_seed(0)
    report = check(Kept(count), draw(*shape))
    assert report.passed, report
    assert "compared as a set" in report.reports["node_permutation"].notes[0]
    broken = node(Kept(count, bug=True), draw(*shape))
    assert broken.verdict is Verdict.BROKEN
    assert reproduced_by(broken.counterexample.script, Kept(count, bug=True))


def test_an_order_of_all_tokens_is_no_set():
    assert node(lambda x: x.flip(1)).verdict is Verdict.BROKEN
    assert node(lambda x: x[:, :3]).verdict is Verdict.BROKEN
    rows = AsSet(dim=0).compared(torch.tensor([[3.0], [1.0]]))
    assert torch.equal(rows, AsSet(dim=0).compared(torch.tensor([[1.0], [3.0]])))


@pytest.mark.parametrize("kind", [TopKPooling, pytest.param(SAGPooling, marks=pytest.mark.sweep)])
def test_scores_that_a_large_draw_saturates_are_no_break(kind):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = kind(D, ratio=0.5)

        def forward(self, x, edge_index):
            return self.pool(x, edge_index)[0]

    torch.manual_seed(0)
    edges = torch.randint(0, 9, (2, 20))
    assert check(Pooled(), (draw(9, D), edges)).passed


# Cost.


def test_a_broken_law_costs_at_most_twice_a_kept_one():
    class Encoder(nn.Module):
        def __init__(self, size):
            super().__init__()
            layers = (nn.TransformerEncoderLayer(16, 2, 16, batch_first=True) for _ in range(2))
            self.layers, self.size, self.calls = nn.ModuleList(layers), size, 0
            self.table = nn.Parameter(torch.randn(32, 16))

        def forward(self, x):
            calls[0] += 1
            for layer in self.layers:
                x = layer(x) + self.size * self.table[: x.shape[1]]
            return x

    counts = []
    for size in (0.0, 0.1):
        torch.manual_seed(0)
        calls = [0]
        check(Encoder(size), draw(1, 32, 16), laws=ORDER)
        counts.append(calls[0])
    assert counts[1] <= 2 * counts[0]


def test_laws_share_runs_and_searches(monkeypatch):
    calls, searches = [], []
    monkeypatch.setattr(
        "tokennet.testing.engine.sandbox.reached",
        lambda roots, refers: searches.append(roots) or reached(roots, refers),
    )
    layer = nn.Linear(4, 4)

    def model(x):
        calls.append(x.dtype)
        return layer(x) + x.mean(-2, keepdim=True)

    laws = ["node_permutation", "batch_composition", "nonfinite_isolation", "deterministic"]
    assert check(model, draw(3, 5, 4), laws=laws).passed
    assert len(searches) <= 6
    # Of each law the changed runs, f32 and gradients; f(x) and f of each draw are shared.
    assert len(calls) <= 90


# Outputs with a row for each edge.


EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 0, 5, 6, 7, 4]])
TWO_GRAPHS = {"x": draw(8, D), "edge_index": EDGES, "batch": torch.arange(8) // 4}


def of_edges(x, edge_index, batch):
    return (x[edge_index[0]] * x[edge_index[1]]).sum(-1).sigmoid()


def of_edges_of_all(x, edge_index, batch):
    return of_edges(x - x.mean(0), edge_index, batch)  # bug


@pytest.mark.parametrize("law", ["batch_composition", "nonfinite_isolation"])
def test_sets_do_not_reach_outputs_of_edges_of_others(law):
    assert node(of_edges, TWO_GRAPHS, law=law).verdict is Verdict.PASS
    report = node(of_edges_of_all, TWO_GRAPHS, law=law)
    assert report.verdict is Verdict.BROKEN
    assert "# bug" in report.location.source


def test_a_law_of_no_output_is_inconclusive():
    def two_lists(x, edge_index, edge_label_index, batch):
        return of_edges(x, edge_label_index, batch)

    example = {**TWO_GRAPHS, "edge_label_index": EDGES[:, ::2]}
    report = node(two_lists, example, law="batch_composition")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.reason == "no output has an entry that the law speaks of"


MASK = torch.arange(7) < torch.tensor([[6], [4], [5], [3]])


@pytest.mark.parametrize("filler", [-1e4, torch.finfo(torch.float64).min])
def test_a_mask_that_writes_a_large_number_makes_no_ties(filler):
    def leader(x, mask):
        score = (x - 3 * x.mean(0, keepdim=True)).sum(-1)  # bug: the mean over sets
        at = score.masked_fill(~mask, max(filler, torch.finfo(x.dtype).min)).argmax(-1)
        return x[torch.arange(len(x)), at]

    report = node(leader, (draw(4, 7, D), MASK), law="batch_composition")
    assert report.verdict is Verdict.BROKEN


@pytest.mark.parametrize("law", ["batch_composition", "nonfinite_isolation"])
def test_a_leak_into_the_last_sets_is_found(law):
    def leak(x):
        pooled = x.tanh().sum(1)
        return torch.cat([pooled[:2], pooled[2:] + pooled[:1]])  # bug

    assert node(leak, draw(4, 7, D), law=law).verdict is Verdict.BROKEN


@pytest.mark.parametrize("noise", [torch.randn_like, lambda x: torch.rand_like(x).sum(1)])
def test_random_numbers_alone_are_vacuous(noise):
    report = node(noise)
    assert report.verdict is Verdict.VACUOUS
    assert report.reason == "random: the output does not depend on the tokens"


def of_probabilities(x, weight=1.0):
    if bool(((x < 0) | (x > 1)).any()):
        raise ValueError("no probabilities")
    return (weight * x.sqrt()).sum(-2)


def test_a_model_of_probabilities_is_tried_on_its_own_tokens():
    x = torch.rand(3, 6, 4, generator=torch.Generator().manual_seed(0))
    report = check(of_probabilities, x)
    assert report.passed, report
    assert {*report.reports["node_permutation"].notes} == {
        "the model refuses normal numbers: other content is the example's own tokens"
    }
    assert check_equivariance(of_probabilities, x, out_action=Invariant()).verdict is Verdict.PASS
    weighted = check(lambda x: of_probabilities(x, torch.arange(1.0, 7)[:, None].to(x)), x)
    assert weighted.broken == ("node_permutation", "tied_inputs")
    logarithms = check(lambda x: x.log().cumsum(0), x)  # not finite for other numbers
    assert "batch_composition" in logarithms.broken
    assert "node_permutation" not in logarithms.broken
    assert not check(lambda x: x.softmax(-2), x).reports["node_permutation"].notes


def test_draws_that_the_model_refuses_are_not_counted():
    def small_numbers_only(x):
        if x.abs().max() > 100:
            raise ValueError("numbers must be small")
        return x.tanh() + x.mean(1, keepdim=True)

    report = node(small_numbers_only, draws=8)
    assert report.verdict is Verdict.PASS
    assert 0 < report.draws < 8
    (note,) = [note for note in report.notes if "refused" in note]
    assert note == f"{8 - report.draws} draws of other content were refused: numbers must be small"


def test_numbers_that_tie_where_nothing_is_chosen_hide_no_break():
    def rare(x):
        pooled = x.relu().max(-2).values  # zeros tie, and are not the largest
        return pooled + (x[:, 0] if x.abs().max() > 20 else 0)  # bug

    x = draw(3, 7, D)
    x[:, 0] = x.abs().amax(1)
    assert node(rare, x).verdict is Verdict.BROKEN


@pytest.mark.parametrize(
    ("numbers", "tied"), [([[1.0, 3], [3, 2]], True), ([[1.0, 3], [4, 3]], False)]
)
def test_ties_of_an_index_into_all_numbers_are_seen(numbers, tied):
    seen = Ties(eps=1e-7)
    assert seen.concerns("argmax")
    seen.inputs(((torch.tensor(numbers),), {}))
    assert seen.found is tied
