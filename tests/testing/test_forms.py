"""Forms of input that newcomers try: each is read rightly without help, or asked about."""

import contextlib
import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tokennet import Attention, Causal, Cycle, Tokens
from tokennet.testing import Verdict, check
from tokennet.testing.engine import verdict


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = draw(3, 7, 8)
REAL = torch.arange(7) < torch.tensor([[7], [4], [5]])
OF_BATCH = ("batch_composition", "nonfinite_isolation")


def texts(report):
    return {f"-> {x.name}" if x.is_output else x.name: x.text for x in report.reading}


def test_a_leak_between_the_sets_of_dense_tokens_is_found():
    report = check(lambda t: t.z - t.z.mean((0, 1), keepdim=True), Tokens(X))
    assert report.broken == OF_BATCH
    assert texts(report)["t"] == "tokens along dimension -2: 3 sets of 7, on Full(7)"
    placed = Tokens(X, Cycle(7), draw(3, 7, 2))
    leak = check(lambda t: t.z + t.pos.sum((0, 2))[:, None], placed, laws=["batch_composition"])
    assert leak.broken == ("batch_composition",)


def test_dense_tokens_obey_the_laws_of_the_batch():
    report = check(lambda t: t.z.mean(1)[:, :4], Tokens(X))
    assert texts(report)["-> 0"] == "per set, dimension -2"
    assert report.passed
    placed = Tokens(X, Cycle(7), draw(3, 7, 2))
    assert check(lambda t: t.z * t.pos[..., :1], placed, laws=OF_BATCH).passed
    assert check(lambda t: t.z * t.pos[..., :1], placed.replace(pos=draw(7, 2)), laws=OF_BATCH)
    assert check(Attention(8, num_heads=2), Tokens(X, Causal(7)), laws=OF_BATCH).passed


def test_ragged_tokens_say_how_many_sets_they_hold():
    report = check(lambda t: t.z, Tokens.batch([draw(3, 2), draw(5, 2)]), laws=["deterministic"])
    assert "2 sets, 8 tokens" in texts(report)["t"]


def test_a_batch_may_share_a_list_of_edges():
    edges = torch.randint(0, 7, (2, 20), generator=torch.Generator().manual_seed(0))

    def summed(x, edge_index, edge_weight):
        rows = x[..., edge_index[0], :] * edge_weight[:, None]
        return torch.zeros_like(x).index_add(-2, edge_index[1], rows)

    leak = lambda *given: summed(*given) + given[0].mean(0)  # noqa: E731
    report = check(summed, (X, edges, draw(20)))
    assert texts(report)["edge_index"] == "edges between tokens of x"
    assert {"edge_permutation", *OF_BATCH} <= {*report.reports}
    assert report.passed
    assert check(leak, (X, edges, draw(20)), laws=OF_BATCH).broken == OF_BATCH


ROWS, PTR = draw(12, 8), torch.tensor([0, 3, 8, 12])
SIZES = torch.tensor([3, 5, 4])
MEMBERS = torch.arange(3).repeat_interleave(SIZES)


def of_ptr(x, ptr, end=0):
    bounds = zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True)
    return torch.stack([x[a : b + end].tanh().sum(0) for a, b in bounds])


def of_sizes(x, lengths):
    return torch.stack([part.tanh().sum(0) for part in x.split(lengths.tolist())])


def of_two(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen):
    sizes = (len(q), cu_seqlens_q.diff().tolist()), (len(k), cu_seqlens_k.diff().tolist())
    assert all(sum(parts) == n and max(parts) <= max_seqlen for n, parts in sizes)
    parts = (t.split(n) for t, n in ((q, sizes[0][1]), (k, sizes[1][1]), (v, sizes[1][1])))
    return torch.cat([F.scaled_dot_product_attention(*part) for part in zip(*parts, strict=True)])


RAGGED = {
    "ptr": (of_ptr, (ROWS, PTR.int()), {"ptr": "ptr", "-> 0": "per_set:-2"}),
    "lengths": (of_sizes, (ROWS, SIZES), {"lengths": "lengths"}),
    "unnamed_lengths": (lambda x, n: of_sizes(x, n), (ROWS, SIZES), {"n": "lengths"}),
    "empty_set": (of_ptr, (ROWS, torch.tensor([0, 3, 3, 12])), {"ptr": "ptr"}),
    "starts": (
        nn.EmbeddingBag(20, 4),
        (torch.arange(12) % 5, PTR[:-1]),
        {"offsets": "ptr", "-> 0": "per_set:-2"},
    ),
    "ptr_beside_membership": (
        lambda x, ptr, batch: of_ptr(x, ptr)[batch] + x,
        (ROWS, PTR, MEMBERS),
        {"ptr": "ptr", "batch": "membership"},
    ),
    "two_sets": (
        of_two,
        (ROWS, draw(10, 8), draw(10, 8), PTR, torch.tensor([0, 2, 6, 10]), 5),
        {"k": "tokens:-2:k", "v": "tokens:-2:k", "cu_seqlens_k": "ptr:k"},
    ),
    "one_set_twice": (of_two, (ROWS, ROWS, ROWS, PTR, PTR, 5), {"cu_seqlens_k": "ptr"}),
}


@pytest.mark.parametrize("name", RAGGED)
def test_where_sets_begin_and_how_long_they_are_make_a_ragged_batch(name):
    model, example, wanted = RAGGED[name]
    report = check(model, example)
    assert report.passed, report
    assert {"node_permutation", "batch_composition"} <= {*report.reports}
    found = {f"-> {x.name}" if x.is_output else x.name: x.role for x in report.reading}
    assert {key: found[key] for key in wanted} == wanted
    roles = {x.name: x.role for x in report.reading if not x.is_output}
    assert check(model, example, roles=roles, laws=["batch_composition"]).passed


@pytest.mark.parametrize(("end", "law"), [(-1, "node_permutation"), (1, "batch_composition")])
def test_a_ptr_that_is_off_by_one_is_found(end, law):
    report = check(lambda x, ptr: of_ptr(x, ptr, end), (ROWS, PTR), laws=[law])
    assert report.broken == (law,)


def test_numbers_of_other_things_are_no_sizes_of_sets():
    for name in ("label", "atom_type"):
        model = eval(f"lambda x, {name}: x + {name}.sum()")
        report = check(model, (draw(6, 8), torch.tensor([1, 2, 3])), laws=["deterministic"])
        assert texts(report)[name] == "neither: held still"


@pytest.mark.parametrize(
    ("role", "match"),
    [
        ("lengths", r"roles\['ptr'\] is lengths: .*sum to 12, got \[0, 3, 8, 12\]; pass 'ptr'"),
        ("membership", r"is membership: .*each token, got tensor \(4,\) for 12.*pass 'ptr'"),
        ("padding", r"is padding: dimension -1 must have the 12 tokens of x, got 4"),
    ],
)
def test_a_role_that_does_not_fit_its_input_is_refused(role, match):
    with pytest.raises(ValueError, match=match):
        check(of_ptr, (ROWS, PTR), roles={"ptr": role})


def test_ptr_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must rise from 0 to 12, got .*pass 'lengths'"):
        check(of_sizes, (ROWS, SIZES), roles={"lengths": "ptr"})
    with pytest.raises(ValueError, match="the last of 3 sets is empty"):
        check(of_ptr, (ROWS, torch.tensor([0, 3, 12, 12])))
    with pytest.raises(ValueError, match="pairs: dimension -1 must have the 7 tokens of x, got 8"):
        check(lambda x, y: x, (X, draw(7, 8)), roles={"y": "pairs:-2,-1"})


@pytest.mark.parametrize("word", ["pad", "keep"])
def test_a_polarity_without_true_is_told_how_to_be_said(word):
    with pytest.raises(ValueError, match=f"say what True is, as 'padding:True={word}'"):
        check(lambda x, mask: x, (X, REAL), roles={"mask": f"padding:{word}"})
    word = {"pad": "hide"}.get(word, word)
    with pytest.raises(ValueError, match=f"say what True is, as 'pairs:True={word}'"):
        check(lambda x, mask: x, (X, torch.eye(7).bool()), roles={"mask": f"pairs:{word}"})


def test_every_set_of_a_ragged_batch_is_drawn():
    def leak(x, batch):
        sums = torch.zeros(3, x.shape[1], dtype=x.dtype)[: int(batch.max()) + 1]
        sums = sums.index_add(0, batch, x.tanh())
        return torch.cat([sums[:2], sums[2:] + 1e-3 * x.sum(0)])

    example = ROWS, torch.arange(3).repeat_interleave(torch.tensor([3, 5, 4]))
    found = check(leak, example, laws=["batch_composition"]).reports["batch_composition"]
    assert found.verdict is Verdict.BROKEN
    assert any("not broken on the example" in note for note in found.notes)


@pytest.mark.parametrize("sizes", [(7,), (7, 9), range(1, 10)])
def test_lengths_that_a_model_refuses_are_told(sizes):
    def model(x, mask):
        if x.shape[1] not in sizes:
            raise RuntimeError(f"no {x.shape[1]} tokens")
        return (x * mask[..., None]).sum(1)

    report = check(model, (X, REAL), laws=["padding"]).reports["padding"]
    assert report.verdict is Verdict.PASS
    told = [note for note in report.notes if "refused" in note]
    assert len(told) == 2 - (9 in sizes) - (4 in sizes)
    if told:
        wanted = "not asked of a set without its padding, which was refused: no 4 tokens"
        assert wanted in told


def pairs_listed(x):
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return (x[:, i].sum(-1) + x[:, j].sum(-1))[..., None]


def test_a_list_of_pairs_is_not_taken_for_tokens():
    with pytest.raises(
        ValueError, match=r"of shape \[\(3, 21, 1\)\], follows the 7 tokens in no way"
    ):
        check(pairs_listed, X)
    report = check(lambda x: (x, pairs_listed(x)), X)
    assert report.passed
    assert "in no known way: left out" in report.reading[-1].text
    wide = check(lambda x: x.repeat_interleave(2, 1), X)  # two entries a token
    assert wide.passed


def test_pairs_of_each_set_of_a_list_are_pairs():
    sets = [ROWS[:3], ROWS[3:8], ROWS[8:]]
    report = check(lambda xs: [x @ x.T for x in xs], sets)
    assert report.passed
    assert report.reading[-1].role == "pairs:-2,-1"
    report = check(lambda xs: [x @ x.T + torch.arange(len(x)).to(x) for x in xs], sets)
    assert "node_permutation" in report.broken
    wide = check(lambda xs: [(x @ x.T)[..., None].expand(-1, -1, 2) for x in xs], sets)
    assert wide.passed
    assert wide.reading[-1].role == "pairs:-3,-2"
    with pytest.raises(ValueError, match="which follow the sets of .3, 5, 4. tokens in no way"):
        check(lambda xs: [torch.cat([x.sum(0, keepdim=True), x]) for x in xs], sets)


def test_an_adjacency_that_is_0_at_padding_is_made_longer_with_0():
    adj = (torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    adj = adj * REAL[:, None] * REAL[..., None]
    assert check(lambda x, adj, mask: adj @ x, (X, adj, REAL), laws=["padding"]).passed
    one = X[1], adj[1], REAL[1]
    assert check(lambda x, adj, mask: adj @ x, one, laws=["padding"]).passed
    full = torch.ones(3, 7, 7)
    found = check(lambda x, adj, mask: adj @ x, (X, full, REAL), laws=["padding"])
    assert found.broken == ("padding",)


def test_a_mask_that_is_named_of_pairs_is_one_in_a_batch_of_n_sets_too():
    def model(x, attn_mask):
        return F.scaled_dot_product_attention(x, x, x, attn_mask=attn_mask)

    report = check(model, (draw(7, 7, 8), torch.ones(7, 7).tril().bool()))
    assert report.reading[1].role == "pairs:-2,-1"
    assert report.passed


def test_outputs_of_a_single_set_with_padding():
    def centered(x, mask):
        return (x - (x * mask[:, None]).sum(0) / mask.sum().clamp(min=1)) * mask[:, None]

    one = X[1], REAL[1]
    assert check(centered, one).passed
    last = torch.eye(8)[7]  # in one feature alone
    for leak in (
        lambda x, mask: centered(x, mask) + last * x.mean(0),
        lambda x, mask: (x * mask[:, None]).sum(0) + last * x.mean(0),
        lambda x, mask: (x * mask[:, None]).sum() + x.mean(),
    ):
        found = check(leak, one, laws=["padding"]).reports["padding"]
        assert found.verdict is Verdict.BROKEN


def test_a_mask_of_heads_that_all_sets_share_is_one_of_pairs():
    def model(x, attn_mask):
        heads = x[:, None].expand(-1, 2, -1, -1)
        return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=attn_mask).sum(1)

    masks = torch.stack([torch.eye(7), torch.eye(7).roll(1, 0)]).bool() | torch.eye(7).bool()
    report = check(model, (X, masks))
    assert report.passed
    assert report.reading[1].role == "pairs:-2,-1"
    assert "mask_honored" in report.reports


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lambda x: x.sum(1).repeat(2, 1), "several entries a set: left out of laws of the batch"),
        (lambda x: x.repeat(2, 1, 1), "per token, dimension -2; several entries a set"),
        (lambda x: x.sum(1) @ x.sum(1).T, "of pairs of sets: left out"),
        (lambda x: x.sum(), "one value for the whole batch: left out"),
    ],
)
def test_outputs_of_which_no_set_has_one_are_left_out_of_laws_of_the_batch(model, text):
    report = check(model, X)
    assert text in report.reading[-1].text
    assert report.passed
    assert "batch_composition" not in report.reports


def test_a_list_of_outputs_is_not_one_of_sets():
    sets = [ROWS[:4], ROWS[4:8], ROWS[8:]]

    def model(xs):
        x = torch.cat(xs)
        return [x.tanh(), x[:, :3], x.sum(-1, keepdim=True)]

    report = check(model, sets)
    assert [line.role for line in report.reading[1:]] == ["tokens:-2"] * 3
    assert report.passed


@pytest.mark.parametrize("kind", [dict, lambda pairs: tuple(value for _, value in pairs)])
def test_several_outputs_of_each_set_of_a_list(kind):
    sets = [ROWS[:3], ROWS[3:8], ROWS[8:]]

    def model(xs):
        return [kind([("rows", x.tanh()), ("sum", x.sum(0))]) for x in xs]

    report = check(model, sets)
    assert report.passed
    assert [line.role for line in report.reading[1:]] == ["tokens:-2", "per_set:-2"]


def test_attention_weights_between_two_sets_are_pairs():
    mha, key = nn.MultiheadAttention(8, 2, batch_first=True), draw(3, 5, 8)
    report = check(mha, (X, key, key), laws=["node_permutation"])
    weights = report.reading[-1]
    assert weights.role == "pairs:-2,-1:query,key"
    assert "nothing mixes tokens" not in str(report.reports["node_permutation"].notes)
    for role in (weights.role, "pairs"):
        said = check(mha, (X, key, key), outputs={"1": role})
        assert said.passed
        assert said.reading[-1].role == weights.role
    alone = check(lambda x, y: x * y[:, :1], (X, key), laws=["node_permutation"])
    assert "nothing mixes tokens" not in str(alone.reports["node_permutation"].notes)
    both = lambda x, y: torch.cat([x, y], 1)  # noqa: E731
    joined = check(both, (X, key))
    assert joined.reading[-1].text == "per token of x and y, dimension -2"
    said = check(
        lambda x, y: torch.cat([x, y], 1), (X, key), outputs={"0": joined.reading[-1].role}
    )
    assert said.passed
    with pytest.raises(ValueError, match=r"outputs\['0'\] must be one of x; got 'z'"):
        check(lambda x: x, X, outputs={"0": "pairs:-2,-1:x,z"})


def test_a_set_may_have_the_name_of_a_word_for_true():
    model = lambda tokens, pad, mask: (tokens * mask[..., None]).sum(1) + pad.sum(1)  # noqa: E731
    example = {"tokens": X, "pad": draw(3, 5, 8), "mask": REAL}
    assert check(model, example, roles={"mask": "padding:tokens:True=keep"}).passed


def test_laws_of_a_group_say_how_points_were_read():
    report = check(lambda pos: {"near": torch.cdist(pos, pos)}, draw(2, 6, 3), group="E(3)")
    found = {x.name: (x.value, x.role) for x in report.reading}
    assert found == {"pos": ("tensor (2, 6, 3)", "points"), "near": ("tensor (2, 6, 6)", "scalar")}
    assert "points, coordinates along dimension -1" in report.read_as
    norm = nn.BatchNorm1d(6)
    check(norm, draw(2, 6, 3), group="translations")
    assert int(norm.num_batches_tracked) == 0
    grid = check(lambda x: x.sin(), draw(2, 3, 6), group="circular_shifts").reading
    assert [line.role for line in grid] == ["grid:-2"]
    ring = check(lambda x: x.roll(1, -2), draw(2, 6, 3), group="C_n").reading
    assert [line.role for line in ring] == ["tokens:-2", "tokens:-2"]


def test_verdicts_on_images_do_not_speak_of_tokens():
    image = draw(3, 3, 6, 6)
    model = lambda image: torch.ones(3, 2).to(image) + 0 * image.mean()  # noqa: E731
    report = check(model, image, laws=["batch_composition"])
    assert report.reading[-1].text == "of the whole input"
    reports = report.reports
    assert reports["batch_composition"].verdict is Verdict.VACUOUS
    assert "depend on the input" in reports["batch_composition"].reason
    leak = lambda image: image.mean((-1, -2)) - image.mean()  # noqa: E731
    reports = check(leak, image, laws=["batch_composition"]).reports
    assert "what other content does" in reports["batch_composition"].reason


class Bag(nn.Module):
    """The mean of token vectors over all positions, padding included."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(20, 8), nn.Linear(8, 1)

    def forward(self, input_ids, attention_mask):
        hidden = self.table(input_ids) * attention_mask[..., None]
        return self.out(hidden.mean(1)).tanh()


class FlatBag(Bag):
    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids, attention_mask)[:, 0]


@pytest.mark.parametrize("model", [Bag, FlatBag])
def test_a_break_on_ids_that_are_cut_comes_with_a_script_that_shows_it(model):
    """The mean counts padding: only sets without their padding show it."""
    torch.manual_seed(0)
    model, ids = model(), torch.randint(0, 20, (3, 7))
    found = check(model, (ids, REAL.long()), laws=["padding"]).reports["padding"]
    assert found.verdict is Verdict.BROKEN
    assert found.counterexample is not None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(found.counterexample.script, {"model": copy.deepcopy(model)})
    assert float(out.getvalue()) > 1e-3


def test_where_no_smaller_example_can_be_made_the_original_is_shown(monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("sizes must match")

    monkeypatch.setattr(verdict, "smallest_counterexample", fails)
    found = check(lambda x: x.cumsum(1), X, laws=["node_permutation"]).reports["node_permutation"]
    assert "no smaller example: sizes must match" in found.notes
    assert found.counterexample.inputs[0].shape == X.shape
    assert "print(" in found.counterexample.script
