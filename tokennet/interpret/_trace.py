"""`trace_attention`: the graph and the attention weights of every layer in one call of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from tokennet.graphs import PerHead, TokenGraph
from tokennet.interop import AttentionCall, ModelOnGraph
from tokennet.mixers import Mixer
from tokennet.ops import Explanation


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
    """(..., E, H), in the order of `graph.edge_index()`; None where they were not asked for"""

    def __repr__(self) -> str:
        weights = "no weights" if self.weights is None else f"weights {tuple(self.weights.shape)}"
        return f"EdgeWeights({self.graph!r}; {weights})"


class AttentionTrace(dict[str, EdgeWeights]):
    """Graph and weights by the path of the layer, in the order in which the layers ran.

    Of models of others, `explanations` has for each path which backend would take the call, and
    what it would cost.

    >>> import torch
    >>> from tokennet import Attention
    >>> trace_attention(Attention(8, num_heads=2), torch.zeros(3, 8))[""].weights.shape
    torch.Size([9, 2])
    """

    def __init__(self) -> None:
        super().__init__()
        self.explanations: dict[str, Explanation | None] = {}

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        lines = [f"  {path:{width}}  {edges!r}" for path, edges in self.items()]
        return "\n".join([f"AttentionTrace of {len(self)} calls:", *lines])


def trace_attention(
    model: nn.Module, *inputs: Any, weights: bool = True, **options: Any
) -> AttentionTrace:
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

    Of a transformer of Hugging Face, timm or torch, the graphs are those that its own masks say:
    `Full`, `Causal`, windows, or a list of edges; of a padded batch a ragged batch of its tokens
    without the padding. Weights come from the edges, without eager attention and without N x N
    of them. See `tokennet.interop.on_graph` for which models can be reached; on a graph, it is
    the graph that is traced.

    Args:
        model: a net of tokennet layers, or a single layer; or a model of others.
        inputs: the arguments of the call, such as `tokens`, or `tokens, source`.
        weights: whether to keep weights; without, the graphs (and explanations) alone.
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
    with record_attention(model, weights=weights) as trace:
        model(*inputs, **options)
    return trace


@contextmanager
def record_attention(model: nn.Module, *, weights: bool = True) -> Iterator[AttentionTrace]:
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
    if not any(_weighs(layer) for layer in model.modules()):
        with ModelOnGraph(model, None, partial(_note, trace, weights)):
            yield trace
        return
    parts: set[nn.Module] = set()  # of layers with weights: these trace for their parts
    with ExitStack() as stack:
        for path, layer in model.named_modules():
            if _weighs(layer) and layer not in parts:
                parts.update(layer.modules())
                record = partial(_record, trace, weights, path)
                stack.enter_context(layer.register_forward_hook(record, with_kwargs=True))
        yield trace


def _weighs(layer: nn.Module) -> bool:
    return isinstance(layer, Mixer) and hasattr(layer, "attention_weights")


def _record(
    trace: AttentionTrace,
    weights: bool,
    path: str,
    layer: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> None:
    tokens, source, graph = layer.inputs(*args, **kwargs)
    found: Any = layer.attention_weights(tokens, source, graph) if weights else None
    trace[_free(trace, path)] = EdgeWeights(graph, found)


def _free(trace: AttentionTrace, path: str) -> str:
    """The path, with the number of the call where it is not the first."""
    number, key = 0, path
    while key in trace:
        number += 1
        key = f"{path}[{number}]"
    return key


def _note(trace: AttentionTrace, weights: bool, path: str, call: AttentionCall) -> None:
    """A call in a model of others."""
    call = call.without_padding()
    key = _free(trace, path)
    trace.explanations[key] = call.explanation()
    graph = call.graph.union if isinstance(call.graph, PerHead) else call.graph
    found: Any = call.weights() if weights else None
    trace[key] = EdgeWeights(graph, found)
