"""Windows: by flash where it can be, else blocks of queries with the keys beside them, by SDPA.

The blocks are as long as the window reaches (Beltagy et al., 2020, arXiv 2004.05150), so
that each meets its own keys and those of one neighbor, or two: time and memory of N times
the reach, not of N x N.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokennet.graphs import TokenGraph
from tokennet.graphs.base import DENSE_LIMIT
from tokennet.ops.call import Call
from tokennet.ops.kernels import flash
from tokennet.ops.kernels.isolation import SPREADS
from tokennet.ops.planner import Work

_SMALLEST = 64


def unsupported(call: Call) -> str | None:
    graph = call.graph
    if problem := flash.sdpa_problem(call) or call.more_than_softmax:
        return problem
    if call.bias is not None:
        return "there is a bias, which would have to be cut into blocks"
    # Most pairs in the band of a grid are no edges; and for causal graphs there is SDPA.
    is_sparse_band = graph.grid_shape is not None and not graph.is_band
    if graph.band is None or graph.is_causal or is_sparse_band:
        return "the graph is not a window, by its formula"
    if _by_flash(call):
        return None
    block, count, span = _blocks(graph)
    if count < 2:
        return "it is no longer than one block"
    if block * count * span > DENSE_LIMIT:
        return f"its masks would have {block * count * span:,} entries, more than {DENSE_LIMIT:,}"
    if graph.has_empty_targets:
        return "a token attends to no other, and SDPA gives such rows no certain value"
    return None


def work(call: Call) -> Work:
    if _by_flash(call):
        pairs = call.graph.num_targets * (sum(call.graph.band) + 1)  # type: ignore[arg-type]
        return Work.of(call, calls=1, pieces=0, scores=pairs)
    block, count, span = _blocks(call.graph)
    pairs = block * count * span
    return Work.of(call, calls=1, pieces=call.groups * count, scores=pairs, mask=pairs)


def note(call: Call) -> str | None:
    """What else is done to a call, for `explain`."""
    return SPREADS if _by_flash(call) else None


def run(call: Call) -> Tensor:
    graph, n = call.graph, call.graph.num_targets
    if _by_flash(call):
        ends = graph.cached(_ends, device=call.q.device)
        return flash.attend_sequences(call, (ends, ends), (n, n), graph.band)  # type: ignore[arg-type]
    block, count, _ = _blocks(graph)
    below, above = graph.band  # type: ignore[misc]

    def blocks(tensor: Tensor, before: int = 0, after: int = 0) -> Tensor:
        missing = count * block - n
        tensor = pad(tensor, (0, 0, 0, 0, before * block, missing + after * block))
        return tensor.unflatten(1, (-1, block))  # (B, blocks, block, H, C)

    def beside(tensor: Tensor) -> Tensor:
        before, after = int(below > 0), int(above > 0)
        padded = blocks(tensor, before, after)
        shifted = [padded[:, start : start + count] for start in range(before + 1 + after)]
        return torch.cat(shifted, dim=2)  # (B, blocks, span, H, C)

    q, k, v = (
        tensor.permute(1, 0, 3, 2, 4).flatten(1, 2)  # (blocks, B H, tokens, C)
        for tensor in (blocks(call.q), beside(call.k), beside(call.v))
    )
    mask = graph.cached(_masks, device=q.device).to(q.dtype)
    out = flash.sdpa(q, k, v, mask, scale=call.scale)  # (blocks, B H, block, Cv)
    out = out.unflatten(1, (call.batch, call.num_heads))
    return out.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :n]  # (B, N, H, Cv)


def _blocks(graph: TokenGraph) -> tuple[int, int, int]:
    """Queries of a block, number of blocks, and keys that a block meets."""
    below, above = graph.band  # type: ignore[misc]
    block = max(below, above, _SMALLEST)
    block += -block % 16
    return block, -(-graph.num_targets // block), block * (1 + (below > 0) + (above > 0))


def _masks(graph: TokenGraph) -> Tensor:
    """(blocks, 1, block, span), 0 for an edge and -inf for none; rows of padding are open."""
    block, count, span = _blocks(graph)
    n, below = graph.num_targets, graph.band[0]  # type: ignore[index]
    i = torch.arange(count * block).view(count, block, 1)
    first = torch.arange(count).view(count, 1, 1) * block - (block if below > 0 else 0)
    j = first + torch.arange(span)
    inside = (j >= 0) & (j < n) & (i < n)
    edge = inside & graph.attends(i.clamp(max=n - 1), j.clamp(0, n - 1)) | (i >= n)
    return torch.zeros(edge.shape).masked_fill(~edge, -math.inf)[:, None]


def _by_flash(call: Call) -> bool:
    return call.graph.is_band and flash.unsupported(call) is None


def _ends(graph: TokenGraph) -> Tensor:
    return torch.tensor([0, graph.num_targets], dtype=torch.int32)
