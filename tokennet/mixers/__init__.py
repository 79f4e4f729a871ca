"""Layers that move information between tokens; `MIXERS` names those a net is built from."""

from __future__ import annotations

from collections.abc import Callable

from torch_geometric.nn import GCNConv

from tokennet.mixers.aggregate import Aggregate
from tokennet.mixers.attention import Attention, CrossAttention
from tokennet.mixers.base import Mixer
from tokennet.mixers.feature_maps import EluFeatures, FeatureMap, ReLUFeatures, SoftmaxFeatures
from tokennet.mixers.graph_attention import GraphAttention
from tokennet.mixers.latents import Latents, Perceiver
from tokennet.mixers.linear_attention import LinearAttention, redraw_features
from tokennet.mixers.mlp import MLPMixer
from tokennet.mixers.pyg import PyGMixer
from tokennet.mixers.set_blocks import (
    InducedSetAttentionBlock,
    PoolingByAttention,
    SetAttentionBlock,
)

MixerFactory = Callable[[int, int, int | None], Mixer]
"""(dim, heads, num_tokens) to a mixer; `num_tokens` is None where it varies."""


def _mlp(dim: int, heads: int, num_tokens: int | None) -> Mixer:
    if num_tokens is None:
        raise ValueError("mixer 'mlp' needs a fixed number of tokens; here it varies")
    return MLPMixer(dim, num_tokens, hidden=4 * num_tokens)


MIXERS: dict[str, MixerFactory] = {
    "attention": lambda dim, heads, num_tokens: Attention(dim, heads),
    "gat": lambda dim, heads, num_tokens: GraphAttention(dim, heads),
    "mlp": _mlp,
    "mean": lambda dim, heads, num_tokens: Aggregate(dim, "mean"),
    "sum": lambda dim, heads, num_tokens: Aggregate(dim, "sum"),
    "max": lambda dim, heads, num_tokens: Aggregate(dim, "max"),
    "gcn": lambda dim, heads, num_tokens: PyGMixer(GCNConv(dim, dim)),
    "isab": lambda dim, heads, num_tokens: InducedSetAttentionBlock(dim, heads),
    "linear": lambda dim, heads, num_tokens: LinearAttention(dim, heads),
    "perceiver": lambda dim, heads, num_tokens: Perceiver(dim, heads),
    "performer": lambda dim, heads, num_tokens: LinearAttention(dim, heads, "softmax"),
    "sab": lambda dim, heads, num_tokens: SetAttentionBlock(dim, heads),
}

__all__ = [
    "MIXERS",
    "Aggregate",
    "Attention",
    "CrossAttention",
    "EluFeatures",
    "FeatureMap",
    "GraphAttention",
    "InducedSetAttentionBlock",
    "Latents",
    "LinearAttention",
    "MLPMixer",
    "Mixer",
    "Perceiver",
    "PoolingByAttention",
    "PyGMixer",
    "ReLUFeatures",
    "SetAttentionBlock",
    "SoftmaxFeatures",
    "redraw_features",
]
