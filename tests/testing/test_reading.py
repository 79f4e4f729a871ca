"""How examples are read: everyday forms without help, roles that are said, hints where two fit."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.axes import spread
from tokennet.testing import Verdict, applicable_laws, check, parametrize_with_checks
from tokennet.testing.command import Files, report_on
from tokennet.testing.example.case import make_case
from tokennet.testing.example.forms import leaves_of
from tokennet.testing.example.reading import read_example
from tokennet.testing.example.roles import parse_role
from tokennet.testing.formats import Baseline
from tokennet.testing.zoo import ZooModel


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, CONTEXT = draw(3, 7, 8), draw(3, 5, 8, seed=1)
REAL = torch.arange(7) < torch.tensor([[7], [4], [5]])
KINDS = torch.tensor([2, 0, 1, 1, 0, 2, 0, 1, 2])
EDGES = torch.randint(0, 9, (2, 20), generator=torch.Generator().manual_seed(0))
TABLE = nn.Parameter(draw(9, 8, seed=2))
EMBED, QKV, BIAS = nn.Embedding(20, 8), nn.Linear(8, 24), nn.Linear(4, 1)


def attention(x, context, mask=None):
    return F.scaled_dot_product_attention(x, context, context, attn_mask=mask)


def summed(x, mask):
    return (x * mask[..., None]).sum(1)


def biased(x, bias):
    q, k, v = QKV(x).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def biased_heads(x, bias):
    q, k, v = (t[:, None] for t in QKV(x).chunk(3, -1))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)[:, 0]


def convolved(x, edge_index, node_type):
    h = x + EMBED(node_type)
    return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]]) + h.mean(0)


def point_net():
    return nn.Sequential(nn.Conv1d(3, 16, 1), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(1))


ADDED = torch.zeros(3, 1, 1, 7).masked_fill(~REAL[:, None, None], float("-inf"))

COSTLY = ("tied_inputs", "backend_agreement", "nonfinite_isolation", "deterministic")
READ = {
    # model, example, and lines of the reading: name -> role
    "vector_of_the_set": (
        lambda x, mask, y: summed(x, mask) + y,
        (X, REAL, draw(3, 8)),
        {"x": "tokens:-2", "mask": "padding:True=keep", "y": "per_set", "-> 0": "per_set:-2"},
    ),
    "queries_of_the_set": (
        lambda x, mask, query: attention(query, x, mask[:, None]),
        (X, REAL, CONTEXT),
        {"mask": "padding:x:True=keep", "query": "tokens:-2:query", "-> 0": "tokens:-2:query"},
    ),
    "output_with_tokens_first": (
        lambda x, mask: x.transpose(0, 1).tanh(),
        (X, REAL),
        {"-> 0": "tokens:-3"},
    ),
    "types_of_tokens": (
        lambda x, kinds: x + EMBED(kinds) + x.tanh().mean(0),
        (draw(9, 8), KINDS),
        {"kinds": "tokens:-1"},
    ),
    "types_of_nodes": (convolved, (draw(9, 8), EDGES, KINDS), {"node_type": "tokens:-1"}),
    "pairs_bnn": (biased, (X, draw(3, 7, 7)), {"bias": "pairs:-2,-1"}),
    "pairs_nn": (biased, (X, draw(7, 7)), {"bias": "pairs:-2,-1"}),
    "pairs_b1nn": (biased_heads, (X, draw(3, 1, 7, 7)), {"bias": "pairs:-2,-1"}),
    "mask_b11n": (biased_heads, (X, ADDED), {"bias": "padding"}),
    "pairs_bnnc": (
        lambda x, pair: biased(x, BIAS(pair)[..., 0]),
        (X, draw(3, 7, 7, 4)),
        {"pair": "pairs:-3,-2"},
    ),
    "attention_by_name": (
        nn.MultiheadAttention(8, 2, batch_first=True),
        {"query": X, "key": X.clone(), "value": X.clone(), "attn_mask": draw(7, 7) < -0.5},
        {"key": "tokens:-2", "attn_mask": "pairs:-2,-1"},
    ),
    "points_with_channels_first": (point_net(), draw(3, 3, 20), {"input": "tokens:-1"}),
    "ids": (EMBED, torch.randint(0, 20, (9,)), {"input": "tokens:-1"}),
    "batch_first_false": (
        nn.TransformerEncoderLayer(8, 2, 16),
        draw(7, 3, 8),
        {"src": "tokens:-3", "-> 0": "tokens:-3"},
    ),
    "auxiliary_loss": (
        lambda x: (x.tanh(), x.square().mean()),
        X,
        {"-> 0": "tokens:-2", "-> 1": "scalar"},
    ),
    "similarities_of_sets": (
        lambda x: (x, x.sum(1) @ x.sum(1).T),
        X,
        {"-> 1": "scalar"},
    ),
    "one_loss_alone": (lambda x: x.square().mean(), X, {"-> 0": "scalar"}),
    "labels": (lambda x, y: (x.sum(1), y), (X, torch.tensor([1, 0, 2])), {"y": "per_set"}),
    "images": (nn.Conv2d(3, 4, 3), draw(2, 3, 8, 8), {"input": "per_set"}),
}  # fmt: skip


def of_edges(source, target, edge_index):
    return target.tanh().index_add(0, edge_index[1], source[edge_index[0]])


def of_sets(x, batch_x, y, batch_y):
    sums = torch.zeros(int(batch_y.max()) + 1, 8).to(y).index_add(0, batch_y, y.tanh())
    return x * sums[batch_x]


def counted(ids, batch):
    h = EMBED(ids)
    return torch.zeros(int(batch.max()) + 1, 8).to(h).index_add(0, batch, h)


SETS = torch.arange(3).repeat_interleave(torch.tensor([5, 7, 4]))
FEWER = torch.arange(3).repeat_interleave(torch.tensor([2, 3, 4]))
SQUARE = draw(7, 7, 8)
BETWEEN = torch.stack([torch.arange(14) % 5, torch.arange(14) % 6])

SIZES = {
    # Sizes that coincide, shared masks, several sets in lists: what is near the forms above.
    "mask_of_as_many_sets": (summed, (SQUARE, draw(7, 7) < 0.5), {"mask": "padding:True=keep"}),
    "one_number_a_set": (
        lambda x, t: x.mean(1) * t[:, None], (SQUARE, draw(7)), {"t": "per_set"},
    ),
    "bias_of_all_sevens": (biased, (SQUARE, draw(7, 7, 7)), {"bias": "pairs:-2,-1"}),
    "one_mask_for_all": (summed, (X, REAL[1:2]), {"mask": "padding:True=keep"}),
    "mask_of_floats": (summed, (X, REAL.float()), {"mask": "padding:True=keep"}),
    "one_context": (attention, (draw(7, 8), draw(5, 8)), {"context": "tokens:-2:context"}),
    "two_ragged": (
        of_sets, (draw(16, 8), SETS, draw(9, 8), FEWER),
        {"batch_x": "membership:x", "y": "tokens:-2:y", "batch_y": "membership:y"},
    ),
    "ids_of_ragged": (counted, (torch.arange(16) % 9, SETS), {"ids": "tokens:-1"}),
    "sources_and_targets": (
        of_edges, (draw(5, 8), draw(6, 8), BETWEEN), {"edge_index": "edge_index:source,target"},
    ),
    "list_of_ids": (
        lambda xs: [torch.bincount(x, minlength=5).float() for x in xs],
        [torch.arange(n) % 5 for n in (4, 3, 6)],
        {"xs": "tokens:-1"},
    ),
    "list_beside_vectors": (
        lambda x, sets: x + torch.stack([part.sum(0) for part in sets]),
        (draw(3, 8), [draw(n, 8) for n in (4, 3, 6)]),
        {"x": "per_set", "sets": "tokens:-2"},
    ),
    "decoder": (
        nn.TransformerDecoderLayer(8, 2, 16, batch_first=True),
        {
            "tgt": X, "memory": CONTEXT, "tgt_key_padding_mask": ~REAL,
            "memory_key_padding_mask": torch.arange(5) >= torch.tensor([[5], [2], [3]]),
        },
        {"memory_key_padding_mask": "padding:memory:True=pad"},
    ),
    "encoder_and_decoder_with_tokens_first": (
        nn.Transformer(8, 2, 1, 1, 16),
        (draw(7, 3, 8), draw(5, 3, 8)),
        {"src": "tokens:-3:src", "tgt": "tokens:-3:tgt", "-> 0": "tokens:-3:tgt"},
    ),
    "masks_of_two_sets": (
        nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
        {"src": X, "tgt": CONTEXT, "memory_mask": draw(5, 7), "tgt_mask": draw(5, 5)},
        {"memory_mask": "pairs:-2,-1:tgt,src", "tgt_mask": "pairs:-2,-1:tgt"},
    ),
}  # fmt: skip


def roles_of(report):
    return {f"-> {x.name}" if x.is_output else x.name: x.role for x in report.reading}


SLOW = {
    *SIZES, "pairs_bnn", "pairs_nn", "pairs_b1nn", "mask_b11n", "pairs_bnnc", "types_of_nodes",
    "queries_of_the_set", "batch_first_false",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.sweep if name in SLOW else ())
        for name in (*READ, *SIZES)
    ],
)
def test_everyday_forms_are_read_without_help(name):
    model, example, wanted = {**READ, **SIZES}[name]
    laws = [law for law in applicable_laws(model, example) if law not in COSTLY]
    report = check(model, example, laws=laws)
    verdicts = {law: str(found.verdict) for law, found in report.reports.items()}
    assert set(verdicts.values()) == {"PASS"}, report
    found = roles_of(report)
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", ["queries_of_the_set", "attention_by_name"])
def test_a_reading_can_be_passed_back(name):
    model, example, _ = READ[name]
    report = check(model, example, laws=["deterministic"])
    roles = {line.name: line.role for line in report.reading if not line.is_output}
    outputs = {line.name: line.role for line in report.reading if line.is_output}
    laws = ["node_permutation", "batch_composition"]
    again = check(model, example, roles=roles, outputs=outputs, laws=laws)
    assert [line.role for line in again.reading] == [line.role for line in report.reading]
    assert again.passed


def indexed(x, context):
    return x + attention(x, context + TABLE[: context.shape[1]])


def test_each_set_of_tokens_is_permuted_by_itself():
    laws = ["node_permutation"]
    found = check(indexed, (X, CONTEXT), laws=laws).reports["node_permutation"]
    assert found.verdict is Verdict.BROKEN
    assert found.reason.startswith("in context: ")
    assert "context + TABLE" in found.location.source
    assert check(attention, (X, CONTEXT), laws=laws).passed


def test_two_sets_of_one_size_are_one_set_until_said():
    report = check(torch.add, (X, draw(3, 7, 8, seed=1)))
    assert report.passed
    assert "pass roles={'1': 'tokens:second'}" in str(report)
    report = check(torch.add, (X, draw(3, 7, 8, seed=1)), roles={"1": "tokens:second"})
    assert "node_permutation" in report.broken


def test_types_of_nodes_are_sets_and_dicts_stay_in_order():
    def model(x_dict, edge_index_dict):
        return {kind: x.tanh() for kind, x in x_dict.items()}

    example = {
        "x_dict": {"paper": draw(6, 8), "author": draw(4, 8)},
        "edge_index_dict": {("author", "writes", "paper"): BETWEEN.clamp(max=3)},
    }
    report = check(model, example, laws=["node_permutation"])
    assert report.passed
    found = roles_of(report)
    assert found["edge_index_dict.author,writes,paper"] == "edge_index:author,paper"
    assert found["-> paper"] == "tokens:-2:paper"
    assert found["-> author"] == "tokens:-2:author"


def test_each_set_has_its_own_padding():
    def leaks(x, context, context_mask):
        return x + attention(x, context)

    mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    report = check(leaks, (X, CONTEXT, mask))
    assert report.broken == ("padding",)
    report = check(lambda x, c, c_mask: x + attention(x, c, c_mask[:, None]), (X, CONTEXT, mask))
    assert "padding" not in report.broken


def test_a_loss_is_left_out_of_laws_of_the_batch_and_said_to_be():
    report = check(lambda x: (x - x.mean((0, 1)), x.mean()), X)
    assert "batch_composition" in report.broken  # of the tokens
    assert "one value for the whole batch: left out of laws of the batch" in str(report)
    assert "batch_composition" not in applicable_laws(lambda x: x.square().mean(), X)


def test_outputs_are_chosen_by_name_and_read_as_said():
    def model(x):
        return {"states": x - x.mean(1, keepdim=True), "order": x.cumsum(1)}

    assert not check(model, X).passed
    report = check(model, X, outputs="states")
    assert report.passed
    assert roles_of(report)["-> order"] == "other"
    assert check(model, X, outputs={"states": "tokens:-2", "order": "other"}).passed
    first = check(lambda x: x.transpose(0, 1), X, outputs={"0": "tokens:0"})
    assert first.passed
    with pytest.raises(ValueError, match="dimension -2 has 3 entries for 7 tokens"):
        check(lambda x: x.transpose(0, 1), X, outputs={"0": "tokens:1"})


def test_dimensions_of_tokens_are_said():
    def first(x):  # (N, B, D)
        return x - x.mean(0)

    assert "batch_composition" in check(first, X).broken
    assert check(first, X, roles={"x": "tokens:0"}).passed
    assert check(lambda x: x.amax(-1), X, roles={"0": "tokens:-1"}).passed
    image = draw(2, 3, 4, 5)
    assert "node_permutation" not in applicable_laws(nn.Conv2d(3, 4, 1), image)
    conv = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1))
    assert check(conv, image, roles={"input": "tokens:-2,-1"}).passed


def test_a_doubtful_mask_is_asked_about():
    inverted = lambda x, mask: summed(x, ~mask)  # noqa: E731
    report = check(inverted, (X, REAL))
    found = report.reports["padding"]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "pass roles={'mask': 'padding:True=pad'}" in found.reason
    assert not report.passed
    assert report.questions == ("padding",)
    assert (found.counterexample, found.location, found.notes) == (None, None, ())
    assert report_on(report, "m:f", ZooModel(inverted, (X, REAL)), Baseline(), Files()) == 3
    assert check(inverted, (X, ~REAL), roles={"mask": "padding:True=pad"}).passed
    said = check(inverted, (X, REAL), roles={"mask": "padding:True=keep"})
    assert said.reports["padding"].verdict is Verdict.BROKEN
    neither = check(lambda x, mask: x.sum(1) + 0 * mask.sum(), (X, REAL))
    assert neither.reports["padding"].verdict is Verdict.BROKEN


FLAG, PAST = draw(3, 7) > 0, torch.ones(7, 7).tril().bool()


@pytest.mark.parametrize("flag", [FLAG, FLAG.long(), FLAG.float()], ids=["bool", "int", "float"])
def test_a_feature_of_zeros_and_ones_is_asked_about(flag):
    def model(x, is_anchor):
        return torch.cat([x, is_anchor[..., None].to(x)], -1).tanh().mean(1)

    report = check(model, (X, flag))
    assert not report.broken
    assert {"padding"} <= {*report.questions}
    reason = report.reports["padding"].reason
    assert "is_anchor is padding:True=keep" in reason
    assert "pass roles={'is_anchor': 'tokens:-1:x'}" in reason
    assert check(model, (X, flag), roles={"is_anchor": "tokens:-1:x"}).passed
    said = check(model, (X, flag), roles={"is_anchor": "padding:True=keep"}, laws=["padding"])
    assert said.broken == ("padding",)
    listed = check(lambda x, flag: torch.cat([x, flag[:, None]], -1).sum(0), (X[0], FLAG[0].to(X)))
    assert listed.questions == ("padding",)


BAND = (torch.arange(7)[:, None] - torch.arange(7)).abs() < 3
PREFIXES = torch.arange(7) < torch.tensor([7, 4, 5, 6, 7, 7, 7])[:, None]
OF_SQUARES = {
    "causal": (PAST, "pairs:-2,-1"),
    "causal_hidden": (~PAST, "pairs:-2,-1"),
    "causal_int": (PAST.long(), "pairs:-2,-1"),
    "band": (BAND, "pairs:-2,-1"),
    "prefixes": (PREFIXES, "padding:True=keep"),
    "neither": (draw(7, 7) < 0.5, "padding:True=keep"),
}


@pytest.mark.parametrize("name", spread(OF_SQUARES, 4))
def test_a_mask_of_as_many_sets_as_tokens_is_asked_about(name):
    """In either use the other reading would say BROKEN."""
    mask, role = OF_SQUARES[name]

    def of_pairs(x, mask):
        hidden = mask == 0 if name != "causal_hidden" else mask == 1
        return (x @ x.mT).masked_fill(hidden, float("-inf")).softmax(-1) @ x

    def of_padding(x, mask):
        return summed(x, mask != 0)

    for model, wanted in ((of_pairs, "pairs"), (of_padding, "padding:True=keep")):
        report = check(model, (SQUARE, mask), draws=0)
        assert next(line.role for line in report.reading if line.name == "mask") == role
        assert not report.broken
        assert bool(report.questions) is (wanted[:4] != role[:4])
        for law in report.questions:
            assert f"mask is {role}" in report.reports[law].reason
            assert f"pass roles={{'mask': '{wanted}" in report.reports[law].reason
        assert check(model, (SQUARE, mask), roles={"mask": wanted}, draws=0).broken == ()


def test_a_square_of_numbers_beside_as_many_sets_is_asked_about():
    report = check(lambda x, w: (x @ x.mT + w).softmax(-1) @ x, (SQUARE, draw(7, 7)))
    assert not report.broken
    assert "pass roles={'w': 'pairs:-2,-1'}" in report.reports["node_permutation"].reason
    for named in (lambda x, bias: biased(x, bias), lambda x, adj: biased(x, adj)):
        assert check(named, (SQUARE, draw(7, 7))).passed
    wrong = check(lambda x, mask: summed(x, mask) / x.shape[1], (SQUARE, draw(7, 7) < 0.5))
    assert {"padding"} <= {*wrong.broken}


FULL = torch.ones(3, 7, dtype=torch.bool)


@pytest.mark.parametrize(
    ("mask", "model", "why"),
    [
        (FULL, summed, "nothing is padding"),
        (FULL & (torch.arange(3) > 0)[:, None], summed, "no set has tokens beside its padding"),
        (REAL, lambda x, mask: summed(x, mask).sum(), "no output has an entry for each set"),
        (REAL, summed, ""),
    ],
)
def test_the_reading_says_why_no_law_of_padding_is_asked(mask, model, why):
    report = check(model, (X, mask), draws=0)
    text = "padding of x, True = token"
    told = f"{text}; the law padding is not asked: {why}" if why else text
    assert [line.text for line in report.reading if line.name == "mask"] == [told]
    assert ("padding" in report.reports) is (not why)
    if why:
        with pytest.raises(ValueError, match=f"not apply to this example, as {why}; those that do"):
            check(model, (X, mask), laws=["padding"])


def test_lengths_of_one_of_two_sets_say_why_no_law_of_padding_is_asked():
    def model(x, context, x_lengths, context_mask):
        return summed(x, torch.arange(7) < x_lengths[:, None]) + summed(context, context_mask)

    given = (X, draw(3, 5, 8), torch.tensor([7, 7, 7]), REAL[:, :5])
    read = {line.name: line.text for line in check(model, given, laws=["padding"]).reading}
    assert read["x_lengths"].endswith("; the law padding is not asked: nothing is padding")
    assert "not asked" not in read["context_mask"]


def test_what_breaks_a_law_in_both_readings_stays_broken():
    steps = torch.linspace(0, 1, 7)[:, None]
    report = check(lambda x, flag: ((x + steps).tanh() * (1 + flag[..., None])).sum(1), (X, FLAG))
    assert {"node_permutation"} <= {*report.broken}
    assert report.questions == ("padding",)


@pytest.mark.parametrize("name", ["mask", "valid", "is_real", "keep", "padded", "invalid"])
def test_a_name_that_speaks_of_padding_decides(name):
    def model(x, flag, **masks):
        return (x * (1 + flag[..., None] + masks[name][..., None])).sum(1)

    found = check(model, {"x": X, "flag": FLAG, name: REAL}, laws=["padding"])
    roles = {line.name: line.role for line in found.reading if not line.is_output}
    true = "pad" if name in ("padded", "invalid") else "keep"
    assert roles == {"x": "tokens:-2", "flag": "tokens:-1", name: f"padding:True={true}"}
    assert found.broken == ("padding",)


def test_a_doubtful_mask_that_can_be_read_in_one_way_alone_is_broken(monkeypatch):
    def one_way(model, example, roles=None, outputs=None):
        if roles:
            raise ValueError("the output fits in no way")
        return make_case(model, example, roles=roles, outputs=outputs)

    monkeypatch.setattr("tokennet.testing._check.make_case", one_way)
    report = check(lambda x, mask: summed(x, ~mask), (X, REAL), laws=["padding"])
    assert report.broken == ("padding",)
    assert report.reports["padding"].location is not None


def test_sorted_numbers_that_may_be_types_are_asked_about():
    def model(x, k):
        return x + EMBED(k)

    found = check(model, (draw(9, 8), KINDS.sort().values)).reports["batch_composition"]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "pass roles={'k': 'tokens'}" in found.reason
    said = check(model, (draw(9, 8), KINDS.sort().values), roles={"k": "membership"})
    assert "batch_composition" in said.broken


HINTS = {
    "sequence_first": (nn.TransformerEncoderLayer(8, 2, 16), draw(7, 3, 8), "batch_first=False"),
    "channels_first": (point_net(), draw(3, 3, 20), "channels first"),
    "images": (nn.Conv2d(3, 4, 3), draw(2, 3, 8, 8), "to take pixels as tokens"),
    "types": (lambda x, kinds: x + EMBED(kinds), (draw(9, 8), KINDS), "'kinds': 'membership'"),
    "sorted_ids": (
        lambda x, k: x + EMBED(k), (draw(9, 8), KINDS.sort().values), "if these are types",
    ),
    "second_set": (lambda x, c: attention(x, c), (X, CONTEXT), "'c': 'per_set'"),
    "rows_of_edges": (
        lambda x, edges: x.index_add(0, edges[:, 1], x[edges[:, 0]]),
        (draw(9, 8), EDGES.T.contiguous()),
        "layers of PyG take (2, E)",
    ),
}  # fmt: skip


ASKED = ("sorted_ids",)
"""Not passed until it is said what they are: read as the set of each token they break a law."""


@pytest.mark.parametrize("name", HINTS)
def test_a_doubtful_reading_comes_with_a_hint(name):
    model, example, hint = HINTS[name]
    laws = [law for law in applicable_laws(model, example) if law not in COSTLY]
    report = check(model, example, laws=laws)
    assert not report.broken, report
    assert report.passed is (name not in ASKED)
    assert hint in report.read_as
    assert any(hint in line.hint for line in report.reading)


def test_a_model_that_mixes_sets_is_not_taken_for_one_of_tokens_first():
    class Forgotten(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16)

        def forward(self, x):
            return self.layer(x).mean(1)

    report = check(Forgotten(), X)
    assert roles_of(report)["x"] == "tokens:-2"
    assert "batch_composition" in report.broken


def test_the_report_starts_with_the_reading_and_stores_it():
    report = check(lambda x, mask: summed(x, mask), (X, REAL))
    lines = str(report).splitlines()
    assert lines[1].strip() == "reading"
    assert "tokens along dimension -2: 3 sets of 7" in lines[2]
    stored = json.loads(json.dumps(report.to_dict()))["reading"]
    assert stored[0]["role"] == "tokens:-2"
    assert stored[0]["why"] == ""


@pytest.mark.parametrize(
    ("roles", "match"),
    [
        ({"y": "tokens"}, "roles must be one of x, mask.*got 'y'"),
        ({"x": "tokns"}, r"roles\['x'\] must be one of .*did you mean tokens"),
        ({"x": "tokens:5"}, r"roles\['x'\]: there is no dimension 5"),
        ({"mask": "padding:-1"}, "padding has no dimensions"),
        ({"mask": "padding:True=maybe"}, "must be one of True=keep, True=pad"),
        ({"x": "tokens:True=pad"}, "only padding and pairs say what True is"),
        ({"mask": "padding:context"}, "must be one of x; got 'context'"),
        ({"mask": "edges"}, "no input lists edges"),
    ],
)
def test_wrong_roles_are_named(roles, match):
    with pytest.raises(ValueError, match=match):
        check(lambda x, mask: summed(x, mask), (X, REAL), roles=roles)


def test_edges_to_tokens_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="edge_index names token 8, but x has 5 tokens"):
        check(convolved, (draw(5, 8), EDGES, KINDS))


def test_wrong_outputs_are_named():
    with pytest.raises(ValueError, match=r"outputs must be one of states; got 'state'; did you"):
        check(lambda x: {"states": x}, X, outputs="state")
    with pytest.raises(TypeError, match="outputs must be a name"):
        check(lambda x: x, X, outputs=3)
    with pytest.raises(ValueError, match="there is no dimension 4"):
        check(lambda x: x, X, outputs={"0": "tokens:4"})
    with pytest.raises(ValueError, match="must be one of tokens, per_set"):
        check(lambda x: x, X, outputs={"0": "padding"})
    with pytest.raises(TypeError, match="must be a string"):
        parse_role("x", 3)


def test_roles_and_outputs_are_options_of_parametrize_with_checks():
    def first(x):  # (N, B, D)
        return {"states": x - x.mean(0), "order": x.cumsum(0)}

    laws, roles = ["node_permutation"], {"x": "tokens:0"}
    checks = parametrize_with_checks(
        {"first": (first, draw(7, 3, 8), {"roles": roles})}, laws=laws, outputs="states"
    )
    for case in checks.args[1]:
        model, law = case.values
        law(model)
        assert law.report.verdict is Verdict.PASS


def test_a_model_that_cannot_run_says_how_the_example_was_read():
    with pytest.raises(RuntimeError) as caught:
        check(nn.Linear(4, 4), X)
    assert "tokens along dimension -2" in "\n".join(caught.value.__notes__)


def test_counterexamples_of_edges_speak_of_edges():
    def ordered(x, edge_index):
        return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]].cumsum(0))

    found = check(ordered, (draw(9, 8), EDGES)).reports["edge_permutation"]
    assert "swapping edges" in str(found)
    assert "tokens" not in str(found.counterexample)


def test_a_silent_missing_row_of_an_isolated_token_is_found():
    def model(x, edge_index):
        n = max(edge_index[1].tolist(), default=-1) + 1
        return torch.zeros(n, 8).to(x).index_add(0, edge_index[1], x[edge_index[0]])

    edges = torch.cat([EDGES, torch.tensor([[0], [8]])], 1)
    found = check(model, (draw(9, 8), edges)).reports["empty_neighborhood"]
    assert found.verdict is Verdict.BROKEN
    assert "of which the last has no edges" in found.reason or found.reason.startswith("raises")


def test_a_maximum_over_zeros_of_padding_is_found_in_many_tokens():
    x, mask = draw(3, 60, 8), torch.arange(60) < torch.tensor([[60], [50], [55]])
    wrong = lambda x, mask: (x * mask[..., None]).amax(1)  # noqa: E731
    assert check(wrong, (x, mask)).broken == ("padding",)


def test_a_tuple_is_of_sources_and_targets_in_a_graph_and_of_sets_elsewhere():
    rows, edges = (draw(5, 8), draw(6, 8)), torch.tensor([[0, 4], [5, 0]])
    names = [leaf.name for leaf in leaves_of((rows, edges), ["x", "edge_index"])]
    assert names == ["x.0", "x.1", "edge_index"]
    names = [leaf.name for leaf in leaves_of((rows, edges.T.contiguous().int()), ["x", "y"])]
    assert names == ["x", "sets of x", "y"]


def test_numbers_beside_a_list_of_tokens_may_be_types_unless_the_sets_are_known():
    edges, batch = torch.randint(0, 9, (2, 20)), torch.tensor([0] * 4 + [1] * 5)
    hints = {
        line.name: line.hint
        for given in [
            {"x": draw(9, 8), "edge_index": edges, "k": KINDS},
            {"x": draw(9, 8), "edge_index": edges, "batch": batch, "j": KINDS},
        ]
        for line in read_example(given, list(given)).lines
    }
    assert (
        hints["k"] == "read as types; pass roles={'k': 'membership'} if it is the set of each token"
    )
    assert hints["j"] == ""


def test_outputs_have_their_usual_dimensions_where_only_their_kind_is_said():
    def fixed(x):  # no other number of tokens
        table = TABLE[:7, :1].to(x)
        return {"rows": x + table, "pairs": x @ x.mT + table}

    said = check(fixed, X, outputs={"rows": "tokens", "pairs": "pairs"}, laws=["deterministic"])
    assert [line.role for line in said.reading[1:]] == ["tokens:-2", "pairs:-2,-1"]


def test_truth_values_between_two_sets_are_pairs_by_any_name():
    report = check(
        lambda x, y, p: F.scaled_dot_product_attention(x, y, y, p),
        (draw(3, 7, 4), draw(3, 5, 4), torch.ones(7, 5, dtype=torch.bool)),
    )
    (line,) = (line for line in report.reading if line.name == "p")
    assert line.role.startswith("pairs:-2,-1")
    assert report.passed
