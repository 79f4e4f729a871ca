"""How edges are cut into segments."""

import pytest
import torch

from tests.families import BIPARTITE, SQUARE, by_default
from tokennet import Window
from tokennet.ops.edge_plans import edge_plan
from tokennet.ops.kernels.cuda import segments
from tokennet.ops.kernels.cuda.segments import cut, tables

FAMILIES = {**SQUARE, **{f"bipartite_{name}": make for name, make in BIPARTITE.items()}}


def indptr_of(lengths) -> torch.Tensor:
    return torch.cat([torch.zeros(1), torch.tensor(lengths).cumsum(0)]).int()


@pytest.mark.parametrize(
    "lengths",
    [[], [0], [3], [0, 7, 0, 1], [1000, 0, 2, 64, 65], [300] * 5, [5, 4, 3] * 9 + [700]],
    ids=str,
)
def test_every_edge_is_in_one_segment(lengths):
    indptr = indptr_of(lengths)
    made = cut(indptr)
    length = made.end - made.begin
    covered = sorted(zip(made.row.tolist(), made.begin.tolist(), made.end.tolist(), strict=True))
    place = 0
    for row, begin, end in covered:
        assert begin == place
        assert indptr[row] <= begin <= end <= indptr[row + 1]
        place = end
    assert place == sum(lengths)
    assert {row for row, _, _ in covered} == set(range(len(lengths)))
    assert (length <= segments.STEPS * made.at_once).all()
    steps = -(-length // made.at_once)
    assert (steps.diff() <= 0).all()


def test_parts_are_equal_and_their_slots_stand_in_order():
    made = cut(indptr_of([2, 700, 0, 513, 1]))
    longest = segments.STEPS * made.at_once
    assert made.hub.tolist() == [1, 3]
    assert made.hub_indptr.tolist() == [0, -(-700 // longest), made.slots]
    for hub, first, last in zip(made.hub, made.hub_indptr, made.hub_indptr[1:], strict=False):
        mine = made.row == hub
        begin, order = made.begin[mine].sort()
        assert made.slot[mine][order].tolist() == list(range(first, last))
        length = made.end[mine] - made.begin[mine]
        assert length.max() - length.min() <= 1
        assert begin.diff().min() > 0
    whole = (made.row != 1) & (made.row != 3)
    assert (made.slot[whole] == -1).all()


def test_edges_at_once_follow_the_lengths():
    assert cut(indptr_of([3] * 10)).at_once == 4
    assert cut(indptr_of([20] * 10)).at_once == 4
    assert cut(indptr_of([23] * 10)).at_once == 8
    assert cut(indptr_of([129] * 10)).at_once == 16
    assert cut(indptr_of([0] * 10)).at_once == 16


@pytest.mark.parametrize("name", by_default(FAMILIES))
def test_places_of_edges_by_source(name):
    graph = FAMILIES[name]()
    plan = edge_plan(graph)
    source, target = graph.edge_index()
    listed = tables(plan).listed.long()
    assert torch.equal(target[listed], plan.t_indices.long())
    counts = torch.bincount(source, minlength=graph.num_sources)
    assert torch.equal(source[listed], torch.arange(graph.num_sources).repeat_interleave(counts))


def test_tables_are_made_once_and_freed_with_the_plan():
    graph = Window(50, 3)
    plan = edge_plan(graph)
    assert tables(plan) is tables(edge_plan(graph))
    before = len(segments._known)
    del graph, plan
    assert len(segments._known) == before - 1


def test_places_are_int64_where_they_must_be(monkeypatch):
    assert cut(indptr_of([9])).begin.dtype == torch.int32
    monkeypatch.setattr(segments, "_INT32", 9)
    assert cut(indptr_of([9])).begin.dtype == torch.int64
