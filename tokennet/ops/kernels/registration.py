"""Operators that `torch.compile`, `torch.export` and CUDA graphs take as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch._ops import OpOverload

from tokennet._compiling import outside_compilation


def operator(
    name: str, schema: str, tags: Sequence[torch.Tag] = ()
) -> Callable[[Callable], OpOverload]:
    """Register a function of tensors as the operator `tokennet::name`, for all devices.

    It must write to none of its inputs, and return none, nor a view of one. As
    `torch.library.custom_op`, which would look after that in each call: with the arguments
    that a graph has for a quarter of a millisecond (PyTorch 2.11), longer than small kernels take.

    Args:
        schema: of arguments and results, "(Tensor x, float scale) -> Tensor".
    """

    def register(function: Callable) -> OpOverload:
        torch.library.define(f"tokennet::{name}", schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
        opaque = outside_compilation("the inside of an operator")(function)
        torch.library.impl(f"tokennet::{name}", "default", opaque)
        return getattr(torch.ops.tokennet, name).default

    return register
