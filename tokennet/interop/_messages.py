"""Messages along edges, of the mixers that send them: what an explanation multiplies by a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokennet.graphs import TokenGraph
from tokennet.mixers import (
    Aggregate,
    Attention,
    CrossAttention,
    GraphAttention,
    GraphIsomorphism,
    Mixer,
    RelationalAggregate,
)
from tokennet.tokens import Tokens


class Messages(NamedTuple):
    """What a mixer sends along the edges, and what the targets make of it."""

    sent: Tensor
    """(E, ...) in the order of the graph's `edge_index()`."""
    collect: Callable[[Tensor], Tensor]
    """From messages to the targets' new z (N, D)."""


def sends_messages(mixer: Mixer) -> bool:
    """Whether `messages_of` knows what it sends: exactly one of these classes."""
    return type(mixer) in _MESSAGES


def messages_of(mixer: Mixer, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Messages:
    """The messages of a call, with z (N, D); `collect(sent)` is what the mixer returns."""
    return _MESSAGES[type(mixer)](mixer, tokens, source, graph)


def _of_attention(mixer: Any, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Messages:
    j, i = graph.edge_index(tokens.z.device)
    values = mixer.values(source.z)  # (M, K, C)
    values = values.repeat_interleave(mixer.num_heads // mixer.num_kv_heads, 1)[j]  # (E, H, C)
    if mixer.edge is not None:
        features = mixer.edge(graph.edge_attr.to(values))  # type: ignore[union-attr]
        values = values + features.unflatten(-1, (mixer.num_heads, -1))
    weights = mixer.weigh(tokens, source, graph)  # (E, H)

    def collect(sent: Tensor) -> Tensor:
        out = _sums(sent, i, tokens.num_tokens).flatten(1)
        return mixer.out(out if mixer.gate is None else out * mixer.gate(tokens.z).sigmoid())

    return Messages(weights[..., None] * values, collect)


def _of_graph_attention(mixer: Any, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Messages:
    j, i = graph.edge_index(tokens.z.device)
    values = mixer.source(source.z).unflatten(-1, (mixer.num_heads, -1))[j]  # (E, H, C)
    weights = mixer.weigh(tokens, source, graph)  # (E, H)
    return Messages(
        weights[..., None] * values,
        lambda sent: _sums(sent, i, tokens.num_tokens).flatten(1) + mixer.bias,
    )


def _of_aggregate(mixer: Any, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Messages:
    j, i = graph.edge_index(tokens.z.device)
    order = i.argsort(stable=True)
    targets, group = i[order].unique_consecutive(return_inverse=True)

    def collect(sent: Tensor) -> Tensor:
        total = sent.new_zeros(tokens.num_tokens, mixer.linear.in_features)
        if len(sent):
            sums = mixer.aggr(sent[order], group, dim_size=len(targets), dim=0)
            total = total.index_copy(0, targets, sums.to(total.dtype))
        return mixer.linear(total)

    return Messages(source.z[j], collect)


def _of_isomorphism(mixer: Any, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Messages:
    j, i = graph.edge_index(tokens.z.device)
    sent = source.z[j]  # (E, D)
    if mixer.edge is not None:
        sent = (sent + mixer.edge(graph.edge_attr.to(sent))).relu()  # type: ignore[union-attr]

    def collect(sent: Tensor) -> Tensor:
        return mixer.fn((1 + mixer.eps) * tokens.z + _sums(sent, i, tokens.num_tokens))

    return Messages(sent, collect)


def _of_relations(mixer: Any, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Messages:
    j, i = graph.edge_index(tokens.z.device)
    types = graph.edge_type.to(i.device)  # type: ignore[union-attr]
    matrices = mixer.matrices()  # (R, Ds, D)
    sent = source.z.new_zeros(len(j), mixer.dim)  # (E, D)
    for number, matrix in enumerate(matrices):
        rows = (types == number).nonzero().flatten()
        sent = sent.index_add(0, rows, (source.z[j[rows]] @ matrix).to(sent.dtype))
    if mixer.takes_mean:
        _, group, size = (types * tokens.num_tokens + i).unique(
            return_inverse=True, return_counts=True
        )
        sent = sent / size[group][:, None]
    return Messages(sent, lambda sent: mixer.root(tokens.z) + _sums(sent, i, tokens.num_tokens))


def _sums(sent: Tensor, target: Tensor, num_targets: int) -> Tensor:
    """(N, ...) the sum of the messages to each target."""
    return torch.zeros(num_targets, *sent.shape[1:]).to(sent).index_add(0, target, sent)


_MESSAGES: dict[type[Mixer], Callable[[Any, Tokens, Tokens, TokenGraph], Messages]] = {
    Attention: _of_attention,
    CrossAttention: _of_attention,
    GraphAttention: _of_graph_attention,
    Aggregate: _of_aggregate,
    GraphIsomorphism: _of_isomorphism,
    RelationalAggregate: _of_relations,
}
EXPLAINED = (*sorted(kind.__name__ for kind in _MESSAGES), "PyGMixer")
"""Names of the mixers whose edges can be explained."""
