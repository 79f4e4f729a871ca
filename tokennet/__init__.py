"""Tokens, a token graph, and one mixing operation.

Transformers, MLP-Mixers and graph networks are one family: each alternates linear
combinations of tokens, along a graph, with functions of single tokens.
"""

from tokennet.attend import Additive, EdgeFeatures, attend, attention_weights, explain
from tokennet.graphs import (
    Causal,
    Cycle,
    Disjoint,
    Edges,
    Full,
    Global,
    Grid,
    Self,
    TokenGraph,
    Window,
    from_mask,
    from_mask_mod,
    from_networkx,
    from_pyg,
    to_mask_mod,
    to_networkx,
)
from tokennet.layer import TokenLayer
from tokennet.mixers import (
    Aggregate,
    Attention,
    CrossAttention,
    GraphAttention,
    Mixer,
    MLPMixer,
    PyGMixer,
)
from tokennet.nets import (
    AttentionReadout,
    Interface,
    MeanReadout,
    OneToken,
    PerToken,
    Readout,
    Residual,
    TokenNet,
    TokenWise,
    build_net,
    mlp,
)
from tokennet.positional import LearnedEncoding, PositionalEncoding, SinusoidalEncoding
from tokennet.symmetry import Symmetry, relabelling_error, shuffling_error
from tokennet.tokens import Tokens
from tokennet.version import __version__

__all__ = [
    "Additive",
    "Aggregate",
    "Attention",
    "AttentionReadout",
    "Causal",
    "CrossAttention",
    "Cycle",
    "Disjoint",
    "EdgeFeatures",
    "Edges",
    "Full",
    "Global",
    "GraphAttention",
    "Grid",
    "Interface",
    "LearnedEncoding",
    "MLPMixer",
    "MeanReadout",
    "Mixer",
    "OneToken",
    "PerToken",
    "PositionalEncoding",
    "PyGMixer",
    "Readout",
    "Residual",
    "Self",
    "SinusoidalEncoding",
    "Symmetry",
    "TokenGraph",
    "TokenLayer",
    "TokenNet",
    "TokenWise",
    "Tokens",
    "Window",
    "__version__",
    "attend",
    "attention_weights",
    "build_net",
    "explain",
    "from_mask",
    "from_mask_mod",
    "from_networkx",
    "from_pyg",
    "mlp",
    "relabelling_error",
    "shuffling_error",
    "to_mask_mod",
    "to_networkx",
]
