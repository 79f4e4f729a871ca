"""Tokens, a token graph, and one mixing operation.

Transformers, MLP-Mixers and graph networks are one family: each alternates linear
combinations of tokens, along a graph, with functions of single tokens.

What most programs need is here; the rest is in `tokennet.graphs`, `ops`, `positional`, `mixers`,
`nets`, `models`, `tokenizers`, `interop`, `interpret`, `testing` and `compare`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tokennet.graphs import (
    Causal,
    Cycle,
    Disjoint,
    Edges,
    Full,
    Global,
    Grid,
    Offsets,
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
    Convolution,
    CrossAttention,
    GraphAttention,
    LinearAttention,
    Mixer,
    PyGMixer,
    TokenMixingMLP,
)
from tokennet.ops import attend, explain
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens
from tokennet.version import __version__

if TYPE_CHECKING:
    from tokennet.interop import on_graph
    from tokennet.interpret import trace_attention
    from tokennet.models import create_model, list_models
    from tokennet.nets import MeanReadout, Readout, Residual, TokenNet, TokenWise
    from tokennet.testing import check, discover_group

_LAZY = {
    "tokennet.nets": ("MeanReadout", "Readout", "Residual", "TokenNet", "TokenWise"),
    "tokennet.models": ("create_model", "list_models"),
    "tokennet.interop": ("on_graph",),
    "tokennet.interpret": ("trace_attention",),
    "tokennet.testing": ("check", "discover_group"),
}
"""Imported when first asked for: who writes a layer waits for neither nets nor the checker."""
_SUBPACKAGES = {
    "nets", "models", "tokenizers", "interop", "interpret", "testing", "compare", "bench",
}  # fmt: skip
_ROOM = {name: room for room, names in _LAZY.items() for name in names}

__all__ = [  # noqa: RUF022  in groups, as one reads them
    # tokens and who attends to whom
    "Tokens", "TokenGraph",
    "Full", "Causal", "Window", "Cycle", "Grid", "Offsets", "Global", "Self", "Edges", "Disjoint",
    "from_pyg", "from_networkx", "from_mask", "from_mask_mod", "to_networkx", "to_mask_mod",
    # the one operation
    "attend", "explain",
    # layers that mix tokens
    "TokenLayer", "Mixer", "Attention", "CrossAttention", "GraphAttention", "LinearAttention",
    "Aggregate", "PyGMixer", "Convolution", "TokenMixingMLP",
    # nets
    "TokenWise", "Residual", "TokenNet", "Readout", "MeanReadout",
    "create_model", "list_models",
    # symmetry and attention of any net
    "Symmetry", "check", "discover_group", "on_graph", "trace_attention",
    "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _ROOM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_ROOM[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOM, *_SUBPACKAGES})
