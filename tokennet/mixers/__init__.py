"""Layers that move information between tokens; `MIXERS` names those a net is built from."""

from __future__ import annotations

from collections.abc import Callable

from torch_geometric.nn import GCNConv

from tokennet.mixers.aggregate import Aggregate
from tokennet.mixers.attention import Attention
from tokennet.mixers.base import Mixer
from tokennet.mixers.convolution import Convolution
from tokennet.mixers.cross_attention import CrossAttention
from tokennet.mixers.feature_maps import EluFeatures, FeatureMap, ReLUFeatures, SoftmaxFeatures
from tokennet.mixers.fixed_pattern import FixedPatternMixer
from tokennet.mixers.gmlp import GatedMLP
from tokennet.mixers.graph_attention import GraphAttention
from tokennet.mixers.graph_isomorphism import GraphIsomorphism
from tokennet.mixers.grid_convolution import GridConvolution
from tokennet.mixers.hypermixer import HyperMixer
from tokennet.mixers.latents import Latents, PerceiverMixer
from tokennet.mixers.learned import LearnedMixing
from tokennet.mixers.linear_attention import LinearAttention, redraw_features
from tokennet.mixers.memory import RecurrentAttention
from tokennet.mixers.pooling import Pooling
from tokennet.mixers.pyg import PyGMixer
from tokennet.mixers.recurrence import Recurrence
from tokennet.mixers.resmlp import CrossPatchLinear
from tokennet.mixers.score import Score
from tokennet.mixers.scores import SCORES
from tokennet.mixers.set_blocks import (
    InducedSetAttentionBlock,
    PoolingByAttention,
    SetAttentionBlock,
)
from tokennet.mixers.set_norm import SetNorm
from tokennet.mixers.strided_convolution import StridedConvolution
from tokennet.mixers.token_mixing import TokenMixingMLP
from tokennet.mixers.weights import (
    EdgeWeights,
    attention_weights_of,
    collect_attention_weights,
)

MixerFactory = Callable[[int, int, int | None], Mixer]
"""(dim, heads, num_tokens) to a mixer; `num_tokens` is None where it varies."""


def _fixed(num_tokens: int | None, name: str) -> int:
    if num_tokens is None:
        raise ValueError(f"mixer {name!r} needs a fixed number of tokens; here it varies")
    return num_tokens


def _mlp(dim: int, num_heads: int, num_tokens: int | None) -> Mixer:
    num_tokens = _fixed(num_tokens, "mlp")
    return TokenMixingMLP(dim, num_tokens, hidden=4 * num_tokens)


def _gmlp(dim: int, num_heads: int, num_tokens: int | None) -> Mixer:
    return GatedMLP(dim, _fixed(num_tokens, "gmlp"), hidden=2 * dim)


def _resmlp(dim: int, num_heads: int, num_tokens: int | None) -> Mixer:
    return CrossPatchLinear(dim, _fixed(num_tokens, "resmlp"))


def _learned(dim: int, num_heads: int, num_tokens: int | None) -> Mixer:
    return LearnedMixing(dim, _fixed(num_tokens, "learned"), num_heads)


MIXERS: dict[str, MixerFactory] = {
    "attention": lambda dim, num_heads, num_tokens: Attention(dim, num_heads),
    "gat": lambda dim, num_heads, num_tokens: GraphAttention(dim, num_heads),
    "mlp": _mlp,
    "learned": _learned,
    "mean": lambda dim, num_heads, num_tokens: Aggregate(dim, "mean"),
    "sum": lambda dim, num_heads, num_tokens: Aggregate(dim, "sum"),
    "max": lambda dim, num_heads, num_tokens: Aggregate(dim, "max"),
    "gin": lambda dim, num_heads, num_tokens: GraphIsomorphism(dim),
    "gcn": lambda dim, num_heads, num_tokens: PyGMixer(GCNConv(dim, dim)),
    "causal_conv": lambda dim, num_heads, num_tokens: Convolution(dim, causal=True),
    "conv1d": lambda dim, num_heads, num_tokens: Convolution(dim),
    "conv2d": lambda dim, num_heads, num_tokens: GridConvolution(dim),
    "gmlp": _gmlp,
    "gru": lambda dim, num_heads, num_tokens: Recurrence(dim, "gru"),
    "hypermixer": lambda dim, num_heads, num_tokens: HyperMixer(dim),
    "lstm": lambda dim, num_heads, num_tokens: Recurrence(dim, "lstm"),
    "pool": lambda dim, num_heads, num_tokens: Pooling(dim),
    "resmlp": _resmlp,
    "isab": lambda dim, num_heads, num_tokens: InducedSetAttentionBlock(dim, num_heads),
    "linear": lambda dim, num_heads, num_tokens: LinearAttention(dim, num_heads),
    "perceiver": lambda dim, num_heads, num_tokens: PerceiverMixer(dim, num_heads),
    "performer": lambda dim, num_heads, num_tokens: LinearAttention(dim, num_heads, "softmax"),
    "sab": lambda dim, num_heads, num_tokens: SetAttentionBlock(dim, num_heads),
}

__all__ = [
    "MIXERS",
    "SCORES",
    "Aggregate",
    "Attention",
    "Convolution",
    "CrossAttention",
    "CrossPatchLinear",
    "EdgeWeights",
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
    "Score",
    "SetAttentionBlock",
    "SetNorm",
    "SoftmaxFeatures",
    "StridedConvolution",
    "TokenMixingMLP",
    "attention_weights_of",
    "collect_attention_weights",
    "redraw_features",
]
