"""Block masks from edges and bands; what FlexAttention, compiled, declines."""

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from tests.oracle import attend_oracle
from tokennet import Causal, Disjoint, Edges, Full, Global, Grid, Window, attend
from tokennet.attend import blocks, flex
from tokennet.attend.blocks import SIZE, block_mask, num_blocks, too_full
from tokennet.attend.call import make_call


def clusters(*sizes, degree=5):
    """Edges within groups of tokens, in no order."""
    parts, first = [], 0
    for size in sizes:
        parts.append(first + torch.randint(0, size, (2, degree * size)))
        first += size
    edges = torch.cat(parts, 1).unique(dim=1)
    return Edges(edges[:, torch.randperm(edges.shape[1])], first)


def bipartite():
    edges = torch.randint(0, 130, (2, 60)).unique(dim=1)
    return Edges(edges + torch.tensor([[400], [0]]), 150, 600)


GRAPHS = {
    "clusters": lambda: clusters(100, 200, 150, 90, 200, 150),
    "bipartite": bipartite,
    "every bit": lambda: Edges(Full(SIZE).edge_index(), 3 * SIZE),
    "no edges": lambda: Edges(torch.zeros(2, 0, dtype=torch.long), 300),
    "window": lambda: Window(600, 70),
    "causal window": lambda: Causal(500) & Window(500, 128),
    "anticausal window": lambda: Causal(500).T & Window(500, 129),
    "window of whole blocks": lambda: Window(512, 1),
}


def dense_blocks(graph):
    rows, columns = (-(-size // SIZE) for size in (graph.num_targets, graph.num_sources))
    dense = torch.zeros(rows * SIZE, columns * SIZE, dtype=torch.bool)
    dense[: graph.num_targets, : graph.num_sources] = graph.dense()
    return dense.view(rows, SIZE, columns, SIZE).any(3).any(1)


def listed(count, columns, width):
    found = torch.zeros(count.shape[-1], width, dtype=torch.bool)
    for row, (number, places) in enumerate(zip(count[0, 0], columns[0, 0], strict=True)):
        assert (places[: int(number)].diff() > 0).all()
        found[row, places[: int(number)].long()] = True
    return found


@pytest.mark.parametrize("name", GRAPHS)
def test_blocks_and_pairs_are_those_with_edges(name):
    graph = GRAPHS[name]()
    mask, expected = block_mask(graph, torch.device("cpu")), dense_blocks(graph)
    rows, columns = expected.shape
    assert torch.equal(listed(mask.kv_num_blocks, mask.kv_indices, columns), expected)
    assert torch.equal(listed(mask.q_num_blocks, mask.q_indices, rows), expected.T)
    i = torch.arange(graph.num_targets)[:, None]
    j = torch.arange(graph.num_sources)[None]
    pairs = mask.mask_mod(torch.zeros(()), torch.zeros(()), i, j)
    assert torch.equal(pairs.expand(len(i), j.shape[1]), graph.dense())
    assert expected.sum() <= num_blocks(graph) <= expected.sum() + 2 * rows


def test_memory_follows_the_blocks():
    """65,536 tokens: a place for each of all pairs of blocks would be 512 in every row."""
    graph = clusters(*[128] * 512, degree=2)
    mask = block_mask(graph, torch.device("cpu"))
    assert mask.kv_indices.shape == mask.q_indices.shape == (1, 1, 512, 1)


@pytest.fixture
def compiled(monkeypatch):
    """As on a device, but with nothing compiled."""
    monkeypatch.setattr(flex, "_compiled", lambda call: True)
    real = torch.compile

    def compile(function, **options):
        return function if function is flex_attention else real(function, **options)

    monkeypatch.setattr(torch, "compile", compile)


@pytest.mark.parametrize("name", ["clusters", "bipartite", "causal window"])
def test_the_backend_takes_them(name, compiled, monkeypatch):
    monkeypatch.setattr(flex, "DENSE_LIMIT", 1000)
    graph = GRAPHS[name]()
    sizes = graph.num_targets, graph.num_sources, graph.num_sources
    q, k, v = (torch.randn(2, size, 2, 16) for size in sizes)

    def bias(h, i, j):
        return 0.1 * (h + 1) * (i - j)

    with torch.no_grad():
        out = attend(q, k, v, graph, bias, backend="flex")
        torch.testing.assert_close(out, attend_oracle(q, k, v, graph, bias), atol=1e-5, rtol=1e-5)


def reason(graph, bias=None, channels=16, dtype=torch.float32):
    q = torch.randn(graph.num_targets, 2, channels, dtype=dtype)
    with torch.no_grad():
        call = make_call(q, q, q, graph, bias)
    with torch.enable_grad():
        return flex.unsupported(call)


def test_what_is_declined(compiled, monkeypatch):
    graph = clusters(*[128] * 5)
    assert reason(graph) is None
    assert reason(graph, dtype=torch.float64) == "FlexAttention, compiled, knows no float64"
    assert reason(graph, channels=8).endswith("at least 16 channels")
    bias = torch.zeros(graph.num_edges, 2, requires_grad=True)
    call = make_call(*[torch.randn(640, 2, 16)] * 3, graph, bias)
    assert "atomics" in flex._unsupported_compiled(call)
    assert reason(graph, bias.detach()) is None
    scattered = Edges(torch.randint(0, 600, (2, 600)).unique(dim=1), 600)
    assert reason(scattered) == "its edges lie in 25 of 25 blocks: little is left out"
    monkeypatch.setattr(blocks, "_MOST_PLACES", 10)
    assert too_full(graph) == "a table of its 25 blocks would be too large"
    monkeypatch.setattr(flex, "DENSE_LIMIT", 1000)
    assert reason(Window(600, 70)) is None
    assert "every pair" in reason(Global(600, 1))
    assert "written out for every pair" in reason(Window(600, 70), torch.zeros(2, 600, 600))


def test_work_counts_blocks(compiled):
    def scores(graph):
        q = torch.randn(graph.num_targets, 2, 16)
        return flex.work(make_call(q, q, q, graph)).scores

    apart = clusters(*[128] * 6)
    assert scores(apart) == 2 * 6 * SIZE**2
    assert scores(Window(6 * SIZE, 1)) == 2 * 18 * SIZE**2
    assert scores(Grid(10, 10)) == 2 * 100**2
    assert scores(Disjoint([apart] * 2)) == 2 * 12 * SIZE**2
