"""Models of torch.nn, Hugging Face, timm and PyG on token graphs: as they are, or as layers."""

from tokennet.interop._calls import AttentionCall, register_attention
from tokennet.interop._from_huggingface import from_huggingface
from tokennet.interop._from_pyg import from_pyg_conv
from tokennet.interop._from_timm import from_timm
from tokennet.interop._from_torch import from_torch
from tokennet.interop._on_graph import ModelOnGraph, on_graph
from tokennet.interop._to_huggingface import to_huggingface
from tokennet.interop._to_pyg_conv import to_pyg_conv
from tokennet.interop.verify import Conversion

__all__ = [
    "AttentionCall",
    "Conversion",
    "ModelOnGraph",
    "from_huggingface",
    "from_pyg_conv",
    "from_timm",
    "from_torch",
    "on_graph",
    "register_attention",
    "to_huggingface",
    "to_pyg_conv",
]
