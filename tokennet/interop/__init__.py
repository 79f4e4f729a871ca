"""Models of other libraries as nets of layers, with their weights."""

from tokennet.interop.from_huggingface import from_huggingface
from tokennet.interop.from_timm import from_timm
from tokennet.interop.from_torch import from_torch

__all__ = ["from_huggingface", "from_timm", "from_torch"]
