"""Rows in another order, and their gradients back without a sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _Reorder(Function):
    """`index_select` by a permutation, whose adjoint is `index_select` by its inverse.

    PyTorch cannot know that the index is a permutation: it clears a tensor and adds to its rows.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(  # type: ignore[override]
        tensor: Tensor, order: Tensor, back: Tensor, dim: int
    ) -> Tensor:
        return tensor.index_select(dim, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[1:3])
        ctx.save_for_forward(*inputs[1:3])
        ctx.dim = inputs[3]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        order, back = ctx.saved_tensors
        return _Reorder.apply(grad, back, order, ctx.dim), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        order, back = ctx.saved_tensors
        return _Reorder.apply(tangent, order, back, ctx.dim)


def reorder(tensor: Tensor, order: Tensor, back: Tensor, dim: int) -> Tensor:
    """Tokens in another order along a dimension counted from the end: `order[i]` comes to i.

    Args:
        order: (N,) a permutation; (0,) for the order as it is.
        back: (N,) its inverse, `order.argsort()`.

    >>> order = torch.tensor([2, 0, 1])
    >>> reorder(torch.tensor([5, 6, 7]), order, order.argsort(), -1).tolist()
    [7, 5, 6]
    """
    if order.shape[0] == 0:
        return tensor
    if torch.compiler.is_compiling():
        return tensor.index_select(dim, order)  # dynamo takes no function with a `jvp`
    return _Reorder.apply(tensor, order, back, dim)
