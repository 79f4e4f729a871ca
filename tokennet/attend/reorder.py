"""Rows in another order, and their gradients back without a sum."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function


class _Reorder(Function):
    """`index_select` by a permutation, whose adjoint is `index_select` by its inverse.

    PyTorch cannot know that the index is a permutation: it clears a tensor and adds to its rows.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, order: Tensor, back: Tensor) -> Tensor:  # type: ignore[override]
        return tensor.index_select(-3, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        order, back = ctx.saved_tensors
        return _Reorder.apply(grad, back, order), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        order, back = ctx.saved_tensors
        return _Reorder.apply(tangent, order, back)


def reorder(tensor: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """Tokens (..., N, H, C) in another order: that at `order[i]` comes to i.

    Args:
        order: (N,) a permutation; (0,) for the order as it is.
        back: (N,) its inverse, `order.argsort()`.

    >>> import torch
    >>> order = torch.tensor([2, 0, 1])
    >>> reorder(torch.arange(3.0).view(3, 1, 1), order, order.argsort()).flatten().tolist()
    [2.0, 0.0, 1.0]
    """
    return tensor if order.shape[0] == 0 else _Reorder.apply(tensor, order, back)
