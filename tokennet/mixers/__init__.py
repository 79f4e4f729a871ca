"""Layers that move information between tokens; `MIXERS` names those a net is built from."""

from __future__ import annotations

from collections.abc import Callable

from torch_geometric.nn import GCNConv

from tokennet.mixers.aggregate import Aggregate
from tokennet.mixers.attention import Attention
from tokennet.mixers.base import Mixer
from tokennet.mixers.cross_attention import CrossAttention
from tokennet.mixers.graph_attention import GraphAttention
from tokennet.mixers.graph_isomorphism import GraphIsomorphism
from tokennet.mixers.learned import LearnedMixing
from tokennet.mixers.memory import RecurrentAttention
from tokennet.mixers.mlp import MLPMixer
from tokennet.mixers.pyg import PyGMixer
from tokennet.mixers.score import Score
from tokennet.mixers.scores import (
    SCORES,
    Bahdanau,
    Cosine,
    DotProduct,
    General,
    Location,
    ScaledDotProduct,
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
    "gin": lambda dim, heads, num_tokens: GraphIsomorphism(dim),
    "gcn": lambda dim, heads, num_tokens: PyGMixer(GCNConv(dim, dim)),
}

__all__ = [
    "MIXERS",
    "SCORES",
    "Aggregate",
    "Attention",
    "Bahdanau",
    "Cosine",
    "CrossAttention",
    "DotProduct",
    "General",
    "GraphAttention",
    "GraphIsomorphism",
    "LearnedMixing",
    "Location",
    "MLPMixer",
    "Mixer",
    "PyGMixer",
    "RecurrentAttention",
    "ScaledDotProduct",
    "Score",
]
