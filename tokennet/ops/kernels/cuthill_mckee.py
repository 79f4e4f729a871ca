"""Another order of the tokens, in which the edges of a graph lie in fewer blocks.

Attention is equivariant: with tokens and graph in another order its output is the same, in that
order. Reverse Cuthill-McKee (Cuthill, McKee, 1969; George, 1971) numbers the tokens breadth first,
so that neighbors get indices near each other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokennet.graphs import Edges, TokenGraph
from tokennet.ops.batching import reorder
from tokennet.ops.call import Call
from tokennet.ops.kernels.block_masks import MOST_BLOCKS, num_blocks, shape

_FEWEST = 8
"""Edges of a token, below which blocks of 128 x 128 stay nearly empty in any order."""
_MOST = 2**24
"""Edges that are put in order within some seconds."""


class Reordering(NamedTuple):
    """Tokens in an order of less blocks, and the way back."""

    order: Tensor
    """(N,) token at each index of the new order"""
    new_index: Tensor
    """(N,) new index of each token"""
    graph: TokenGraph
    """The same edges, in the caller's order, between new indices."""


def reordering(graph: TokenGraph, device: torch.device | None = None) -> Reordering | None:
    """Return an order of the tokens that at least halves the blocks with an edge, or None.

    Searched for once for each graph: a list of edges of one set, without parallel edges.
    """
    return graph.cached(_kept, device=device)


def _kept(graph: TokenGraph) -> Reordering | None:
    return graph.cached(_find)


def _find(graph: TokenGraph) -> Reordering | None:
    if _is_worth_a_search(graph):
        found = _cuthill_mckee(graph)
        if 2 * num_blocks(found.graph) <= num_blocks(graph):
            return found
    return None


def _is_worth_a_search(graph: TokenGraph) -> bool:
    """By what is counted quickly: a search takes as long as some sorts of the edges.

    In a ragged batch neighbors are near each other already.
    """
    if not graph.is_explicit or graph.is_ragged or not graph.is_square or graph.has_multi_edges:
        return False
    rows, _ = shape(graph)
    if not (_FEWEST * graph.num_targets <= graph.num_edges <= _MOST and rows**2 <= MOST_BLOCKS):
        return False
    return num_blocks(graph) >= 2 * rows > 0  # or a block in each row is half of them


def _cuthill_mckee(graph: TokenGraph) -> Reordering:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    edges, n = graph.edge_index(), graph.num_targets
    links = csr_matrix((np.ones(edges.shape[1], dtype=np.int8), tuple(edges.numpy())), (n, n))
    order = torch.from_numpy(reverse_cuthill_mckee(links).astype(np.int64))  # of both directions
    index = order.argsort()
    return Reordering(order, index, Edges(index[edges], n))


def reordered(call: Call, found: Reordering) -> Call:
    """The call on tokens in another order. A bias is of edges, a function, or None."""
    q, k, v = (reorder(x, found.order, found.new_index, -3) for x in (call.q, call.k, call.v))
    bias = call.bias
    if bias is not None and not isinstance(bias, Tensor):
        bias = partial(_by_index, bias, found.order)
    return call._replace(q=q, k=k, v=v, graph=found.graph, bias=bias)


def _by_index(
    bias: Callable[..., Tensor], order: Tensor, h: Tensor, i: Tensor, j: Tensor
) -> Tensor:
    """A bias of (h, i, j) between new indices."""
    return bias(h, order[i], order[j])
