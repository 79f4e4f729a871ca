"""Masks of Hugging Face as graphs, without N x N entries where their functions are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tokennet.graphs import TokenGraph
from tokennet.interop._visible import band, full

_FIELDS = (
    "shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "is_cpu", "layout", "_version",
    "grad_fn", "is_leaf", "is_sparse", "is_nested", "is_quantized", "is_meta",
)  # fmt: skip
_METADATA = {
    *(getattr(Tensor, name).__get__ for name in _FIELDS),
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.is_floating_point,
}
"""What can be asked of a mask that is not written out."""


class GraphMask(Tensor):
    """A boolean mask (B, 1, N, N) that is known as a graph; written out for any operation on it."""

    graph: TokenGraph
    write: Callable[[], Any]

    @staticmethod
    def of(graph: TokenGraph, shape: tuple[int, ...], write: Callable[[], Any], device: Any) -> Any:
        """A mask of a graph, which `write` writes out."""
        mask = Tensor._make_wrapper_subclass(GraphMask, shape, dtype=torch.bool, device=device)
        mask.graph, mask.write = graph, write
        return mask

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(GraphMask, lambda mask: mask.write(), (args, kwargs or {}))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(GraphMask, lambda mask: mask.write(), (args, kwargs or {}))
        return func(*args, **kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"GraphMask({self.graph!r})"


def known_graph(function: Any, n: int) -> TokenGraph | None:
    """The graph on n tokens of a mask function of transformers; None of one that is not known.

    Known are complete, causal, and window masks, and intersections of these.
    """
    reach = _reach(function, n)
    if reach is None or min(reach) < 0:  # a window of 0, as some models make for no layer
        return None
    below, above = (min(x, n - 1) for x in reach)
    if below == above == n - 1:
        return full(n, n)
    return band(n, n, below, above) if above in (0, below) else None


def _reach(function: Any, n: int) -> tuple[int, int] | None:
    """How many tokens before and after itself a token sees; None where that is not all."""
    from transformers import masking_utils

    name = getattr(function, "__qualname__", "")
    if getattr(function, "__module__", "") != masking_utils.__name__:
        return None
    if function is masking_utils.causal_mask_function:
        return n, 0
    if function is masking_utils.bidirectional_mask_function:
        return n, n
    closed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if name == "sliding_window_overlay.<locals>.inner_mask":
        return int(closed["sliding_window"].cell_contents) - 1, n
    if name == "sliding_window_bidirectional_overlay.<locals>.inner_mask":
        half = int(closed["sliding_window"].cell_contents)
        return half, half
    if name == "and_masks.<locals>.and_mask":
        reaches = [_reach(one, n) for one in closed["mask_functions"].cell_contents]
        if None in reaches:
            return None
        below, above = zip(*reaches, strict=True)  # type: ignore[arg-type]
        return min(below), min(above)
    return None
