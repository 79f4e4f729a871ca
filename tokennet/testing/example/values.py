"""Inputs and outputs as values: tensors, `Tokens`, PyG `Data`, and nests of these.

Needed where something is done to each tensor of an input or output, whatever holds it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

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


def graphs_of(batch: Any) -> list[Any]:
    """The graphs of a PyG `Batch`, or of `Data` with batch, as it stands.

    Edges may have been added or removed, and features made, after batching.

    >>> import torch
    >>> from torch_geometric.data import Batch, Data
    >>> edges = torch.tensor([[0], [1]])
    >>> batch = Batch.from_data_list([Data(x=torch.ones(2, 1), edge_index=edges) for _ in range(2)])
    >>> batch.edge_index = batch.edge_index[:, 1:]  # the first graph has no edges now
    >>> [graph.num_edges for graph in graphs_of(batch)]
    [0, 1]
    """
    count = int(batch.batch.max()) + 1 if len(batch.batch) else 0
    try:
        graphs = batch.to_data_list()
        again = type(batch).from_data_list(graphs)
        same = set(again.keys()) == set(batch.keys()) and all(
            torch.equal(item, again[key]) for key, item in batch if isinstance(item, Tensor)
        )
        count = batch.num_graphs
    except (
        AttributeError,
        IndexError,
        KeyError,
        RuntimeError,
    ):  # its notes on where graphs begin are old
        same = False
    return graphs if same else [_graph_of(batch, number) for number in range(count)]


def _graph_of(batch: Any, number: int) -> Any:
    from torch_geometric.data import Data

    owner, edges = batch.batch, batch.edge_index
    nodes, inside = owner == number, owner[edges[1]] == number
    first = int((owner < number).sum())
    graph = Data()
    for key, item in batch:
        rows = item.shape[0] if isinstance(item, Tensor) and item.dim() else None
        if key in ("batch", "ptr"):
            continue
        if rows == 2 and key.endswith("_index"):
            ends = inside if key == "edge_index" else owner[item[1]] == number
            item = item[:, ends] - first
        elif rows == len(owner) and batch.is_node_attr(key):
            item = item[nodes]
        elif rows == edges.shape[1] and batch.is_edge_attr(key):
            item = item[inside]
        elif rows == int(owner.max()) + 1:
            item = item[number : number + 1]
        graph[key] = item
    return graph


def is_hetero_data(value: Any) -> bool:
    """Whether a value is a `HeteroData` of PyG."""
    module = sys.modules.get("torch_geometric.data")
    return module is not None and isinstance(value, module.HeteroData)


def is_ragged_data(value: Any) -> bool:
    """Whether a value is a `Data` or `Batch` of PyG with the graph of each node."""
    return is_pyg_data(value) and isinstance(value.batch, Tensor)


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
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if is_hetero_data(value):
        return value.clone().apply(function)
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
    return [tensor for _, tensor in named_tensors_of(output)]


def named_tensors_of(output: Any) -> list[tuple[str, Tensor]]:
    """The same with their names: keys of dicts, fields of classes, numbers in tuples.

    >>> [name for name, _ in named_tensors_of({"states": (torch.ones(2), torch.ones(3))})]
    ['states.0', 'states.1']
    """
    found = list(_collect(output, ""))
    if not found:
        raise TypeError(
            f"the model must return tensors, Tokens or Data, got {type(output).__name__}"
        )
    return found


def _collect(output: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        if output.is_nested:
            output = torch.cat(list(output.unbind()))
        yield name or "0", output
    elif isinstance(output, Tokens):
        yield name or "z", output.z
    elif is_pyg_data(output) and output.x is not None:
        yield f"{name}.x" if name else "x", output.x
    elif isinstance(output, str | bytes):
        return
    else:
        for key, item in _parts_of(output):
            label = ",".join(map(str, key)) if isinstance(key, tuple) else str(key)
            yield from _collect(item, f"{name}.{label}" if name else label)


def _parts_of(output: Any) -> list[tuple[Any, Any]]:
    """Names and values of what holds several outputs."""
    if is_pyg_data(output):
        return list(output.to_dict().items())
    if isinstance(output, Mapping):  # the outputs of Hugging Face models are such
        return list(output.items())
    if hasattr(output, "to_tuple"):
        return list(enumerate(output.to_tuple()))
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return list(zip(output._fields, output, strict=True))
    if isinstance(output, tuple | list):
        return list(enumerate(output))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    return []


def describe(value: Any) -> str:
    """Types and shapes, for messages."""
    if isinstance(value, Tensor):
        if value.is_nested:
            return f"nested tensor of {value.size(0)} sets"
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, PackedSequence):
        return f"packed sequence of {int(value.batch_sizes[0])} sets"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(describe, value))})"
    if isinstance(value, Mapping):
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
