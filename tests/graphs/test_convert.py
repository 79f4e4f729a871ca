"""Graphs of masks and mask_mods."""

import pickle

import pytest
import torch

from tokennet import Causal, from_mask, from_mask_mod


def test_masks_that_could_be_misread_are_refused():
    with pytest.raises(TypeError, match="mask must be a boolean tensor, got torch.float32"):
        from_mask(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"mask must have shape \(N, M\), got \(1, 2, 2\)"):
        from_mask(torch.ones(1, 2, 2).bool())


def test_predicates_must_return_booleans():
    graph = from_mask_mod(lambda b, h, i, j: (i - j) % 2, 4)
    for derive in (graph.dense, graph.edge_index, lambda: graph.num_edges):
        with pytest.raises(TypeError, match=r"attends must return booleans, got torch\.int64"):
            derive()


@pytest.mark.parametrize(
    "mask_mod", [lambda b, h, i, j: i >= j and i - j < 3, lambda i, j: i >= j], ids=["and", "two"]
)
def test_mask_mods_that_are_not_elementwise_are_refused(mask_mod):
    with pytest.raises(ValueError, match=r"mask_mod must take \(batch, head, query, key\)"):
        from_mask_mod(mask_mod, 16)


PADDED = torch.arange(10) < torch.tensor([[10], [4], [7]])
SLOPES = torch.tensor([1, 3])


@pytest.mark.parametrize(
    ("mask_mod", "argument", "way_out"),
    [
        (lambda b, h, i, j: PADDED[b, j], "batch", r"Tokens\.batch\(sets\)"),
        (lambda b, h, i, j: (i - j).abs() <= SLOPES[h], "head", "a graph for each value of head"),
        (lambda b, h, i, j: (i >= j) | (h >= 8), "head", "a graph for each value of head"),
    ],
    ids=["padding", "table_of_heads", "later_heads"],
)
@pytest.mark.parametrize("n", [10, 5000])
def test_mask_mods_that_depend_on_batch_or_head_are_refused(mask_mod, argument, way_out, n):
    def of_ten(b, h, i, j):
        return mask_mod(b, h, i % 10, j % 10)

    pattern = f"mask_mod must be the same for every {argument}.*depends on it: .*{way_out}"
    with pytest.raises(ValueError, match=pattern):
        from_mask_mod(of_ten, n)


def test_mask_mods_may_take_batch_and_head_and_give_the_same_for_all():
    one_row = torch.ones(1, 4, dtype=torch.bool)
    for mask_mod in (lambda b, h, i, j: (b >= 0) & (i >= j), lambda b, h, i, j: one_row[b, j]):
        assert from_mask_mod(mask_mod, 4).num_edges in (10, 16)
    tables = from_mask_mod(lambda b, h, i, j: PADDED[:1][b, j] & SLOPES[h - h].bool(), 10)
    assert tables.num_edges == 100


def after(batch, head, query, key):
    return query >= key


def test_graphs_of_mask_mods_can_be_pickled():
    graph = pickle.loads(pickle.dumps(from_mask_mod(after, 5)))
    assert torch.equal(graph.dense(), Causal(5).dense())
