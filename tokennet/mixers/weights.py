"""Who listened to whom, in every layer of a net."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from torch import Tensor, nn

from tokennet.graphs import TokenGraph
from tokennet.mixers.base import Mixer


class EdgeWeights(NamedTuple):
    """Weights of the edges of a graph."""

    graph: TokenGraph
    """N targets, M sources, E edges"""
    weights: Tensor
    """(..., E, H), in the order of `graph.edge_index()`"""


def attention_weights_of(net: nn.Module, *inputs: Any, **options: Any) -> dict[str, EdgeWeights]:
    """Attention weights of all layers of a net in one call, `net(*inputs, **options)`.

    Of each layer with weights on edges: `Attention` and its kin, `GraphAttention`,
    `LinearAttention`, `SetAttentionBlock`, `LearnedMixing`, by its name in `named_modules()`.
    Layers made of these are found by their parts, on the graphs that they make: `Latents` has
    "cross.attention" from the tokens of each set to its latents, and "blocks.0.attention" among
    these; `InducedSetAttentionBlock` "gather" and "spread"; `PoolingByAttention` "block";
    `AttentionReadout` "attention", with one target for each set; `PerceiverMixer` the parts of its
    "latents", and "read". Derivatives go through the weights unless gradients are off.

    Args:
        net: a net, or a single layer.
        inputs: what it is called with, such as `tokens`, or `tokens, source`.
        options: likewise, by name.

    Returns:
        The graph and the weights (..., E, H) of its edges, by the name of the layer; in the
        order in which the layers ran.

    >>> import torch
    >>> from tokennet import Attention, PoolingByAttention, TokenNet
    >>> net = TokenNet([Attention(8, num_heads=2), PoolingByAttention(8, num_heads=4, num_seeds=3)])
    >>> for name, (graph, weights) in attention_weights_of(net, torch.zeros(5, 8)).items():
    ...     print(name, graph, tuple(weights.shape))
    layers.0 Full(5): 5 tokens, 25 edges, density 1 (25, 2)
    layers.1.block Full(3, 5): 3 targets, 5 sources, 15 edges, density 1 (15, 4)
    """
    with collect_attention_weights(net) as found:
        net(*inputs, **options)
    return found


@contextmanager
def collect_attention_weights(net: nn.Module) -> Iterator[dict[str, EdgeWeights]]:
    """Within it, calls of layers in `net` add their weights; see `attention_weights_of`.

    The second call of a layer is under its name and "[1]", and so on. Steps are not seen.

    >>> import torch
    >>> from tokennet import Attention
    >>> layer = Attention(8, num_heads=2)
    >>> with collect_attention_weights(layer) as found:
    ...     out = layer(layer(torch.zeros(3, 8)))
    >>> list(found)
    ['', '[1]']
    """
    found: dict[str, EdgeWeights] = {}
    handles = []
    for name, layer in _with_weights(net):
        keep = partial(_keep, found, name, count())
        handles.append(layer.register_forward_hook(keep, with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    found: dict[str, EdgeWeights],
    name: str,
    calls: Iterator[int],
    layer: Any,
    args: tuple[Any, ...],
    given: dict[str, Any],
    output: Any,
) -> None:
    tokens, source, graph = layer.inputs(*args, **given)
    number = next(calls)
    key = f"{name}[{number}]" if number else name
    found[key] = EdgeWeights(graph, layer.weights(tokens, source, graph))


def _with_weights(net: nn.Module) -> Iterator[tuple[str, Mixer]]:
    """Layers that tell their weights, without those that are parts of such a layer."""
    parts: set[nn.Module] = set()
    for name, layer in net.named_modules():
        if layer not in parts and isinstance(layer, Mixer) and hasattr(layer, "weights"):
            parts.update(layer.modules())
            yield name, layer
