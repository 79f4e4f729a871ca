"""A graph's edges by target and by source: right, built once, and freed with the graph."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

from tests.families import by_default
from tests.ops.kinds import FAMILIES
from tokennet import Disjoint, Edges, Full, Window, attend
from tokennet.ops.backends import fused
from tokennet.ops.call import make_call
from tokennet.ops.edge_plans import EdgePlan, _build_plan, edge_plan
from tokennet.ops.edge_products import edge_combine, edge_dot


@pytest.mark.parametrize("family", by_default(FAMILIES))
def test_a_plan_lists_every_edge_by_target_and_by_source(family):
    graph = FAMILIES[family]()
    plan = edge_plan(graph)
    source, target = graph.edge_index()
    edges, n, m = graph.num_edges, graph.num_targets, graph.num_sources
    assert all(tensor.dtype == torch.int32 and tensor.is_contiguous() for tensor in plan)
    assert plan.num_edges == edges
    edge_id = plan.edge_id if len(plan.edge_id) else torch.arange(edges)
    assert torch.equal(edge_id.sort().values, torch.arange(edges))
    assert torch.equal(plan.indices.long(), source[edge_id])
    assert torch.equal(plan.rows.long(), target[edge_id])
    for i in range(n):  # the caller's order among the edges of a target
        mine = edge_id[plan.indptr[i] : plan.indptr[i + 1]]
        assert mine.tolist() == (target == i).nonzero().flatten().tolist()
    assert (plan.indptr[0], plan.indptr[n], len(plan.indptr)) == (0, edges, n + 1)
    assert torch.equal(plan.t_order.sort().values, torch.arange(edges))
    assert torch.equal(plan.t_indices, plan.rows[plan.t_order])
    for j in range(m):  # by target among the edges of a source
        mine = plan.t_order[plan.t_indptr[j] : plan.t_indptr[j + 1]]
        assert mine.tolist() == (plan.indices == j).nonzero().flatten().tolist()
    assert (plan.t_indptr[0], plan.t_indptr[m], len(plan.t_indptr)) == (0, edges, m + 1)


@pytest.mark.parametrize("family", by_default(FAMILIES))
def test_values_go_there_and_back(family):
    graph = FAMILIES[family]()
    plan = edge_plan(graph)
    for dim, values in ((0, torch.randn(graph.num_edges, 3)), (1, torch.randn(2, graph.num_edges))):
        assert torch.equal(plan.as_listed(plan.by_target(values, dim), dim), values)
        assert torch.equal(plan.by_target(plan.as_listed(values, dim), dim), values)
    place = torch.arange(graph.num_edges)
    assert torch.equal(graph.edge_index()[1][plan.by_target(place, 0)], plan.rows.long())


@pytest.mark.parametrize("family", by_default(FAMILIES))
def test_edges_as_sources_of_their_own(family):
    graph = FAMILIES[family]()
    plan, edges = edge_plan(graph), graph.num_edges
    alone = Edges(
        torch.stack([torch.arange(edges), graph.edge_index()[1]]), len(plan.indptr) - 1, edges
    )
    own, expected = plan.edge_tokens(), edge_plan(alone)
    for name, tensor in own._asdict().items():
        assert torch.equal(tensor, getattr(expected, name)), name
    x = torch.randn(graph.num_targets, 2, 3, dtype=torch.float64, requires_grad=True)
    features = torch.randn(edges, 2, 3, dtype=torch.float64, requires_grad=True)
    dots = plan.as_listed(edge_dot(x, features, own), 1)
    target = graph.edge_index()[1]
    torch.testing.assert_close(dots, (x[target] * features).sum(-1).t())
    weights = torch.randn(2, edges, dtype=torch.float64)
    out = edge_combine(plan.by_target(weights, 1), features, own)
    messages = weights.t()[..., None] * features
    torch.testing.assert_close(out, torch.zeros_like(x).index_add(0, target, messages))
    (gradient,) = torch.autograd.grad(out.sum(), features)
    torch.testing.assert_close(gradient, weights.t()[..., None].expand_as(features))


def test_a_list_in_order_of_targets_needs_no_way_back():
    assert len(edge_plan(Window(6, 1)).edge_id) == 0
    assert len(edge_plan(Edges(torch.tensor([[1, 0, 2], [0, 1, 1]]), 3)).edge_id) == 0
    assert edge_plan(Edges(torch.tensor([[1, 0, 2], [1, 0, 1]]), 3)).edge_id.tolist() == [1, 0, 2]


def test_a_plan_is_built_once_for_all_calls(monkeypatch):
    built = []

    def build(graph):
        built.append(graph)
        return _build_plan(graph)

    monkeypatch.setitem(edge_plan.__globals__, "_build_plan", build)
    graph, other = Window(6, 1), Window(6, 1)
    q = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    for backend in ("fused", "sparse"):
        for _ in range(2):
            attend(q, q, q, graph, backend=backend).sum().backward()
            attend(q[None], q, q, graph, backend=backend)
    plan = edge_plan(graph)
    assert edge_plan(graph, "cpu") is edge_plan(graph, torch.device("cpu")) is plan
    assert built == [graph]
    assert edge_plan(other) is not plan
    assert built == [graph, other]
    on_meta = edge_plan(graph, "meta")
    assert all(tensor.is_meta for tensor in on_meta)
    assert edge_plan(graph, "meta") is on_meta
    assert edge_plan(graph) is plan


def test_a_plan_goes_with_its_graph():
    graph = Window(50, 1)
    q = torch.randn(2, 50, 2, 3, dtype=torch.float64, requires_grad=True)
    attend(q, q, q, graph, backend="fused").sum().backward()
    attend(q, q, q, graph, backend="sparse").sum().backward()
    followed = weakref.ref(edge_plan(graph).indices), weakref.ref(graph)
    del graph
    gc.collect()
    assert [reference() for reference in followed] == [None, None]


def test_pickles_and_copies_leave_the_plan_behind():
    graph = Edges(torch.randint(0, 500, (2, 5000)), 500)
    size = len(pickle.dumps(graph))
    plan = edge_plan(graph)
    assert len(pickle.dumps(graph)) == size
    for other in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        again = edge_plan(other)
        assert again is not plan
        assert all(torch.equal(x, y) for x, y in zip(again, plan, strict=True))


def test_a_plan_of_sets_side_by_side():
    parts = [Full(2), Window(4, 1), Edges(torch.tensor([[0], [1]]), 2)]
    plan, starts = edge_plan(Disjoint(parts)), [0, 2, 6]
    rows = [edge_plan(part).rows + start for part, start in zip(parts, starts, strict=True)]
    assert torch.equal(plan.rows, torch.cat(rows))
    assert isinstance(plan, EdgePlan)


class Huge(Edges):
    """Says that it has more edges, or tokens, than it has."""

    said = 2**31

    @property
    def num_edges(self):
        return self.said


def test_more_edges_than_int32_counts_are_refused_before_anything_is_built(monkeypatch):
    def never(graph):
        raise AssertionError("the edges were listed")

    graph = Huge(torch.tensor([[0, 1], [1, 1]]), 2)
    q = torch.randn(2, 2, 3, dtype=torch.float64)
    monkeypatch.setitem(edge_plan.__globals__, "_build_plan", never)
    with pytest.raises(
        RuntimeError, match=r"'fused' cannot run this call: .* 2\*\*31 edges or more"
    ):
        attend(q, q, q, graph, backend="fused")
    graph.said = 2**31 - 1
    assert fused.unsupported(make_call(q, q, q, graph)) is None
