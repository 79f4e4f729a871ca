"""Inputs and outputs as values: tensors, `Tokens`, PyG `Data`, and nests of these.

Needed where something is done to each tensor of an input or output, whatever holds it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokennet.tokens import Tokens


def is_pyg_data(value: Any) -> bool:
    """Whether a value is a `Data` or `Batch` of PyG, found without loading torch_geometric.

    >>> is_pyg_data(torch.ones(3))
    False
    """
    module = sys.modules.get("torch_geometric.data")
    return module is not None and isinstance(value, module.Data)


def is_pyg_batch(value: Any) -> bool:
    """Whether a value is a `Batch` of PyG."""
    return is_pyg_data(value) and hasattr(value, "to_data_list")


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A copy of a nested value with a function applied to every tensor in it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Tokens):
        graph: Any = value.graph
        if graph.edge_attr is not None:
            graph = graph.with_edge_attr(function(graph.edge_attr))
        return Tokens(function(value.z), graph, None if value.pos is None else function(value.pos))
    if is_pyg_data(value):
        return value.clone().apply(function)
    if isinstance(value, dict):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(function, item) for item in value)
    return value


def cast(value: Any, dtype: torch.dtype) -> Any:
    """A copy of a nested value: floating-point tensors in `dtype`, complex ones as precise."""
    complex_of = {torch.float32: torch.complex64, torch.float64: torch.complex128}

    def copied(tensor: Tensor) -> Tensor:
        target = complex_of.get(dtype, tensor.dtype) if tensor.is_complex() else tensor.dtype
        return tensor.detach().to(dtype if tensor.is_floating_point() else target, copy=True)

    return map_tensors(copied, value)


def to_device(value: Any, device: torch.device | str | None) -> Any:
    """A nested value on a device; None leaves it where it is."""
    return value if device is None else map_tensors(lambda tensor: tensor.to(device), value)


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of an output, in order: of `Tokens` z, of `Data` x (or all tensors it has).

    Raises:
        TypeError: the output holds no tensor.
    """
    found = _collect(output)
    if not found:
        raise TypeError(
            f"the model must return tensors, Tokens or Data, got {type(output).__name__}"
        )
    return found


def _collect(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Tokens):
        return [output.z]
    if is_pyg_data(output):
        return [output.x] if output.x is not None else _collect(list(output.to_dict().values()))
    if hasattr(output, "to_tuple"):  # the outputs of Hugging Face models
        return _collect(output.to_tuple())
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return [tensor for item in output for tensor in _collect(item)]
    return []


def describe(value: Any) -> str:
    """Types and shapes, for messages."""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(describe, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {describe(item)}' for key, item in value.items())}}}"
    if isinstance(value, Tokens | int | float | str | None) or is_pyg_data(value):
        return repr(value)
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {tuple(shape)}"


def features(value: Any) -> Tensor:
    """The tensor of token vectors in an input: itself, z of `Tokens`, x of `Data`.

    Raises:
        TypeError: the value has none.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Tokens):
        return value.z
    if is_pyg_data(value) and isinstance(value.x, Tensor):
        return value.x
    raise TypeError(f"expected a tensor, Tokens or Data with x, got {describe(value)}")


def with_features(value: Any, tensor: Tensor) -> Any:
    """The same input with other token vectors."""
    if isinstance(value, Tokens):
        return value.replace(z=tensor)
    if is_pyg_data(value):
        value = value.clone()
        value.x = tensor
        return value
    return tensor
