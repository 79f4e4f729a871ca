"""Forms of input that newcomers try: each is read rightly without help, or asked about."""

import torch

from tokennet import Attention, Causal, Cycle, Tokens
from tokennet.testing import check


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
