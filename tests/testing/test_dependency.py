"""Dependency by gradient and by perturbation; causality, padding, batches, finiteness."""

import pytest
import torch
from torch import nn

from tokennet import Attention, Causal, Cycle, Edges, Self, Tokens, Window
from tokennet.nets import IOSpec, build_net
from tokennet.testing import (
    Verdict,
    assert_batch_independent,
    assert_causal,
    assert_dependency,
    assert_padding_ignored,
    check_batch,
    check_dependency,
    check_finite,
    check_padding,
    dependency_matrix,
)

x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))


def banded(z):
    return z + 0.5 * z.roll(1, -2) * (torch.arange(z.shape[-2]) > 0).to(z)[:, None]


@pytest.mark.parametrize("n", [6, 300])
def test_what_is_allowed_has_a_shape(n):
    """Of more than 256 tokens some outputs are tested, without the matrix of all."""
    z = torch.randn(n, 2)
    wrong = (Causal(n - 1), Causal(n + 1), torch.ones(n, n + 1).tril().bool(), Causal(n).last(2))
    for allowed in wrong:
        with pytest.raises(ValueError, match=rf"allowed must have shape \({n}, {n}\) \(outputs"):
            check_dependency(lambda z: z.cumsum(-2), z, allowed)
    pooled = Causal(n).last(2)
    assert check_dependency(lambda z: z.cumsum(-2)[-2:], z, pooled).verdict.name == "PASS"


@pytest.mark.parametrize("method", ["gradient", "perturbation", "both"])
def test_the_matrix(method):
    found = dependency_matrix(banded, x, method=method) > 1e-12
    assert torch.equal(found, torch.eye(6).bool() | torch.eye(6).roll(-1, 1).tril().bool())


def test_both_methods_are_needed():
    def routed(z):  # which tokens count is a matter of all of them, and has no gradient
        score = z.detach().sum(-1)
        chosen = (score >= score.topk(2, -1).values[..., -1:]).to(z)
        return z * (1 + chosen[..., None])

    other = ~torch.eye(6).bool()
    assert dependency_matrix(routed, x, method="gradient")[other].max() == 0
    assert dependency_matrix(routed, x, method="perturbation")[other].max() > 0.1

    def faint(z):
        scores = (z @ z.transpose(-2, -1)).masked_fill(torch.ones(6, 6).triu(1).bool(), -30.0)
        return scores.softmax(-1) @ z

    future = torch.ones(6, 6).triu(1).bool()
    assert dependency_matrix(faint, x, method="gradient")[future].max() > 1e-14
    assert check_dependency(faint, x, Causal(6)).verdict is Verdict.BROKEN


def test_infinite_masks_do_not_leak():
    def masked(z):
        scores = z @ z.transpose(-2, -1)
        scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
        return scores.softmax(-1) @ z

    assert assert_causal(masked, x).law == "causality"
    assert dependency_matrix(masked, x)[torch.ones(6, 6).triu(1).bool()].max() == 0


def test_causality_is_broken_at_a_line():
    def looks_ahead(z):
        past = z.cumsum(-2)
        return past - 0.5 * z.flip(-2)  # bug

    with pytest.raises(AssertionError, match="depends on token") as raised:
        assert_causal(looks_ahead, x)
    assert "# bug" in str(raised.value)


@pytest.mark.parametrize("depth", [1, 2, pytest.param(3, marks=pytest.mark.sweep)])
def test_a_net_of_l_layers_sees_l_steps(depth):
    net = build_net(
        "attention", IOSpec(in_features=4, out_features=3, readout="token"), dim=8, depth=depth
    )
    graph = Cycle(9, 1)
    tokens = Tokens(torch.randn(9, 4), graph)
    assert_dependency(net, tokens, graph.reach(depth))
    with pytest.raises(AssertionError, match="depends on token"):
        assert_dependency(net, tokens, graph.reach(depth - 1) if depth > 1 else Self(9))


def test_windows_and_masks():
    layer = Attention(4, 2)
    tokens = Tokens(torch.randn(8, 4), Causal(8) & Window(8, 2))
    assert_dependency(layer, tokens, Causal(8) & Window(8, 2))
    assert_dependency(layer, tokens, (Causal(8) & Window(8, 2)).dense())
    with pytest.raises(ValueError, match="allowed must have shape"):
        assert_dependency(layer, tokens, Causal(7))
    with pytest.raises(ValueError, match="method must be"):
        dependency_matrix(layer, tokens, method="guess")
    with pytest.raises(ValueError, match="must have a dimension"):
        dependency_matrix(lambda z: z.sum(), x)


def test_no_dependence_at_all_is_vacuous():
    constant = nn.Parameter(torch.randn(6, 4))
    report = check_dependency(lambda z: constant.expand(z.shape), x, Causal(6))
    assert report.verdict is Verdict.VACUOUS


def test_batches():
    assert_batch_independent(lambda z: z - z.mean(1, keepdim=True), x)
    report = check_batch(lambda z: z - z.mean(0), x)
    assert report.verdict is Verdict.BROKEN
    by_size = check_batch(lambda z: z / len(z), x)  # notices how many, not who
    assert by_size.verdict is Verdict.BROKEN
    matrix = dependency_matrix(lambda z: z - z.mean(0), x, dim=0, out_dim=0)
    assert matrix.shape == (2, 2)
    assert (matrix > 0.1).all()
    with pytest.raises(ValueError, match="at least 2 sets in dimension 0"):
        check_batch(lambda z: z, x[:1])


MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()


def masked_mean(z, mask):
    return (z * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def test_padding():
    report = assert_padding_ignored(masked_mean, (x, MASK), MASK)
    assert report.law == "padding"
    assert check_padding(lambda z, mask: z.mean(1), (x, MASK), MASK).verdict is Verdict.BROKEN

    def counts(z, mask):  # the content is masked, the number is not
        return (z * mask[..., None]).sum(1) / z.shape[1]

    assert check_padding(counts, (x, MASK), MASK).verdict is Verdict.BROKEN
    inverted = ~MASK
    assert_padding_ignored(lambda z, hidden: masked_mean(z, ~hidden), (x, inverted), MASK)
    assert_padding_ignored(lambda z: masked_mean(z, MASK), x, MASK)  # known to the function
    with pytest.raises(ValueError, match="real must mark some tokens"):
        check_padding(masked_mean, (x, MASK), torch.ones(2, 6).bool())
    with pytest.raises(ValueError, match="real must have shape"):
        check_padding(masked_mean, (x, MASK), torch.ones(6).bool())


def test_finite_values_and_gradients():
    zero = torch.zeros(3, 2)
    assert check_finite(lambda z: z + 1, (zero,)).verdict is Verdict.PASS
    forward = check_finite(lambda z: z / z.sum(-1, keepdim=True), (zero,))
    assert forward.verdict is Verdict.BROKEN
    assert "output" in forward.reason

    def length(z):
        squares = (z * z).sum(-1)
        return squares.sqrt()  # bug

    backward = check_finite(length, (zero,))
    assert backward.verdict is Verdict.BROKEN
    assert "gradient" in backward.reason
    assert "# bug" in backward.location.source

    def masked(z):  # infinities that a softmax takes away are no fault
        return z.masked_fill(torch.eye(3, 2).bool(), float("-inf")).softmax(-1)

    assert check_finite(masked, (zero,)).verdict is Verdict.PASS


class Looked(nn.Module):
    """Vectors of ids, and what is made of them: a fault in the output or in a gradient."""

    def __init__(self, make):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.zeros(5, 4), freeze=False)
        self.make = make

    def forward(self, x):
        return self.make(
            self.table(x) if not x.is_floating_point() else x.detach() * self.table.weight[0]
        )


FAULTS = {
    "ids": (Looked(lambda z: z / z), torch.arange(3)),
    "the second output": (lambda x: (x, x / 0), torch.ones(3, 4)),
    "an output without gradient": (lambda x: (x / 0).detach(), torch.ones(3, 4)),
    "the gradient": (lambda x: (x * x).sum(-1).sqrt(), torch.zeros(3, 4)),
    "the gradient of weights": (Looked(lambda z: z.abs().sqrt()), torch.ones(3, 4)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_script_of_what_is_not_finite_runs_and_shows_it(name, capsys):
    model, x = FAULTS[name]
    report = check_finite(model, (x,), jitter=False)
    assert report.verdict is Verdict.BROKEN
    exec(report.counterexample.script, {"model": model})
    assert capsys.readouterr().out == "False\n"


def test_isolated_tokens_of_our_layers():
    graph = Edges(torch.tensor([[0, 1], [1, 0]]), 4)
    tokens = Tokens(torch.randn(4, 4), graph)
    assert check_finite(Attention(4, 2), (tokens,)).verdict is Verdict.PASS
