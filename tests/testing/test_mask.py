"""A mask of pairs, or the graph of tokens, that a layer does not honor is found."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tokennet import Attention, Causal, Cycle, Full, Tokens
from tokennet.nets import IOSpec, build_net
from tokennet.testing import applicable_laws, check

N, DIM = 7, 8
RING = torch.eye(N).roll(1, 0).bool() | torch.eye(N).bool()


class Masked(nn.Module):
    """Attention with a mask that is True for visible pairs, as SDPA reads it."""

    def __init__(self, drops=False, layers=1):
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(DIM, 3 * DIM) for _ in range(layers))
        self.drops = drops

    def forward(self, x, mask):
        for layer in self.qkv:
            q, k, v = layer(x).chunk(3, -1)
            allowed = None if self.drops else mask
            x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)  # the break
        return x


class Hidden(nn.Module):
    """nn.MultiheadAttention, whose mask is True for hidden pairs."""

    def __init__(self, last_drops=False, depth=2):
        super().__init__()
        options = {"num_heads": 2, "batch_first": True}
        self.layers = nn.ModuleList(nn.MultiheadAttention(DIM, **options) for _ in range(depth))
        self.last_drops = last_drops

    def forward(self, x, attn_mask):
        for layer in self.layers:
            dropped = self.last_drops and layer is self.layers[-1]
            given = None if dropped else attn_mask
            x = x + layer(x, x, x, attn_mask=given, need_weights=False)[0]  # the break
        return x


class Leaky(nn.Module):
    """Attention on the graph, and a mean over all tokens beside it."""

    def __init__(self):
        super().__init__()
        self.attention = Attention(DIM, num_heads=2)

    def forward(self, tokens):
        mixed = self.attention(tokens)
        return mixed.replace(z=mixed.z + tokens.z.mean(-2, keepdim=True))  # the break


def in_float32_alone(x, mask):
    if x.dtype != torch.float32:
        raise RuntimeError("float32 alone")
    return Masked().forward(x, mask)


def law_of(model, example):
    return check(model, example, laws=["mask_honored"]).reports["mask_honored"]


def per_set():
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(3, N, N, generator=generator) < 0.3) | torch.eye(N).bool()


CAUSAL = torch.ones(N, N).tril().bool()
ADDED = torch.zeros(N, N).masked_fill(~RING, float("-inf"))


@pytest.mark.parametrize(
    ("model", "mask"),
    [
        (Masked(), RING),
        pytest.param(Masked(layers=2), RING, marks=pytest.mark.sweep),
        (Masked(), ADDED),
        (Masked(), per_set()),
        (Hidden(), ~RING),
        (Hidden(depth=1), ~RING),
    ],
    ids=["visible", "two layers", "added", "per set", "hidden", "hidden, one layer"],
)
def test_masks_that_are_honored(model, mask):
    assert law_of(model, (torch.randn(3, N, DIM), mask)).verdict == "PASS"


@pytest.mark.parametrize(
    ("model", "mask"),
    [
        (Masked(drops=True), RING),
        pytest.param(Masked(drops=True, layers=2), RING, marks=pytest.mark.sweep),
        (Masked(drops=True), ADDED),
        (Masked(drops=True), per_set()),
        (Hidden(last_drops=True), ~RING),
    ],
    ids=["visible", "two layers", "added", "per set", "hidden"],
)
def test_masks_that_are_dropped_are_found(model, mask):
    report = law_of(model, (torch.randn(3, N, DIM), mask))
    assert report.verdict == "BROKEN", report
    with open(report.location.file) as file:
        assert "# the break" in file.read().splitlines()[report.location.line - 1]


class Inverted(Masked):
    """Attention that takes a mask that is True for hidden pairs, or inverts it by mistake."""

    def forward(self, x, mask):
        return super().forward(x, ~mask)


@pytest.mark.parametrize(("layers", "mask"), [(1, RING), (1, CAUSAL), (2, RING)])
def test_a_mask_that_is_inverted_for_attention_of_torch_is_asked_about(layers, mask):
    model, example = Inverted(layers=layers), (torch.randn(3, N, DIM), mask)
    report = check(model, example)
    found = report.reports["mask_honored"]
    assert found.verdict == "INCONCLUSIVE", found
    assert "pass roles={'mask': 'pairs:True=hide'}, or {'mask': 'pairs:True=keep'}" in found.reason
    assert report.questions == ("mask_honored",)
    assert not report.passed
    assert "how the example is to be read decides mask_honored" in report.summary()
    said = {role: verdict_as(role, model, example) for role in ("keep", "hide")}
    other = ("BROKEN", "PASS")[layers == 1] if layers == 1 else None
    assert (said["keep"], said["hide"]) == ("BROKEN", other)


def verdict_as(role, model, example):
    reports = check(model, example, roles={"mask": f"pairs:True={role}"}).reports
    return reports["mask_honored"].verdict if "mask_honored" in reports else None


def test_the_first_attention_of_torch_decides_what_true_means():
    first, last = Hidden(depth=1), Masked()
    model = lambda x, mask: last(first(x, mask), ~mask)  # noqa: E731
    assert law_of(model, (torch.randn(2, N, DIM), ~RING)).verdict == "PASS"


@pytest.mark.parametrize("model", [Masked(), Hidden(depth=1)])
def test_a_mask_that_is_transposed_is_broken_in_the_usual_reading(model):
    wrapped = lambda x, attn_mask: model(x, attn_mask.T)  # noqa: E731
    visible = isinstance(model, Masked)
    report = law_of(wrapped, (torch.randn(3, N, DIM), CAUSAL if visible else ~CAUSAL))
    assert report.verdict == "BROKEN", report
    assert f"the mask is read as: True = {'visible' if visible else 'hidden'}" in report.notes


@pytest.mark.parametrize(
    ("name", "hides", "verdict"),
    [("mask", True, "PASS"), ("mask", False, "PASS"), ("hidden_mask", True, "PASS"),
     ("hidden_mask", False, "INCONCLUSIVE"), ("attn_mask", True, "INCONCLUSIVE")],
)  # fmt: skip
def test_names_say_what_true_is_where_scores_are_masked_by_hand(name, hides, verdict):
    scope = {"inf": float("inf"), "hides": hides}
    exec(
        f"def model(x, {name}):\n"
        f"    hidden = {name} if hides else ~{name}\n"
        f"    return (x @ x.mT).masked_fill(hidden, -inf).softmax(-1) @ x\n",
        scope,
    )
    mask = ~RING if hides else RING
    assert law_of(scope["model"], (torch.randn(2, N, DIM), mask)).verdict == verdict


def test_each_set_is_held_to_its_own_mask():
    """All pairs are visible in one set or another, so that their union hides nothing."""
    x, masks = torch.randn(3, N, DIM), torch.stack([CAUSAL, CAUSAL.T, CAUSAL])
    assert str(law_of(Masked(), (x, masks)).verdict) == "PASS"

    def of_the_first(x, mask):
        return F.scaled_dot_product_attention(x, x, x, attn_mask=mask[:1])

    assert str(law_of(of_the_first, (x, masks)).verdict) == "BROKEN"


def test_an_encoder_of_torch_honors_its_mask():
    layer = nn.TransformerEncoderLayer(DIM, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    report = law_of(model, {"src": torch.randn(2, N, DIM), "mask": ~RING})
    assert report.verdict == "PASS"
    assert any("True = hidden" in note for note in report.notes)


@pytest.mark.parametrize("drops", [False, True])
def test_the_mask_of_a_second_set_is_a_mask_too(drops):
    layer = nn.TransformerDecoderLayer(DIM, 2, 16, batch_first=True)

    def model(memory, tgt, tgt_mask):
        return layer(tgt, memory, None if drops else tgt_mask)

    example = {"memory": torch.randn(2, N, DIM), "tgt": torch.randn(2, 5, DIM)}
    example["tgt_mask"] = ~torch.ones(5, 5).tril().bool()
    report = law_of(model, example)
    assert report.verdict == ("BROKEN" if drops else "PASS")


def test_graphs_are_masks():
    tokens = Tokens(torch.randn(N, DIM), Cycle(N))
    assert law_of(Attention(DIM, num_heads=2), tokens).verdict == "PASS"
    report = law_of(Leaky(), tokens)
    assert report.verdict == "BROKEN"
    assert report.location.operation == "mean"


@pytest.mark.sweep
def test_nets_are_held_to_walks_of_their_depth():
    spec = IOSpec(in_features=DIM, out_features=3, readout="token")
    net = build_net("attention", spec, dim=16, depth=2)
    assert law_of(net, Tokens(torch.randn(9, DIM), Cycle(9))).verdict == "PASS"


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (Masked(), (torch.randn(2, N, DIM), torch.ones(N, N).bool())),  # hides nothing
        (Masked(), (torch.randn(2, N, DIM), torch.randn(N, N))),  # a bias
        (Masked(layers=N), (torch.randn(2, N, DIM), RING)),  # deep enough to reach all
        (Attention(DIM, num_heads=2), Tokens(torch.randn(N, DIM), Full(N))),
        (Attention(DIM, num_heads=2), Tokens(torch.randn(N, DIM), Causal(N))),  # causality
        (nn.Linear(DIM, DIM), Tokens(torch.randn(N, DIM), Cycle(N))),
        (lambda x, mask: x * mask.any(-1, keepdim=True), (torch.randn(2, N, DIM), RING)),
        (in_float32_alone, (torch.randn(2, N, DIM), RING)),
    ],
)
def test_the_law_is_asked_only_where_something_is_hidden(model, example):
    if isinstance(model, nn.Linear):
        linear = model
        model = lambda tokens: linear(tokens.z)  # noqa: E731
    assert "mask_honored" not in applicable_laws(model, example)
