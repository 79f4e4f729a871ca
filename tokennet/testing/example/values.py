"""Values that models take and give: tensors, `Tokens`, PyG `Data`, and nests of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from tokennet.graphs import Disjoint, Edges, TokenGraph
from tokennet.tokens import Tokens


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to every tensor of a nested value; the value itself stays as it is."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Tokens):
        pos = None if value.pos is None else function(value.pos)
        return Tokens(function(value.z), _map_edge_attr(function, value.graph), pos)
    if isinstance(value, Data):  # a Batch is one too
        return value.clone().apply(function)
    if isinstance(value, dict):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(function, item) for item in value)
    return value


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Copy a nested value; floating-point tensors take `dtype`, complex ones its precision."""
    kinds = {torch.float32: torch.complex64, torch.float64: torch.complex128}

    def copied(tensor: Tensor) -> Tensor:
        target = dtype if tensor.is_floating_point() else tensor.dtype
        if tensor.is_complex():
            target = kinds.get(dtype, tensor.dtype)
        return tensor.detach().to(target, copy=True)

    return map_tensors(copied, value)


def to_device(value: Any, device: torch.device | str | None) -> Any:
    """A nested value on a device; None leaves it where it is."""
    return value if device is None else map_tensors(lambda tensor: tensor.to(device), value)


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of an output, in order: of `Tokens` its z, of `Data` its x (or all it has).

    Raises:
        TypeError: there is none.
    """
    found = _collect(output)
    if not found:
        raise TypeError(f"the model must give tensors, Tokens or Data, got {type(output).__name__}")
    return found


def _collect(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Tokens):
        return [output.z]
    if isinstance(output, Data):
        return [output.x] if output.x is not None else _collect(list(output.to_dict().values()))
    if hasattr(output, "to_tuple"):  # the outputs of Hugging Face models
        return _collect(output.to_tuple())
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return [tensor for item in output for tensor in _collect(item)]
    return []


def describe(value: Any) -> str:
    """Shapes, for messages."""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(describe, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {describe(item)}' for key, item in value.items())}}}"
    if isinstance(value, Tokens | Data | int | float | str | None):
        return repr(value)
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {tuple(shape)}"


def _map_edge_attr(function: Callable[[Tensor], Tensor], graph: TokenGraph) -> TokenGraph:
    if graph.is_ragged:
        if all(part is _map_edge_attr(function, part) for part in graph.parts):
            return graph  # keeps what was derived from it
        return Disjoint(_map_edge_attr(function, part) for part in graph.parts)
    if isinstance(graph, Edges) and graph.edge_attr is not None:
        return graph.with_edge_attr(function(graph.edge_attr))
    return graph


def features(value: Any) -> Tensor:
    """The tensor of token vectors in an input: itself, z of `Tokens`, x of `Data`.

    Raises:
        TypeError: the value has none.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Tokens):
        return value.z
    if isinstance(value, Data) and isinstance(value.x, Tensor):
        return value.x
    raise TypeError(f"expected a tensor, Tokens or Data with x, got {describe(value)}")


def with_features(value: Any, tensor: Tensor) -> Any:
    """The same input with other token vectors."""
    if isinstance(value, Tokens):
        return value.replace(z=tensor)
    if isinstance(value, Data):
        other = value.clone()
        other.x = tensor
        return other
    return tensor
