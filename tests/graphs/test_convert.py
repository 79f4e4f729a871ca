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


def after(batch, head, query, key):
    return query >= key


def test_graphs_of_mask_mods_can_be_pickled():
    graph = pickle.loads(pickle.dumps(from_mask_mod(after, 5)))
    assert torch.equal(graph.dense(), Causal(5).dense())
