"""Block masks from edges and bands, tokens in another order, and what flex does not support."""

import pytest
import torch

from tests.axes import in_turn
from tests.ops.graphs import clusters, shuffled
from tests.ops.kinds import gradients
from tests.oracle import attend_oracle
from tokennet import Causal, Disjoint, Edges, Full, Global, Grid, Self, Window, attend, explain
from tokennet.bench.graphs import power_law
from tokennet.ops.backends import flex, reference
from tokennet.ops.call import make_call
from tokennet.ops.kernels import block_masks as blocks
from tokennet.ops.kernels import cuthill_mckee
from tokennet.ops.kernels.block_masks import SIZE, block_mask, num_blocks, too_full
from tokennet.ops.kernels.cuthill_mckee import reordering


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
    "window of full blocks": lambda: Window(512, 1),
    "window with full blocks": lambda: Window(900, 300),
}


def dense_blocks(graph, all_of_it=False):
    rows, columns = (-(-size // SIZE) for size in (graph.num_targets, graph.num_sources))
    dense = torch.zeros(rows * SIZE, columns * SIZE, dtype=torch.bool)
    dense[: graph.num_targets, : graph.num_sources] = graph.dense()
    dense = dense.view(rows, SIZE, columns, SIZE)
    return dense.all(3).all(1) if all_of_it else dense.any(3).any(1)


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
    found = listed(mask.kv_num_blocks, mask.kv_indices, columns)
    by_column = listed(mask.q_num_blocks, mask.q_indices, rows)
    if mask.full_kv_num_blocks is not None:
        full = listed(mask.full_kv_num_blocks, mask.full_kv_indices, columns)
        assert not (found & full).any()
        assert mask.full_kv_indices.stride() == mask.kv_indices.stride()
        assert mask.full_q_indices.stride() == mask.q_indices.stride()
        found |= full
        by_column |= listed(mask.full_q_num_blocks, mask.full_q_indices, rows)
    assert torch.equal(found, expected)
    assert torch.equal(by_column, expected.T)
    i = torch.arange(graph.num_targets)[:, None]
    j = torch.arange(graph.num_sources)[None]
    pairs = mask.mask_mod(torch.zeros(()), torch.zeros(()), i, j)
    assert torch.equal(pairs.expand(len(i), j.shape[1]), graph.dense())
    assert expected.sum() <= num_blocks(graph) <= expected.sum() + 2 * rows


@pytest.mark.parametrize(
    ("graph", "known"),
    [
        (Window(640, 255), True),
        (Window(639, 256), True),
        (Window(600, 300), True),
        (Causal(640) & Window(640, 300), True),
        (Window(640, 4), True),
        (Window(640, 300) & ~Self(640), False),
    ],
    ids=str,
)
def test_full_blocks_of_a_band_need_no_mask(graph, known):
    mask, expected = block_mask(graph, torch.device("cpu")), dense_blocks(graph, all_of_it=True)
    rows, columns = expected.shape
    if not (known and expected.any()):
        assert mask.full_kv_num_blocks is mask.full_q_num_blocks is None
        return
    assert torch.equal(listed(mask.full_kv_num_blocks, mask.full_kv_indices, columns), expected)
    assert torch.equal(listed(mask.full_q_num_blocks, mask.full_q_indices, rows), expected.T)


def test_memory_follows_the_blocks():
    """65,536 tokens: a place for each of all pairs of blocks would be 512 in every row."""
    graph = clusters(*[128] * 512, degree=2)
    mask = block_mask(graph, torch.device("cpu"))
    assert mask.kv_indices.shape == mask.q_indices.shape == (1, 1, 512, 1)


@pytest.fixture
def compiled(monkeypatch):
    """As on a device, but with nothing compiled."""
    monkeypatch.setattr(flex, "_compiled", lambda call: True)
    monkeypatch.setattr(flex, "_compile", lambda graph: flex._attend)
    monkeypatch.setattr(flex, "_WORTH", 0)


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
        expected = attend(q, k, v, graph, bias, backend="reference")
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def reason(graph, bias=None, channels=16, dtype=torch.float32):
    q = torch.randn(graph.num_targets, 2, channels, dtype=dtype)
    with torch.no_grad():
        call = make_call(q, q, q, graph, bias)
    with torch.enable_grad():
        return flex.unsupported(call)


def test_what_is_not_supported(compiled, monkeypatch):
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
    monkeypatch.setattr(blocks, "MOST_BLOCKS", 10)
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
    assert scores(shuffled(Grid(40, 20, radius=2))) < 2 * 25 * SIZE**2


def test_a_graph_by_formula_is_compiled_for_good_and_a_list_perhaps_for_this_call(compiled):
    def calls(graph):
        q = torch.randn(graph.num_targets, 2, 16)
        return flex.work(make_call(q, q, q, graph)).calls

    assert calls(Grid(30, 30)) < 10 < calls(clusters(*[128] * 6))


def test_each_graph_is_compiled_once_and_by_itself(monkeypatch):
    """Of one function dynamo keeps a few versions, here one, and then refuses."""
    made, shapes, real = [], [], torch.compile

    def keep(module, inputs):
        shapes.extend(x.shape for x in inputs)
        return module

    def compile(function, **options):
        made.append(function.__name__)
        return real(function, **options, backend=keep)

    monkeypatch.setattr(flex, "_compiled", lambda call: True)
    monkeypatch.setattr(torch, "compile", compile)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1):
        for graph in (Window(20, 2), Window(30, 2), Grid(5, 5)):
            q = torch.randn(graph.num_targets, 1, 16)
            for _ in range(2):
                out = attend(q, q, q, graph, backend="flex")
            torch.testing.assert_close(out, attend_oracle(q, q, q, graph), atol=1e-5, rtol=1e-5)
    assert sum(name.startswith("attend_") for name in made) == 3
    assert all(isinstance(size, int) for shape in shapes for size in shape)


def test_tables_behind_a_predicate_are_built_once(monkeypatch):
    graph, calls = Edges(torch.tensor([[0, 1], [1, 2]]), 3), []
    real = graph.attends
    monkeypatch.setattr(
        graph, "attends", lambda i, j: (i.dim() and calls.append(i), real(i, j))[1], raising=False
    )
    q = torch.randn(3, 1, 4)
    for _ in range(3):
        attend(q, q, q, graph, backend="flex")
    assert len(calls) == 1


def nearest(count=900, degree=8):
    """Each of some points in the plane, in no order, attends to those nearest to it."""
    points = torch.rand(count, 2)
    distance = torch.cdist(points, points).fill_diagonal_(float("inf"))
    neighbors = distance.topk(degree, largest=False).indices
    pairs = torch.stack([neighbors.flatten(), torch.arange(count).repeat_interleave(degree)])
    return Edges(pairs[:, torch.randperm(pairs.shape[1])], count)


SCATTERED = {
    "grid": lambda: shuffled(Grid(40, 20, radius=2)),
    "nearest": nearest,
    "clusters": lambda: shuffled(clusters(*[128] * 6, degree=20)),
}


@pytest.mark.parametrize("name", SCATTERED)
def test_half_of_the_blocks_or_less_and_the_same_edges(name):
    graph = SCATTERED[name]()
    found = reordering(graph)
    assert 2 * num_blocks(found.graph) <= num_blocks(graph)
    assert torch.equal(found.order[found.graph.edge_index()], graph.edge_index())
    assert torch.equal(found.order[found.new_index], torch.arange(graph.num_targets))


@in_turn(name=SCATTERED, kind=["none", "edges", "function"])
def test_results_are_those_of_the_reference_in_the_order_of_the_caller(name, kind, compiled):
    graph = SCATTERED[name]()
    q, k, v = (torch.randn(2, graph.num_targets, 2, 16) for _ in range(3))
    bias = {
        "none": None,
        "edges": torch.randn(graph.num_edges, 2),
        "function": lambda h, i, j: torch.cos(i + (h + 1.0) * j),
    }[kind]
    assert reordering(graph) is not None
    out = attend(q, k, v, graph, bias, backend="flex")
    expected = attend(q, k, v, graph, bias, backend="reference")
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_gradients_come_back_in_the_order_of_the_caller(compiled, monkeypatch):
    graph = nearest()
    given = [torch.randn(900, 2, 16, requires_grad=True) for _ in range(3)]
    bias = torch.randn(graph.num_edges, 2, requires_grad=True)
    monkeypatch.setattr(flex, "_run", reference.run)  # on a CPU FlexAttention has no backward
    everything, moved = [*given, bias], []
    monkeypatch.setattr(
        flex, "reordered", lambda *x: moved.append(1) or cuthill_mckee.reordered(*x)
    )
    out = flex.run(make_call(*given, graph, bias)).squeeze(0)
    expected = attend(*given, graph, bias, backend="reference")
    assert moved
    torch.testing.assert_close(out, expected)
    for got, want in zip(gradients(out, everything), gradients(expected, everything), strict=True):
        torch.testing.assert_close(got, want)


def test_the_search_is_made_once_for_a_graph(compiled, monkeypatch):
    real, searches = cuthill_mckee._cuthill_mckee, []
    monkeypatch.setattr(
        cuthill_mckee, "_cuthill_mckee", lambda graph: searches.append(1) or real(graph)
    )
    for graph in (nearest(), power_law(900, 9000)):
        q = torch.randn(900, 2, 8)
        for _ in range(2):
            explain(q, q, q, graph)
            reordering(graph, torch.device("cpu"))
    assert len(searches) == 2


def keeps_its_order(graph, bias=None):
    q = torch.randn(graph.num_targets, 2, 16)
    with torch.no_grad():
        call = make_call(
            q,
            torch.randn(graph.num_sources, 2, 16),
            torch.randn(graph.num_sources, 2, 16),
            graph,
            bias,
        )
        return flex._reordering(call) is None


def test_what_keeps_its_order(compiled, monkeypatch):
    graph = SCATTERED["grid"]()
    index, n = graph.edge_index(), graph.num_targets
    assert not keeps_its_order(graph)
    assert not keeps_its_order(graph, torch.zeros(graph.num_edges, 2))
    assert keeps_its_order(graph, torch.zeros(2, n, n))
    assert keeps_its_order(Grid(40, 20, radius=2))
    assert keeps_its_order(Edges(Grid(40, 20, radius=2).edge_index(), n))  # blocks are few already
    assert keeps_its_order(Edges(torch.cat([index, index[:, :1]], 1), n))
    assert keeps_its_order(Edges(index, n, n + 1))
    assert keeps_its_order(Edges(index[:, :4000], n))  # 5 edges a token
    assert keeps_its_order(Edges(torch.zeros(2, 0, dtype=torch.long), 0))
    assert keeps_its_order(Disjoint([graph, graph]))
    again = SCATTERED["grid"]()
    with monkeypatch.context() as patch:
        patch.setattr(flex, "_WORTH", 2 * again.num_edges * 32 * 4 + 1)
        assert keeps_its_order(again)
        patch.setattr(flex, "_WORTH", 2 * again.num_edges * 32 * 4)
        assert not keeps_its_order(again)
        patch.setattr(cuthill_mckee, "_MOST", again.num_edges - 1)
        assert keeps_its_order(SCATTERED["grid"]())


def test_degrees_by_a_power_law_are_declined(compiled):
    graph = power_law(1280, 20_000)
    assert reordering(graph) is None
    q = torch.randn(1280, 2, 16)
    with torch.no_grad():
        reason = flex.unsupported(make_call(q, q, q, graph))
    assert reason == too_full(graph) == "its edges lie in 100 of 100 blocks: little is left out"


def test_it_is_told_and_counted(compiled):
    graph = SCATTERED["grid"]()
    q = torch.randn(800, 2, 16)
    with torch.no_grad():
        told = explain(q, q, q, graph)
        work = flex.work(make_call(q, q, q, graph))
    after = num_blocks(reordering(graph).graph)
    note = (
        f"tokens in another order (reverse Cuthill-McKee): {after} blocks, not 49; "
        "NaN or inf of a token may reach others of its set"
    )
    assert note in str(told)
    (prospect,) = (one for one in told.prospects if one.backend == "flex")
    assert (prospect.note, prospect.work) == (note, work)
    assert work.scores == 2 * after * 128**2
    moved = 4 * 2 * 800 * 2 * (16 + 16)  # q and k, v and the output, once
    assert work.bytes == 3 * moved
    with torch.no_grad():
        by_formula = explain(q, q, q, Window(800, 2))
    assert "Cuthill" not in str(by_formula)
