"""`trace_attention`: the graph and the attention weights of every layer in one call of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from tokennet.graphs import TokenGraph
from tokennet.mixers import Mixer


class EdgeWeights(NamedTuple):
    """Weights of the edges of a graph, in one call of a layer.

    >>> import torch
    >>> from tokennet import Attention
    >>> (edges,) = trace_attention(Attention(8, num_heads=2), torch.zeros(3, 8)).values()
    >>> edges
    EdgeWeights(Full(3): 3 tokens, 9 edges, density 1; weights (9, 2))
    """

    graph: TokenGraph
    """N targets, M sources, E edges"""
    weights: Tensor
    """(..., E, H), in the order of `graph.edge_index()`"""

    def __repr__(self) -> str:
        return f"EdgeWeights({self.graph!r}; weights {tuple(self.weights.shape)})"


class AttentionTrace(dict[str, EdgeWeights]):
    """Graph and weights by the path of the layer, in the order in which the layers ran.

    >>> import torch
    >>> from tokennet import Attention
    >>> trace_attention(Attention(8, num_heads=2), torch.zeros(3, 8))[""].weights.shape
    torch.Size([9, 2])
    """

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        lines = [f"  {path:{width}}  {edges!r}" for path, edges in self.items()]
        return "\n".join([f"AttentionTrace of {len(self)} calls:", *lines])


def trace_attention(model: nn.Module, *inputs: Any, **options: Any) -> AttentionTrace:
    r"""Attention weights of all layers in one call, `model(*inputs, **options)`.

        w_ij^h = softmax_j(s_ij^h),   or as the score of the layer normalizes

    Use it to see which tokens a model attends to, or to add a loss on its weights: derivatives
    go through them unless gradients are off. Each layer with weights on edges is traced:
    `Attention` and what is derived from it, `GraphAttention`, `LinearAttention`,
    `SetAttentionBlock`, `LearnedMixing`, by its path in `model.named_modules()`. Layers made of
    these are traced by their parts, on the graphs that they make: `Latents` has
    "cross.attention" from the tokens of each set to its latents, and "blocks.0.attention" among
    these; `InducedSetAttentionBlock` "gather" and "spread"; `PoolingByAttention` "block";
    `AttentionReadout` "attention", with one target for each set; `PerceiverMixer` the parts of its
    "latents", and "read".

    Args:
        model: a net of tokennet layers, or a single layer.
        inputs: the arguments of the call, such as `tokens`, or `tokens, source`.
        options: its arguments by name.

    Returns:
        The graph and the weights (..., E, H) of its edges, by the path of the layer. Of further
        calls of the same layer the path is followed by "[1]", "[2]" and so on.

    >>> import torch
    >>> from tokennet import Attention, TokenNet
    >>> from tokennet.mixers import PoolingByAttention
    >>> net = TokenNet([Attention(8, num_heads=2), PoolingByAttention(8, num_heads=4, num_seeds=3)])
    >>> trace_attention(net, torch.zeros(5, 8))
    AttentionTrace of 2 calls:
      layers.0        EdgeWeights(Full(5): 5 tokens, 25 edges, density 1; weights (25, 2))
      layers.1.block  EdgeWeights(Full(3, 5): 3 targets, 5 sources, 15 edges, density 1; weights (15, 4))
    """  # noqa: E501
    with record_attention(model) as trace:
        model(*inputs, **options)
    return trace


@contextmanager
def record_attention(model: nn.Module) -> Iterator[AttentionTrace]:
    """Within it, calls of layers in `model` add to the trace; for more than one call.

    See `trace_attention`. Steps of incremental decoding are not recorded.

    >>> import torch
    >>> from tokennet import Attention
    >>> layer = Attention(8, num_heads=2)
    >>> with record_attention(layer) as trace:
    ...     out = layer(layer(torch.zeros(3, 8)))
    >>> list(trace)
    ['', '[1]']
    """
    trace = AttentionTrace()
    parts: set[nn.Module] = set()  # of layers with weights: these trace for their parts
    with ExitStack() as stack:
        for path, layer in model.named_modules():
            weighs = isinstance(layer, Mixer) and hasattr(layer, "attention_weights")
            if weighs and layer not in parts:
                parts.update(layer.modules())
                record = partial(_record, trace, path)
                stack.enter_context(layer.register_forward_hook(record, with_kwargs=True))
        yield trace


def _record(
    trace: AttentionTrace,
    path: str,
    layer: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> None:
    tokens, source, graph = layer.inputs(*args, **kwargs)
    number, key = 0, path
    while key in trace:
        number += 1
        key = f"{path}[{number}]"
    trace[key] = EdgeWeights(graph, layer.attention_weights(tokens, source, graph))
