"""Layers that move information between tokens, one mixer a file; `MIXERS` has their names."""

from __future__ import annotations

from collections.abc import Callable

from tokennet.mixers._feature_maps import EluFeatures, FeatureMap, ReLUFeatures, SoftmaxFeatures
from tokennet.mixers.aggregate import Aggregate
from tokennet.mixers.attention import Attention
from tokennet.mixers.base import Mixer
from tokennet.mixers.convolution import Convolution
from tokennet.mixers.cross_attention import CrossAttention
from tokennet.mixers.fixed_pattern import FixedPatternMixer
from tokennet.mixers.gmlp import GatedMLP
from tokennet.mixers.graph_attention import GraphAttention
from tokennet.mixers.graph_isomorphism import GraphIsomorphism
from tokennet.mixers.grid_convolution import GridConvolution
from tokennet.mixers.hypermixer import HyperMixer
from tokennet.mixers.learned import LearnedMixing
from tokennet.mixers.linear_attention import LinearAttention, redraw_features
from tokennet.mixers.memory import RecurrentAttention
from tokennet.mixers.perceiver import Latents, PerceiverMixer
from tokennet.mixers.pooling import Pooling
from tokennet.mixers.pyg import PyGMixer
from tokennet.mixers.recurrence import Recurrence
from tokennet.mixers.relational import RelationalAggregate
from tokennet.mixers.resmlp import CrossPatchLinear
from tokennet.mixers.scores import SCORES, Score
from tokennet.mixers.set_blocks import (
    InducedSetAttentionBlock,
    PoolingByAttention,
    SetAttentionBlock,
)
from tokennet.mixers.set_norm import SetNorm
from tokennet.mixers.strided_convolution import StridedConvolution
from tokennet.mixers.token_mixing import TokenMixingMLP

MixerFactory = Callable[[int, int, int | None], Mixer]
"""(dim, num_heads, num_tokens) to a mixer; `num_tokens` is None where it varies."""


def _fixed(num_tokens: int | None, name: str) -> int:
    if num_tokens is None:
        raise ValueError(f"num_tokens must be given: mixer {name!r} needs a fixed number of tokens")
    return num_tokens


def _mlp(dim: int, num_heads: int, num_tokens: int | None) -> Mixer:
    num_tokens = _fixed(num_tokens, "mlp")
    return TokenMixingMLP(dim, num_tokens, hidden=4 * num_tokens)


def _gcn(dim: int, num_heads: int, num_tokens: int | None) -> Mixer:
    from torch_geometric.nn import GCNConv

    return PyGMixer(GCNConv(dim, dim))


MIXERS: dict[str, MixerFactory] = {
    "attention": lambda dim, num_heads, n: Attention(dim, num_heads),
    "gat": lambda dim, num_heads, n: GraphAttention(dim, num_heads),
    "mlp": _mlp,
    "learned": lambda dim, num_heads, n: LearnedMixing(dim, _fixed(n, "learned"), num_heads),
    "mean": lambda dim, num_heads, n: Aggregate(dim, "mean"),
    "sum": lambda dim, num_heads, n: Aggregate(dim, "sum"),
    "max": lambda dim, num_heads, n: Aggregate(dim, "max"),
    "gin": lambda dim, num_heads, n: GraphIsomorphism(dim),
    "gcn": _gcn,
    "causal_conv": lambda dim, num_heads, n: Convolution(dim, causal=True, groups=dim),
    "conv1d": lambda dim, num_heads, n: Convolution(dim, groups=dim),
    "conv2d": lambda dim, num_heads, n: GridConvolution(dim, groups=dim),
    "gmlp": lambda dim, num_heads, n: GatedMLP(dim, _fixed(n, "gmlp"), hidden=2 * dim),
    "gru": lambda dim, num_heads, n: Recurrence(dim, "gru"),
    "hypermixer": lambda dim, num_heads, n: HyperMixer(dim),
    "lstm": lambda dim, num_heads, n: Recurrence(dim, "lstm"),
    "pool": lambda dim, num_heads, n: Pooling(dim),
    "rnn": lambda dim, num_heads, n: Recurrence(dim, "rnn"),
    "resmlp": lambda dim, num_heads, n: CrossPatchLinear(dim, _fixed(n, "resmlp")),
    "isab": lambda dim, num_heads, n: InducedSetAttentionBlock(dim, num_heads),
    "linear": lambda dim, num_heads, n: LinearAttention(dim, num_heads),
    "perceiver": lambda dim, num_heads, n: PerceiverMixer(dim, num_heads),
    "performer": lambda dim, num_heads, n: LinearAttention(dim, num_heads, "softmax"),
    "sab": lambda dim, num_heads, n: SetAttentionBlock(dim, num_heads),
}

__all__ = [
    "MIXERS",
    "SCORES",
    "Aggregate",
    "Attention",
    "Convolution",
    "CrossAttention",
    "CrossPatchLinear",
    "EluFeatures",
    "FeatureMap",
    "FixedPatternMixer",
    "GatedMLP",
    "GraphAttention",
    "GraphIsomorphism",
    "GridConvolution",
    "HyperMixer",
    "InducedSetAttentionBlock",
    "Latents",
    "LearnedMixing",
    "LinearAttention",
    "Mixer",
    "PerceiverMixer",
    "Pooling",
    "PoolingByAttention",
    "PyGMixer",
    "ReLUFeatures",
    "Recurrence",
    "RecurrentAttention",
    "RelationalAggregate",
    "Score",
    "SetAttentionBlock",
    "SetNorm",
    "SoftmaxFeatures",
    "StridedConvolution",
    "TokenMixingMLP",
    "redraw_features",
]
