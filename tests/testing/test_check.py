"""`check`: injected bugs are found and localized, and passing models give no false positive."""

import dataclasses
import random
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Batch, Data

from tests.testing.cases import INJECTED_BUGS, PASSING_MODELS, bug_lines, reproduced_by
from tokennet import Attention, Causal, Cycle, Edges, Full, GraphAttention, Tokens
from tokennet.nets import IOSpec, build_net
from tokennet.testing import LAWS, Verdict, applicable_laws, check


def each(models, every=1):
    """Parameters; those of slow models, and all but each `every`-th, are marked as `sweep`."""
    return [
        pytest.param(
            model, id=model.name, marks=[pytest.mark.sweep] * (model.slow or number % every > 0)
        )
        for number, model in enumerate(models)
    ]


@pytest.mark.parametrize("bug", each(INJECTED_BUGS))
def test_an_injected_bug_is_found_localized_and_reproduced(bug):
    model, example = bug.make()
    found = check(model, example, laws=[bug.law], **bug.options).reports[bug.law]
    assert found.verdict is Verdict.BROKEN
    assert localized(found, model) or not bug.localizable
    assert reproduced_by(found.counterexample.script, bug.make()[0])


@pytest.mark.sweep
@pytest.mark.parametrize("bug", INJECTED_BUGS, ids=lambda bug: bug.name)
def test_an_injected_bug_breaks_its_law_and_no_unrelated_one(bug):
    model, example = bug.make()
    report = check(model, example, laws=bug.laws, **bug.options)
    assert bug.law in report.broken
    related = {bug.law, *bug.also_broken}
    if "batch_composition" in related:  # what mixes sets spreads NaN too
        related.add("nonfinite_isolation")
    assert set(report.broken) <= related


def localized(report, model: nn.Module) -> bool:
    """Whether the statement that a report blames is one marked as a bug in the model."""
    blamed = report.location
    return blamed is not None and any(
        blamed.file == file and blamed.line <= line <= blamed.end_line
        for file, line in bug_lines(model)
    )


@pytest.mark.parametrize("passing", each(PASSING_MODELS, every=4))
def test_a_passing_model_gives_no_false_positive(passing):
    model, example = passing.make()
    laws = passing.laws or applicable_laws(model, example, **passing.options)
    if not passing.selects:
        laws = [law for law in laws if law != "tied_inputs"]
    report = check(model, example, laws=laws, **passing.options)
    verdicts = {law: str(result.verdict) for law, result in report.reports.items()}
    assert set(verdicts.values()) == {"PASS"}, verdicts
    dtypes = {result.dtype for result in report.reports.values()}
    assert dtypes == {"float64"} or not passing.exact


@pytest.mark.sweep
@pytest.mark.parametrize("passing", PASSING_MODELS, ids=lambda passing: passing.name)
def test_a_passing_model_gives_no_false_positive_on_equal_tokens(passing):
    model, example = passing.make()
    if "tied_inputs" in (passing.laws or ["tied_inputs"]):
        options = passing.options
        if "tied_inputs" not in applicable_laws(model, example, **options):
            return
        report = check(model, example, laws=["tied_inputs"], **options)
        result = report.reports["tied_inputs"]
        assert result.verdict is Verdict.PASS, result
        assert result.dtype == "float64" or not passing.exact


def test_each_law_has_an_injected_bug():
    assert len(INJECTED_BUGS) >= 25
    assert len(PASSING_MODELS) >= 15
    assert {bug.law for bug in INJECTED_BUGS} >= set(LAWS) - {"backend_agreement"}


class Everything(nn.Module):
    """Parameters, shared ones, buffers, plain tensors, dropout, gradients, flags, a counter."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.plain = torch.ones(4)
        self.b.bias.requires_grad_(False)
        self.calls: list[int] = []
        self.cache = None

    def forward(self, x):
        self.calls.append(1)
        self.cache = x
        self.norm.num_batches_tracked.add_(1)
        h = self.norm(self.a(x).transpose(1, 2)).transpose(1, 2)
        return self.drop(self.b(h) * self.plain + x.mean(1, keepdim=True))


def _state(model):
    return {
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "buffers": {name: b.clone() for name, b in model.named_buffers()},
        "identities": [(id(p), p.data_ptr(), p.requires_grad) for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "calls": list(model.calls),
        "cache": model.cache,
        "plain": model.plain,
        "rng": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()),  # noqa: NPY002
        "default": torch.get_default_dtype(),
    }


def _assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert (a == b).all()
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _assert_same(x, y)
    else:
        assert a == b


def test_the_state_of_the_model_is_restored():
    model = Everything().train()
    model.norm.eval()
    model(torch.randn(3, 5, 4)).sum().backward()
    x = torch.randn(3, 5, 4)
    before = _state(model)
    check(model, x)
    _assert_same(_state(model), before)


def test_the_state_of_the_model_is_restored_after_an_error():
    class Raises(Everything):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError("no")

    model = Raises().train()
    x = torch.randn(3, 5, 4)
    before = _state(model)
    with pytest.raises(RuntimeError, match="no"):
        check(model, x)
    _assert_same(_state(model), before)


def test_no_law_runs_a_model_outside_of_the_sandbox():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x, edge_index, edge_label_index):
            ran.append(self.training)
            x = self.norm(x).index_add(0, edge_index[1], x[edge_index[0]])
            return x[edge_label_index[0]] * x[edge_label_index[1]], x

    ran, model = [], Graph()
    edges = {"edge_index": torch.randint(6, (2, 9)), "edge_label_index": torch.randint(6, (2, 5))}
    report = check(model, {"x": torch.randn(6, 4), **edges})
    assert {"edge_permutation", "empty_neighborhood"} <= set(report.reports)
    assert not any(ran)
    assert model.norm.num_batches_tracked == 0


def test_the_example_is_not_changed():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.add_(1.0).cumsum(1)

    x = torch.randn(2, 5, 3)
    before = x.clone()
    check(InPlace(), x)
    assert torch.equal(x, before)


def test_a_broken_gradient_is_found_where_values_agree():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(9, 4))

        def forward(self, x):
            side = self.table[: x.shape[1]] * x
            return (x + x.mean(1, keepdim=True) + side - side.detach()).tanh()

    report = check(Hidden(), torch.randn(2, 5, 4)).reports["node_permutation"]
    assert report.verdict is Verdict.BROKEN
    assert "gradient" in report.reason
    assert report.location.source.startswith("side = self.table")
    assert reproduced_by(report.counterexample.script, Hidden())


def test_a_kernel_that_differs_in_float32_is_found():
    class Fast(nn.Module):
        def forward(self, x):
            if x.dtype == torch.float32:
                return x + 1e-3 * x.cumsum(1)
            return x + x.mean(1, keepdim=True)

    report = check(Fast(), torch.randn(2, 5, 4)).reports["node_permutation"]
    assert report.verdict is Verdict.BROKEN
    assert "holds in float64" in report.reason


def test_backends_that_differ_are_found(monkeypatch):
    layer = Attention(8, 2)
    tokens = Tokens(torch.randn(6, 8), Cycle(6, 1))
    assert check(layer, tokens, laws=["backend_agreement"]).passed
    sparse = sys.modules["tokennet.ops.backends.sparse"]
    right = sparse.run
    monkeypatch.setattr(sparse, "run", lambda call: right(call) * (1 + 1e-9))
    report = check(layer, tokens, laws=["backend_agreement"])
    assert report.broken == ("backend_agreement",)


@pytest.mark.parametrize(
    ("verdicts", "passed", "summary"),
    [
        (["PASS", "PASS"], True, "All 2 laws that apply hold on this example."),
        (["PASS", "VACUOUS"], True, "1 of 2 laws hold; not passed, but INCONCLUSIVE or"),
        (["INCONCLUSIVE", "VACUOUS"], False, "Nothing was shown: no law is broken"),
        (["INCONCLUSIVE", "BROKEN"], False, "1 of 2 laws are BROKEN: b."),
    ],
)
def test_a_report_passes_if_it_shows_something(verdicts, passed, summary):
    one = check(nn.Linear(4, 4), torch.randn(5, 4), laws=["deterministic"])
    (known,) = one.reports.values()
    reports = {
        law: dataclasses.replace(known, verdict=Verdict(verdict))
        for law, verdict in zip("ab", verdicts, strict=True)
    }
    report = dataclasses.replace(one, reports=reports)
    assert report.passed is passed
    assert report.summary().startswith(summary)
    alone = {"deterministic": known, "b": dataclasses.replace(known, verdict=Verdict.VACUOUS)}
    assert dataclasses.replace(one, reports=alone).shows_nothing
    assert one.passed


def test_an_output_that_does_not_depend_on_tokens_is_vacuous():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Parameter(torch.randn(3))

        def forward(self, x):
            return self.query.expand(x.shape[0], 3)

    report = check(Constant(), torch.randn(2, 5, 4))
    assert report.reports["node_permutation"].verdict is Verdict.VACUOUS
    assert not report.broken
    assert report.shows_nothing
    assert not report.passed  # which says no more than exit code 3


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (2, 3, 5, 4)])
def test_a_token_wise_model_is_reported_as_such(shape):
    report = check(nn.Linear(4, 4), torch.randn(shape)).reports["node_permutation"]
    assert report.verdict is Verdict.PASS
    assert "own token alone" in report.notes[0]
    mixed = check(lambda x: x - x.mean(-2, keepdim=True), torch.randn(shape))
    assert not mixed.reports["node_permutation"].notes


def test_a_nan_output_is_inconclusive():
    report = check(lambda x: x.mean(1) / 0 * 0, torch.randn(2, 5, 4))
    assert report.reports["node_permutation"].verdict is Verdict.INCONCLUSIVE


def test_a_model_with_float32_inside_is_judged_in_float32():
    class Numpy(nn.Module):
        def forward(self, x):
            half = torch.from_numpy(x.numpy().astype("float32"))
            return (half.softmax(1) * half).sum(1).to(x.dtype)

    report = check(Numpy(), torch.randn(2, 5, 4)).reports["node_permutation"]
    assert report.verdict is Verdict.PASS
    assert report.dtype == "float32"
    assert any("less than float64" in note for note in report.notes)


EXAMPLES = {
    "set": (nn.Linear(4, 4), torch.randn(2, 5, 4)),
    "single_set": (nn.Linear(4, 4), torch.randn(5, 4)),
    "tokens": (Attention(8, 2), Tokens(torch.randn(5, 8), Full(5))),
    "causal_tokens": (Attention(8, 2), Tokens(torch.randn(5, 8), Causal(5))),
    "tokens_on_edges": (
        GraphAttention(8, 2),
        Tokens(torch.randn(3, 8), Edges(torch.tensor([[0, 1, 1], [1, 2, 0]]), 3)),
    ),
}


def test_which_laws_apply():
    laws = {name: applicable_laws(*example) for name, example in EXAMPLES.items()}
    assert laws["set"] == (
        "node_permutation", "tied_inputs", "batch_composition", "nonfinite_isolation",
        "deterministic",
    )  # fmt: skip
    assert laws["single_set"] == ("node_permutation", "tied_inputs", "deterministic")
    assert applicable_laws(nn.Linear(4, 4), torch.randn(2, 4)) == laws["single_set"]
    assert applicable_laws(nn.Linear(4, 4), torch.randn(1, 4)) == ("deterministic",)
    assert "backend_agreement" in laws["tokens"]
    assert "causality" not in laws["tokens"]
    assert "causality" in laws["causal_tokens"]
    assert {"edge_permutation", "empty_neighborhood"} <= set(laws["tokens_on_edges"])
    assert applicable_laws(*EXAMPLES["set"], causal=True) == (
        "batch_composition", "nonfinite_isolation", "causality", "deterministic",
    )  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_laws_hold_for_our_own_layers(name):
    report = check(*EXAMPLES[name])
    assert all(result.verdict is Verdict.PASS for result in report.reports.values()), report


def test_a_pyg_module_is_called_with_the_parts_of_data():
    from torch_geometric.nn import GCNConv

    data = Data(x=torch.randn(5, 4), edge_index=torch.randint(0, 5, (2, 9)))
    report = check(GCNConv(4, 3), data)
    assert {"node_permutation", "edge_permutation"} <= set(report.reports)
    assert report.passed


def test_features_of_edges_move_with_their_edges():
    from torch_geometric.nn import GATv2Conv, GCNConv

    torch.manual_seed(0)
    edges = torch.randint(0, 5, (2, 11))
    for model, attr in (
        (GATv2Conv(4, 3, edge_dim=2), torch.randn(11, 2)),
        (GCNConv(4, 3), torch.rand(11)),
    ):
        report = check(model, (torch.randn(5, 4), edges, attr))
        assert {"node_permutation", "edge_permutation", "empty_neighborhood"} <= set(report.reports)
        assert all(result.verdict is Verdict.PASS for result in report.reports.values()), report


@pytest.mark.gpu
def test_laws_on_a_gpu():
    x = torch.randn(2, 7, 8)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    report = check(layer, x, device="cuda")
    assert report.passed, report
    assert next(layer.parameters()).device.type == "cpu"
    broken = check(lambda x: x.cumsum(1), x, device="cuda").reports["node_permutation"]
    assert broken.verdict is Verdict.BROKEN
    assert "x.cumsum(1)" in broken.location.source


def test_token_ids_as_example():
    class Bag(nn.Module):
        def __init__(self, positions):
            super().__init__()
            self.embed, self.positions = nn.Embedding(11, 4), nn.Embedding(9, 4)
            self.use = positions

        def forward(self, ids):
            h = self.embed(ids)
            if self.use:
                h = h * self.positions(torch.arange(ids.shape[1]))
            return h.mean(1)

    ids = torch.randint(0, 11, (3, 7))
    assert check(Bag(False), ids).passed
    report = check(Bag(True), ids)
    assert "node_permutation" in report.broken
    assert "h * self.positions" in report.reports["node_permutation"].location.source


class Reader(nn.Module):
    """Named arguments, ids of tokens, a mask of numbers, several outputs in a dict."""

    def __init__(self, positions=False, masked=True):
        super().__init__()
        self.embed, self.table = nn.Embedding(11, 8), nn.Embedding(9, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.positions, self.masked = positions, masked

    def forward(self, input_ids, *, attention_mask):
        h = self.embed(input_ids)
        if self.positions:
            h = h + self.table.weight[: h.shape[1]]
        hidden = attention_mask == 0 if self.masked else None
        h = self.layer(h, src_key_padding_mask=hidden)
        return {"states": h, "first": (h * attention_mask[..., None]).sum(1)}


def test_arguments_given_by_name():
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    example = {"input_ids": torch.randint(0, 11, (3, 5)), "attention_mask": mask}
    report = check(Reader(), example)
    assert {"node_permutation", "batch_composition", "padding"} <= set(report.reports)
    assert report.passed, report
    found = check(Reader(positions=True), example).reports["node_permutation"]
    assert "self.table.weight" in found.location.source
    assert reproduced_by(found.counterexample.script, Reader(positions=True))
    assert "padding" in check(Reader(masked=False), example).broken


def test_a_mask_may_mark_tokens_or_padding_of_a_single_set():
    def mean(x, mask):
        return (x * mask[..., None]).sum(-2) / mask.sum(-1, keepdim=True)

    def hidden(x, key_padding_mask):
        return mean(x, ~key_padding_mask)

    mask = torch.tensor([True, True, True, True, False])
    for x, m in ((torch.randn(5, 3), mask), (torch.randn(1, 5, 3), mask[None])):
        assert check(mean, (x, m), laws=["padding"]).passed
        assert check(hidden, (x, ~m), laws=["padding"]).passed
        inverted = lambda x, attention_mask: mean(x, ~attention_mask)  # noqa: E731
        assert not check(inverted, (x, m), laws=["padding"]).passed


def test_several_outputs_of_ragged_batches():
    class Two(nn.Module):
        def __init__(self, leak):
            super().__init__()
            self.leak = leak

        def forward(self, x, batch):
            sums = torch.zeros(int(batch.max()) + 1, x.shape[1]).to(x).index_add(0, batch, x)
            centered = x - self.leak * x.mean(0) if self.leak else x  # 0 times NaN is NaN
            return sums, centered

    index = torch.arange(3).repeat_interleave(torch.tensor([4, 6, 3]))
    example = torch.randn(13, 4), index
    assert check(Two(0.0), example).passed
    report = check(Two(0.5), example)
    assert report.broken == ("batch_composition", "nonfinite_isolation")
    assert "x.mean(0)" in report.reports["batch_composition"].location.source


def test_the_dimension_of_tokens_is_found_where_sizes_coincide():
    from torch_geometric.nn import Set2Set

    index = torch.arange(3).repeat_interleave(torch.tensor([5, 7, 4]))
    assert check(Set2Set(8, 3), (torch.randn(16, 8), index)).passed  # 16 tokens, 16 outputs


def test_a_model_that_raises_on_what_should_be_the_same_breaks_the_law():
    class Picky(nn.Module):
        def forward(self, x, edge_index):
            if (edge_index[1].diff() < 0).any():
                raise ValueError("edges must be sorted")
            return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])

    edges = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 2]])
    report = check(Picky(), (torch.randn(3, 4), edges)).reports["edge_permutation"]
    assert report.verdict is Verdict.BROKEN
    assert report.reason == "raises ValueError: edges must be sorted"
    assert "raise ValueError" in report.location.source


def test_an_error_of_the_checker_itself_is_raised(monkeypatch):
    def fails(case, options):
        raise KeyError("of the checker itself")

    monkeypatch.setitem(LAWS, "deterministic", LAWS["deterministic"]._replace(check=fails))
    with pytest.raises(KeyError, match="of the checker itself"):
        check(nn.Linear(4, 4), torch.randn(2, 5, 4))


def test_ties_of_a_single_feature_are_tried_besides_duplicates():
    """Where two tokens are largest in one feature, which of them is read depends on the order."""

    def second_of_largest(x):
        first = x[..., 0].argmax(-1)[:, None]
        return x[..., 1].gather(-1, first)

    report = check(second_of_largest, torch.randn(2, 6, 4), laws=["tied_inputs"])
    assert report.reports["tied_inputs"].verdict.name == "BROKEN"


def test_the_report_can_be_printed_and_stored():
    import json

    report = check(lambda x: x.cumsum(1), torch.randn(2, 5, 4))
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["laws"]["node_permutation"]["verdict"] == "BROKEN"
    assert stored["laws"]["node_permutation"]["location"]["line"] > 0
    text = str(report)
    assert re.search("node_permutation +BROKEN", text)
    assert "to see it:" in text


@pytest.mark.parametrize(
    ("model", "example", "error", "match"),
    [
        (nn.Linear(4, 4), "x", TypeError, "example must be a tensor"),
        (nn.Linear(4, 4), torch.randn(4), ValueError, "example must have shape"),
        (3, torch.randn(2, 5, 4), TypeError, "model must be callable"),
        (nn.Linear(4, 4), (torch.randn(5, 4), torch.randn(3, 3)), TypeError, "positional"),
        (nn.Linear, torch.randn(2, 5, 4), TypeError, "must be an instance, got the class Linear"),
        (lambda x: "text", torch.randn(2, 5, 4), TypeError, "must return tensors"),
    ],
)
def test_bad_arguments_are_named(model, example, error, match):
    with pytest.raises(error, match=match):
        check(model, example)


def test_unknown_laws_and_dtypes_are_errors():
    x = torch.randn(2, 5, 4)
    with pytest.raises(ValueError, match="laws must be one of"):
        check(nn.Linear(4, 4), x, laws=["no_law"])
    with pytest.raises(ValueError, match="does not apply"):
        check(nn.Linear(4, 4), x, laws=["padding"])
    with pytest.raises(ValueError, match="dtype must be"):
        check(nn.Linear(4, 4), x, dtype="float8")


def test_the_dtype_can_be_chosen():
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    for dtype in ("float32", "bfloat16"):
        report = check(net, torch.randn(2, 5, 8), laws=["node_permutation"], dtype=dtype)
        result = report.reports["node_permutation"]
        assert result.dtype == dtype
        assert result.verdict is Verdict.PASS, result
    broken = check(lambda x: x.cumsum(1), torch.randn(2, 5, 8), dtype="bfloat16")
    assert "node_permutation" in broken.broken


def test_batches_of_graphs():
    torch.manual_seed(0)
    graphs = [
        Data(x=torch.randn(n, 8), edge_index=torch.randint(0, n, (2, 2 * n))) for n in (3, 5, 4)
    ]
    net = build_net("gat", IOSpec(in_features=8, out_features=2), dim=8, num_heads=2)
    tokens = Tokens.from_pyg(Batch.from_data_list(graphs))
    report = check(net, tokens)
    assert {"node_permutation", "batch_composition"} <= set(report.reports)
    assert report.passed, report


def test_active_dropout_is_reported_as_random():
    class ActiveDropout(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.1).mean(1)

    report = check(ActiveDropout(), torch.randn(2, 5, 4))
    assert report.broken == ("deterministic",)
    assert report.reports["node_permutation"].verdict is Verdict.PASS
    assert "random" in report.reports["node_permutation"].reason
    assert "F.dropout" in report.reports["deterministic"].location.source


@pytest.mark.parametrize(
    "model",
    [nn.Linear(8, 3), nn.GRU(8, 3), nn.LayerNorm(8), nn.Sequential(nn.MultiheadAttention(8, 2))],
)
def test_a_width_is_found_for_an_example(model):
    from tokennet.testing.resolve import resolve_example

    assert resolve_example(None, model).shape == (3, 7, 8)
