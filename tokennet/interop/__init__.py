"""Models of torch.nn, Hugging Face and timm as nets of layers, with their weights."""

from tokennet.interop._from_huggingface import from_huggingface
from tokennet.interop._from_timm import from_timm
from tokennet.interop._from_torch import from_torch
from tokennet.interop.verify import Conversion

__all__ = ["Conversion", "from_huggingface", "from_timm", "from_torch"]
