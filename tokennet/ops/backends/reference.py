r"""The definition of attention along the edges of a graph, in plain torch operations.

    out_i = \sum_{j -> i} w_ij (v_j + U f_ij),    w_ij = exp(s_ij) / \sum_{j' -> i} exp(s_ij')
    lse_i = log \sum_{j -> i} exp(s_ij)

Written for reading: it makes tensors of E x H x C entries. Read it first to learn what the other
backends compute; the tests hold each of them to these values and gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokennet.ops.call import Call, without_autocast
from tokennet.ops.normalizers import log_sum_exp, softmax
from tokennet.ops.planner import Work


def unsupported(call: Call) -> str | None:
    return None


def work(call: Call) -> Work:
    """Gathered q, k and v of every edge, and the same again for the products."""
    edges = call.graph.num_edges
    return Work.of(call, calls=20, pieces=0, scores=edges, gathered=4 * edges)


@without_autocast
def run(call: Call) -> Tensor:
    dtype, call = call.v.dtype, _precise(call)
    return _combined(call, softmax(_scores(call), call.graph)).to(dtype)


@without_autocast
def run_with_lse(call: Call) -> tuple[Tensor, Tensor]:
    """Output (B, N, H, Cv) and log-sum-exp (B, N, H)."""
    dtype, call = call.v.dtype, _precise(call)
    found = _scores(call)
    out = _combined(call, softmax(found, call.graph)).to(dtype)
    return out, log_sum_exp(found, call.graph).to(torch.promote_types(dtype, torch.float32))


def _combined(call: Call, weights: Tensor) -> Tensor:
    """(B, E, H) to (B, N, H, Cv)"""
    source, target = call.graph.edge_index(call.q.device)  # (E,)
    values = call.v.index_select(1, source)  # (B, E, H, Cv)
    if call.edges is not None and call.edges.value is not None:
        values = values + _mapped(call.edges.value, call.edges.attr, values)
    messages = call.softmax.dropped(weights)[..., None] * values
    out = messages.new_zeros(call.batch, call.graph.num_targets, *values.shape[2:])
    return out.index_add(1, target, messages)


@without_autocast
def scores(call: Call) -> Tensor:
    """Scores (B, E, H) in the order of `edge_index`, before they are normalized."""
    return _scores(_precise(call)).to(call.q.dtype)


def _scores(call: Call) -> Tensor:
    r"""s_ij = cap(scale q_i . (k_j + K f_ij)) + b_ij.

    Additive ones are scale a . LeakyReLU(q_i + k_j + K f_ij) + b_ij.
    """
    source, target = call.graph.edge_index(call.q.device)
    queries, keys = call.q.index_select(1, target), call.k.index_select(1, source)  # (B, E, H, C)
    if call.edges is not None and call.edges.key is not None:
        keys = keys + _mapped(call.edges.key, call.edges.attr, keys)
    if call.score is None:
        products = queries * keys
    else:
        products = call.score.activate(queries + keys)
        products = products * call.score.weight.to(products)
    found = call.softmax.capped(call.scale * products.sum(-1))
    bias = call.edge_bias()
    return found if bias is None else found + bias


def _precise(call: Call) -> Call:
    """In float64, each head of q with a head of k and v of its own.

    Where a device has no float64, in float32: a sum over a million edges loses 1 % there.
    """
    dtype = torch.float64 if call.q.device.type in ("cpu", "cuda") else torch.float32
    k, v = call.k.to(dtype), call.v.to(dtype)
    if call.queries_per_key > 1:
        k, v = (x.repeat_interleave(call.queries_per_key, 2) for x in (k, v))
    return call._replace(q=call.q.to(dtype), k=k, v=v)


def _mapped(matrix: Tensor, attr: Tensor, like: Tensor) -> Tensor:
    """K f of each edge: (H, C, D), (E, D) to (E, H, C)."""
    return torch.einsum("hcd,ed->ehc", matrix.to(like), attr.to(like))
