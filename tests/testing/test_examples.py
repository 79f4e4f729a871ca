"""Examples of every form, models with every kind of output: verdicts are right on all of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GATConv, GCNConv

from tests.axes import spread
from tokennet.testing import Verdict, check

ORDER = ("node_permutation", "tied_inputs")
INF = float("inf")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, NODES = draw(3, 7, 8), draw(9, 8, seed=1)
REAL = torch.ones(3, 7, dtype=torch.bool)
REAL[0, 5:], REAL[2, 3:] = False, False
EDGES = torch.randint(0, 9, (2, 20), generator=torch.Generator().manual_seed(0))
RING = torch.stack([torch.arange(9), torch.arange(9).roll(1)])
SETS = torch.arange(3).repeat_interleave(torch.tensor([5, 7, 4]))
IDS = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(0))
KINDS = torch.randint(0, 2, (3, 7), generator=torch.Generator().manual_seed(1))


def centered(x):
    return x - x.mean(1, keepdim=True)


def summed(x, mask):
    return (x * mask[..., None]).sum(1)


def gathered(x, edge_index):
    return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])


def pooled(x, batch):
    return torch.zeros(int(batch.max()) + 1, x.shape[1]).to(x).index_add(0, batch, x)


def overflowing(x):
    weight = torch.exp(40 * x.sum(-1, keepdim=True))
    return (weight / weight.sum(1, keepdim=True) * x).sum(1)


def in_float32_only(f):
    def g(x, *others):
        assert x.dtype == torch.float32
        return f(x, *others)

    return g


def written_to_after_use(x):
    h = x.exp()
    y = h.sum(1)
    h.mul_(2)
    return y


class Wraps(nn.Module):
    def __init__(self, module, call):
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *inputs):
        return self.call(self.module, *inputs)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, src, src_key_padding_mask):
        return self.encoder(src, src_key_padding_mask=src_key_padding_mask)


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, key_padding_mask):
        x = torch.where(key_padding_mask.all(1)[:, None, None], 0.0, x)
        hidden = key_padding_mask & ~key_padding_mask.all(1, keepdim=True)
        return self.attention(x, x, x, key_padding_mask=hidden)


class ClassToken(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.token, self.first = nn.Parameter(draw(1, 1, 8)), first
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x, mask=None):
        token = self.token.expand(len(x), -1, -1)
        hidden = None
        if mask is not None:
            hidden = F.pad(~mask, (1, 0) if self.first else (0, 1), value=False)
        tokens = torch.cat([token, x] if self.first else [x, token], 1)
        return self.layer(tokens, src_key_padding_mask=hidden)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.kinds, self.positions = (nn.Embedding(n, 8) for n in (11, 2, 20))

    def forward(self, input_ids, token_type_ids=None, attention_mask=None, position_ids=None):
        h = self.embed(input_ids)
        if token_type_ids is not None:
            h = h + self.kinds(token_type_ids)
        if position_ids is not None:
            h = h + self.positions(position_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return summed(h, mask)


class EightTokensOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        assert x.shape[1] == 8
        return self.linear(x).sum(1)


def half(x):
    return x.to(torch.bfloat16)


PASSING = {
    # Outputs: pairs, edges, class tokens, flattened, sorted, sets in another dimension.
    "attention_weights": (Weights(), (X, ~REAL)),
    "class_token_first": (ClassToken(True), X),
    "class_token_last": (ClassToken(False), X),
    "class_token_first_of_padded": (ClassToken(True), (X, REAL)),
    "class_token_last_of_padded": (ClassToken(False), (X, REAL)),
    "flattened_of_padded": (
        lambda x, mask: (
            x - (summed(x, mask) / mask.sum(1, keepdim=True).clamp(min=1))[:, None]
        ).flatten(1),
        (X, REAL),
    ),
    "flattened": (lambda x: centered(x).flatten(1), X),
    "sorted": (lambda x: x.sort(1).values, X),
    "scores_of_edges": (
        lambda x, edge_index: (x[edge_index[0]] * x[edge_index[1]]).sum(-1),
        (NODES, EDGES),
    ),
    "scores_of_edges_of_data": (
        lambda data: (data.x[data.edge_index[0]] * data.x[data.edge_index[1]]).sum(-1),
        Data(x=NODES, edge_index=EDGES),
    ),
    "edges_and_self_loops": (
        Wraps(GATConv(8, 4), lambda m, x, e: m(x, e, return_attention_weights=True)),
        (NODES, EDGES),
    ),
    "same_number_of_outputs_as_tokens": (nn.Linear(8, 7), X),
    "one_size_only": (EightTokensOnly(), draw(3, 8, 8)),
    "complex": (nn.Linear(4, 4, dtype=torch.complex64), torch.complex(X[..., :4], X[..., 4:])),
    # Constant outputs, and overflow.
    "constants": (lambda x: torch.cat([centered(x) + x, torch.full_like(x, 1e16)], -1), X),
    "rounded_to_one": (
        lambda x: torch.cat([x.softmax(-1).sum(-1, keepdim=True), centered(x)], -1),
        X,
    ),
    "rounded_to_zero": (
        lambda x: torch.cat([F.layer_norm(centered(x), (8,)).sum(-1, keepdim=True), x], -1),
        X,
    ),
    "overflow": (overflowing, X),
    # Further inputs.
    "positions_of_tokens": (lambda x, pos: x + pos, (X, draw(3, 7, 8))),
    "positions_of_padded": (
        lambda x, mask, pos: summed(x + pos.sum(-1, keepdim=True), mask),
        (X, REAL, draw(3, 7, 3)),
    ),
    "positions_of_ragged": (
        lambda x, batch, pos: pooled(x * pos, batch),
        (draw(16, 8), SETS, draw(16, 1)),
    ),
    "dense_graph": (lambda x, adjacency: adjacency @ x, (X, draw(3, 7, 7))),
    "a_number": (lambda x, mask, t: summed(x * t, mask), (X, REAL, torch.tensor(2.0))),
    "same_number_of_edges_as_nodes": (GCNConv(8, 4), (NODES, RING)),
    "named_edge_weights_of_the_same_number": (GCNConv(8, 4), (NODES, RING, torch.rand(9))),
    "no_edge_weights_and_a_batch": (
        lambda x, edge_index, weight, batch: pooled(x, batch),
        (draw(16, 8), EDGES[:, :0], None, SETS),
    ),
    "one_edge": (GCNConv(8, 4), (NODES, EDGES[:, :1])),
    "no_edge": (GCNConv(8, 4), (NODES, EDGES[:, :0])),
    # By name, in any order.
    "token_types_before_the_mask": (
        Reader(),
        {"input_ids": IDS, "token_type_ids": KINDS, "attention_mask": REAL.long()},
    ),
    "no_mask": (Reader(), {"input_ids": IDS, "token_type_ids": KINDS}),
    "positions_for_all": (
        Reader(),
        {"input_ids": IDS, "position_ids": torch.arange(7)[None], "attention_mask": REAL.long()},
    ),
    "the_mask_first": (Reader(), {"attention_mask": REAL.long(), "input_ids": IDS}),
    "mask_of_none": (Reader(), {"input_ids": IDS, "attention_mask": None}),
    # Precision, writing, ties.
    "padded_outputs_do_not_count": (Encoder(), (X, ~REAL)),
    "bfloat16_inside": (
        Wraps(nn.Linear(8, 8).to(torch.bfloat16), lambda m, x: m(half(x)).float().mean(1)),
        X,
    ),
    "writes_to_its_input": (lambda x, edge_index: gathered(x.relu_(), edge_index), (NODES, EDGES)),
    "float32_only": (in_float32_only(gathered), (NODES, EDGES)),
    "equal_tokens_in_the_example": (lambda x: x.max(1).values, torch.eye(5)[None, [0, 1, 1, 2, 3]]),
}

BROKEN = {
    "recurrent": (nn.GRU(8, 8, batch_first=True), X, ORDER),
    "first_token_and_overflow": (lambda x: overflowing(x) + x[:, 0], X, ORDER),
    "beside_a_large_channel": (lambda x: torch.cat([1e-6 * x.cumsum(1), 1e9 * x], -1), X, ORDER),
    "beside_a_constant": (
        lambda x: torch.cat([x.cumsum(1), torch.full_like(x, 1e16)], -1),
        X,
        ORDER,
    ),
    "beside_forbidden_logits": (
        lambda x: (x.mean(1) + 1e-3 * x[:, 0]).masked_fill(torch.arange(8) < 1, -1e9),
        X,
        ORDER,
    ),
    "bfloat16_inside": (lambda x: half(x).cumsum(1).float(), X, ORDER),
    "gradient_raises": (written_to_after_use, X, ("node_permutation", "batch_composition")),
    "zeros_for_padding_in_a_maximum": (
        lambda x, mask: (x - 10).masked_fill(~mask[..., None], 0).amax(1),
        (X, REAL),
        ("padding",),
    ),
    "additive_mask_of_an_empty_set": (
        lambda x, mask: ((x.sum(-1) + mask).softmax(-1)[..., None] * x).sum(1),
        (X, torch.zeros(3, 7).masked_fill(~REAL, -INF)),
        ("empty_neighborhood",),
    ),
    "inverted_mask": (
        lambda x, attention_mask: summed(x, ~attention_mask),
        (X, REAL),
        ("padding",),
    ),
}


@pytest.mark.parametrize("name", spread(PASSING))
def test_no_false_positive(name):
    report = check(*PASSING[name])
    verdicts = {law: str(found.verdict) for law, found in report.reports.items()}
    assert set(verdicts.values()) == {"PASS"}, report


def test_models_that_mix_tokens_are_not_noted_as_token_wise():
    for model, example in (
        (GCNConv(8, 4), (NODES, EDGES)),
        (Reader(), IDS),
        PASSING["dense_graph"],
    ):
        report = check(model, example, laws=["node_permutation"])
        assert not any("own token" in note for note in report.reports["node_permutation"].notes)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_laws_are_found(name):
    model, example, laws = BROKEN[name]
    report = check(model, example)
    assert report.broken == tuple(law for law in report.reports if law in laws), report


@pytest.mark.parametrize("tokens", [7, 300])
def test_causality_of_all_outputs_and_of_many_tokens(tokens):
    x = draw(tokens, 4)
    assert check(lambda x: (x.cumsum(-2), x), x, causal=True).passed
    for model in (
        lambda x: (x.cumsum(-2), x.cumsum(-2).flip(-2)),
        lambda x: x.flip(-2).cumsum(-2).flip(-2),
    ):
        report = check(model, x, causal=True)
        assert report.broken == ("causality",)
        assert ".flip(-2)" in report.reports["causality"].location.source


def test_causality_within_rounding_and_in_float32():
    def convolved(x):
        spectrum = torch.fft.rfft(x, n=128, dim=-2)
        kernel = torch.linspace(1, 0, 64).to(x)[: x.shape[-2], None]
        return torch.fft.irfft(spectrum * torch.fft.rfft(kernel, n=128, dim=-2), dim=-2)[: len(x)]

    x = draw(64, 4)
    found = check(lambda x: convolved(convolved(x)), x, causal=True).reports["causality"]
    assert found.verdict is Verdict.PASS, found
    found = check(in_float32_only(lambda x: x.cumsum(0)), x, causal=True).reports["causality"]
    assert (found.verdict, found.dtype) == (Verdict.PASS, "float32")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda x: list(x), "one set less, got 3 and 2: put those of all sets into one tensor"),
        (lambda x: dict(zip("abc", x, strict=False)), "one set less, got 3 and 2"),
        (lambda x: x.unbind(1), "one token less, got 7 and 6: put those of all tokens"),
    ],
)
def test_outputs_for_each_set_or_token_of_a_tensor_are_refused(model, told):
    with pytest.raises(ValueError, match=told):
        check(model, draw(3, 7, 4))


def test_ambiguous_examples_are_errors():
    with pytest.raises(ValueError, match="causal=True needs an output for each token"):
        check(lambda x: x.sum(1), X, causal=True)
    with pytest.raises(ValueError, match=r"outputs=\{'0': 'tokens'\} if they are labels"):
        check(lambda x: x.argmax(-1), X)
    assert check(lambda x: x.argmax(-1), X, outputs={"0": "tokens"}).passed
    with pytest.raises(ValueError, match=r"outputs=\{'0': 'pairs'\} if they are labels"):
        check(lambda x: (9 * x @ x.mT).long(), X)
    both = check(lambda x: (x.tanh(), x.argmax(-1)), X)
    assert both.reading[-1].text.endswith("(outputs={'1': 'tokens'} if labels): left out")
    assert check(lambda x: x > 0, X).passed  # truth values are no numbers of tokens
    with pytest.raises(ValueError, match="the same number of edges and nodes, 9"):
        check(lambda x, e, w: gathered(x * w[:, None], e), (NODES, RING, draw(9)))
    with pytest.raises(ValueError, match="attention_mask must hold"):
        check(Reader(), {"input_ids": IDS, "attention_mask": draw(3, 7)})
    with pytest.raises(ValueError, match="must have run once"):
        check(nn.LazyLinear(8), X)


def test_a_smaller_edge_list_keeps_the_right_edges():
    from tokennet.testing.example.parts import keep_edges, keep_tokens, one_set
    from tokennet.testing.example.reading import read_example

    edges = torch.tensor([[0, 1, 2, 3, 4], [1, 0, 3, 2, 4]])
    weight, batch = torch.arange(5.0) + 10, torch.tensor([0, 0, 1, 1, 1, 1])
    example = read_example(
        (draw(6, 2), edges, weight, batch), ["x", "edge_index", "weight", "batch"]
    ).example
    x, kept, w, sets = keep_tokens(example, torch.tensor([3, 2, 4]))
    assert torch.equal(x, draw(6, 2)[[3, 2, 4]])
    assert kept.tolist() == [[1, 0, 2], [0, 1, 2]]
    assert w.tolist() == [12.0, 13.0, 14.0]
    assert sets.tolist() == [1, 1, 1]
    assert keep_edges(example, torch.arange(5) > 2)[1].tolist() == [[3, 4], [2, 4]]
    assert one_set(example, 1)[3].tolist() == [0, 0, 0, 0]
    assert one_set(example, 0)[1].tolist() == [[0, 1], [1, 0]]
