"""The same layer by three hands, with the same weights: ours, SDPA written out, and PyG's.

PyG's layer has no output projection, so none of them has one here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch_geometric.nn import TransformerConv

from tokennet import Attention, Edges, Full, TokenGraph, Tokens

Step = Callable[[], Tensor]


class HandWrittenSDPA(nn.Module):
    """What one writes without a library: three projections and SDPA."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.query, self.key, self.value = attention.query, attention.key, attention.value

    def forward(self, z: Tensor) -> Tensor:
        n, dim = z.shape
        q, k, v = (
            linear(z).view(1, n, self.heads, dim // self.heads).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        out = scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(n, dim)


def transformer_conv(attention: Attention) -> TransformerConv:
    dim, heads = attention.dim, attention.heads
    conv = TransformerConv(dim, dim // heads, heads, root_weight=False)
    for theirs, ours in (
        (conv.lin_query, attention.query),
        (conv.lin_key, attention.key),
        (conv.lin_value, attention.value),
    ):
        theirs.load_state_dict(ours.state_dict())
    return conv


def complete(n: int, dim: int, heads: int) -> tuple[TokenGraph, int, int]:
    return Full(n), dim, heads


def random_edges(n: int, edges: int, dim: int, heads: int) -> tuple[TokenGraph, int, int]:
    generator = torch.Generator().manual_seed(0)
    return Edges(torch.randint(0, n, (2, edges), generator=generator), n), dim, heads


CASES: dict[str, Callable[[], tuple[TokenGraph, int, int]]] = {
    "complete 1024, 4 x 16": lambda: complete(1024, 64, 4),
    "sparse 20k tokens 400k edges, 4 x 32": lambda: random_edges(20_000, 400_000, 128, 4),
}


def forwards(case: str) -> dict[str, Step]:
    """The forward pass of each peer on the same tokens."""
    torch.manual_seed(0)
    graph, dim, heads = CASES[case]()
    z = torch.randn(graph.num_targets, dim, requires_grad=True)
    ours, edge_index = Attention(dim, heads), graph.edge_index()
    theirs, by_hand = transformer_conv(ours), HandWrittenSDPA(ours)
    ours.out = nn.Identity()
    result: dict[str, Step] = {
        "tokennet": lambda: ours(Tokens(z, graph)).z,
        "pyg": lambda: theirs(z, edge_index),
    }
    if isinstance(graph, Full):
        result["sdpa"] = lambda: by_hand(z)
    return result


def steps(case: str) -> dict[str, Step]:
    """Forward and backward of each peer, after their outputs were found equal."""
    forward = forwards(case)
    expected = forward["tokennet"]()
    for step in forward.values():
        torch.testing.assert_close(step(), expected, rtol=1e-4, atol=1e-5)
    return {name: _with_backward(step) for name, step in forward.items()}


def _with_backward(forward: Step) -> Step:
    def step() -> Tensor:
        out = forward()
        out.sum().backward()
        return out

    return step
